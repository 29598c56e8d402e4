"""Starting the ranks of one machine, and again after a failure, by torchrun's means."""

import gc
import json
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from alexnet.config import Settings
from alexnet.dataset import Dataset
from alexnet.device import pick_device
from alexnet.errors import AlexnetError, Interrupted, UsageError, WorkerError
from alexnet.evaluate import Accelerate
from alexnet.parallel.process_group import OF_ONE_RANK, TIMEOUT, check_ranks, join, rank_device
from alexnet.progress import SILENT, Progress
from alexnet.storage.environment import describe_device
from alexnet.train import TrainReport, train_model
from alexnet.train.image_cache import Cache

HERE = "127.0.0.1"
AFTER_SIGNAL = 1.0
"""Seconds that a rank which a signal has stopped gives the launcher to read its result."""

PRELOADED = ["alexnet.parallel.launching", "torch._dynamo"]


def silent() -> Progress:
    """Report nothing."""
    return SILENT


@dataclass(frozen=True)
class TrainingSpec:
    """A training as every rank of it is asked for; all of it can be sent to another process."""

    mode: str
    data: Path
    run: Path
    settings: Settings
    device: str = "auto"
    resume: bool = False
    init: Path | None = None
    accelerate: Accelerate | None = None
    progress: Callable[[], Progress] = silent
    timeout: float = TIMEOUT
    """Seconds that a rank waits for another before it gives up."""
    cache: Cache = "auto"


@dataclass(frozen=True)
class RankResult:
    """How a training ended for a rank: a report, or an error that all ranks have alike."""

    rank: int
    report: TrainReport | None = None
    communication: tuple[dict[str, Any], ...] = ()
    """For each rank: bytes sent in a step, by layer; peak memory; time. See `CommStats`."""
    error: str = ""
    exit_code: int = 0

    def result(self) -> TrainReport:
        """Return the report, or raise the error."""
        if self.report is None:
            error = AlexnetError(self.error)
            error.exit_code = self.exit_code
            raise error
        return self.report


def train_rank(call: TrainingSpec) -> RankResult:
    """Train as the rank that the environment says, as torchrun or `launch` has set it.

    After a restart it goes on from the last checkpoint. An error that another start would not mend
    is returned; one that it may mend, a lost rank, is raised, and kept where torchrun looks for it.
    """
    try:
        outcome = record(_train_rank)(call)
    finally:
        # The groups end here. Their threads drop tensors, for which they need Python: where it is
        # about to end itself, the process would be aborted, though all is done.
        gc.collect()
    assert outcome is not None  # noqa: S101 - None stands for SystemExit, which nothing here raises
    return outcome


def _train_rank(call: TrainingSpec) -> RankResult:
    rank, restarts = (int(os.environ.get(k, "0")) for k in ("RANK", "TORCHELASTIC_RESTART_COUNT"))
    progress = call.progress() if rank == 0 else SILENT
    if restarts:
        progress.note(f"a rank was lost: start {restarts + 1}")
    try:
        with join(call.mode, device=call.device, timeout=call.timeout) as processes:
            report = train_model(
                call.data,
                call.run,
                call.settings,
                device=str(processes.device),
                resume=call.resume or restarts > 0,
                init=call.init,
                progress=progress,
                accelerate=call.accelerate,
                processes=processes,
                cache=call.cache,
            )
            return RankResult(rank, report, tuple(processes.report()))
    except OF_ONE_RANK:
        raise
    except AlexnetError as error:
        return RankResult(rank, error=str(error), exit_code=error.exit_code)


