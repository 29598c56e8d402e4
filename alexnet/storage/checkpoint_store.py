"""The checkpoints of a run: a crash at any moment loses none that was finished.

A checkpoint is written under a temporary name, flushed to the disk, renamed, and only then named in
checkpoints.json, which is written the same way. Only then are older ones deleted. A name is never
used twice, so at any moment checkpoints.json names whole files.
"""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer

from alexnet.errors import CheckpointError, StorageError, UsageError
from alexnet.storage.atomic import publish, sha256_of, write_text
from alexnet.storage.checkpoint_format import (
    UNREADABLE,
    Position,
    Saved,
    read_file,
    state_of,
    write_file,
)

CheckpointName = Literal["best", "last"]

RETAINED = 2
"""How many of the newest checkpoints stay, beside the best."""

OURS = re.compile(r"step-\d{8,}(-\d+)?\.(safetensors|tmp)")
"""Names that are written here."""
UNFINISHED = re.compile(r"\.tmp[0-9A-Za-z]{6}")
"""What safetensors calls a file until it is complete."""

Manifest = dict[str, Any]
"""checkpoints.json: "checkpoints", a list of file, step, epoch, bytes, sha256; "last"; "best"."""


def save(run: Path, model: nn.Module, optimizer: Optimizer, position: Position) -> None:
    """Write a checkpoint of a model and its optimiser, as `write` does."""
    write(run, state_of(model, optimizer), position)


def write(run: Path, tensors: dict[str, Tensor], position: Position) -> None:
    """Write a checkpoint; it is the best after the epoch with the lowest validation error.

    Raises `DivergedError` rather than save weights that are not finite, and `StorageError` for a
    failed write. Earlier checkpoints stay in both cases.
    """
    path = _free_name(run / "checkpoints", position.step)
    temporary = path.with_suffix(".tmp")
    try:
        write_file(temporary, tensors, position)
        entry = {
            "file": path.name,
            "step": position.step,
            "epoch": position.epoch,
            "bytes": temporary.stat().st_size,
            "sha256": sha256_of(temporary),
        }
        publish(temporary, path)
        _add_to_manifest(run, entry, best=_is_best(position))
    except (OSError, SafetensorError) as error:
        sweep(run)
        raise StorageError(
            f"cannot save {path}: {error}; earlier checkpoints are unchanged"
        ) from None
    sweep(run)


def load(run: Path, checkpoint: CheckpointName, *, prefix: str = "") -> Saved:
    """Read the last or best checkpoint of a run, checked against its SHA-256.

    Only tensors whose names begin with `prefix` are read: `MODEL` for the weights alone.
    Raises `UsageError` for another name, `CheckpointError` if there is no checkpoint or it is
    damaged; see `repair`.
    """
    entry = find(run, checkpoint)
    try:
        return read_file(run / "checkpoints" / entry["file"], entry["sha256"], prefix)
    except UNREADABLE as error:
        if find(run, checkpoint) != entry:  # a training has saved, and deleted, meanwhile
            return load(run, checkpoint, prefix=prefix)
        raise CheckpointError(
            f"{run}/checkpoints/{entry['file']} is damaged: {error}; train with --resume continues "
            f"from the newest whole one"
        ) from None


def find(run: Path, checkpoint: CheckpointName) -> Manifest:
    """Return the entry of the last or best checkpoint: its file, step, SHA-256.

    Raises `UsageError` for another name, `CheckpointError` if there is no checkpoint.
    """
    if checkpoint not in get_args(CheckpointName):
        raise UsageError(f"checkpoint is one of best, last, not {checkpoint!r}")
    manifest = read_manifest(run)
    if not manifest["checkpoints"]:
        raise CheckpointError(f"{run} has no checkpoint yet: the training has not saved one")
    return next(each for each in manifest["checkpoints"] if each["file"] == manifest[checkpoint])


