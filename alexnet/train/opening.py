"""Opening a training: its run directory, its network, and its state after the last checkpoint."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from alexnet.config import Settings
from alexnet.dataset import Dataset, Split
from alexnet.errors import UsageError
from alexnet.evaluate import Accelerate
from alexnet.networks.initialization import weight_layers
from alexnet.networks.registry import input_shape
from alexnet.optim import make_optimizer
from alexnet.progress import SILENT, Progress
from alexnet.recipes import recipe
from alexnet.storage import checkpoint_store
from alexnet.storage.atomic import check_writable
from alexnet.storage.checkpoint_format import (
    Position,
    load_optimizer,
    load_weights,
    state_of,
)
from alexnet.storage.environment import describe_device
from alexnet.storage.metrics_log import MetricsLog, Row
from alexnet.storage.run import Run
from alexnet.train.hints import LearningCheck, divergence
from alexnet.train.image_cache import Cache, Images, open_images
from alexnet.train.initial_weights import (
    freeze,
    make_initial_model,
    open_source,
    shifted_mean,
)
from alexnet.train.lars import make_lars
from alexnet.train.losses import LossReader
from alexnet.train.processes import Processes
from alexnet.train.resuming import check_epochs, check_resumable
from alexnet.train.state import DeviceBatch, Indices, TrainState

FITTING = (("alexnet", 224), ("alexnet_small", 56), ("cifar10_11", 24))
"""Candidates for the model "auto", with the side of their input in pixels."""


def open_run(
    path: Path,
    dataset: Dataset,
    settings: Settings | None,
    *,
    resume: bool,
    init: Path | None,
    device: torch.device,
) -> tuple[Run, Settings]:
    """Open a run directory to resume it, or make a new one; return it with its settings.

    `init` is a run that gives a new one its initial weights. run.json records the `device`.
    """
    if resume and Run.exists(path):
        run = Run.open(path)
        return run, check_resumable(run, settings or run.settings, dataset, init)
    settings, source = settings or recipe("small"), open_source(init) if init else None
    if settings.model == "auto":
        name = source.model_name if source else fitting_model(dataset.size)
        settings = replace(settings, model=name)
    crop = input_shape(settings.model, ablate=settings.ablate)[1]
    note, mean_image = {"hardware": describe_device(device)}, None
    if source:
        note |= {"init": str(init), "mean_image_of": str(init)}
        mean_image = shifted_mean(source.preprocessing, dataset.size, crop)
    return Run.create(path, dataset, settings, crop, note, mean_image), settings


def fitting_model(size: int) -> str:
    """Name the largest network whose input fits images of side `size` in pixels."""
    for name, crop in FITTING:
        if crop <= size:
            return name
    raise UsageError(f"no network takes images of side {size}; prepare the data with --size 32")


def open_state(  # noqa: PLR0913 - all that a training is made of
    run: Run,
    dataset: Dataset,
    settings: Settings,
    device: torch.device,
    progress: Progress,
    *,
    log: MetricsLog,
    processes: Processes,
    accelerate: Accelerate | None,
    cache: Cache,
) -> TrainState:
    """Return the state of the training in `run` after its last checkpoint, or at its start."""
    progress = progress if processes.is_main else SILENT
    train, val = dataset.split("train"), _val_split(dataset)
    preprocessing = run.preprocessing.to(device)
    has_checkpoint = processes.broadcast(
        lambda: bool(checkpoint_store.read_manifest(run.path)["checkpoints"])
    )
    whole = make_initial_model(run, settings, progress.note, has_checkpoint=has_checkpoint)
    model = processes.shard(whole, settings).to(device)
    freeze(model, settings, progress.note)
    network = processes.network(model, accelerate)
    optimizer = _make_optimizer(model, settings, processes)
    images = open_images(train, device, cache, sharers=local_processes())
    position = _restore(run, model, optimizer, log, processes, progress, has_checkpoint)
    steps = math.ceil(len(train) / settings.batch_size)
    processes.broadcast(lambda: check_epochs(run, settings, position, steps, progress.note))
    _check_storage(run, model, processes)
    _announce(
        run, settings, train, val, f"{describe_device(device)}, {images.plan.describe()}", progress
    )
    explain = partial(divergence, settings=settings, split=train, run=run.path)
    evaluate = partial(processes.evaluate, precision=settings.precision, progress=progress)
    return TrainState(
        settings=settings,
        epoch_settings=settings.at_epoch(position.epoch),
        device=device,
        train=train,
        batches=partial(_batches_of_this_process, images, processes),
        preprocessing=preprocessing,
        model=model,
        network=network,
        optimizer=optimizer,
        position=position,
        losses=LossReader(position, explain),
        evaluate=partial(evaluate, network, preprocessing, val, run.classes) if val else None,
        save=partial(_save, run.path, log, model, optimizer, position, processes),
        log=_log_and_check(log, run, settings, progress) if processes.is_main else lambda _: None,
        progress=progress,
    )


def _log_and_check(
    log: MetricsLog, run: Run, settings: Settings, progress: Progress
) -> Callable[[Row], None]:
    """Return a function that logs a line, and warns if it says that the network does not learn."""
    check = LearningCheck(len(run.classes), settings, progress.note)

    def add(row: Row) -> None:
        log.append(row)
        check(row)

    return add


def _val_split(dataset: Dataset) -> Split | None:
    return dataset.split("val") if "val" in dataset.split_names else None


def _batches_of_this_process(
    images: Images, processes: Processes, batches: Sequence[Indices]
) -> Iterator[DeviceBatch]:
    """Read the rows of each batch that this process computes on."""
    return images.batches([indices[processes.input_rows(len(indices))] for indices in batches])


def _save(
    run: Path,
    log: MetricsLog,
    model: nn.Sequential,
    optimizer: Optimizer,
    position: Position,
    processes: Processes,
) -> None:
    """Write the pending metrics, then a checkpoint, on the main process."""
    tensors = processes.gather_state(state_of(model, optimizer))

    def write() -> None:
        log.flush()
        checkpoint_store.write(run, tensors, position)

    processes.broadcast(write)


def _announce(
    run: Run, settings: Settings, train: Split, val: Split | None, device: str, progress: Progress
) -> None:
    """Report in two lines what is about to be trained."""
    val_images = f"{len(val):,} for validation" if val else "no validation split"
    steps = math.ceil(len(train) / settings.batch_size)
    progress.note(
        f"{settings.model}, {len(run.classes)} classes, {len(train):,} images ({val_images}), "
        f"epochs {settings.epochs}"
    )
    progress.note(f"steps in each {steps:,}, seed {settings.seed}, {device}")


def local_processes() -> int:
    """Return how many processes of the training run on this machine, as their launcher says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _make_optimizer(model: nn.Sequential, settings: Settings, processes: Processes) -> Optimizer:
    if settings.optimizer != "lars":
        return make_optimizer(model, settings)
    layers = [name for name, layer in weight_layers(model) if layer.weight.requires_grad]
    weights = [f"{name}.weight" for name in layers]
    return make_lars(model, settings, partial(processes.sum_squares, names=weights))


def _restore(
    run: Run,
    model: nn.Sequential,
    optimizer: Optimizer,
    log: MetricsLog,
    processes: Processes,
    progress: Progress,
    has_checkpoint: bool,
) -> Position:
    """Load the last checkpoint, skipping damaged ones, and cut the metrics to it."""
    path, position = run.path, Position()
    if has_checkpoint:
        for problem in processes.broadcast(lambda: checkpoint_store.repair(path)):
            progress.note(problem)
        saved = processes.load_sharded(lambda: checkpoint_store.load(path, "last"))
        load_weights(model, saved)
        load_optimizer(model, optimizer, saved)
        position = saved.position
        progress.note(f"resuming after step {position.step} ({saved.path.name})")
    if processes.is_main:
        log.cut(position.step, position.epoch if has_checkpoint else None)
    processes.broadcast(lambda: checkpoint_store.sweep(path))
    return position


def _check_storage(run: Run, model: nn.Sequential, processes: Processes) -> None:
    """Raise `StorageError` now if the run directory has no room for the first checkpoint."""
    state = [*model.parameters(), *model.buffers()]
    needed = 3 * sum(tensor.numel() * tensor.element_size() for tensor in state)
    processes.broadcast(lambda: check_writable(run.path / "checkpoints", needed))
