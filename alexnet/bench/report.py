"""Results: rates by round, their medians, ratios within rounds, and the conditions."""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from alexnet.storage.atomic import atomic_write
from alexnet.storage.environment import commit, describe_device, versions

PEERS = ("numba", "triton", "onnxruntime", "pillow", "simplejpeg", "torchvision")
"""Packages whose versions are recorded."""


@dataclass(frozen=True)
class Row:
    """One way of doing the work, measured once in each round."""

    key: str
    """Its name in result.json."""
    name: str
    rates: tuple[float, ...] = ()
    """Units per second, a number for each round; empty where it could not be measured."""
    note: str = ""
    """Why it could not be measured, or which version was."""
    operations: float = 0.0
    """Floating-point operations of one unit, for the share of the device's limit; 0: none."""
    is_rough: bool = False
    """Whether it was run once, which takes as long as the caches happen to allow."""

    @property
    def rate(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rates) if self.rates else 0.0

    @property
    def spread(self) -> float:
        """Half the range from the slowest round to the fastest, as a fraction of the median."""
        return (max(self.rates) - min(self.rates)) / 2 / self.rate if self.rate else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        return {
            "rate": _rounded(self.rate),
            "seconds": _rounded(1 / self.rate) if self.rate else None,
            "spread": _rounded(self.spread),
            "rounds": [_rounded(rate) for rate in self.rates],
        }


def ratio(row: Row, other: Row) -> float | None:
    """Return how many times as fast as `other` `row` is: the median of the rounds' ratios.

    Within a round both were measured in succession, so what slows the machine slows both. None
    where one could not be measured, or only roughly.
    """
    if row.is_rough or other.is_rough:
        return None
    pairs = list(zip(row.rates, other.rates, strict=False))
    return statistics.median(a / b for a, b in pairs) if pairs else None


@dataclass(frozen=True)
class Table:
    """Rows for the same work; the first one is ours, the others are compared with it."""

    key: str
    title: str
    unit: str
    """What the rates count, "images/s"."""
    rows: Sequence[Row]
    inside: str
    """What is inside the timing."""
    limits: Sequence[Row] = ()
    """What the device can do, measured in the same rounds: "matmul", the product of large matrices
    (FLOP/s), "matmul_onednn", the same by another library, and "copy" (bytes read and written)."""
    seconds: bool = False
    """Whether the printed table has the seconds of one unit instead of units per second."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """What follows from the rates, by name."""
    notes: Sequence[str] = ()
    """The same as printed, a line each."""

    def row(self, key: str) -> Row:
        """Return a row by its key."""
        return next(row for row in self.rows if row.key == key)

    @property
    def peak(self) -> float:
        """The device's rate of multiplying large matrices by the faster library, FLOP/s; or 0."""
        return max((row.rate for row in self.limits if row.key.startswith("matmul")), default=0.0)

    def share(self, row: Row) -> float | None:
        """Return a row's operations per second as a fraction of `peak`."""
        if not self.peak or not row.operations or not row.rates or row.is_rough:
            return None
        return row.rate * row.operations / self.peak

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; a row is found by its key."""
        return {
            "title": self.title,
            "unit": self.unit,
            "inside": self.inside,
            "rows": {row.key: self._row_json(row) for row in self.rows},
            "limits": {row.key: row.as_json() for row in self.limits},
            "facts": {key: _rounded(value) for key, value in self.facts.items()},
            "notes": list(self.notes),
        }

    def _row_json(self, row: Row) -> dict[str, Any]:
        return {
            "name": row.name,
            **row.as_json(),
            "ours_is": _rounded(ratio(self.rows[0], row)),
            "of_limit": _rounded(self.share(row)),
            "note": row.note,
        }


def _rounded(value: float | None) -> float | None:
    """Round to five digits, more than a measurement is good for."""
    return None if value is None else float(f"{value:.5g}")


@dataclass(frozen=True)
class BenchReport:
    """What was measured, and under what conditions."""

    command: str
    conditions: dict[str, Any]
    """Commit, hardware, threads, versions, precision."""
    tables: Sequence[Table]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; a table is found by its key."""
        tables = {table.key: table.as_json() for table in self.tables}
        return {"command": self.command, **self.conditions, **tables}

    def save(self, folder: Path) -> None:
        """Write `folder`/result.json. Raises `StorageError` where that cannot be done."""
        save_json(folder / "result.json", self.as_json())


def save_json(path: Path, value: Any) -> None:
    """Write a result; its folder is made if need be. Raises `StorageError`."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


# Conditions.


def conditions(device: torch.device) -> dict[str, Any]:
    """Return hardware, threads, versions and the commit of the code, as plain JSON values."""
    return {
        "commit": commit(),
        "hardware": describe_device(device),
        "threads": torch.get_num_threads(),
        "load": load_average(),
        "versions": {**versions(), **{name: _version(name) for name in PEERS}},
    }


def load_average() -> float | None:
    """Return the processes that were running or waiting for a core in the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
