"""The training loop: packed data set in, run directory out.

What happens in a step is a function of the settings, the data and the step's number alone, so a
training that was interrupted anywhere goes on to the same result (`--resume`).
"""

import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet import randomness
from alexnet.config import Settings, at_epoch
from alexnet.dataset import Dataset, Split
from alexnet.device import describe_device, keep_memory, pick_device, repeatable
from alexnet.errors import DivergedError, Interrupted, StorageError
from alexnet.evaluate import Evaluation, evaluate_split
from alexnet.optim import learning_rate, set_learning_rates
from alexnet.progress import SILENT, Advance, Progress
from alexnet.storage import checkpoint
from alexnet.storage.run import Run
from alexnet.train.hints import StepLoss, divergence, learning_hint
from alexnet.train.image_cache import Cache, DeviceBatch
from alexnet.train.processes import ALONE, Accelerate, Team
from alexnet.train.signals import noted_signals
from alexnet.train.state import Job, announce, check_storage, open_job, open_run, restore
from alexnet.train.step import open_steps
from alexnet.train.watchdog import watchdog

SAVES_THAT_MAY_FAIL = 2
"""In a row, as on a full disk; one more ends the training."""

WAITS = 0.1
"""Share of its time above which a training that waits for images is held by their reading."""


@dataclass(frozen=True)
class TrainReport:
    """What a training came to."""

    run: str
    model: str
    epochs: int
    steps: int
    seconds: float
    images_per_second: float
    """Of the last epoch, as the next."""
    waited_for_images: float
    """Share of the time in which the network stood still until images were there."""
    train_loss: float
    val_loss: float | None
    top1_error: float | None
    """Of the last epoch on the validation split; None without one."""
    top5_error: float | None
    best_top1_error: float | None
    device: str

    @property
    def limit(self) -> str:
        """Which side held the last epoch: "the network" or "reading images"."""
        return "reading images" if self.waited_for_images > WAITS else "the network"

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**vars(self), "limit": self.limit}


def train_model(  # noqa: PLR0913 - each is a decision of its own
    data: str | Path,
    run: str | Path,
    settings: Settings | None = None,
    *,
    device: str = "auto",
    resume: bool = False,
    init: str | Path | None = None,
    progress: Progress = SILENT,
    accelerate: Accelerate | None = None,
    team: Team = ALONE,
    cache: Cache = "auto",
) -> TrainReport:
    """Train a network on the packed data set `data`; leave everything in the directory `run`.

    Without `settings` the recipe "small" is used, or, with `resume`, the run's own. `resume` goes
    on after the last checkpoint, and starts afresh where there is none. `init` is another run,
    whose weights are the start; where the classes differ, the last layer is new. `accelerate` makes
    the faster form of the network that computes; None takes it as it is. The processes of a `team`
    (`alexnet.parallel`) train one network together and each call this alike. `cache` is where
    images are kept: "device", "host", "none", or "auto", the first with room.

    Raises `UsageError` if `run` holds a training that is not to be resumed, `DivergedError` when
    the loss is no longer a number, `StorageError` when it can no longer be saved, and `Interrupted`
    after a signal (SIGINT, SIGTERM, SIGHUP, SIGUSR1): the training is then saved. A step that does
    not end within `watchdog_seconds` ends the process with exit code 7.
    """
    keep_memory()
    with noted_signals() as signals, ExitStack() as held:
        dataset, start = Dataset(data), Path(init) if init else None

        def open_or_make() -> tuple[Run, Settings]:
            held.enter_context(checkpoint.lock(Path(run)))
            return open_run(Path(run), dataset, settings, resume=resume, init=start)

        opened, settings_all = team.from_main(open_or_make)
        place = pick_device(device)
        held.enter_context(repeatable(place, settings_all.deterministic))
        job = open_job(
            opened,
            dataset,
            settings_all,
            place,
            progress,
            team=team,
            accelerate=accelerate,
            cache=cache,
        )
        _go_to_start(job)
        announce(job)
        row: dict[str, Any] = _last_epoch(job.run)
        held.enter_context(closing(job.log))
        look = held.enter_context(_watched(job, signals))
        while job.position.epoch <= job.settings.epochs:
            _train_epoch(job, look)
            row = _end_epoch(job, look)
        job.team.from_main(job.log.flush)
    return _report(job, row)


def _go_to_start(job: Job) -> None:
    """Go to where the run's last checkpoint stands, if it has one."""
    if job.team.from_main(lambda: bool(checkpoint.read_manifest(job.run.path)["checkpoints"])):
        restore(job)
    elif job.team.is_main:
        job.log.cut(0)
    job.team.from_main(lambda: checkpoint.sweep(job.run.path))
    check_storage(job)
    job.steps = open_steps(job)