def repair(run: Path) -> list[str]:
    """Check every checkpoint of a run before it is resumed; remove damaged ones from the list.

    Returns a sentence for each damaged one. The newest whole checkpoint replaces a last or best
    that is damaged. Raises `CheckpointError` if none is whole.
    """
    manifest = read_manifest(run)
    whole, problems = [], []
    for entry in manifest["checkpoints"]:
        try:
            read_file(run / "checkpoints" / entry["file"], entry["sha256"])
            whole.append(entry)
        except UNREADABLE as error:
            problems.append(f"{entry['file']} is damaged and skipped: {error}")
    if not problems:
        return []
    if not whole:
        raise CheckpointError(f"{run} has no checkpoint that can be read: {'; '.join(problems)}")
    manifest["checkpoints"] = whole
    for name in ("last", "best"):
        if manifest[name] not in [entry["file"] for entry in whole]:
            manifest[name] = whole[-1]["file"]
    _write_manifest(run, manifest)
    return problems


def sweep(run: Path) -> None:
    """Delete checkpoints that checkpoints.json does not name: older ones and unfinished ones.

    Nothing else is ever deleted. A file that cannot be deleted stays; the training continues.
    """
    named = {entry["file"] for entry in read_manifest(run)["checkpoints"]}
    with suppress(OSError):
        for path in (run / "checkpoints").iterdir():
            ours = OURS.fullmatch(path.name) or UNFINISHED.fullmatch(path.name)
            if ours and path.name not in named:
                with suppress(OSError):
                    path.unlink()


def read_manifest(run: Path) -> Manifest:
    """Read checkpoints.json, which may come from a stranger; an empty one where there is none.

    Raises `CheckpointError` unless its entries are complete and its last and best are among them.
    """
    path = run / "checkpoints.json"
    if not path.exists():
        return {"checkpoints": [], "last": None, "best": None}
    try:
        manifest: Manifest = json.loads(path.read_text(encoding="utf-8"))
        _check_manifest(manifest)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(
            f"{path} is damaged: restore it from a copy; without it, a training here starts afresh"
        ) from None
    return manifest


def _check_manifest(manifest: Manifest) -> None:
    """Raise `ValueError`, `KeyError` or `TypeError` for a manifest that no training wrote."""
    names = set()
    for entry in manifest["checkpoints"]:
        is_sound = isinstance(entry["step"], int) and entry["step"] >= 0
        if (
            not is_sound
            or not OURS.fullmatch(entry["file"])
            or not isinstance(entry["sha256"], str)
        ):
            raise ValueError(f"{entry['file']} of step {entry['step']!r}")
        names.add(entry["file"])
    if not {manifest["last"], manifest["best"]} <= (names or {None}):
        raise ValueError("the last or best checkpoint is not listed")


def _is_best(position: Position) -> bool:
    errors = position.val_errors
    return position.batch == 0 and (not errors or errors[-1] <= min(errors))


def _free_name(folder: Path, step: int) -> Path:
    """Name a new file: a step can be saved again, for example after a signal at an epoch's end.

    The earlier file must not change while checkpoints.json has its SHA-256.
    """
    path, number = folder / f"step-{step:08d}.safetensors", 1
    while path.exists():
        number += 1
        path = folder / f"step-{step:08d}-{number}.safetensors"
    return path


def _add_to_manifest(run: Path, entry: dict[str, Any], *, best: bool) -> None:
    manifest = read_manifest(run)
    entries = sorted([*manifest["checkpoints"], entry], key=lambda each: int(each["step"]))
    manifest["last"] = entry["file"]
    if best or manifest["best"] is None:
        manifest["best"] = entry["file"]
    whole = [each for each in entries if _has_its_size(run / "checkpoints" / each["file"], each)]
    retained = {each["file"] for each in whole[-RETAINED:]} | {manifest["best"], manifest["last"]}
    manifest["checkpoints"] = [each for each in entries if each["file"] in retained]
    _write_manifest(run, manifest)


def _write_manifest(run: Path, manifest: Manifest) -> None:
    write_text(run / "checkpoints.json", json.dumps(manifest, indent=2) + "\n")


def _has_its_size(path: Path, entry: dict[str, Any]) -> bool:
    """Tell whether a checkpoint counts as retained: a missing or truncated one does not."""
    return path.is_file() and path.stat().st_size == int(entry["bytes"])
