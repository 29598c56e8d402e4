"""Capturing work as a CUDA graph, which then is a single launch."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def capture_graph(
    work: Callable[[], Result], warm_up: Callable[[], object], *, pool: Any = None
) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Capture `work`; return the graph and what `work` returned, which each replay overwrites.

    `warm_up` runs before, on a stream of its own: in it libraries choose algorithms and take
    memory. `pool` is that of a graph that never runs at the same time, to share its memory.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        warm_up()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads, which read images, may allocate pinned memory during the capture.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        result = work()
    return graph, result
