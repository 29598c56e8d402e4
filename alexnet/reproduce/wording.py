"""How figures and differences are written, in a terminal, on the page and in docs/paper.md."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from alexnet.reproduce.plan import FIGURES

RATIO = "epochs_to_25"
"""The figure whose arms are divided by one another instead of subtracted."""
UNITS = {RATIO: "epochs", "seconds": "s", "seconds_per_epoch": "s", "test_loss": "nats"}
"""Of figures that are no shares and have one."""
SHORT = {
    "test_error": "test error",
    "test_error_10_views": "test error, ten views",
    "test_error_averaged": "test error, networks together",
    "class_error": "mean error of the classes",
    "train_error": "training error",
    "val_error": "validation error",
    RATIO: "epochs to 25 %",
    "macs": "multiply-adds",
    "seconds": "time",
    "seconds_per_epoch": "time of an epoch",
}
"""Names of figures for headings; others are written as they are called."""


def is_share(figure: str) -> bool:
    """Say whether a figure is a share, which is written in percent."""
    return figure != RATIO and (figure in FIGURES or "error" in figure or "share" in figure)


def short_name(figure: str) -> str:
    """Name a figure in a heading."""
    return SHORT.get(figure, figure.replace("_", " "))


def number_text(figure: str, value: float, like: float | None = None) -> str:
    """Write a figure's value without its unit: a share in percent.

    It has as many decimals as `like` would have.
    """
    if is_share(figure):
        return f"{100 * value:.1f}"
    size = abs(value if like is None else like)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{value:,.{decimals}f}"


def unit_text(figure: str) -> str:
    """Return the unit of a figure, after a space; "" if it has none."""
    unit = "%" if is_share(figure) else UNITS.get(figure, "")
    return f" {unit}" if unit else ""


def spread_text(figure: str, values: Sequence[float | None], unit: bool = True) -> str:
    """Write the mean of the seeds' values ± their standard deviation: "12.4 ± 0.3 %".

    Equal values, as of all seeds' networks together, have none. None is a training that did not get
    there.
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "not reached" if not known else f"not reached by {len(values) - len(known)}"
    middle = mean(known)
    text = number_text(figure, middle)
    if len({*known}) > 1:
        text += f" ± {number_text(figure, stdev(known), like=middle)}"
    return text + (unit_text(figure) if unit else "")


def difference_text(figure: str, found: Mapping[str, Any]) -> str:
    """Write a difference with its interval, or that one seed gives none."""
    values = [found[name] for name in ("mean", "low", "high") if found[name] is not None]
    if figure == RATIO:
        texts = [f"{value:.2f}" for value in values]
    else:
        texts = [("+" if value > 0 else "") + number_text(figure, value) for value in values]
    interval = " to ".join(texts[1:]) or "one seed: no interval"
    bound = "at most " if found.get("is_bound") else ""
    return f"{bound}{texts[0]}{difference_unit(figure)} ({interval})"


def difference_unit(figure: str) -> str:
    """Return the unit of a difference, after a space."""
    if figure == RATIO:
        return " times the epochs"
    return " points" if is_share(figure) else unit_text(figure)


def compared_text(each: Mapping[str, Any]) -> str:
    """Say which arms a comparison compares, and by what if that is not the test error.

    "overlapping against not"; of one arm the figures, "test error, ten views against test error".
    """
    if each["figure"] == "test_error_averaged":
        return f"{len(each['values']['first'])} networks together against one"
    if each["first"] == each["second"]:
        return f"{short_name(each['figure'])} against {short_name(each['of_second'])}"
    figure = short_name(each["figure"]).removeprefix("test error").removeprefix(", ")
    return f"{each['first']} against {each['second']}" + (f" ({figure})" if figure else "")
