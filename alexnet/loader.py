"""Reading batches ahead in threads: decoders and file reads release Python's lock."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Request = TypeVar("Request")
Batch = TypeVar("Batch")

MOST_THREADS = 16
"""More would wait for each other: all but decoding and reading holds Python's lock."""


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_ahead(
    read: Callable[[Request], Batch], requests: Iterable[Request], threads: int | None = None
) -> Iterator[Batch]:
    """Yield read(request) for each request, in order, while the next ones are being read.

    An error in `read` is raised here, at its batch. Memory holds at most threads + 1 batches. The
    default is one thread for each core, up to 16.
    """
    threads = threads or min(MOST_THREADS, available_cores())
    pending: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        try:
            for request in requests:
                pending.append(pool.submit(read, request))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
