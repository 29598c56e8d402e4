"""Work on several threads of a CPU: those of PyTorch's own operations.

PyTorch's OpenMP threads do not sleep when an operation ends. They wait for the next one in a loop,
for milliseconds, and take half of the processor from any other threads that run meanwhile: block 1
of a batch of 64 took 13 ms on threads of our own after an operation of PyTorch's, and takes 7 on
PyTorch's (docs/speed_log.md). So our kernels run on the same threads. Where PyTorch's library of
threads cannot be found, or after a fork, which its threads do not survive, we use our own.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch

Task = Callable[[int, int], None]
"""Does the work on the items from the first to before the last; it may run in any thread."""
RunTeam = Callable[[Callable[[], None], int], None]
"""Calls a function in so many threads at once, this one being one of them, and waits for all."""


def run_in_threads(task: Task, count: int) -> None:
    """Run `task` on `count` items, each thread on its share: as many as PyTorch uses.

    Raises the first error of a thread when all have ended.
    """
    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        task(0, count)
        return
    edges = [count * thread // threads for thread in range(threads + 1)]
    shares, errors = iter(list(pairwise(edges))), list[BaseException]()

    def take_shares() -> None:
        try:
            for first, last in shares:  # a team may be smaller than was asked for
                task(first, last)
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            errors.append(error)

    run_team()(take_shares, threads)
    if errors:
        raise errors[0]


def run_team() -> RunTeam:
    """Return what runs a team of threads in this process."""
    openmp = openmp_team()
    return openmp if openmp and os.getpid() == openmp_process() else run_own_threads


def run_own_threads(work: Callable[[], None], threads: int) -> None:
    """Call `work` in this thread and others of our own."""
    tasks = [own_threads(os.getpid()).submit(work) for _ in range(threads - 1)]
    work()
    for task in tasks:
        task.result()


@cache
def own_threads(_process: int) -> ThreadPoolExecutor:
    """Return the threads of this process; after a fork the child starts its own."""
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="alexnet-kernels")


@cache
def openmp_process() -> int:
    """Return the process in which PyTorch's threads were first used; not that of a later fork."""
    return os.getpid()


@cache
def openmp_team() -> RunTeam | None:
    """Return what runs a team of PyTorch's OpenMP threads; None if this PyTorch has no such.

    `GOMP_parallel` is the entry of a parallel region in GNU's and LLVM's libraries on Linux, by
    which the compiled code of PyTorch enters its own.
    """
    openmp_process()
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    function_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    try:
        # Found through the library that uses it: a process can have several kinds of OpenMP.
        parallel = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = (function_type, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None

    def run(work: Callable[[], None], threads: int) -> None:
        # ctypes releases Python's lock during the call; each thread takes it to call `work`.
        parallel(function_type(lambda _: work()), None, threads, 0)

    return run
