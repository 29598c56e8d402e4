"""Saving and loading the state of a training so that no crash can cost it.

A checkpoint is one safetensors file: weights as "model.<name>", the optimiser's tensors as
"optimizer.<name>.<key>", and the position of the training as JSON in its header. It is written
aside, flushed to the disk, renamed, and only then named in checkpoints.json, which is written the
same way; only then are older ones deleted. A name is never used twice, so at any instant
checkpoints.json names whole files. Loading checks the SHA-256, since neither torch.load nor
safetensors notices a flipped bit.
"""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from alexnet.errors import CheckpointError, DivergedError, StorageError
from alexnet.storage.atomic import locked, publish, sha256_of, write_text

CheckpointName = Literal["best", "last"]

KEPT = 2
"""How many of the newest checkpoints are kept, beside the best."""

MODEL = "model."
"""What the names of weights begin with in a checkpoint."""

VERSION = 1
"""Of the format of a checkpoint file, in its header."""

OURS = re.compile(r"step-\d{8,}(-\d+)?\.(safetensors|tmp)")
"""Names that are written here."""
UNFINISHED = re.compile(r"\.tmp[0-9A-Za-z]{6}")
"""What safetensors calls a file until it has all of it."""


@dataclass
class Position:
    """Where a training stands: all of its state apart from tensors."""

    epoch: int = 1
    """The epoch that is under way, from 1; epochs + 1 when all are done."""
    step: int = 0
    """Updates made."""
    batch: int = 0
    """Batches done of this epoch."""
    loss_sum: float = 0.0
    """Training loss of this epoch's images, added up."""
    images: int = 0
    """Images seen in this epoch."""
    seconds: float = 0.0
    """Time spent training, over all interruptions."""
    epoch_seconds: float = 0.0
    """Time spent on this epoch's steps."""
    epoch_waited: float = 0.0
    """The part of it in which images were waited for."""
    val_errors: list[float] = field(default_factory=list)
    """Top-1 validation error of each finished epoch."""
    recent_loss: float = 0.0
    """Training loss added up since the last line of metrics.jsonl."""
    recent_images: int = 0
    """Images seen since then."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read and found whole."""

    tensors: dict[str, Tensor]
    position: Position
    path: Path


def save(run: Path, model: nn.Module, optimizer: Optimizer, position: Position) -> None:
    """Write a checkpoint of a model and its optimiser, as `write` does."""
    write(run, state_of(model, optimizer), position)