@contextmanager
def _watched(job: Job, signals: list[int]) -> Iterator[Callable[[], None]]:
    """Give what is called after each step, and each batch of an evaluation.

    It tells the watchdog that work goes on, and stops the training if a signal has asked for that.
    """
    name = "stacks.txt" if job.team.is_main else f"stacks-{os.getpid()}.txt"
    seconds = job.settings.watchdog_seconds
    with watchdog(seconds, "training step", job.run.path / name) as beat:

        def look() -> None:
            beat()
            if number := job.team.agree(max(signals, default=0)):
                _stop(job, number)

        yield look


def _train_epoch(job: Job, look: Callable[[], None]) -> None:
    """Run the steps of the current epoch that are still to do."""
    position, settings = job.position, job.settings
    job.settings_now = at_epoch(settings, position.epoch)
    order = randomness.order(settings.seed, position.epoch, len(job.train))
    starts = range(position.batch * settings.batch_size, len(order), settings.batch_size)
    batches = [order[start : start + settings.batch_size] for start in starts]
    shares = [batch[job.team.share(len(batch))] for batch in batches]
    label = f"epoch {position.epoch}/{settings.epochs}"
    job.network.train()
    with (
        job.progress.task(label, len(order), "images") as advance,
        closing(_waited_for(job, job.images.arrivals(shares))) as arrivals,
    ):
        advance(position.images)
        began = time.perf_counter()
        for indices, arrived in zip(batches, arrivals, strict=True):
            _step(job, indices, arrived)
            now = time.perf_counter()
            position.epoch_seconds, began = position.epoch_seconds + now - began, now
            if position.step % settings.log_steps == 0:
                _log_step(job)
            known = position.images - job.readings.images_waiting
            advance(len(indices), f"loss {position.loss_sum / max(known, 1):.3f}")
            look()
            if settings.checkpoint_steps and position.step % settings.checkpoint_steps == 0:
                _save(job)


def _waited_for(job: Job, arrivals: Iterator[DeviceBatch]) -> Generator[DeviceBatch]:
    """Yield each batch, and count how long the training stood still until it was there."""
    while True:
        began = time.perf_counter()
        arrived = next(arrivals, None)
        job.position.epoch_waited += time.perf_counter() - began
        if arrived is None:
            return
        yield arrived


def _step(job: Job, indices: NDArray[np.int64], arrived: DeviceBatch) -> None:
    """Make one update with the batch `indices`, of which `arrived` is this rank's share.

    The update is not made if the loss or the gradient is not finite; on a GPU that is noticed one
    step later.
    """
    position = job.position
    set_learning_rates(job.optimizer, _rate(job, position.batch + 1), job.settings_now)
    loss, norm = job.steps.compute(indices, arrived)
    job.readings.add(StepLoss(position.epoch, position.step + 1, indices), loss, norm)
    _look(job)
    job.steps.update(norm)
    position.step, position.batch = position.step + 1, position.batch + 1
    position.images += len(indices)


def _look(job: Job, *, wait: bool = False) -> None:
    """Look at the figures that have been read back, and stop where one is not finite."""
    for reading in job.readings.take(wait=wait):
        if not reading.is_finite:
            raise DivergedError(divergence(reading, job.settings_now, job.train, job.run.path))
        job.position.loss_sum += reading.loss * len(reading.indices)


def _rate(job: Job, batch: int) -> float:
    """Return the learning rate of a step of this epoch, the first being 1: that of its middle."""
    epochs_done = job.position.epoch - 1 + (batch - 0.5) / job.batches
    return learning_rate(job.settings_now, epochs_done, job.position.val_errors)


def _log_step(job: Job) -> None:
    _look(job, wait=True)
    train_loss = job.readings.mean_loss()
    _log(job, _row(job) | {"train_loss": train_loss})
    hint = learning_hint(train_loss, job.position.step, len(job.run.classes), job.settings)
    if hint:
        job.progress.note(hint)


def _log(job: Job, row: dict[str, Any]) -> None:
    if job.team.is_main:
        job.log.append(row)


def _row(job: Job) -> dict[str, Any]:
    position = job.position
    return {
        "epoch": position.epoch,
        "step": position.step,
        "lr": _rate(job, position.batch),
        "train_loss": position.loss_sum / position.images,
        "val_loss": None,
        "top1_error": None,
        "top5_error": None,
        "images_per_second": position.images / max(position.epoch_seconds, 1e-9),
        "waited_for_images": position.epoch_waited / max(position.epoch_seconds, 1e-9),
        "seconds": position.seconds + position.epoch_seconds,
    }


