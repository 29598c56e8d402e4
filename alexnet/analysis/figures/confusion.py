"""The confusion matrix of the split."""

import numpy as np

from alexnet.analysis.figures import style
from alexnet.analysis.figures.subject import Subject
from alexnet.evaluate import evaluate_split
from alexnet.progress import SILENT, Progress

MOST_NAMES = 30
"""More classes are shown as shades without names and numbers."""


def draw(subject: Subject, progress: Progress = SILENT) -> style.Drawing:
    """Draw the number of images by true and by predicted class."""
    members = [(subject.model, subject.preprocessing)]
    found = evaluate_split(members, subject.split, subject.run.classes, progress=progress)
    counts = np.array(found.confusion)
    present = np.flatnonzero(counts.sum(1) + counts.sum(0))
    counts = counts[np.ix_(present, present)]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    has_names = len(present) <= MOST_NAMES
    size = min(style.WIDTH, max(3.0, 1.6 + 0.42 * len(present))) if has_names else 5.5
    figure = style.new_figure(size * 0.9, size)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if has_names:
        names = [style.shorten(subject.titles[number]) for number in present]
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        for row, column in np.argwhere(counts > 0):
            color = "white" if share[row, column] > 0.55 else style.INK
            text = axes.text(column, row, f"{counts[row, column]}", color=color, fontsize=7)
            text.set(ha="center", va="center")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return style.Drawing(
        figure,
        f"{found.images:,} {found.split} images, one view of each, by true class (rows) and "
        f"predicted class (columns). A deeper shade is a larger share of the row. Top-1 error "
        f"{style.percent(found.top1_error)}, top-5 {style.percent(found.top5_error)}.",
    )
