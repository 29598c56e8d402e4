"""How much the classes differ to each layer: representational dissimilarity matrices."""

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.analysis.dissimilarity import inner_products
from alexnet.analysis.features import taps
from alexnet.analysis.figures import style
from alexnet.analysis.figures.subject import (
    MOST_IMAGES,
    Subject,
    activation_after,
    evenly,
    learning_rows,
)
from alexnet.progress import SILENT, Progress

MOST_CLASSES = 40
"""More would neither be read nor fit into memory: the means are those of all units."""
MOST_NAMES = 12

Distances = dict[str, NDArray[np.float64]]


@torch.inference_mode()
def class_distances(
    subject: Subject, classes: NDArray[np.int64], *, progress: Progress = SILENT
) -> Distances:
    """Return 1 - the correlation of the classes' mean activations by layer: (classes, classes).

    The images are those of `classes` in the split, at most `MOST_IMAGES`.
    """
    layers = [activation_after(subject.model, name) for name in learning_rows(subject.model)]
    mine = np.flatnonzero(np.isin(subject.split.labels, classes))
    wanted = mine[evenly(len(mine), MOST_IMAGES)]
    numbers = np.searchsorted(classes, subject.split.labels[wanted])
    sums: dict[str, torch.Tensor] = {}
    with progress.task("compare classes", len(wanted), "images") as advance:
        for indices, inputs in subject.batches(subject.split, wanted):
            labels = torch.from_numpy(np.searchsorted(classes, subject.split.labels[indices]))
            for name, outputs in taps(subject.model, inputs, layers).items():
                rows = outputs.flatten(1).float().cpu()
                total = sums.setdefault(name, torch.zeros(len(classes), rows.shape[1]))
                total.index_add_(0, labels, rows)
            advance(len(indices))
    counts = np.maximum(np.bincount(numbers, minlength=len(classes)), 1)[:, None]
    means = {name: (total.numpy() / counts).astype(np.float32) for name, total in sums.items()}
    return {name: inner_products(each).correlation_distances() for name, each in means.items()}


def draw(subject: Subject, progress: Progress = SILENT) -> style.Drawing:
    """Draw one matrix for each layer with weights, all in the same shades."""
    present = np.unique(subject.split.labels)
    classes = present[evenly(len(present), MOST_CLASSES)]
    found = class_distances(subject, classes, progress=progress)
    columns = 4
    rows = -(-len(found) // columns)
    figure = style.new_figure(rows * 1.9)
    grid = figure.subplots(rows, columns, squeeze=False)
    largest = max(float(np.nanmax(each)) for each in found.values())
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (name, distances) in zip(grid.flat, found.items(), strict=False):
        axes.set_axis_on()
        shades = axes.imshow(distances, cmap="cividis", vmin=0, vmax=largest)
        axes.set_title(name)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    if len(classes) <= MOST_NAMES:
        names = [style.shorten(subject.titles[number]) for number in classes]
        for axes in grid[:, 0]:
            axes.set_yticks(range(len(names)), names, fontsize=6)
            axes.tick_params(length=0)
    figure.colorbar(shades, ax=grid, shrink=0.6, label="1 - correlation", aspect=30)
    part = "" if len(classes) == len(present) else f" of {len(present):,}, evenly from all"
    return style.Drawing(
        figure,
        f"Dissimilarity of {len(classes)} classes{part}, by layer: 1 - the correlation of their "
        f"mean activations over the {subject.split.split_name} images. Rows and columns are in the "
        "same order.",
    )
