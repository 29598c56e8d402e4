"""Figures of a trained network: the paper's, and what its units respond to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from alexnet.analysis.figures import (
    activations,
    confusion,
    curves,
    filters,
    neighbours,
    predictions,
    rdm,
    saliency,
    style,
    units,
)
from alexnet.analysis.figures.subject import Subject, open_subject
from alexnet.device import DeviceName
from alexnet.errors import DataError, UsageError
from alexnet.progress import SILENT, Progress
from alexnet.storage.atomic import expanded
from alexnet.storage.checkpoint_store import CheckpointName

FIGURES = (
    *("curves", "filters", "predictions", "neighbours", "units"),
    *("activations", "saliency", "confusion", "rdm"),
)
"""All names, in the order in which they are drawn."""


@dataclass(frozen=True)
class Figure:
    """A figure that was written."""

    name: str
    caption: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class FiguresReport:
    """What was drawn."""

    out: str
    figures: tuple[Figure, ...]
    left_out: dict[str, str]
    """Figures that cannot be drawn of this run, and why."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def draw_figures(  # noqa: PLR0913 - each is a decision of its own
    run: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    only: Sequence[str] = (),
    layer: str | None = None,
    unit: int | None = None,
    formats: Sequence[str] = style.FORMATS,
    split: str | None = None,
    checkpoint: CheckpointName = "best",
    device: DeviceName = "auto",
    progress: Progress = SILENT,
) -> FiguresReport:
    """Draw the figures of a trained run with the images of a packed data set.

    They are written to `out`, by default RUN/figures, as `formats`: "svg", "png". `only` names some
    of `FIGURES`; `layer` and `unit` choose what "units" shows. The images are those of `split`, by
    default test, or else val. Raises `UsageError` for unknown names and without matplotlib,
    `DataError` for data that does not fit the run.
    """
    style.check_library()
    wanted = _check(only, formats, layer, unit)
    subject = open_subject(
        run, data, split=split, checkpoint=checkpoint, device=device, progress=progress
    )
    folder = subject.run.path / "figures" if out is None else expanded(out)
    drawn: list[Figure] = []
    left_out: dict[str, str] = {}
    for name, draw in _drawers(subject, layer, unit, progress).items():
        if name not in wanted:
            continue
        try:
            with style.look():
                drawing = draw()
                files = style.save(drawing, folder, name, formats)
        except DataError as error:
            left_out[name] = str(error)
            continue
        drawn.append(Figure(name, drawing.caption, tuple(map(str, files))))
    return FiguresReport(str(folder), tuple(drawn), left_out)


def _check(
    only: Sequence[str], formats: Sequence[str], layer: str | None, unit: int | None
) -> Sequence[str]:
    """Return the names of the figures that are wanted; raise `UsageError` for what there is not."""
    for what, given, known in (("figure", only, FIGURES), ("format", formats, style.FORMATS)):
        if unknown := [name for name in given if name not in known]:
            raise UsageError(f"no {what} {', '.join(unknown)}; there are {', '.join(known)}")
    if unit is not None and layer is None:
        raise UsageError("a unit is one of a layer: name the layer, too")
    if layer is not None:
        return [*only, "units"]
    return only or FIGURES


def _drawers(
    subject: Subject, layer: str | None, unit: int | None, progress: Progress
) -> Mapping[str, Callable[[], style.Drawing]]:
    """Return the function that draws each figure, by its name."""
    return {
        "curves": partial(curves.draw, subject),
        "filters": partial(filters.draw, subject),
        "predictions": partial(predictions.draw, subject),
        "neighbours": partial(neighbours.draw, subject, progress),
        "units": partial(units.draw, subject, layer, unit, progress),
        "activations": partial(activations.draw, subject),
        "saliency": partial(saliency.draw, subject, progress),
        "confusion": partial(confusion.draw, subject, progress),
        "rdm": partial(rdm.draw, subject, progress),
    }
