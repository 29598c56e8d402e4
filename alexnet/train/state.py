"""What a training works with, put together from the data set, the run directory and settings."""

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from alexnet import randomness
from alexnet.config import Settings
from alexnet.dataset import Dataset, Split
from alexnet.device import describe_device
from alexnet.errors import UsageError
from alexnet.networks.registry import input_shape, set_dropout, weight_layers
from alexnet.optim import he_initialize, make_optimizer
from alexnet.progress import SILENT, Progress
from alexnet.recipes import fitting_model, recipe
from alexnet.storage import checkpoint
from alexnet.storage.atomic import check_writable
from alexnet.storage.checkpoint import Position
from alexnet.storage.metrics_log import MetricsLog
from alexnet.storage.run import Run
from alexnet.train.hints import LossReader
from alexnet.train.image_cache import Cache, DeviceBatch, Images, open_images
from alexnet.train.processes import Accelerate, Team
from alexnet.transforms import Preprocessing

RESUMABLE = {"epochs", "log_steps", "tensorboard", "checkpoint_steps", "watchdog_seconds"}
"""Settings that may change when a run is resumed."""


class Steps(Protocol):
    """How a training makes its updates (`alexnet.train.step`)."""

    def compute(self, indices: NDArray[np.int64], arrived: DeviceBatch) -> tuple[Tensor, Tensor]:
        """Compute the batch `indices`, of which `arrived` is this rank's share.

        Return the batch's mean loss and the length of its gradient, two scalars on the device.
        """

    def update(self, norm: Tensor) -> None:
        """Change the weights by what was computed last, if `compute` has not done so already."""


@dataclass
class Job:
    """All that a training works with."""

    run: Run
    settings: Settings
    train: Split
    val: Split | None
    team: Team
    model: nn.Sequential
    """This rank's part of the network, or all of it: what learns and is saved."""
    network: nn.Module
    """What computes it; shares its parameters."""
    optimizer: Optimizer
    preprocessing: Preprocessing
    device: torch.device
    position: Position
    progress: Progress
    log: MetricsLog
    settings_now: Settings
    """Those of the epoch that is under way."""
    readings: LossReader
    images: Images
    """Those of the split "train", on their way to the device."""
    failed_saves: int = 0
    """In a row."""
    steps: Steps = field(init=False)
    """Made when the weights are those to begin with."""

    @property
    def batches(self) -> int:
        """Steps in an epoch; the last one takes what is left over."""
        return math.ceil(len(self.train) / self.settings.batch_size)


def open_run(
    path: Path, dataset: Dataset, settings: Settings | None, *, resume: bool, init: Path | None
) -> tuple[Run, Settings]:
    """Open the run directory to be resumed, or make a new one; return it with its settings.

    `init` is a run whose weights a new one starts from.
    """
    if resume and Run.exists(path):
        run = Run.open(path)
        return run, _agree(run, settings or run.settings, dataset)
    settings = settings or recipe("small")
    if settings.model == "auto":
        name = Run.open(init).model_name if init else fitting_model(dataset.size)
        settings = replace(settings, model=name)
    note = {"init": str(init)} if init else {}
    crop = input_shape(settings.model, ablate=settings.ablate)[1]
    return Run.create(path, dataset, settings, crop, note), settings


def open_job(
    run: Run,
    dataset: Dataset,
    settings: Settings,
    device: torch.device,
    progress: Progress,
    *,
    team: Team,
    accelerate: Accelerate | None,
    cache: Cache,
) -> Job:
    """Put together all that training in `run` works with, at its very start."""
    progress = progress if team.is_main else SILENT
    model = team.localize(_start_model(run, settings, progress), settings).to(device)
    weights = [f"{name}.weight" for name, _ in weight_layers(model)]
    return Job(
        run=run,
        settings=settings,
        train=dataset.split("train"),
        val=dataset.split("val") if "val" in dataset.split_names else None,
        team=team,
        model=model,
        network=team.network(model, accelerate),
        optimizer=make_optimizer(
            model, settings, lambda squares: team.whole_squares(squares, weights)
        ),
        preprocessing=run.preprocessing.to(device),
        device=device,
        position=Position(),
        progress=progress,
        log=MetricsLog(run.path, tensorboard=settings.tensorboard, tell=progress.note),
        settings_now=settings,
        readings=LossReader(device),
        images=open_images(dataset.split("train"), device, cache, sharers=local_processes()),
    )


