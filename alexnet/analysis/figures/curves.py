"""Loss and error by epoch (the paper's figure 1 shows the training error)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from alexnet.analysis.figures import style
from alexnet.analysis.figures.subject import Subject, evenly
from alexnet.errors import DataError
from alexnet.evaluate import ranks
from alexnet.storage.metrics_log import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MARKERS = 30
ROOM = 1.06
"""How far an axis goes, in parts of the largest value: a marker there is not cut off."""
TRAINING_IMAGES = 2000
"""Training images on which the error is measured, evenly from all."""


def draw(subject: Subject) -> style.Drawing:
    """Draw training and validation loss, and validation errors, by epoch.

    A training does not record its error on the training images. So it is measured here for the
    weights that are shown, and is one point. Raises `DataError` for a run that has no epochs.
    """
    rows = [row for row in subject.run.metrics() if row.get("kind") == "epoch"]
    if not rows:
        raise DataError("the run recorded no epochs")
    found, count = training_error(subject)
    figure = draw_rows(rows, (subject.epochs, found))
    return style.Drawing(
        figure,
        "Loss and error by epoch. The training loss is measured with dropout and augmentation. "
        f"Without either, the error on {count:,} training images after epoch {subject.epochs} is "
        f"{style.percent(found)}.",
    )


def draw_rows(rows: Sequence[Row], training: tuple[int, float] | None = None) -> "Figure":
    """Draw what metrics.jsonl has of each epoch; `training` is an epoch and its training error."""
    epochs = [row["epoch"] for row in rows]
    figure = style.new_figure(2.7)
    loss, error = figure.subplots(1, 2)

    def plot(axes: "Axes", key: str, label: str, look: dict[str, Any]) -> None:
        values = [row[key] for row in rows]
        if any(value is not None for value in values):
            marker = {} if len(rows) <= MOST_MARKERS else {"marker": ""}
            axes.plot(epochs, values, label=label, **{**look, **marker})

    plot(loss, "train_loss", "training", _FIRST)
    plot(loss, "val_loss", "validation", _SECOND)
    plot(error, "top1_error", "validation, top-1", _SECOND)
    plot(error, "top5_error", "validation, top-5", _THIRD)
    if training:
        error.plot([training[0]], [training[1]], label="training, top-1", **_POINT)
    for axes, title in ((loss, "Loss, nats per image"), (error, "Error, share of images")):
        axes.set_title(title, loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", color=style.RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        if axes.lines:
            axes.set_ylim(0, ROOM * axes.dataLim.y1 or 1)
            axes.legend(fontsize=7)
    error.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return figure


_LINE: dict[str, Any] = {"linewidth": 1.8, "markersize": 3.5, "markerfacecolor": "white"}
_FIRST = {**_LINE, "color": style.BLUE, "marker": "o", "markerfacecolor": style.BLUE}
_SECOND = {**_LINE, "color": style.ORANGE, "marker": "s", "linestyle": (0, (4, 2))}
_THIRD = {**_LINE, "color": style.SOFT, "marker": "^", "linestyle": (0, (1, 1.5))}
_POINT: dict[str, Any] = {"color": style.BLUE, "marker": "D", "markersize": 5, "linestyle": ""}
_POINT |= {"zorder": 1.9}  # behind the validation errors, which can be the same


@torch.inference_mode()
def training_error(subject: Subject) -> tuple[float, int]:
    """Return the top-1 error on training images without augmentation, and their number."""
    wanted = evenly(len(subject.train), TRAINING_IMAGES)
    wrong = 0
    for indices, inputs in subject.batches(subject.train, wanted):
        labels = torch.from_numpy(subject.train.labels[indices])
        wrong += int((ranks(subject.model(inputs).cpu(), labels) >= 1).sum())
    return wrong / len(wanted), len(wanted)