def write(run: Path, tensors: dict[str, Tensor], position: Position) -> None:
    """Write a checkpoint; the best is the one after the epoch with the lowest validation error.

    Raises `DivergedError` rather than save weights that are not finite, and `StorageError` if the
    disk refuses; the checkpoints from before stay in both cases.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise DivergedError(f"{name} is not finite after step {position.step}; not saved")
    path = _free_name(run / "checkpoints", position.step)
    aside = path.with_suffix(".tmp")
    metadata = {"version": str(VERSION), "position": json.dumps(asdict(position))}
    try:
        save_file(tensors, aside, metadata=metadata)
        entry = {
            "file": path.name,
            "step": position.step,
            "epoch": position.epoch,
            "bytes": aside.stat().st_size,
            "sha256": sha256_of(aside),
        }
        publish(aside, path)
        _update_manifest(run, entry, best=_is_best(position))
    except (OSError, SafetensorError) as error:
        sweep(run)
        raise StorageError(f"cannot save {path}: {error}; earlier checkpoints are kept") from None
    sweep(run)


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


def load(run: Path, which: CheckpointName, *, prefix: str = "") -> Saved:
    """Read the last or best checkpoint of a run, checked against its SHA-256.

    Only tensors whose names begin with `prefix` are read: `MODEL` for the weights alone.
    Raises `CheckpointError` if there is none, or it is damaged; see `repair`.
    """
    manifest = _checked_manifest(run)
    if not manifest["checkpoints"]:
        raise CheckpointError(f"{run} has no checkpoint yet: the training has not saved one")
    entry = next(each for each in manifest["checkpoints"] if each["file"] == manifest[which])
    try:
        return _read(run / "checkpoints" / entry["file"], entry, prefix)
    except UNREADABLE as error:
        if read_manifest(run) != manifest:  # a training has saved, and deleted, meanwhile
            return load(run, which, prefix=prefix)
        raise CheckpointError(
            f"{run}/checkpoints/{entry['file']} is damaged: {error}; train with --resume goes on "
            f"from the newest whole one"
        ) from None


def repair(run: Path) -> list[str]:
    """Check every checkpoint of a run, before it is resumed; strike out what cannot be read.

    Returns what is wrong with those, a sentence each; the newest whole one stands in for a last or
    best that is struck out. Raises `CheckpointError` if none is whole.
    """
    manifest = _checked_manifest(run)
    whole, problems = [], []
    for entry in manifest["checkpoints"]:
        try:
            _read(run / "checkpoints" / entry["file"], entry)
            whole.append(entry)
        except UNREADABLE as error:
            problems.append(f"{entry['file']} is damaged and passed over: {error}")
    if not problems:
        return []
    if not whole:
        raise CheckpointError(f"{run} has no checkpoint that can be read: {'; '.join(problems)}")
    manifest["checkpoints"] = whole
    for which in ("last", "best"):
        if manifest[which] not in [entry["file"] for entry in whole]:
            manifest[which] = whole[-1]["file"]
    _write_manifest(run, manifest)
    return problems


def sweep(run: Path) -> None:
    """Delete the checkpoints that checkpoints.json does not name: older ones, and unfinished ones.

    Nothing else is ever deleted. What cannot be deleted stays: that is no reason to end a training.
    """
    named = {entry["file"] for entry in read_manifest(run)["checkpoints"]}
    with suppress(OSError):
        for path in (run / "checkpoints").iterdir():
            ours = OURS.fullmatch(path.name) or UNFINISHED.fullmatch(path.name)
            if ours and path.name not in named:
                with suppress(OSError):
                    path.unlink()


def load_weights(model: nn.Module, saved: Saved) -> None:
    """Put a checkpoint's weights into `model`; every mismatch is listed with both shapes.

    A model on the device "meta", which has no weights of its own, takes those of the checkpoint.
    """
    targets, sources = dict(model.state_dict()), _weights(saved)
    _refuse_misfits(targets, sources, saved.path)
    if any(target.is_meta for target in targets.values()):
        # Copies, since PyTorch's own memory begins at round addresses, on which last bits depend.
        copies = {name: t.to(targets[name].dtype, copy=True) for name, t in sources.items()}
        model.load_state_dict(copies, assign=True)
    else:
        _copy(targets, sources)


def transfer_weights(model: nn.Module, saved: Saved, *, same_classes: bool) -> list[str]:
    """Start `model` from the weights of another training; return what was left as it is.

    With other classes the last layer is left; everything else must fit.
    """
    last = list(dict(model.named_children()))[-1]
    fresh = [] if same_classes else [f"{last}.weight", f"{last}.bias"]
    targets = {name: t for name, t in model.state_dict().items() if name not in fresh}
    sources = {name: t for name, t in _weights(saved).items() if name not in fresh}
    _refuse_misfits(targets, sources, saved.path)
    _copy(targets, sources)
    return fresh


def load_optimizer(model: nn.Module, optimizer: Optimizer, saved: Saved) -> None:
    """Give the optimiser back its velocities, which belong to `model`'s parameters by name."""
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}."
        state = {
            key.removeprefix(prefix): tensor
            for key, tensor in saved.tensors.items()
            if key.startswith(prefix)
        }
        if state:
            optimizer.state[parameter] = {
                # AdamW keeps its step count on the CPU unless it is fused; `step` moves it.
                key: tensor.to(parameter.device)
                for key, tensor in state.items()
            }


