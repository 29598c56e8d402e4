"""Line charts for the report: compute the points of an SVG picture, which the template draws."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 440, 264
LEFT, RIGHT, TOP, BOTTOM = 52, 426, 12, 214
"""The plotting area within the picture; ticks and labels are around it."""


@dataclass(frozen=True)
class Tick:
    """A position on an axis and its text."""

    position: float
    text: str


@dataclass(frozen=True)
class Curve:
    """One line: its points in the picture, and its last value as text."""

    name: str
    points: list[tuple[float, float]]
    last: str

    @property
    def path(self) -> str:
        """The points in the form of an SVG polyline."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Chart:
    """Curves by epoch, laid out; no curves if nothing was measured."""

    title: str
    unit: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve]

    @property
    def description(self) -> str:
        """The text that a screen reader reads."""
        ends = ", ".join(f"{curve.name} ends at {curve.last}" for curve in self.curves)
        return f"{self.title}, by epoch: {ends}."


def nice_step(span: float, most: int) -> float:
    """Return 1, 2 or 5 times a power of ten that fits into `span` at most `most` times."""
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    # The tolerance keeps 0.30000000000000004 from becoming 0.5.
    return next(power * lead for lead in (1, 2, 5, 10) if power * lead >= rough * (1 - 1e-9))


def line_chart(
    title: str,
    unit: str,
    epochs: Sequence[int],
    series: Mapping[str, Sequence[float | None]],
    write: Callable[[float], str],
) -> Chart:
    """Lay out one curve for each of `series`, its values by epoch; the y axis begins at 0.

    `write` turns a value into text. Values that are None are left out; a series with no other
    values gives no curve.
    """
    measured = {name: _measured(epochs, values) for name, values in series.items()}
    top = max((value for pairs in measured.values() for _, value in pairs), default=0) or 1
    step = nice_step(top, 5)
    rows = math.ceil(top / step - 1e-9)
    x, y = _x_scale(epochs), _y_scale(rows * step)
    return Chart(
        title=title,
        unit=unit,
        x_ticks=[Tick(x(epoch), str(epoch)) for epoch in _epoch_ticks(epochs)],
        y_ticks=[Tick(y(row * step), write(row * step)) for row in range(rows + 1)],
        curves=[
            Curve(name, [(x(epoch), y(value)) for epoch, value in pairs], write(pairs[-1][1]))
            for name, pairs in measured.items()
            if pairs
        ],
    )


def _measured(epochs: Sequence[int], values: Sequence[float | None]) -> list[tuple[int, float]]:
    pairs = zip(epochs, values, strict=True)
    return [(epoch, value) for epoch, value in pairs if value is not None]


def _x_scale(epochs: Sequence[int]) -> Callable[[float], float]:
    first, last = epochs[0], epochs[-1]
    if first == last:
        return lambda _: (LEFT + RIGHT) / 2
    return lambda epoch: LEFT + (epoch - first) / (last - first) * (RIGHT - LEFT)


def _y_scale(top: float) -> Callable[[float], float]:
    return lambda value: BOTTOM - value / top * (BOTTOM - TOP)


def _epoch_ticks(epochs: Sequence[int]) -> list[int]:
    step = max(1, round(nice_step(len(epochs), 8)))
    ticks = [epoch for epoch in epochs if epoch % step == 0]
    return ticks if epochs[0] in ticks else [epochs[0], *ticks]
