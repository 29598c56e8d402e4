"""Joining a process group: device, backend, and errors that name the cause."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import get_args

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from alexnet.device import pick_device
from alexnet.errors import AlexnetError, DataError, UsageError, WorkerError
from alexnet.parallel.processes import DistributedProcesses, Mode

MODES: tuple[str, ...] = get_args(Mode)

TIMEOUT = 300.0
"""Seconds that a rank waits for another; saving a checkpoint on rank 0 takes less."""

LOST_RANK_DELAY = 1.0
"""Seconds that a rank waits after it lost another, so that the other reports its error first."""

SINGLE_RANK_ERRORS = (WorkerError, DataError)
"""Errors that may occur on one rank only. All ranks raise the others alike: see `broadcast`."""


def started_by_torchrun() -> bool:
    """Tell whether `torchrun` or `launch` started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def join(
    mode: str, *, device: str = "auto", timeout: float = TIMEOUT
) -> Iterator[DistributedProcesses]:
    """Connect this process with the other ranks; the context gives its `Processes`.

    Address, port, rank and number of ranks come from the environment, as torchrun sets them. With
    the device "auto" or "cuda" each rank has its own GPU; they communicate by NCCL. With another
    device, such as "cuda:0" or "cpu", all ranks share it; they communicate by gloo.
    Raises `UsageError` for a port in use or a number of ranks or devices that does not fit, and
    `WorkerError` when another rank is lost or does not respond for `timeout` seconds.
    """
    ranks, local = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0"))
    check_ranks(mode, ranks)
    target = rank_device(device, local, int(os.environ.get("LOCAL_WORLD_SIZE", ranks)))
    own_gpu = target.type == "cuda" and device in ("auto", "cuda")
    if own_gpu:
        torch.cuda.set_device(target)
    limit = timedelta(seconds=timeout)
    _init_process_group("cpu:gloo,cuda:nccl" if own_gpu else "gloo", limit)
    try:
        processes = DistributedProcesses(mode, target, limit)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise _connection_error(error) from None
    all_ranks_end = False
    try:
        yield processes
        all_ranks_end = True
    except AlexnetError as error:
        all_ranks_end = not isinstance(error, SINGLE_RANK_ERRORS)
        raise
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        time.sleep(LOST_RANK_DELAY)
        first_line = str(error).partition("\n")[0]
        raise WorkerError(
            f"rank {processes.rank} lost another rank, or waited {timeout:g} s for it: "
            f"{first_line}; earlier checkpoints are intact (continue with --resume)"
        ) from error
    finally:
        if all_ranks_end:  # a rank that leaves before the others would look lost to them
            with suppress(RuntimeError):
                dist.barrier(processes.messages)
        dist.destroy_process_group()


def _init_process_group(backend: str, timeout: timedelta) -> None:
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        # torchrun's store survives restarts, with the addresses of ranks that have ended.
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        own = dist.PrefixStore(f"start {restarts}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=timeout)
    except (dist.DistError, RuntimeError) as error:
        raise _connection_error(error) from None


def check_ranks(mode: str, ranks: int) -> None:
    """Raise `UsageError` for an unknown mode, or a number of ranks that it cannot use.

    Also on Windows, which has neither the signals nor the forking that several processes need.
    """
    if not hasattr(os, "fork"):
        raise UsageError(
            "--parallel needs Linux or macOS: train without it, with the same result, or use WSL"
        )
    if mode not in MODES:
        raise UsageError(f"--parallel is one of {', '.join(MODES)}, not {mode!r}")
    if mode == "towers" and ranks % 2:
        raise UsageError(
            f"towers needs two ranks, or an even number of them, not {ranks}; without --parallel "
            f"one device computes both towers, with the same result"
        )


def rank_device(name: str, local_rank: int, local_ranks: int) -> torch.device:
    """Return the device of a rank: its own GPU, or the named device that all ranks share.

    Raises `UsageError` if there are fewer GPUs than ranks.
    """
    target = pick_device(name)
    if target.type == "mps":
        raise UsageError(
            "--parallel does not work on an Apple GPU: use --device cpu, or no --parallel"
        )
    if target.type != "cuda" or name not in ("auto", "cuda"):
        return target
    gpus = torch.cuda.device_count()
    if gpus < local_ranks:
        found = "is one" if gpus == 1 else f"are {gpus}"
        raise UsageError(
            f"{local_ranks} ranks need as many GPUs, and here {found}: train without --parallel "
            f"(the result is the same) or, to try it out, let all ranks share one device: --device "
            f"cuda:0 or --device cpu"
        )
    return torch.device("cuda", local_rank)


def is_lost_peer(error: BaseException) -> bool:
    """Tell whether an error means that another rank is lost or does not respond."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return "gloo" in text or "nccl" in text or "connection closed by peer" in text


def _connection_error(error: Exception) -> Exception:
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    if "EADDRINUSE" in str(error) or "address already in use" in str(error):
        return UsageError(
            f"port {os.environ.get('MASTER_PORT')} is in use on this machine; choose another "
            f"with --master-port, or 0 for any free port"
        )
    first_line = str(error).partition("\n")[0]
    return WorkerError(f"cannot connect to the other ranks at {address}: {first_line}")
