"""Opening a training: its run directory, its network, and its state after the last checkpoint."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from alexnet import randomness
from alexnet.config import Settings
from alexnet.dataset import Dataset, Split
from alexnet.errors import UsageError
from alexnet.evaluate import Accelerate
from alexnet.networks.initialization import he_initialize, weight_layers
from alexnet.networks.registry import input_shape, set_dropout
from alexnet.optim import make_optimizer
from alexnet.progress import SILENT, Progress
from alexnet.recipes import fitting_model, recipe
from alexnet.storage import checkpoint_store
from alexnet.storage.atomic import check_writable
from alexnet.storage.checkpoint_format import (
    MODEL,
    Position,
    load_optimizer,
    load_weights,
    state_of,
    transfer_weights,
)
from alexnet.storage.environment import describe_device
from alexnet.storage.metrics_log import MetricsLog
from alexnet.storage.run import Run
from alexnet.train.hints import divergence, learning_hint
from alexnet.train.image_cache import Cache, Images, open_images
from alexnet.train.lars import make_lars
from alexnet.train.losses import LossReader
from alexnet.train.processes import Processes
from alexnet.train.state import DeviceBatch, Indices, TrainState

RESUMABLE = {"epochs", "log_steps", "tensorboard", "checkpoint_steps", "watchdog_seconds"}
"""Settings that may differ when a run is resumed."""


def open_run(
    path: Path, dataset: Dataset, settings: Settings | None, *, resume: bool, init: Path | None
) -> tuple[Run, Settings]:
    """Open a run directory to resume it, or make a new one; return it with its settings.

    `init` is a run that gives a new one its initial weights.
    """
    if resume and Run.exists(path):
        run = Run.open(path)
        return run, _check_resumable(run, settings or run.settings, dataset)
    settings = settings or recipe("small")
    if settings.model == "auto":
        name = Run.open(init).model_name if init else fitting_model(dataset.size)
        settings = replace(settings, model=name)
    note = {"init": str(init)} if init else {}
    crop = input_shape(settings.model, ablate=settings.ablate)[1]
    return Run.create(path, dataset, settings, crop, note), settings


def _check_resumable(run: Run, settings: Settings, dataset: Dataset) -> Settings:
    """Return the settings; raise `UsageError` if they or the data differ from the run's own."""
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
    model = processes.shard(_initial_model(run, settings, progress), settings).to(device)
    network = processes.network(model, accelerate)
    optimizer = _make_optimizer(model, settings, processes)
    images = open_images(train, device, cache, sharers=local_processes())
    position = _restore(run, model, optimizer, log, processes, progress)
    _check_storage(run, model, processes)
    _announce(
        run, settings, train, val, f"{describe_device(device)}, {images.plan.describe()}", progress
    )
    explain = partial(divergence, settings=settings, split=train, run=run.path)
    evaluate = None
    if val:
        compute = (network, preprocessing, val, run.classes)
        evaluate = partial(
            processes.evaluate, *compute, precision=settings.precision, progress=progress
        )
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
        losses=LossReader(device, position, explain),
        evaluate=evaluate,
        save=partial(_save, run.path, log, model, optimizer, position, processes),
        log=log.append if processes.is_main else lambda _: None,
        hint=partial(learning_hint, classes=len(run.classes), settings=settings),
        progress=progress,
    )


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
    """Report in one line what is about to be trained."""
    val_images = f"{len(val):,} for validation" if val else "no validation split"
    steps = math.ceil(len(train) / settings.batch_size)
    progress.note(
        f"{settings.model}, {len(run.classes)} classes, {len(train):,} images ({val_images}), "
        f"epochs {settings.epochs}, steps in each {steps}, seed {settings.seed}, on {device}"
    )


def local_processes() -> int:
    """Return how many processes of the training run on this machine, as their launcher says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _initial_model(run: Run, settings: Settings, progress: Progress) -> nn.Sequential:
    """Build the network with its initial weights: those of the run `init`, or drawn from the seed.

    They are drawn on the CPU, so that they are the same for any device.
    """
    torch.manual_seed(randomness.step_seed(settings.seed, 0))
    model = run.new_model()
    if settings.init == "he":
        he_initialize(model, pixel_std=math.hypot(*run.preprocessing.color_std) / math.sqrt(3))
    if "init" in run.info:
        other = Run.open(run.info["init"])
        saved = checkpoint_store.load(other.path, "best", prefix=MODEL)
        fresh = transfer_weights(model, saved, same_classes=other.classes == run.classes)
        progress.note(f"weights of {other.path}, except for {', '.join(fresh) or 'none'}")
    set_dropout(model, settings.dropout)
    known = [name for name, _ in weight_layers(model)]
    unknown = [name for name in {**settings.layer_lr, **settings.layer_decay} if name not in known]
    if unknown:
        raise UsageError(
            f"{settings.model} has no layer {', '.join(unknown)}; its layers are {', '.join(known)}"
        )
    return model


def _make_optimizer(model: nn.Sequential, settings: Settings, processes: Processes) -> Optimizer:
    if settings.optimizer != "lars":
        return make_optimizer(model, settings)
    weights = [f"{name}.weight" for name, _ in weight_layers(model)]
    return make_lars(model, settings, partial(processes.sum_squares, names=weights))


def _restore(
    run: Run,
    model: nn.Sequential,
    optimizer: Optimizer,
    log: MetricsLog,
    processes: Processes,
    progress: Progress,
) -> Position:
    """Load the last checkpoint, skipping damaged ones, and cut the metrics to it."""
    path = run.path
    has_checkpoint = processes.broadcast(
        lambda: bool(checkpoint_store.read_manifest(path)["checkpoints"])
    )
    position = Position()
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
