"""The figures of a result: dots by seed, differences with their intervals, curves by epoch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, TypeVar

from alexnet.analysis.report.charts import line_chart
from alexnet.reproduce.layout import Curves, Line, Mark, Panel, Scale, scale_for
from alexnet.reproduce.measuring import TARGET
from alexnet.reproduce.plan import FIGURES
from alexnet.reproduce.results import Result
from alexnet.reproduce.statistics import paired_difference
from alexnet.reproduce.wording import (
    RATIO,
    compared_text,
    is_share,
    short_name,
    spread_text,
)

Values = TypeVar("Values")


@dataclass(frozen=True)
class Group:
    """Figures that share an axis, and the arms' values of them."""

    title: str
    figure: str
    """The first of them, for the unit."""
    rows: list[tuple[str, str, list[float | None]]] = field(default_factory=list)
    """Name, figure, values by seed."""


def panels(result: Result) -> list[Panel | Curves]:
    """Return all figures of a result."""
    drawn = [arms_panel(group) for group in groups(result)]
    shown: list[Panel | Curves] = [each for each in drawn if each is not None]
    return [*shown, *difference_panels(result), *error_curves(result), *gradient_panels(result)]


# Dots.


def groups(result: Result) -> list[Group]:
    """Return what the comparisons compare, by kind of figure: errors with any views share one."""
    found: dict[str, Group] = {}
    compared = [
        figure
        for each in result["comparisons"]
        for figure in (each["figure"], each.get("of_second") or each["figure"])
    ]
    for figure in dict.fromkeys(compared):
        kind = "test_error" if figure.startswith("test_error") else figure
        title = "Test error" if kind == "test_error" else short_name(figure).capitalize()
        group = found.setdefault(kind, Group(title, figure))
        for name, arm in result["arms"].items():
            values = [seed.get(figure) for seed in arm["seeds"]]
            if any(value is not None for value in values) or figure == RATIO:
                which = (
                    short_name(figure).removeprefix("test error") if kind == "test_error" else ""
                )
                group.rows.append((name + which, figure, values))
    return [group for group in found.values() if group.rows]


def arms_panel(group: Group) -> Panel | None:
    """Lay out a row for each arm: a dot for each seed, their mean and its interval."""
    figure, is_log = group.figure, group.figure == RATIO
    known = [[value for value in values if value is not None] for _, _, values in group.rows]
    if not any(known):
        return None
    intervals = [mean_interval(values) if not is_log else None for values in known]
    shown = [value for values in known for value in values]
    shown += [limit for each in intervals if each for limit in each]
    scale = scale_for(shown, is_log=is_log)
    lines = [
        Line(
            name,
            spread_text(own, values),
            [*(Mark(scale(v), "seed") for v in numbers), *_mean(scale, numbers, len(values))],
            (scale(interval[0]), scale(interval[1])) if interval else None,
        )
        for (name, own, values), numbers, interval in zip(group.rows, known, intervals, strict=True)
    ]
    legend = [("seed", "one seed"), ("mean", "mean" if is_log else "mean, 95 % interval")]
    return Panel(group.title, axis_label(figure), scale.ticks(axis_text(figure)), lines, legend)


def _mean(scale: Scale, numbers: Sequence[float], expected: int) -> list[Mark]:
    """Return the mark of the mean, none where a training has no value."""
    if not numbers or len(numbers) < expected:
        return []
    return [Mark(scale(fmean(numbers)), "mean")]


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean; None for one value."""
    if len(values) < 2:
        return None
    found = paired_difference(values, [0.0] * len(values))
    return found.low, found.high


def axis_label(figure: str) -> str:
    """Describe a figure at its axis."""
    text = next((text for name, text in FIGURES.items() if name == figure), short_name(figure))
    return text.partition(",")[0] if figure.startswith("test_error") else text


def axis_text(figure: str) -> Callable[[float], str]:
    """Return what writes a figure's values at the axis."""
    if is_share(figure):
        return lambda value: f"{100 * value:.4g} %"
    return lambda value: f"{value:,.4g}"


def axis_points(value: float) -> str:
    """Write a difference of shares at the axis, in points."""
    return f"{100 * value:+.4g}" if abs(value) > 1e-9 else "0"


# Differences.


