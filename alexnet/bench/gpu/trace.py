"""What a trace of torch's profiler says of a GPU: how long it was idle, and what it did.

A trace is the JSON file that `export_chrome_trace` writes; its times are microseconds.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from alexnet import kernels

DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
"""Categories of a trace's events that a GPU is busy with."""

OWN_KINDS = (
    ("bias_relu", "bias"),
    ("blocks", "block|spatial_norm"),
    ("convolution", "gemm|conv"),
    ("step", ""),
)
"""The kind of our kernels by the name of their module. "step" is the rest: batch, update and the
like. A profile shows a kernel's name alone; of two with the same name the first kind is assumed."""

WITH_BACKWARD = ("bias_relu", "blocks")
"""Kinds whose backward kernels are a kind of their own."""

KINDS = (
    ("convolution", "implicit_gemm|fprop|dgrad|wgrad|conv|cudnn"),
    ("matrix_product", "nvjet|gemm|cutlass|cublas|splitk"),
    ("addition", "functor_?add|addfunctor"),
    ("reduction", "reduce_kernel"),
    ("copy", "memcpy|memset|copy"),
)
"""The kind of other kernels by their name; the first that matches. An addition is that of a bias,
a reduction mostly that of a bias's gradient."""


class Interval(NamedTuple):
    """One piece of work."""

    name: str
    began: float
    ended: float


def read_trace(path: Path, categories: Collection[str] = DEVICE_WORK) -> list[Interval]:
    """Return a trace's events of some categories."""
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return [
        Interval(event["name"], event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("cat") in categories and "dur" in event
    ]


def busy_time(intervals: Iterable[Interval]) -> float:
    """Return the time in which at least one of `intervals` ran."""
    busy = end = 0.0
    for each in sorted(intervals, key=lambda one: one.began):
        busy += max(each.ended - max(each.began, end), 0.0)
        end = max(end, each.ended)
    return busy


def idle_share(intervals: Sequence[Interval]) -> float:
    """Return the share of the time, from the first beginning to the last end, without work.

    Raises `ValueError` without intervals.
    """
    began, ended = min(each.began for each in intervals), max(each.ended for each in intervals)
    return 1 - busy_time(intervals) / (ended - began)


def time_by_name(intervals: Iterable[Interval]) -> dict[str, float]:
    """Add up the time by the name of the work, the longest first."""
    total: dict[str, float] = {}
    for each in intervals:
        total[each.name] = total.get(each.name, 0.0) + each.ended - each.began
    return dict(sorted(total.items(), key=lambda one: -one[1]))


def time_by_kind(times: Mapping[str, float]) -> dict[str, float]:
    """Add up times by kind; a kind without work has 0."""
    kinds = [*WITH_BACKWARD, *(f"{kind}_backward" for kind in WITH_BACKWARD), "step"]
    total = dict.fromkeys([*kinds, *(kind for kind, _ in KINDS), "other"], 0.0)
    for name, time in times.items():
        total[kind_of(name)] += time
    return total


def kind_of(name: str) -> str:
    """Return the kind of a kernel; "other" if nothing is known of it."""
    if kind := own_kernels().get(name):
        return f"{kind}_backward" if kind in WITH_BACKWARD and "backward" in name else kind
    return next((kind for kind, words in KINDS if re.search(words, name, re.IGNORECASE)), "other")


@cache
def own_kernels() -> dict[str, str]:
    """Return the kind of each of our kernels by its name, read from their sources."""
    modules = sorted((Path(kernels.__path__[0]) / "cuda").glob("*.py"))
    found: dict[str, str] = {}
    for kind, words in OWN_KINDS:
        for path in modules:
            if re.search(words, path.stem):
                source = path.read_text(encoding="utf-8")
                names = re.findall(r"@triton\.jit[^\n]*\n(?:@[^\n]*\n)*def (\w+)", source)
                found = dict.fromkeys(names, kind) | found
    return found
