"""Exporting a run's network to the files of other engines.

Another engine opens the file again and both networks answer the same images. Only if the answers
agree up to rounding, the file gets its name.
"""

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from alexnet.convert.card import Card
from alexnet.convert.compare import Comparison, ComparisonImages, Engine, compare, engine_of
from alexnet.convert.formats import (
    FORMATS,
    ONNX_WITH_PREPROCESSING,
    Format,
    open_onnx,
    require_packages,
)
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.progress import SILENT, Progress
from alexnet.storage.atomic import atomic_write, expanded
from alexnet.storage.checkpoint_store import CheckpointName, read_manifest
from alexnet.storage.run import Run

LIMIT, INT8_LIMIT = 1e-4, 1.0
"""The largest allowed differences, as fractions of the largest answer."""


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far its answers are from the run's."""

    out: str
    format: str
    model: str
    int8: bool
    with_preprocessing: bool
    bytes: int
    engine: str
    """The engine that opened the file."""
    comparison: Comparison

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def export_run(  # noqa: PLR0913 - each is an option of the command
    run: str | Path,
    out: str | Path,
    format: str | None = None,  # noqa: A002 - the command's option
    *,
    overwrite: bool = False,
    checkpoint: CheckpointName = "best",
    with_preprocessing: bool = False,
    int8: bool = False,
    check: str | Path | None = None,
    check_images: int = 256,
    progress: Progress = SILENT,
) -> ExportReport:
    """Write a run's network as "onnx", "torch-export", "safetensors" or "caffe" (a folder).

    Without `format` the ending of `out` says it (.onnx, .pt2 or .safetensors); without an ending it
    is "onnx". An existing file is replaced only with `overwrite`.
    `checkpoint` is "best" or "last". `with_preprocessing` (ONNX) takes stored 8-bit images and
    returns probabilities. `int8` (ONNX) stores fully connected layers in 8 bits. `check` is a
    packed data set on which file and run are compared: `check_images` images of its validation
    split, 0 for all. Without it they are compared on synthetic images.
    Raises `CheckpointError` where the answers of file and run differ, and `UsageError` for what the
    format cannot hold, for another ending, and for an `out` that exists.
    """
    out = expanded(out)
    name = _name_format(out, format)
    chosen = _choose_format(name, with_preprocessing=with_preprocessing, int8=int8)
    _check_free(out, chosen, overwrite=overwrite)
    require_packages(chosen.needs)
    opened = Run.open(run)
    preprocessing = opened.preprocessing
    images = ComparisonImages(preprocessing, opened.classes, expanded(check) if check else None)
    if int8 and not images.labelled:
        raise DataError("int8 reports its error: add --check DATA with the classes of the run")
    model, card = _load(opened, checkpoint)
    own = engine_of(model, preprocessing, probabilities=with_preprocessing)

    def checked(engine: Engine, limit: float) -> Comparison:
        total, batches = images.batches(check_images)
        comparison = compare(own, engine, batches, total, progress)
        _require_equal(comparison, out, limit)
        return comparison

    with atomic_write(out) as temporary:
        chosen.write(model, card, temporary)
        engine_name, engine = chosen.open(temporary, model, preprocessing)
        comparison = checked(engine, LIMIT)
        if int8:
            from alexnet.convert.write_onnx import quantize

            quantize(temporary, temporary)
            comparison = checked(open_onnx(temporary, model, preprocessing)[1], INT8_LIMIT)
        size = _bytes_of(temporary)
    return ExportReport(
        str(out), name, card.model, int8, with_preprocessing, size, engine_name, comparison
    )


def _name_format(out: Path, name: str | None) -> str:
    """Return the format that the ending of `out` says, which must agree with `name`."""
    if name not in (None, *FORMATS):
        raise UsageError(f"there is no format {name!r}; the formats are: {', '.join(FORMATS)}")
    if not re.fullmatch(r"\.[A-Za-z]\w*", out.suffix):  # "net-1.0" has no ending
        return name or "onnx"
    by_ending = {FORMATS[each].ending: each for each in FORMATS}.get(out.suffix.lower())
    if by_ending is None:
        raise UsageError(
            f"{out}: no format has the ending {out.suffix}; .onnx is ONNX, .pt2 torch-export, "
            f".safetensors safetensors, and a folder for --format caffe has none"
        )
    if name not in (None, by_ending):
        raise UsageError(f"{out} has the ending of {by_ending}, but --format says {name}")
    return by_ending


def _check_free(out: Path, chosen: Format, *, overwrite: bool) -> None:
    """Raise `UsageError` where something would be replaced that should not be."""
    if out.is_dir():
        if chosen.ending or any(out.iterdir()):
            raise UsageError(f"{out} is a folder already: name another path")
    elif os.path.lexists(out) and not overwrite:
        raise UsageError(f"{out} exists already: add --force to replace it, or name another file")


def _choose_format(name: str, *, with_preprocessing: bool, int8: bool) -> Format:
    if name != "onnx" and (with_preprocessing or int8):
        raise UsageError(f"--with-preprocessing and --int8 need --format onnx, not {name}")
    return ONNX_WITH_PREPROCESSING if with_preprocessing else FORMATS[name]


def _load(run: Run, checkpoint: CheckpointName) -> tuple[nn.Sequential, Card]:
    """Load the network on the CPU and write its card."""
    model, saved = run.load(checkpoint)
    entries = read_manifest(run.path)["checkpoints"]
    source = next(entry["sha256"] for entry in entries if entry["file"] == saved.path.name)
    classes, titles = tuple(run.classes), tuple(run.titles)
    card = Card(run.model_name, run.settings.ablate, classes, titles, run.preprocessing, source)
    return model, card


def _require_equal(comparison: Comparison, out: Path, limit: float) -> None:
    difference, largest = comparison.largest_difference, comparison.largest_answer
    if not difference <= limit * largest:  # true for NaN, too
        raise CheckpointError(
            f"{out} is not written: its answers differ from the run's by up to {difference:.3g} "
            f"where the largest is {largest:.3g}"
        )


def _bytes_of(path: Path) -> int:
    """Count the bytes of a file, or of the files in a folder."""
    return sum(file.stat().st_size for file in [path, *path.glob("*")] if file.is_file())