def local_processes() -> int:
    """Return how many processes of a team run on this machine, as whoever started them says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _start_model(run: Run, settings: Settings, progress: Progress) -> nn.Sequential:
    """Build the network with its start weights: those of the run `init`, or drawn from the seed.

    They are drawn on the CPU, so that they are the same on any device.
    """
    torch.manual_seed(randomness.step_seed(settings.seed, 0))
    model = run.new_model()
    if settings.init == "he":
        he_initialize(model, pixel_std=math.hypot(*run.preprocessing.color_std) / math.sqrt(3))
    if "init" in run.info:
        other = Run.open(run.info["init"])
        saved = checkpoint.load(other.path, "best", prefix=checkpoint.MODEL)
        fresh = checkpoint.transfer_weights(model, saved, same_classes=other.classes == run.classes)
        progress.note(f"weights of {other.path}, but for {', '.join(fresh) or 'none'}")
    set_dropout(model, settings.dropout)
    known = [name for name, _ in weight_layers(model)]
    unknown = [name for name in {**settings.layer_lr, **settings.layer_decay} if name not in known]
    if unknown:
        raise UsageError(
            f"{settings.model} has no layer {', '.join(unknown)}; its layers are {', '.join(known)}"
        )
    return model


def _agree(run: Run, settings: Settings, dataset: Dataset) -> Settings:
    """Refuse to resume with other settings or data than the run began with."""
    if settings.model == "auto":
        settings = replace(settings, model=run.model_name)
    before, now = run.settings.as_json(), settings.as_json()
    changed = [
        f"{name} was {before[name]}, is {now[name]}"
        for name in before
        if before[name] != now[name] and name not in RESUMABLE
    ]
    if run.info["data"]["fingerprint"] != dataset.fingerprint:
        changed.append(f"the data set was {run.info['data']['path']}, is another one")
    if changed:
        raise UsageError(f"{run.path} cannot be resumed with other settings: {'; '.join(changed)}")
    return settings


def restore(job: Job) -> None:
    """Put the job where its run's last checkpoint stands; a damaged one is passed over."""
    for problem in job.team.from_main(lambda: checkpoint.repair(job.run.path)):
        job.progress.note(problem)
    saved = job.team.restored(lambda: checkpoint.load(job.run.path, "last"))
    checkpoint.load_weights(job.model, saved)
    checkpoint.load_optimizer(job.model, job.optimizer, saved)
    job.position = position = saved.position
    job.readings.recent_loss = position.recent_loss
    job.readings.recent_images = position.recent_images
    if job.team.is_main:
        job.log.cut(position.step, position.epoch)
    job.progress.note(f"resuming after step {position.step} ({saved.path.name})")


def check_storage(job: Job) -> None:
    """Raise `StorageError` now, if the run directory could not take the first checkpoint."""
    state = [*job.model.parameters(), *job.model.buffers()]
    needed = 3 * sum(tensor.numel() * tensor.element_size() for tensor in state)
    job.team.from_main(lambda: check_writable(job.run.path / "checkpoints", needed))


def announce(job: Job) -> None:
    """Tell in one line what is about to be trained."""
    settings = job.settings
    val = f"{len(job.val):,} for validation" if job.val else "no validation split"
    job.progress.note(
        f"{settings.model}, {len(job.run.classes)} classes, {len(job.train):,} images "
        f"({val}), epochs {settings.epochs}, steps in each {job.batches}, seed {settings.seed}, "
        f"on {describe_device(job.device)}, {job.images.plan.describe()}"
    )
