"""Whether a difference between trainings is more than the luck of their seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Literal

from alexnet.errors import UsageError

CONFIDENCE = 0.95
Outcome = Literal["agrees", "disagrees", "cannot tell", "differs"]


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences (or the geometric mean of ratios), with its interval."""

    mean: float
    low: float
    high: float
    """Limits of the interval of 95 % confidence: Student's t over the pairs."""
    pairs: int
    is_bound: bool = False
    """The second never got there: the true ratio is at least as far from 1."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; None for the limits of a single pair, which are infinite."""
        limits = {name: getattr(self, name) for name in ("low", "high")}
        finite = {name: limit if math.isfinite(limit) else None for name, limit in limits.items()}
        return {**vars(self), **finite}


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare figures that were measured in pairs, such as with equal seeds: first - second."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    center = mean(differences)
    if len(differences) < 2:
        return Difference(center, -math.inf, math.inf, len(differences))
    half = student_t(len(differences) - 1) * stdev(differences) / math.sqrt(len(differences))
    return Difference(center, center - half, center + half, len(differences))


def paired_ratio(
    first: Sequence[float | None], second: Sequence[float | None], limit: float
) -> Difference:
    """Compare times that were measured in pairs: first / second, None: not within `limit`.

    Raises `ValueError` where the first did not get there: nothing can be said then.
    """
    if any(value is None for value in first):
        raise ValueError("the first did not get there")
    reached = [value for value in first if value is not None]
    known = [limit if value is None else value for value in second]
    logs = paired_difference([*map(math.log, reached)], [*map(math.log, known)])
    mean_ratio, low, high = map(math.exp, (logs.mean, logs.low, logs.high))
    return Difference(mean_ratio, low, high, logs.pairs, is_bound=None in second)


def student_t(freedom: int) -> float:
    """Return the quantile of Student's t for a two-sided interval of 95 % confidence."""
    try:
        from scipy.stats import t  # takes half a second to import
    except ImportError:
        raise UsageError("scipy is missing: pip install 'alexnet[reproduce]'") from None
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


def judge(difference: Difference, neutral: float, *, is_claimed: bool) -> Outcome:
    """Say what a difference means for the claim that the first is lower.

    `neutral` is what no difference is: 0, or 1 for a ratio.
    """
    if difference.low <= neutral <= difference.high:
        return "cannot tell"
    if not is_claimed:
        return "differs"
    return "agrees" if difference.high < neutral else "disagrees"
