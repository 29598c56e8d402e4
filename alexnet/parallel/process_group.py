"""Becoming one of several ranks: which device, which backend, and errors that name the cause."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, get_args

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from alexnet.device import pick_device
from alexnet.errors import AlexnetError, DataError, UsageError, WorkerError
from alexnet.parallel.processes import DistributedProcesses, Mode

MODES: tuple[str, ...] = get_args(Mode)

TIMEOUT = 300.0
"""Seconds that a rank waits for another: longer than rank 0 takes to save a checkpoint."""

BEFORE_GIVING_UP = 1.0
"""Seconds that a rank which has lost another waits, so that the other's own error comes first."""

OF_ONE_RANK = (WorkerError, DataError)
"""Errors that a rank can have alone; of all others `from_main` and the like see to it that every
rank raises them."""


def started_by_torchrun() -> bool:
    """Tell whether this process is one of several that `torchrun` or `launch` has started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def join(
    mode: str, *, device: str = "auto", timeout: float = TIMEOUT
) -> Iterator[DistributedProcesses]:
    """Connect this process with the others that torchrun started, and give its `Processes`.

    Address, port, rank and their number come from the environment, as torchrun sets it. Each rank
    has its own GPU ("auto", "cuda"); with a name such as "cuda:0" all share that one, to try things
    out: gloo then carries what they exchange, as it does between CPUs; NCCL between GPUs.
    Raises `UsageError` for a number of ranks or devices that does not fit and for a port in use;
    what happens inside when another rank is lost, or silent for `timeout` seconds, becomes a
    `WorkerError`.
    """
    ranks, local = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0"))
    check_ranks(mode, ranks)
    target = rank_device(device, local, int(os.environ.get("LOCAL_WORLD_SIZE", ranks)))
    own_gpu = target.type == "cuda" and device in ("auto", "cuda")
    if own_gpu:
        torch.cuda.set_device(target)
    patience = timedelta(seconds=timeout)
    _meet("cpu:gloo,cuda:nccl" if own_gpu else "gloo", patience)
    try:
        processes = DistributedProcesses(mode, target, patience)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise _no_meeting(error) from None
    alike = False
    try:
        yield processes
        alike = True
    except AlexnetError as error:
        alike = not isinstance(error, OF_ONE_RANK)
        raise
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        time.sleep(BEFORE_GIVING_UP)
        first_line = str(error).partition("\n")[0]
        raise WorkerError(
            f"rank {processes.rank} lost another rank, or waited {timeout:g} s for it: "
            f"{first_line}; earlier checkpoints are whole (continue with --resume)"
        ) from error
    finally:
        if alike:  # to the others, who leaves while they still listen looks lost
            with suppress(RuntimeError):
                dist.barrier(processes.messages)
        dist.destroy_process_group()


def _meet(backend: str, timeout: timedelta) -> None:
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        # torchrun keeps its store over restarts, and with it the addresses of ranks that are gone.
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        own = dist.PrefixStore(f"start {restarts}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=timeout)
    except (dist.DistError, RuntimeError) as error:
        raise _no_meeting(error) from None


def check_ranks(mode: str, ranks: int) -> None:
    """Refuse an unknown mode and a number of ranks that it cannot use."""
    if mode not in MODES:
        raise UsageError(f"--parallel is one of {', '.join(MODES)}, not {mode!r}")
    if mode == "towers" and ranks % 2:
        raise UsageError(
            f"towers needs two ranks, or an even number of them, not {ranks}; without --parallel "
            f"one device computes both towers, with the same result"
        )


def rank_device(name: str, local_rank: int, local_ranks: int) -> torch.device:
    """Return the device of a rank on its machine: each its own GPU, or all the one that is named.

    Raises `UsageError` where there are fewer GPUs than ranks.
    """
    target = pick_device(name)
    if target.type == "mps":
        raise UsageError("ranks exchange nothing on an Apple GPU: --device cpu, or no --parallel")
    if target.type != "cuda" or name not in ("auto", "cuda"):
        return target
    gpus = torch.cuda.device_count()
    if gpus < local_ranks:
        here = "is one" if gpus == 1 else f"are {gpus}"
        raise UsageError(
            f"{local_ranks} ranks need as many GPUs, and here {here}: "
            f"train without --parallel (one device computes all of it, with the same result), or, "
            f"to try it out, let all ranks share one: --device cuda:0, or --device cpu"
        )
    return torch.device("cuda", local_rank)


def is_lost_peer(error: BaseException) -> bool:
    """Tell whether an error says that another rank is gone or silent."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return "gloo" in text or "nccl" in text or "connection closed by peer" in text


def _no_meeting(error: Exception) -> Exception:
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    if "EADDRINUSE" in str(error) or "address already in use" in str(error):
        return UsageError(
            f"port {os.environ.get('MASTER_PORT')} is in use on this machine; name another "
            f"(--master-port), or 0 for any that is free"
        )
    first_line: Any = str(error).partition("\n")[0]
    return WorkerError(f"cannot meet the other ranks at {address}: {first_line}")
