"""Counting what a rank sends, layer by layer, and how much of the sending is waited for."""

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class CommStats:
    """What one rank sends in the steps of a training.

    "forward" and "backward" are activations and their gradients, "weights" the gradients of
    weights. Bytes are those that leave the rank: an all-reduce of m bytes among n counts as
    2 (n - 1) / n m, as in a ring, an all-gather of a part of m as (n - 1) m.
    """

    def __init__(self, *, timed: bool) -> None:
        self._timed = timed
        """Whether times mean something: a GPU computes, and NCCL sends, behind the program."""
        self._sent: Counter[tuple[str, str]] = Counter()
        self._steps = 0
        self._under_way = self._waited = 0.0
        self._flights: list[tuple[float, float]] = []
        self._last_start: float | None = None
        self.in_step = False
        """Whether what is exchanged now belongs to a step; evaluation and checkpoints do not."""

    def count(self, layer: str, way: str, size: float) -> None:
        """Add `size` bytes that a step sends for `layer`; `way` is one of the three above."""
        self._sent[layer, way] += round(size)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Note the time of an exchange that the computation waits for."""
        began = time.perf_counter()
        yield
        if self.in_step:
            took = time.perf_counter() - began
            self._under_way += took
            self._waited += took

    def start(self) -> float:
        """Note that an exchange begins that runs beside the backward pass."""
        self._last_start = time.perf_counter()
        return self._last_start

    def arrive(self, began: float) -> None:
        """Note that the exchange which began then has ended."""
        self._flights.append((began, time.perf_counter()))

    def end_step(self) -> None:
        """Note that a backward pass, with all that was sent beside it, is over.

        After the last exchange has begun there is nothing left to compute, so it is waited for.
        """
        self._steps += 1
        if self._last_start is not None:
            self._waited += time.perf_counter() - self._last_start
            self._under_way += _union(self._flights)
        self._flights, self._last_start, self.in_step = [], None, False

    def as_json(self, device: torch.device) -> dict[str, Any]:
        """Return the averages over all steps, and the peak of memory, as plain JSON values."""
        steps = max(self._steps, 1)
        layers: dict[str, dict[str, int]] = {}
        for (layer, way), size in self._sent.items():
            layers.setdefault(layer, {})[way] = round(size / steps)
        overlap = 1 - self._waited / self._under_way if self._under_way else None
        return {
            "steps": self._steps,
            "bytes": layers,
            "total_bytes": sum(sum(ways.values()) for ways in layers.values()),
            "seconds_under_way": self._under_way / steps if self._timed else None,
            "seconds_waited": self._waited / steps if self._timed else None,
            "overlap": max(overlap, 0.0) if self._timed and overlap is not None else None,
            "peak_memory_bytes": peak_memory(device),
        }


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that tensors took on a GPU, or this process in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _union(spans: list[tuple[float, float]]) -> float:
    """Return the length of time in which at least one of `spans` was under way."""
    total, end = 0.0, 0.0
    for first, last in sorted(spans):
        total += max(last - max(first, end), 0.0)
        end = max(end, last)
    return total
