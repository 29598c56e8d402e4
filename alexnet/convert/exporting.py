"""Weights out: a run directory to other engines' files, which get their name once they are checked.

The file is opened again by another engine, both networks answer the same images, and if their
answers differ by more than rounding explains, there is no file.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from alexnet.convert.card import Card
from alexnet.convert.compare import Comparison, Images, compare, engine_of
from alexnet.convert.formats import FORMATS, WHOLE_ONNX, Format, need, open_onnx
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.progress import SILENT, Progress
from alexnet.storage import checkpoint
from alexnet.storage.atomic import atomic_write
from alexnet.storage.checkpoint import CheckpointName
from alexnet.storage.run import Run

LIMIT, INT8_LIMIT = 1e-4, 1.0
"""Largest differences that are allowed, as fractions of the largest answer: rounding, nonsense."""


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
    """What the file was opened with."""
    comparison: Comparison

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def export_run(  # noqa: PLR0913 - each is an option of the command
    run: str | Path,
    out: str | Path,
    format: str = "onnx",  # noqa: A002 - the word of the command line
    *,
    which: CheckpointName = "best",
    with_preprocessing: bool = False,
    int8: bool = False,
    check: str | Path | None = None,
    check_images: int = 256,
    progress: Progress = SILENT,
) -> ExportReport:
    """Write a run's network as "onnx", "torch-export", "safetensors" or "caffe" (a folder).

    `with_preprocessing` (ONNX) takes stored 8-bit images and gives probabilities. `int8` (ONNX)
    stores fully connected layers in 8 bits. `check` is a packed data set to compare the file with
    the run on: `check_images` of its validation images, 0 for all; without it, on made-up ones.
    Raises `CheckpointError` where the file does not answer as the run does, and `UsageError` for
    what the format cannot hold.
    """
    chosen = _choose(format, whole=with_preprocessing, int8=int8)
    need(chosen.needs)
    opened, place = Run.open(run), Path(out)
    images = Images(opened.preprocessing, opened.classes, Path(check) if check else None)
    if int8 and not images.labelled:
        raise DataError("int8 reports its error: add --check DATA with the classes of the run")
    model, card = _load(opened, which)
    with atomic_write(place) as aside:
        chosen.write(model, card, aside)
        engine_name, engine = chosen.open(aside, model, opened.preprocessing)
        own = engine_of(model, opened.preprocessing, probabilities=with_preprocessing)
        total, batches = images.batches(check_images)
        comparison = compare(own, engine, batches, total, progress)
        _require_equal(comparison, place, LIMIT)
        if int8:
            from alexnet.convert.quantize import quantize

            quantize(aside, aside)
            engine_name, engine = open_onnx(aside, model, opened.preprocessing)
            total, batches = images.batches(check_images)
            comparison = compare(own, engine, batches, total, progress)
            _require_equal(comparison, place, INT8_LIMIT)
        size = sum(file.stat().st_size for file in [aside, *aside.glob("*")] if file.is_file())
    return ExportReport(
        out=str(out),
        format=format,
        model=card.model,
        int8=int8,
        with_preprocessing=with_preprocessing,
        bytes=size,
        engine=engine_name,
        comparison=comparison,
    )


def _choose(name: str, *, whole: bool, int8: bool) -> Format:
    if name not in FORMATS:
        raise UsageError(f"there is no format {name!r}; the formats are: {', '.join(FORMATS)}")
    if name != "onnx" and (whole or int8):
        raise UsageError(f"--with-preprocessing and --int8 go with --format onnx, not {name}")
    return WHOLE_ONNX if whole else FORMATS[name]


def _load(run: Run, which: CheckpointName) -> tuple[nn.Sequential, Card]:
    """Load the network on the CPU and write its card."""
    model, saved = run.load(which)
    entries = checkpoint.read_manifest(run.path)["checkpoints"]
    source = next(entry["sha256"] for entry in entries if entry["file"] == saved.path.name)
    classes, titles = tuple(run.classes), tuple(run.titles)
    card = Card(run.model_name, run.settings.ablate, classes, titles, run.preprocessing, source)
    return model, card


def _require_equal(comparison: Comparison, out: Path, limit: float) -> None:
    apart, largest = comparison.largest_difference, comparison.largest_answer
    if not apart <= limit * largest:  # not "<": NaN is no answer either
        raise CheckpointError(
            f"{out} is not written: its answers differ from the run's by up to {apart:.3g} where "
            f"the largest is {largest:.3g}"
        )