def launch(
    call: TrainingSpec, processes: int | None = None, *, max_restarts: int = 3, port: int = 0
) -> RankResult:
    """Train with so many processes on this machine and return what rank 0 returns.

    Without `processes` there is one for each GPU, two for towers. When a rank fails or is lost, all
    are stopped and started again, `max_restarts` times, and go on from the last checkpoint.
    `port` is where they meet; 0 takes one that is free.
    Raises `UsageError` for what cannot work here, `Interrupted` after a signal, and `WorkerError`
    naming the first failure when all restarts are used up.
    """
    processes = processes or default_processes(call.mode, call.device)
    check_ranks(call.mode, processes)
    rank_device(call.device, 0, processes)
    check_port(port)
    Dataset(call.data)
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they say ends up in our errors
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # The server imports everything once; ranks are forked from it at once, also after a failure.
    multiprocessing.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix="alexnet-ranks-") as folder, handlers_restored():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=f"alexnet-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint=f"{HERE}:{port}",
            local_addr=HERE,
            max_restarts=max_restarts,
            start_method="forkserver",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            outcomes: dict[int, RankResult] = elastic_launch(config, _started_rank)(call)
        except ChildFailedError as error:
            raise WorkerError(first_failure(error, max_restarts, Path(folder))) from None
        except SignalException as error:
            name = error.sigval.name
            raise Interrupted(
                f"stopped by {name}, and the ranks with it; to go on, repeat the command with "
                f"--resume",
                error.sigval,
            ) from None
    return outcomes[0]


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Put back at the end what torchrun's agent changes: who handles the signals that stop it."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _started_rank(call: TrainingSpec) -> RankResult:
    # A process group of its own: Ctrl-C in a terminal would otherwise reach a rank twice, from the
    # terminal and from the launcher, and the second signal acts at once.
    os.setpgrp()
    outcome = train_rank(call)
    if outcome.exit_code > 128:
        # After a signal to itself the launcher reads no more results, for which a rank would wait.
        timer = threading.Timer(AFTER_SIGNAL, os._exit, [0])
        timer.daemon = True
        timer.start()
    return outcome


def default_processes(mode: str, device: str) -> int:
    """Return one process for each GPU, two for towers. Raises `UsageError` where there is one."""
    target = pick_device(device)
    gpus = torch.cuda.device_count() if target.type == "cuda" and ":" not in device else 0
    if gpus < 2:
        raise UsageError(
            f"{mode} trains on two devices or more, and here is one ({describe_device(target)}); "
            f"without --parallel the same network, with its towers as groups, is trained on it. To "
            f"try it out with two processes: --processes 2 --device "
            f"{'cuda:0' if target.type == 'cuda' else 'cpu'}"
        )
    return 2 if mode == "towers" else gpus


def check_port(port: int) -> None:
    """Raise `UsageError` if nobody can listen on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HERE, port))
        except (OSError, OverflowError):
            raise UsageError(
                f"port {port} is in use, or none; name another with --master-port, or none: "
                f"then one that is free is taken"
            ) from None


def first_failure(error: ChildFailedError, max_restarts: int, logs: Path) -> str:
    """Say which rank failed first and how: others that lost it come after it.

    One that lost it may have been quicker to end, and be all that torchrun saw; then the first
    failure stands in the error files that the ranks of the last start left in `logs`.
    """
    failures = sorted(error.failures.items(), key=lambda pair: pair[1].timestamp)
    told = [(rank, _reason(failure)) for rank, failure in failures] + _written_reasons(logs)
    causes = [pair for pair in told if "lost another rank" not in pair[1]]
    rank, reason = (causes or told)[0]
    return (
        f"rank {rank} failed, after {max_restarts} restarts for the last time: {reason}; what was "
        f"saved is whole (--resume goes on)"
    )


def _reason(failure: Any) -> str:
    if failure.exitcode < 0:
        return f"it was ended by {failure.signal_name()} (process {failure.pid})"
    return _first_line(failure.message) or f"it ended with exit code {failure.exitcode}"


def _written_reasons(logs: Path) -> list[tuple[int, str]]:
    """List rank and error of each error file in LOGS/.../attempt_N/RANK/ of the last start."""
    files = list(logs.rglob("attempt_*/*/error.json"))
    last = max((_start_of(file) for file in files), default=0)
    reasons = []
    for file in sorted(each for each in files if _start_of(each) == last):
        with suppress(ValueError, KeyError):  # cut off: its rank was killed while writing
            message = json.loads(file.read_bytes())["message"]
            reasons.append((int(file.parent.name), _first_line(message)))
    return reasons


def _start_of(error_file: Path) -> int:
    return int(error_file.parents[1].name.removeprefix("attempt_"))


def _first_line(message: Any) -> str:
    text = message.get("message", "") if isinstance(message, dict) else message
    return str(text).strip().partition("\n")[0]