def _end_epoch(job: Job, look: Callable[[], None]) -> dict[str, Any]:
    """Evaluate, log, save, and move the position to the next epoch."""
    _look(job, wait=True)
    position = job.position
    row = _row(job) | {"kind": "epoch"}
    if job.val:
        began = time.perf_counter()
        evaluation = _evaluate(job, job.val, look)
        position.seconds += time.perf_counter() - began
        position.val_errors.append(evaluation.top1_error)
        row |= {
            "val_loss": evaluation.loss,
            "top1_error": evaluation.top1_error,
            "top5_error": evaluation.top5_error,
        }
    position.seconds += position.epoch_seconds
    row["seconds"] = position.seconds
    _log(job, row)
    job.progress.note(_epoch_line(row, job.settings.epochs))
    position.epoch += 1
    position.batch = position.images = 0
    position.loss_sum = position.epoch_seconds = position.epoch_waited = 0.0
    job.readings.mean_loss()  # the last steps of this epoch count no more
    _save(job)
    return row


def _evaluate(job: Job, val: Split, look: Callable[[], None]) -> Evaluation:
    return evaluate_split(
        [(job.network, job.preprocessing)],
        val,
        job.run.classes,
        precision=job.settings.precision,
        progress=_Looking(job.progress, look),
        team=job.team,
    )


class _Looking:
    """A progress that calls `look` whenever something is done: an evaluation can take long, too."""

    def __init__(self, progress: Progress, look: Callable[[], None]) -> None:
        self._progress, self._look = progress, look
        self.note = progress.note

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        with self._progress.task(label, total, unit) as advance:

            def look_and_advance(count: int, text: str = "") -> None:
                self._look()
                advance(count, text)

            yield look_and_advance


def _epoch_line(row: dict[str, Any], epochs: int) -> str:
    text = f"epoch {row['epoch']}/{epochs}: train loss {row['train_loss']:.3f}"
    if row["val_loss"] is not None:
        text += f", val loss {row['val_loss']:.3f}, top-1 error {row['top1_error']:.1%}"
    text = f"{text}, {row['images_per_second']:.0f} images/s"
    waited = row["waited_for_images"]
    return f"{text}, {waited:.0%} of the time waiting for images" if waited > WAITS else text


def _save(job: Job) -> None:
    """Save. A disk that refuses is told, and borne a few times: it may have room again later."""
    try:
        _write(job)
        job.failed_saves = 0
    except StorageError as error:
        job.failed_saves += 1
        position = job.position
        if job.failed_saves > SAVES_THAT_MAY_FAIL or position.epoch > job.settings.epochs:
            raise
        allowed = f"{job.failed_saves} of {SAVES_THAT_MAY_FAIL} failures in a row that are borne"
        job.progress.note(f"NOT SAVED after step {position.step}: {error} ({allowed})")
        _log(job, {"kind": "not_saved", "epoch": position.epoch, "step": position.step})


def _write(job: Job) -> None:
    """Write a checkpoint, and before it the metrics that belong to it."""
    _look(job, wait=True)
    position, readings = job.position, job.readings
    position.recent_loss, position.recent_images = readings.recent_loss, readings.recent_images
    tensors = job.team.whole(checkpoint.state_of(job.model, job.optimizer))

    def write() -> None:
        job.log.flush()
        checkpoint.write(job.run.path, tensors, position)

    job.team.from_main(write)


def _stop(job: Job, signal_number: int) -> None:
    """Save in the middle of an epoch and leave."""
    _write(job)
    name = signal.Signals(signal_number).name
    raise Interrupted(
        f"stopped by {name} after step {job.position.step} and saved; to go on, repeat the command "
        f"with --resume",
        signal_number,
    )


def _last_epoch(run: Run) -> dict[str, Any]:
    rows = [row for row in run.metrics() if row.get("kind") == "epoch"]
    return rows[-1] if rows else {}


def _report(job: Job, row: dict[str, Any]) -> TrainReport:
    errors = job.position.val_errors
    return TrainReport(
        run=str(job.run.path),
        model=job.settings.model,
        epochs=job.position.epoch - 1,
        steps=job.position.step,
        seconds=job.position.seconds,
        images_per_second=row["images_per_second"],
        waited_for_images=row.get("waited_for_images", 0.0),  # older runs have none
        train_loss=row["train_loss"],
        val_loss=row["val_loss"],
        top1_error=row["top1_error"],
        top5_error=row["top5_error"],
        best_top1_error=min(errors) if errors else None,
        device=describe_device(job.device),
    )
