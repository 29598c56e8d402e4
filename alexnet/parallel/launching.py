"""Launching the ranks on one machine, and again after a failure, with torchrun's agent."""

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
from alexnet.parallel.process_group import (
    SINGLE_RANK_ERRORS,
    TIMEOUT,
    check_ranks,
    join,
    rank_device,
)
from alexnet.progress import SILENT, Progress
from alexnet.storage.environment import describe_device
from alexnet.train import TrainReport, train_model
from alexnet.train.image_cache import Cache

LOCALHOST = "127.0.0.1"
RESULT_DELAY = 1.0
"""Seconds for the launcher to read the result of a rank that a signal has stopped."""

PRELOADED = ["alexnet.parallel.launching", "torch._dynamo"]


def silent() -> Progress:
    """Report nothing."""
    return SILENT


@dataclass(frozen=True)
class TrainingSpec:
    """The arguments of a training, alike for all ranks; they can be pickled."""

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
    """Seconds that a rank waits for another before it fails."""
    cache: Cache = "auto"


@dataclass(frozen=True)
class RankResult:
    """The result of a training on one rank: a report, or an error that all ranks raise."""

    rank: int
    report: TrainReport | None = None
    communication: tuple[dict[str, Any], ...] = ()
    """`CommStats.as_json` of each rank."""
    error: str = ""
    exit_code: int = 0

    def result(self) -> TrainReport:
        """Return the report, or raise the error."""
        if self.report is None:
            error = AlexnetError(self.error)
            error.exit_code = self.exit_code
            raise error
        return self.report


def train_rank(spec: TrainingSpec) -> RankResult:
    """Train as the rank that torchrun or `launch` has set in the environment.

    After a restart the training resumes from the last checkpoint. An error that a restart cannot
    solve is returned in the result. One that it may solve, such as a lost rank, is raised and
    recorded for torchrun.
    """
    try:
        result = record(_train_rank)(spec)
    finally:
        # The process groups end here. Their threads release tensors, for which they need Python: if
        # it is already shutting down, it aborts the process.
        gc.collect()
    assert result is not None  # noqa: S101 - None means SystemExit, which nothing here raises
    return result


def _train_rank(spec: TrainingSpec) -> RankResult:
    rank, restarts = (int(os.environ.get(k, "0")) for k in ("RANK", "TORCHELASTIC_RESTART_COUNT"))
    progress = spec.progress() if rank == 0 else SILENT
    if restarts:
        progress.note(f"a rank was lost: restart {restarts}")
    try:
        with join(spec.mode, device=spec.device, timeout=spec.timeout) as processes:
            report = train_model(
                spec.data,
                spec.run,
                spec.settings,
                device=str(processes.device),
                resume=spec.resume or restarts > 0,
                init=spec.init,
                progress=progress,
                accelerate=spec.accelerate,
                processes=processes,
                cache=spec.cache,
            )
            return RankResult(rank, report, tuple(processes.report()))
    except SINGLE_RANK_ERRORS:
        raise
    except AlexnetError as error:
        return RankResult(rank, error=str(error), exit_code=error.exit_code)


def launch(
    spec: TrainingSpec, processes: int | None = None, *, max_restarts: int = 3, port: int = 0
) -> RankResult:
    """Train with `processes` processes on this machine and return the result of rank 0.

    The default is one process for each GPU, or two for towers. When a rank fails, all ranks stop,
    restart up to `max_restarts` times and resume from the last checkpoint. They connect on `port`;
    0 is any free one.
    Raises `UsageError` for processes, devices or a port that cannot be used, `Interrupted` after a
    signal, and `WorkerError` naming the first failure after the last restart.
    """
    processes = processes or default_processes(spec.mode, spec.device)
    check_ranks(spec.mode, processes)
    rank_device(spec.device, 0, processes)
    check_port(port)
    Dataset(spec.data)
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # our errors contain their messages
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # The server imports everything once; ranks, also restarted ones, are forked from it.
    multiprocessing.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix="alexnet-ranks-") as folder, signal_handlers_restored():
        config = _launch_config(processes, max_restarts, port, folder)
        try:
            results: dict[int, RankResult] = elastic_launch(config, _launched_rank)(spec)
        except ChildFailedError as error:
            raise WorkerError(first_failure(error, max_restarts, Path(folder))) from None
        except SignalException as error:
            name = error.sigval.name
            raise Interrupted(
                f"stopped by {name}, with all ranks; to continue, repeat the command with --resume",
                error.sigval,
            ) from None
    return results[0]