def difference_panels(result: Result) -> list[Panel]:
    """Lay out the comparisons: a panel for errors, one for each other figure."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for each in result["comparisons"]:
        if each.get("difference"):
            kind = "" if each["figure"].startswith("test_error") else each["figure"]
            kinds.setdefault(kind, []).append(each)
    return [difference_panel(kind, found) for kind, found in kinds.items()]


def difference_panel(kind: str, compared: Sequence[Mapping[str, Any]]) -> Panel:
    """Lay out differences of one figure, "" for errors, with intervals and published ones."""
    is_log, in_points = kind == RATIO, is_share(kind or "test_error")
    neutral = 1.0 if is_log else 0.0
    shown = [neutral]
    for each in compared:
        found = each["difference"]
        values = (found["mean"], found["low"], found["high"], each.get("published_difference"))
        shown += [value for value in (*values, *pairs(each)) if value is not None]
    scale = scale_for(shown, is_log=is_log)
    lines = [_difference_line(each, scale) for each in compared]
    legend = [("seed", "one pair"), ("mean", "mean, 95 % interval")]
    if any(each.get("published_difference") is not None for each in compared):
        legend.append(("published", "published"))
    label = "first divided by second" if is_log else "first minus second"
    if in_points:
        label += ", points"
    ticks = scale.ticks(axis_points if in_points else "{:.4g}".format)
    title = f"Difference in {short_name(kind)}" if kind else "Difference in error"
    if is_log:
        title = "Ratio of epochs"
    return Panel(title, label, ticks, lines, legend, scale(neutral))


def _difference_line(each: Mapping[str, Any], scale: Scale) -> Line:
    found, published = each["difference"], each.get("published_difference")
    marks = [Mark(scale(value), "seed") for value in pairs(each)]
    marks.append(Mark(scale(found["mean"]), "mean"))
    if published is not None:
        marks.append(Mark(scale(published), "published"))
    limits = found["low"], found["high"]
    interval = None if None in limits else (scale(limits[0]), scale(limits[1]))
    # The title says which figure it is, but for errors with one view and with ten.
    is_error = each["figure"].startswith("test_error")
    name = compared_text(each if is_error else {**each, "figure": "test_error"})
    return Line(name, each["outcome"], marks, interval)


def pairs(each: Mapping[str, Any]) -> list[float]:
    """Return the difference, or ratio, of each pair of seeds; none where one got nowhere."""
    values = each.get("values", {})
    found = list(zip(values.get("first", ()), values.get("second", ()), strict=False))
    if any(None in pair for pair in found):
        return []
    return [a / b if each["figure"] == RATIO else a - b for a, b in found]


# Curves.


def error_curves(result: Result) -> list[Curves]:
    """Lay out the error by epoch, mean over the seeds: on training images if it was measured."""
    for column, title in (("train_error", "Training error"), ("top1_error", "Validation error")):
        arms = {name: mean_curve(arm["seeds"], column) for name, arm in result["arms"].items()}
        curves = {name: curve for name, curve in arms.items() if curve}
        if curves:
            return [_curves(title, part, column == "train_error") for part in by_threes(curves)]
    return []


def _curves(title: str, curves: Mapping[str, list[float | None]], is_training: bool) -> Curves:
    length = max(map(len, curves.values()))
    series = {name: [*curve, *[None] * (length - len(curve))] for name, curve in curves.items()}
    if is_training:
        series["25 %"] = [TARGET] * length
    epochs = range(1, length + 1)
    chart = line_chart(title, "mean of seeds", epochs, series, axis_text("val_error"))
    return Curves(chart, has_reference=is_training)


def by_threes(arms: Mapping[str, Values]) -> list[dict[str, Values]]:
    """Divide arms among figures: three lines or kinds of marks can be told apart."""
    entries = list(arms.items())
    return [dict(entries[start : start + 3]) for start in range(0, len(entries), 3)]


def mean_curve(seeds: Sequence[Mapping[str, Any]], column: str) -> list[float | None]:
    """Return the mean over the seeds by epoch, as far as all of them got."""
    epochs = [seed.get("epochs") for seed in seeds]
    found = [each.get(column) for each in epochs if isinstance(each, Mapping)]
    if not found or len(found) < len(seeds) or any(values is None for values in found):
        return []
    rows = zip(*found, strict=False)
    return [None if None in row else fmean(row) for row in rows]


def gradient_panels(result: Result) -> list[Panel]:
    """Lay out the norm of each layer's gradient after the first epoch, a mark for each arm."""
    arms = {name: first_norms(arm["seeds"]) for name, arm in result["arms"].items()}
    known = {name: norms for name, norms in arms.items() if norms}
    return [_gradient_panel(part) for part in by_threes(known)]


def _gradient_panel(arms: Mapping[str, dict[str, float]]) -> Panel:
    kinds = {name: f"c{number}" for number, name in enumerate(arms, 1)}
    layers = list(next(iter(arms.values())))
    scale = scale_for((value for norms in arms.values() for value in norms.values()), is_log=True)
    lines = [
        Line(layer, "", [Mark(scale(norms[layer]), kinds[name]) for name, norms in arms.items()])
        for layer in layers
    ]
    legend = [(kind, name) for name, kind in kinds.items()]
    label = "norm after the first epoch, mean of seeds"
    return Panel("Gradient by layer", label, scale.ticks("{:.3g}".format), lines, legend)


def first_norms(seeds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return each layer's norm after the first epoch: the geometric mean over the seeds."""
    epochs = [seed["epochs"] for seed in seeds if isinstance(seed.get("epochs"), Mapping)]
    found = [each["gradient_norms"] for each in epochs if each.get("gradient_norms")]
    if not found:
        return {}
    return {
        layer: math.exp(fmean([math.log(max(norms[layer][0], 1e-12)) for norms in found]))
        for layer in found[0]
    }
