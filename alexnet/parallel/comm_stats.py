"""Communication statistics: bytes sent by layer, and the time that a rank waits for them."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class CommStats:
    """What one rank sends in the training steps.

    "forward" and "backward" are activations and their gradients, "weights" the gradients of
    weights. Only bytes that leave the rank count: 2 (n - 1) / n m for a ring all-reduce of m bytes
    among n ranks, (n - 1) m for an all-gather of parts of m bytes.
    """

    def __init__(self, *, timed: bool) -> None:
        self._timed = timed
        """False on a GPU: it computes and sends asynchronously, so times here mean nothing."""
        self._sent: Counter[tuple[str, str]] = Counter()
        self._steps = 0
        self._in_flight = self._waited = 0.0
        self._transfers: list[tuple[float, float]] = []
        self._last_start: float | None = None
        self.in_step = False
        """Whether the current exchange belongs to a step, not to an evaluation or a checkpoint."""

    def count(self, layer: str, kind: str, size: float) -> None:
        """Add `size` bytes sent for `layer`; `kind` is "forward", "backward" or "weights"."""
        self._sent[layer, kind] += round(size)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time an exchange that the computation waits for."""
        began = time.perf_counter()
        yield
        if self.in_step:
            took = time.perf_counter() - began
            self._in_flight += took
            self._waited += took

    def start(self) -> float:
        """Record the start of an exchange that overlaps the backward pass; return its time."""
        self._last_start = time.perf_counter()
        return self._last_start

    def finish(self, began: float) -> None:
        """Record the end of the exchange that started at `began`."""
        self._transfers.append((began, time.perf_counter()))

    def end_step(self) -> None:
        """Record the end of a backward pass and of its exchanges.

        Nothing is left to compute once the last exchange has started, so the rank waits for it.
        """
        self._steps += 1
        if self._last_start is not None:
            self._waited += time.perf_counter() - self._last_start
            self._in_flight += _covered_time(self._transfers)
        self._transfers, self._last_start, self.in_step = [], None, False

    def as_json(self, device: torch.device) -> dict[str, Any]:
        """Return averages over all steps, and the peak memory, as plain JSON values."""
        steps = max(self._steps, 1)
        layers: dict[str, dict[str, int]] = {}
        for (layer, kind), size in self._sent.items():
            layers.setdefault(layer, {})[kind] = round(size / steps)
        overlap = 1 - self._waited / self._in_flight if self._in_flight else None
        return {
            "steps": self._steps,
            "bytes": layers,
            "total_bytes": sum(sum(kinds.values()) for kinds in layers.values()),
            "seconds_under_way": self._in_flight / steps if self._timed else None,
            "seconds_waited": self._waited / steps if self._timed else None,
            "overlap": max(overlap, 0.0) if self._timed and overlap is not None else None,
            "peak_memory_bytes": peak_memory(device),
        }


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that tensors took on a GPU, or that this process took on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # Windows has none, and no parallel training

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _covered_time(spans: list[tuple[float, float]]) -> float:
    """Return the time covered by at least one of `spans`."""
    total, end = 0.0, 0.0
    for first, last in sorted(spans):
        total += max(last - max(first, end), 0.0)
        end = max(end, last)
    return total
