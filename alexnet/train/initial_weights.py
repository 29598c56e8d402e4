"""The weights with which a training begins, drawn or those of another run, and which learn.

The preprocessing belongs to the weights. So with the weights of another run comes its mean image.
"""

import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from alexnet import randomness
from alexnet.config import Settings
from alexnet.errors import CheckpointError, UsageError
from alexnet.networks.initialization import he_initialize, weight_layers
from alexnet.networks.registry import set_dropout
from alexnet.storage import checkpoint_store
from alexnet.storage.checkpoint_format import MODEL, transfer_weights
from alexnet.storage.run import Run
from alexnet.transforms import Preprocessing

PUBLISHED = ("torchvision", "pretrained")
"""What users call the weights that `alexnet import torchvision` downloads."""


def open_source(init: Path) -> Run:
    """Open the run that gives initial weights; raise `CheckpointError` for anything else."""
    if Run.exists(init):
        return Run.open(init)
    for folder in init.parents[:2]:
        if init.exists() and Run.exists(folder):  # a file of a run
            raise CheckpointError(f"--init takes a run directory: --init {folder}, not {init}")
    text = re.sub(r"^([a-z]+):/+", r"\1://", str(init))  # a path has only one slash
    if text.lower() == "imagenet":
        raise CheckpointError(
            "init takes a run directory, such as alexnet.imagenet_convolutions() returns"
        )
    if not (text.lower() in PUBLISHED or "://" in text or init.is_file()):
        reason = "it has no run.json" if init.exists() else "it does not exist"
        raise CheckpointError(f"--init takes a run directory, not {init}: {reason}")
    download, source = "", text
    if text.lower() in PUBLISHED:
        source = "torchvision"
    elif "://" in text:
        download, source = "download the file, then ", text.rpartition("/")[2] or "FILE"
    run = f"runs/{Path(source).stem}"
    raise CheckpointError(
        f"--init takes a run directory, not {text}: {download}make one with "
        f"`alexnet import {shlex.quote(source)} {shlex.quote(run)}` and add "
        f"--init {shlex.quote(run)}"
    )


def shifted_mean(source: Preprocessing, size: int, crop: int) -> Tensor:
    """Return the mean image of `source` (3, size, size) for images of side `size`.

    Its centre, which is subtracted from each crop, is that of `source`. Beyond the borders of the
    source's mean image, the nearest pixel is repeated.
    """
    start = (source.size - source.crop) // 2 - (size - crop) // 2
    index = torch.arange(start, start + size).clamp(0, source.size - 1)
    return source.mean_image[:, index][:, :, index]


def make_initial_model(
    run: Run, settings: Settings, note: Callable[[str], None], *, has_checkpoint: bool
) -> nn.Sequential:
    """Build the network with its initial weights: those of the run `init`, or drawn from the seed.

    They are drawn on the CPU, so that they are the same for any device. A run that has a checkpoint
    needs no other run.
    """
    torch.manual_seed(randomness.step_seed(settings.seed, 0))
    model = run.new_model()
    if settings.init == "he":
        he_initialize(model, pixel_std=math.hypot(*run.preprocessing.color_std) / math.sqrt(3))
    if "init" in run.info and not has_checkpoint:
        _transfer(run, model, note)
    set_dropout(model, settings.dropout)
    known = [name for name, _ in weight_layers(model)]
    unknown = [name for name in {**settings.layer_lr, **settings.layer_decay} if name not in known]
    if unknown:
        raise UsageError(
            f"{settings.model} has no layer {', '.join(unknown)}; its layers are {', '.join(known)}"
        )
    return model


def _transfer(run: Run, model: nn.Sequential, note: Callable[[str], None]) -> None:
    """Give `model` the weights of the run that `run` starts from."""
    if not Run.exists(run.info["init"]):
        raise CheckpointError(
            f"{run.path} has no checkpoint yet, and {run.info['init']}, which has its initial "
            f"weights, is gone: start again without --resume and with the new path after --init"
        )
    other = Run.open(run.info["init"])
    saved = checkpoint_store.load(other.path, "best", prefix=MODEL)
    new = new_layers(run, other, [name for name, _ in weight_layers(model)])
    transfer_weights(model, saved, new)
    mean = _describe_mean(run, other)
    note(f"weights of {other.path}, except for {', '.join(new) or 'none'}{mean}")


def new_layers(run: Run, other: Run, layers: list[str]) -> list[str]:
    """Return the layers that begin anew: those that `other` lacks, or the last for other classes.

    A run that holds a part of a network, such as `alexnet.imagenet_convolutions`, says which.
    """
    if held := other.info.get("layers"):
        return [name for name in layers if name not in held]
    return [] if other.classes == run.classes else layers[-1:]


def _describe_mean(run: Run, other: Run) -> str:
    """Say which mean image is subtracted; an earlier version took that of the data."""
    own, theirs = run.preprocessing, other.preprocessing
    if not torch.equal(own.mean_image, shifted_mean(theirs, own.size, own.crop)):
        return ""
    text = "; its mean image is subtracted too, not that of these images"
    if own.size != theirs.size:
        text += f" (the middle of it: for images of side {own.size}, not {theirs.size})"
    if own.resize != theirs.resize:
        text += f". It was trained on images of --resize {theirs.resize}, these are {own.resize}"
    return text


def freeze(model: nn.Sequential, settings: Settings, note: Callable[[str], None]) -> None:
    """Compute no gradients for the layers whose rate is 0 in every epoch.

    Below the first layer that learns there is then no backward pass. Raises `UsageError` if no
    layer is left.
    """
    epochs = {1, *(change.epoch for change in settings.overrides)}
    factors = [settings.at_epoch(epoch).layer_lr for epoch in epochs]
    layers = weight_layers(model)
    frozen = [name for name, _ in layers if all(each.get(name, 1.0) == 0 for each in factors)]
    if len(frozen) == len(layers):
        raise UsageError(f"no layer would learn: {', '.join(frozen)} are all frozen")
    for name, layer in layers:
        layer.requires_grad_(name not in frozen)
    if frozen:
        note(f"frozen, without gradients: {', '.join(frozen)}")
    for epoch, resting in _resting(settings, [name for name, _ in layers]).items():
        note(f"at rest until epoch {epoch}: {', '.join(resting)}")


def _resting(settings: Settings, layers: list[str]) -> dict[int, list[str]]:
    """List the layers that begin at a rate of 0 by the epoch in which they begin to learn."""
    found: dict[int, list[str]] = {}
    for name in layers:
        epochs = (1, *sorted(change.epoch for change in settings.overrides))
        learns = (each for each in epochs if settings.at_epoch(each).layer_lr.get(name, 1.0))
        if (first := next(learns, 1)) > 1:
            found.setdefault(first, []).append(name)
    return found
