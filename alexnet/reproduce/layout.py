"""Figures as positions in a picture: rows of marks over one axis, and curves by epoch.

The template `figures.svg.jinja` draws them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from alexnet.analysis.report.charts import Chart, Tick, nice_step

WIDTH = 440
LEFT, RIGHT = 16, 424
"""The ends of a panel's axis within the picture."""
TOP, ROW, AXIS = 30, 44, 40
"""Heights: of the title, of a row, of the axis with its numbers and label."""


@dataclass(frozen=True)
class Mark:
    """A position on the axis, and how it is drawn: seed, mean, published, or c1, c2, c3."""

    x: float
    kind: str


@dataclass(frozen=True)
class Line:
    """A row of a panel: a name and a value, below them marks and an interval."""

    name: str
    value: str
    marks: Sequence[Mark]
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Panel:
    """Rows over one horizontal axis."""

    title: str
    label: str
    """Of the axis."""
    ticks: Sequence[Tick]
    lines: Sequence[Line]
    legend: Sequence[tuple[str, str]] = ()
    """Kinds of marks, with what they are."""
    neutral: float | None = None
    """Where no difference is."""

    @property
    def height(self) -> int:
        """The picture's height."""
        return self.top + ROW * len(self.lines) + AXIS

    @property
    def top(self) -> int:
        """Where the rows begin."""
        return TOP + (22 if self.legend else 0)

    @property
    def description(self) -> str:
        """The text that a screen reader reads."""
        return f"{self.title}: " + "; ".join(f"{line.name} {line.value}" for line in self.lines)


@dataclass(frozen=True)
class Scale:
    """From values to positions on the axis, over [low, high]; by their logarithms if asked."""

    low: float
    high: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        low, high, value = (self._of(each) for each in (self.low, self.high, value))
        return round(LEFT + 8 + (value - low) / (high - low) * (RIGHT - LEFT - 16), 1)

    def _of(self, value: float) -> float:
        return math.log(value) if self.is_log else value

    def ticks(self, write: Callable[[float], str]) -> list[Tick]:
        """Return round values on the axis."""
        return [Tick(self(value), write(value)) for value in self._rounds()]

    def _rounds(self) -> list[float]:
        if self.is_log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            decades = self.high / self.low
            leads = (1, 2, 5) if decades < 200 else (1,)
            values = [lead * 10.0**power for power in powers for lead in leads]
        else:
            step = nice_step(self.high - self.low, 6)
            first = math.ceil(self.low / step - 1e-9)
            values = [count * step for count in range(first, first + 8)]
        return [value for value in values if self.low <= value <= self.high * (1 + 1e-9)]


def scale_for(values: Iterable[float], *, is_log: bool = False) -> Scale:
    """Return a scale that shows all `values`, also where they are equal."""
    known = list(values)
    low, high = min(known), max(known)
    if is_log:
        return Scale(low / 1.15, high * 1.15, is_log=True)
    room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return Scale(low - room, high + room)


def text_width(text: str) -> float:
    """Estimate the width in pixels of a legend's text, of a sans serif font of 14 pixels."""
    return sum(4.8 if c in "fijlrt.,:;()[] " else 13 if c in "mwMW%" else 8.6 for c in text)


@dataclass(frozen=True)
class Curves:
    """A chart of curves by epoch."""

    chart: Chart
    has_reference: bool = False
    """Whether the last curve is a level to compare with."""

    height = 324

    @property
    def legend(self) -> list[float]:
        """Where the name of each curve begins, with its line before it."""
        widths = [46 + text_width(curve.name) for curve in self.chart.curves]
        return list(accumulate(widths[:-1], initial=LEFT))

    @property
    def description(self) -> str:
        """The text that a screen reader reads."""
        return self.chart.description