def _launch_config(processes: int, max_restarts: int, port: int, folder: str) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"alexnet-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint=f"{LOCALHOST}:{port}",
        local_addr=LOCALHOST,
        max_restarts=max_restarts,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )


@contextmanager
def signal_handlers_restored() -> Iterator[None]:
    """Restore the signal handlers at the end, which torchrun's agent replaces."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _launched_rank(spec: TrainingSpec) -> RankResult:
    # In its own process group a rank gets Ctrl-C only from the launcher, not from the terminal too:
    # a second signal would end it at once.
    os.setpgrp()
    result = train_rank(spec)
    if result.exit_code > 128:
        # A launcher that got a signal reads no more results; the rank would wait for it forever.
        timer = threading.Timer(RESULT_DELAY, os._exit, [0])
        timer.daemon = True
        timer.start()
    return result


def default_processes(mode: str, device: str) -> int:
    """Return the number of GPUs, or 2 for towers. Raises `UsageError` for a single device."""
    target = pick_device(device)
    gpus = torch.cuda.device_count() if target.type == "cuda" and ":" not in device else 0
    if gpus < 2:
        raise UsageError(
            f"{mode} needs two devices or more, and here is one ({describe_device(target)}); train "
            f"without --parallel, with the same result. To try {mode} with two processes: "
            f"--processes 2 --device {'cuda:0' if target.type == 'cuda' else 'cpu'}"
        )
    return 2 if mode == "towers" else gpus


def check_port(port: int) -> None:
    """Raise `UsageError` if `port` of this machine cannot be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCALHOST, port))
        except (OSError, OverflowError):
            raise UsageError(
                f"port {port} is in use or invalid; choose another with --master-port, or leave "
                f"the option out for any free port"
            ) from None


def first_failure(error: ChildFailedError, max_restarts: int, logs: Path) -> str:
    """Describe the failure of the rank that failed first, not of the ranks that then lost it.

    One of those may have ended sooner and be all that torchrun saw. The first failure is then in
    the error files that the ranks of the last start wrote to `logs`.
    """
    failures = sorted(error.failures.items(), key=lambda pair: pair[1].timestamp)
    reasons = [(rank, _reason(failure)) for rank, failure in failures] + _written_reasons(logs)
    causes = [pair for pair in reasons if "lost another rank" not in pair[1]]
    rank, reason = (causes or reasons)[0]
    return (
        f"rank {rank} failed after all {max_restarts} restarts: {reason}; saved checkpoints are "
        f"intact (continue with --resume)"
    )


def _reason(failure: Any) -> str:
    if failure.exitcode < 0:
        return f"it was killed by {failure.signal_name()} (process {failure.pid})"
    return _first_line(failure.message) or f"it ended with exit code {failure.exitcode}"


def _written_reasons(logs: Path) -> list[tuple[int, str]]:
    """List rank and error of each LOGS/.../attempt_N/RANK/error.json of the last start."""
    files = list(logs.rglob("attempt_*/*/error.json"))
    last = max((_start_of(file) for file in files), default=0)
    reasons = []
    for file in sorted(each for each in files if _start_of(each) == last):
        with suppress(ValueError, KeyError):  # cut off: the rank was killed while writing it
            message = json.loads(file.read_bytes())["message"]
            reasons.append((int(file.parent.name), _first_line(message)))
    return reasons


def _start_of(error_file: Path) -> int:
    return int(error_file.parents[1].name.removeprefix("attempt_"))


def _first_line(message: Any) -> str:
    text = message.get("message", "") if isinstance(message, dict) else message
    return str(text).strip().partition("\n")[0]
