"""One checkpoint file: what is in it, how it is written, read and put into a network.

A checkpoint is a safetensors file: weights as "model.<name>", the optimiser's tensors as
"optimizer.<name>.<key>", and the position of the training as JSON in its header. Weights may be
integers of a few bits (`alexnet.storage.quantized`).
`alexnet.storage.checkpoint_store` says which files a run has.
"""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from alexnet.errors import CheckpointError, DivergedError
from alexnet.storage.atomic import sha256_of
from alexnet.storage.quantized import restore

MODEL = "model."
"""What the names of weights begin with."""

VERSION = 1
"""Of the format, in the file's header."""

UNREADABLE = (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError)
"""What `read_file` raises for a damaged file."""


@dataclass
class Position:
    """Where a training stands: all of its state apart from tensors."""

    epoch: int = 1
    """The current epoch, from 1; epochs + 1 when all are done."""
    step: int = 0
    """Updates made."""
    batch: int = 0
    """Batches done in this epoch."""
    loss_sum: float = 0.0
    """Sum of the training losses of this epoch's images."""
    images: int = 0
    """Images seen in this epoch."""
    seconds: float = 0.0
    """Time spent training, over all interruptions."""
    epoch_seconds: float = 0.0
    """Time spent on this epoch's steps."""
    epoch_waited: float = 0.0
    """The part of it spent waiting for images."""
    val_errors: list[float] = field(default_factory=list)
    """Top-1 validation error of each finished epoch."""
    recent_loss: float = 0.0
    """Sum of the training losses since the last line of metrics.jsonl."""
    recent_images: int = 0
    """Images seen since then."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read and is whole."""

    tensors: dict[str, Tensor]
    position: Position
    path: Path


def state_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by their names in it."""
    tensors = {
        f"{MODEL}{name}": tensor.detach().contiguous()
        for name, tensor in model.state_dict().items()
    }
    for name, parameter in model.named_parameters():
        for key, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = tensor.detach().contiguous()
    return tensors


def write_file(path: Path, tensors: dict[str, Tensor], position: Position) -> None:
    """Write a checkpoint file. Raises `DivergedError` rather than save weights that are not finite.

    Failed writes raise `OSError` or `SafetensorError`.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise DivergedError(f"{name} is not finite after step {position.step}; not saved")
    metadata = {"version": str(VERSION), "position": json.dumps(asdict(position))}
    save_file(tensors, path, metadata=metadata)


def read_file(path: Path, sha256: str, prefix: str = "") -> Saved:
    """Read the tensors of a checkpoint file whose names begin with `prefix`.

    Raises one of `UNREADABLE` if the file is damaged: neither torch nor safetensors notices a
    flipped bit, so its SHA-256 is compared. Raises `CheckpointError` for a newer version.
    """
    if sha256_of(path) != sha256:
        raise ValueError("its SHA-256 is not the recorded one")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        version = int(metadata["version"])
        if version > VERSION:
            raise CheckpointError(
                f"{path} is a checkpoint of version {version}, this alexnet reads {VERSION}: "
                f"update it"
            )
        position = Position(**json.loads(metadata["position"]))
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        tensors = restore({name: file.get_tensor(name) for name in names})
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    return Saved(tensors, position, path)


def load_weights(model: nn.Module, saved: Saved) -> None:
    """Put a checkpoint's weights into `model`. Raises `CheckpointError` that lists each mismatch.

    A model on the device "meta", which has no weights of its own, takes those of the checkpoint.
    """
    targets, sources = dict(model.state_dict()), _weights(saved)
    _check_shapes(targets, sources, saved.path)
    if any(target.is_meta for target in targets.values()):
        # Copies, since PyTorch's own memory begins at round addresses, on which last bits depend.
        copies = {name: t.to(targets[name].dtype, copy=True) for name, t in sources.items()}
        model.load_state_dict(copies, assign=True)
    else:
        _copy(targets, sources)


def transfer_weights(model: nn.Module, saved: Saved, new_layers: Collection[str]) -> None:
    """Start `model` from the weights of another training, but for its `new_layers`.

    Raises `CheckpointError` if anything else mismatches.
    """

    def without_new(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: t for name, t in tensors.items() if name.split(".")[0] not in new_layers}

    targets, sources = without_new(model.state_dict()), without_new(_weights(saved))
    _check_shapes(targets, sources, saved.path)
    _copy(targets, sources)


def load_optimizer(model: nn.Module, optimizer: Optimizer, saved: Saved) -> None:
    """Restore the optimiser's tensors, which belong to `model`'s parameters by name."""
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}."
        state = {
            # AdamW keeps its step count on the CPU unless it is fused; `step` moves it.
            key.removeprefix(prefix): tensor.to(parameter.device)
            for key, tensor in saved.tensors.items()
            if key.startswith(prefix)
        }
        if state:
            optimizer.state[parameter] = state


def _weights(saved: Saved) -> dict[str, Tensor]:
    return {
        name.removeprefix(MODEL): tensor
        for name, tensor in saved.tensors.items()
        if name.startswith(MODEL)
    }


def _check_shapes(targets: dict[str, Tensor], sources: dict[str, Tensor], path: Path) -> None:
    def shape(tensors: dict[str, Tensor], name: str) -> str:
        return "x".join(map(str, tensors[name].shape)) if name in tensors else "missing"

    wrong = [
        f"{name} ({shape(sources, name)} in the file, {shape(targets, name)} in the network)"
        for name in sorted({*targets, *sources})
        if shape(targets, name) != shape(sources, name)
    ]
    if wrong:
        raise CheckpointError(f"{path} does not fit the network: {', '.join(wrong)}")


def _copy(targets: dict[str, Tensor], sources: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(sources[name])