@contextmanager
def lock(run: Path) -> Iterator[None]:
    """Hold `run`, made if need be. Raises `UsageError` if another process is training in it."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(run, f"another training is writing to {run}"))
        except OSError as error:
            raise StorageError(f"cannot write the run directory {run}: {error.strerror}") from None
        yield


def read_manifest(run: Path) -> dict[str, Any]:
    """Read checkpoints.json; an empty one where there is none."""
    path = run / "checkpoints.json"
    if not path.exists():
        return {"checkpoints": [], "last": None, "best": None}
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        named = {manifest["last"], manifest["best"]}
        for entry in manifest["checkpoints"]:
            name, _ = str(entry["file"]), entry["sha256"]
            if not isinstance(entry["step"], int) or Path(name).name != name:
                raise ValueError(f"{name} of step {entry['step']!r}")
        if not named <= {entry["file"] for entry in manifest["checkpoints"]} | {None}:
            raise ValueError("the last or best checkpoint is not listed")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{path} is damaged: {DAMAGED}") from None
    return manifest


def _weights(saved: Saved) -> dict[str, Tensor]:
    return {
        name.removeprefix(MODEL): tensor
        for name, tensor in saved.tensors.items()
        if name.startswith(MODEL)
    }


def _refuse_misfits(targets: dict[str, Tensor], sources: dict[str, Tensor], path: Path) -> None:
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


def _is_best(position: Position) -> bool:
    errors = position.val_errors
    return position.batch == 0 and (not errors or errors[-1] <= min(errors))


def _free_name(folder: Path, step: int) -> Path:
    """Name a new file: a step can be saved again, as at the end of an epoch after a signal.

    The file of before must stay as it is while checkpoints.json has its SHA-256.
    """
    path, number = folder / f"step-{step:08d}.safetensors", 1
    while path.exists():
        number += 1
        path = folder / f"step-{step:08d}-{number}.safetensors"
    return path


def _update_manifest(run: Path, entry: dict[str, Any], *, best: bool) -> None:
    manifest = read_manifest(run)
    entries = sorted([*manifest["checkpoints"], entry], key=lambda each: int(each["step"]))
    manifest["last"] = entry["file"]
    if best or manifest["best"] is None:
        manifest["best"] = entry["file"]
    there = [each for each in entries if _is_there(run / "checkpoints" / each["file"], each)]
    kept = {each["file"] for each in there[-KEPT:]} | {manifest["best"], manifest["last"]}
    manifest["checkpoints"] = [each for each in entries if each["file"] in kept]
    _write_manifest(run, manifest)


def _write_manifest(run: Path, manifest: dict[str, Any]) -> None:
    write_text(run / "checkpoints.json", json.dumps(manifest, indent=2) + "\n")


def _is_there(path: Path, entry: dict[str, Any]) -> bool:
    """Tell whether a checkpoint counts among those to keep: one that was cut or lost does not."""
    return path.is_file() and path.stat().st_size == int(entry["bytes"])


def _checked_manifest(run: Path) -> dict[str, Any]:
    """Read a checkpoints.json whose entries are as they should be; it may come from a stranger."""
    manifest = read_manifest(run)
    try:
        names = {entry["file"] for entry in manifest["checkpoints"] if int(entry["step"]) >= 0}
        sound = all(OURS.fullmatch(name) for name in names)
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound or (names and not {manifest["last"], manifest["best"]} <= names):
        raise CheckpointError(f"{run}/checkpoints.json is damaged: {DAMAGED}")
    return manifest


DAMAGED = "take it from a copy; without it, a training here starts afresh"

UNREADABLE = (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError)


def _read(path: Path, entry: dict[str, Any], prefix: str = "") -> Saved:
    """Read a file that checkpoints.json names. Raises one of `UNREADABLE` if it is damaged."""
    if sha256_of(path) != entry["sha256"]:
        raise ValueError("its SHA-256 is not the recorded one")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        version = int(metadata.get("version", VERSION))
        if version > VERSION:
            raise CheckpointError(
                f"{path} is a checkpoint of version {version}, this alexnet reads {VERSION}: "
                f"update it"
            )
        position = Position(**json.loads(metadata["position"]))
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        tensors = {name: file.get_tensor(name) for name in names}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    return Saved(tensors, position, path)
