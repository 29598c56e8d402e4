"""Training: from a packed data set to a run directory. The loop is in `alexnet.train.loop`."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from alexnet.config import Settings
from alexnet.dataset import Dataset
from alexnet.device import DeviceName, keep_memory, pick_device
from alexnet.errors import CheckpointError, Interrupted, UsageError
from alexnet.evaluate import Accelerate
from alexnet.progress import SILENT, Progress
from alexnet.storage.atomic import expanded
from alexnet.storage.environment import describe_device
from alexnet.storage.locks import run_lock
from alexnet.storage.metrics_log import MetricsLog, Row
from alexnet.storage.run import Run
from alexnet.train.determinism import deterministic
from alexnet.train.hints import result_warning
from alexnet.train.image_cache import Cache
from alexnet.train.loop import WAITING_IS_LONG, train, train_step
from alexnet.train.opening import open_run, open_state
from alexnet.train.processes import Processes
from alexnet.train.signals import recorded_signals
from alexnet.train.state import Step, TrainState
from alexnet.train.watchdog import watchdog


@dataclass(frozen=True)
class TrainReport:
    """The result of a training."""

    run: str
    model: str
    epochs: int
    steps: int
    seconds: float
    images_per_second: float
    """In the last epoch, like the fields below."""
    waited_for_images: float
    """Share of the time in which the network was idle until images were read."""
    train_loss: float
    val_loss: float | None
    top1_error: float | None
    """On the validation split; None without one."""
    top5_error: float | None
    best_top1_error: float | None
    """Lowest of all epochs."""
    device: str
    warning: str | None = None
    """What is wrong with a result that is no better than guessing; None where it is better."""

    @property
    def limit(self) -> str:
        """What limited the speed of the last epoch: "the network" or "reading images"."""
        return "reading images" if self.waited_for_images > WAITING_IS_LONG else "the network"

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**vars(self), "limit": self.limit}


@runtime_checkable
class Capturable(Protocol):
    """An accelerated network that can capture a whole training step."""

    def capture(self, state: TrainState) -> Step | None:
        """Return a step for the training `state`, or None if it cannot make one."""


@runtime_checkable
class MeasuresPrecision(Protocol):
    """An accelerated network that can tell in which precision it trains faster."""

    def training_precision(self, batch: int) -> str:
        """Return "float32" or "bfloat16" for steps of so many images; on a GPU "auto"."""


def train_model(  # noqa: PLR0913 - each is a decision of its own
    data: str | Path,
    run: str | Path,
    settings: Settings | None = None,
    *,
    device: DeviceName = "auto",
    resume: bool = False,
    init: str | Path | None = None,
    progress: Progress = SILENT,
    accelerate: Accelerate | None = None,
    processes: Processes | None = None,
    cache: Cache = "auto",
    measure: Callable[[TrainState], Row] | None = None,
    on_line: Callable[[Row], None] | None = None,
) -> TrainReport:
    """Train a network on the packed data set `data`; write everything to the directory `run`.

    The default settings are those of the recipe "small" or, with `resume`, of the run. `resume`
    continues after the last checkpoint, or starts a new training if there is none. `init` is
    another run that gives the initial weights and their mean image; if its classes differ, the last
    layer is new. Layers whose rate is 0 (`layer_lr`) get no gradients.
    `accelerate` returns an accelerated form of the network. `processes` (`alexnet.parallel`) train
    one network together; each makes this call with the same arguments. `cache` is where images are
    cached: "device", "host", "none", or "auto", the first with enough room
    (`alexnet.train.image_cache`). `measure` is called after each epoch; what it returns is added to
    the epoch's line of metrics.jsonl. `on_line` is called with each line of metrics.jsonl, after it
    was added.

    Raises `UsageError` if `run` holds a training and `resume` is not set, `DivergedError` for a
    loss that is not finite, `StorageError` when saving fails repeatedly, and `Interrupted` when the
    training has been saved after a signal (SIGINT, SIGTERM, SIGHUP, SIGUSR1). A step that does not
    end within `watchdog_seconds` ends the process with exit code 7.
    """
    if processes is None:
        _refuse_separate_trainings()
    keep_memory()
    processes = processes or Processes()
    with recorded_signals() as signals, ExitStack() as stack:
        dataset, initial = Dataset(data), expanded(init) if init else None
        target = pick_device(device)

        def open_or_make() -> tuple[Run, Settings]:
            path = expanded(run)
            stack.enter_context(run_lock(path, progress.note))
            return open_run(path, dataset, settings, resume=resume, init=initial, device=target)

        opened, all_settings = processes.broadcast(open_or_make)
        stack.enter_context(deterministic(target, all_settings.deterministic))
        log = stack.enter_context(
            closing(
                MetricsLog(opened.path, tensorboard=all_settings.tensorboard, warn=progress.note)
            )
        )
        state = open_state(
            opened,
            dataset,
            all_settings,
            target,
            progress,
            log=log,
            processes=processes,
            accelerate=accelerate,
            cache=cache,
        )
        state.measure = measure or state.measure
        if on_line and processes.is_main:
            state.log = _followed(state.log, on_line)
        check_in = stack.enter_context(_watched(state, opened.path, processes, signals))
        row = train(state, make_step(state, processes), check_in)
        processes.broadcast(log.flush)
    hardware = describe_device(target)
    if row is None:  # nothing was left to do here
        row, hardware = _last_epoch(opened), opened.info.get("hardware", "not recorded")
    return _report(opened, state, row, hardware)


def _followed(log: Callable[[Row], None], on_line: Callable[[Row], None]) -> Callable[[Row], None]:
    """Return a function that logs a line, and passes it on."""

    def add(row: Row) -> None:
        log(row)
        on_line(row)

    return add


def _refuse_separate_trainings() -> None:
    """Raise `UsageError` if torchrun started this process as one of several."""
    count = os.environ.get("WORLD_SIZE", "1")
    if "RANK" in os.environ and count != "1":
        raise UsageError(
            f"torchrun started {count} processes, and each would train by itself: add --parallel "
            f"data, hybrid or towers (in Python: alexnet.parallel.train_rank), or start one "
            f"process without torchrun"
        )


def make_step(state: TrainState, processes: Processes) -> Step:
    """Return the captured step of the network if it has one, else `train_step`."""
    captured = state.network.capture(state) if isinstance(state.network, Capturable) else None
    if captured is None and processes.step is None:
        choose_precision(state)
    return captured or partial(processes.step or train_step, state)


def choose_precision(state: TrainState) -> None:
    """Measure in which precision the network trains faster, if the settings leave it open.

    The first training of a network on a machine measures; later ones do the same.
    """
    state.precision, network = state.settings.precision, state.network
    if state.precision == "auto" and isinstance(network, MeasuresPrecision):
        state.precision = network.training_precision(state.settings.batch_size)
        if state.precision == "bfloat16":
            state.progress.note(
                "training in bfloat16, which was measured to be faster on this processor; "
                "--set precision=float32 trains in float32"
            )


@contextmanager
def _watched(
    state: TrainState, run: Path, processes: Processes, signals: list[int]
) -> Iterator[Callable[[], None]]:
    """Start the watchdog; give the function to call after each step and each evaluated batch.

    The function resets the watchdog, and stops the training if a signal has arrived.
    """
    name = "stacks.txt" if processes.is_main else f"stacks-{os.getpid()}.txt"
    with watchdog(state.settings.watchdog_seconds, "training step", run / name) as beat:

        def check_in() -> None:
            beat()
            if number := processes.all_reduce_max(max(signals, default=0)):
                _stop(state, number)

        yield check_in


def _stop(state: TrainState, signal_number: int) -> None:
    """Save the training and raise `Interrupted`."""
    state.losses.finish()
    state.save()
    name = signal.Signals(signal_number).name
    raise Interrupted(
        f"stopped by {name} after step {state.position.step} and saved; to continue, repeat the "
        f"command with --resume",
        signal_number,
    )


def _last_epoch(run: Run) -> Row:
    rows = [row for row in run.metrics() if row.get("kind") == "epoch"]
    if not rows:
        raise CheckpointError(
            f"{run.path}/metrics.jsonl has no line of an epoch: restore it from a copy; the "
            f"checkpoints are unaffected"
        )
    return rows[-1]


def _report(run: Run, state: TrainState, row: Row, device: str) -> TrainReport:
    errors = state.position.val_errors
    return TrainReport(
        run=str(run.path),
        model=state.settings.model,
        epochs=state.position.epoch - 1,
        steps=state.position.step,
        seconds=state.position.seconds,
        images_per_second=row["images_per_second"],
        waited_for_images=row["waited_for_images"],
        train_loss=row["train_loss"],
        val_loss=row["val_loss"],
        top1_error=row["top1_error"],
        top5_error=row["top5_error"],
        best_top1_error=min(errors) if errors else None,
        device=device,
        warning=result_warning(row, len(run.classes), state.settings),
    )
