"""What was predicted of a GPU, beside what was measured there.

A prediction is a table `[[prediction]]` of a TOML file with the fields of `Prediction`. It was made
before the measurement, so the file is not changed afterwards to fit.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

TOLERANCE = 0.05
"""A prediction still holds if the measured value is worse by this share of it."""


@dataclass(frozen=True)
class Prediction:
    """A figure that was predicted."""

    key: str
    """Where result.json has it, names joined by dots; the first one is that of a measurement."""
    what: str
    unit: str
    better: Literal["more", "less"]
    """Which is better."""
    predicted: float
    reason: str
    """Why so much."""
    before: float | None = None
    """What was measured before the changes."""
    target: float | None = None


def read_predictions(path: Path) -> list[Prediction]:
    """Read a file of predictions. Raises `TypeError` for unknown or missing fields."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))["prediction"]
    return [Prediction(**table) for table in tables]


@dataclass(frozen=True)
class Judgement:
    """A prediction and what became of it."""

    prediction: Prediction
    measured: float | None
    verdict: str
    """Confirmed or refuted, and by how much; or not measured, and why."""
    target_met: bool | None = None
    """None without a target or a measurement."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        own = {"measured": self.measured, "verdict": self.verdict, "target_met": self.target_met}
        return asdict(self.prediction) | own


def judge(prediction: Prediction, found: Mapping[str, Any]) -> Judgement:
    """Compare a prediction with the results that were `found`, by measurement."""
    measured = look_up(found, prediction.key)
    if measured is None:
        return Judgement(prediction, None, f"not measured: {reason(found, prediction.key)}")
    short = shortfall(prediction, prediction.predicted, measured)
    room = TOLERANCE * abs(prediction.predicted)
    verdict = "confirmed" if short <= room else f"refuted (by {_relative(short, prediction)})"
    if short < -room:
        verdict = f"confirmed (better by {_relative(-short, prediction)})"
    target = prediction.target
    met = None if target is None else shortfall(prediction, target, measured) <= 0
    return Judgement(prediction, measured, verdict, met)


def shortfall(prediction: Prediction, wanted: float, measured: float) -> float:
    """Return by how much `measured` is worse than `wanted`; negative where it is better."""
    return wanted - measured if prediction.better == "more" else measured - wanted


def _relative(difference: float, prediction: Prediction) -> str:
    """Write a difference as a share of what was predicted, or as it is if that is 0."""
    if not prediction.predicted:
        return figure(difference)
    return f"{difference / abs(prediction.predicted):.0%}".replace("%", " %")


def look_up(found: Mapping[str, Any], key: str) -> float | None:
    """Return a figure by its key; None where there is none. True counts as 1."""
    value: Any = found
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def reason(found: Mapping[str, Any], key: str) -> str:
    """Say why there is no figure `key`."""
    measurement, *rest = key.split(".")
    result = found.get(measurement)
    if not isinstance(result, Mapping):
        return f"there is no measurement {measurement}"
    if text := result.get("error") or result.get("skipped"):
        return str(text)
    rows = result.get("rows")
    row = rows.get(rest[1]) if rows and rest[0] == "rows" and len(rest) > 1 else None
    note = row.get("note") if isinstance(row, Mapping) else ""
    return note or f"{measurement} has no {'.'.join(rest)}"


def table(judgements: Sequence[Judgement]) -> list[str]:
    """Return the lines of the table that a visit ends with."""
    head = ("", "before", "predicted", "target", "measured", "verdict")
    rows = [head, *(_cells(each) for each in judgements)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    return [
        "  ".join(
            (
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:], strict=True)),
                row[-1],
            )
        ).rstrip()
        for row in rows
    ]


def _cells(each: Judgement) -> tuple[str, ...]:
    own = each.prediction
    values = (own.before, own.predicted, own.target, each.measured)
    missed = "; target missed" if each.target_met is False else ""
    return (f"{own.what}, {own.unit}", *map(figure, values), each.verdict + missed)


def figure(value: float | None) -> str:
    """Write a figure with three digits or more; "-" for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
