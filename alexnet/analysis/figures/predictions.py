"""Images of the split with the five most probable classes of each (paper, figure 4)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet.analysis.figures import style
from alexnet.analysis.figures.subject import Indices, Subject, evenly
from alexnet.evaluate import log_probabilities
from alexnet.images import Pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGES = 8
CLASSES = 5


@dataclass(frozen=True)
class Answer:
    """What the network saw of an image, the right class, and the most probable ones."""

    index: int
    picture: Pixels
    truth: int
    """The number of the right class."""
    predictions: tuple[tuple[int, float], ...]
    """Pairs of a class's number and probability, the most probable first."""

    @property
    def is_right(self) -> bool:
        """Whether the most probable class is the right one."""
        return self.predictions[0][0] == self.truth


def answers(subject: Subject, indices: Indices, top: int = CLASSES) -> list[Answer]:
    """Predict images of the split, one view of each."""
    images = subject.split.read(indices)
    scores = log_probabilities(subject.model, images, subject.preprocessing)
    found = []
    rows = zip(indices, subject.seen(images), scores.exp().numpy(), strict=True)
    for index, picture, row in rows:
        best = np.argsort(-row, kind="stable")[:top]
        pairs = tuple((int(label), float(row[label])) for label in best)
        found.append(Answer(int(index), picture, int(subject.split.labels[index]), pairs))
    return found


def draw(subject: Subject) -> style.Drawing:
    """Draw eight images, evenly from the split, with bars for the most probable classes."""
    found = answers(subject, evenly(len(subject.split), IMAGES))
    figure = style.new_figure(2.95 * -(-len(found) // 4))
    rows = -(-len(found) // 4)
    grid = figure.add_gridspec(2 * rows, 4, height_ratios=[1.75, 1] * rows)
    for number, answer in enumerate(found):
        row, column = 2 * (number // 4), number % 4
        picture = figure.add_subplot(grid[row, column])
        mark = "✓" if answer.is_right else "✗"
        title = f"{style.shorten(subject.titles[answer.truth])} {mark}"
        style.show_picture(picture, answer.picture, title)
        picture.title.set_fontsize(8)
        picture.title.set_fontweight("bold")
        _bars(figure.add_subplot(grid[row + 1, column]), answer, subject.titles)
    right = sum(answer.is_right for answer in found)
    return style.Drawing(
        figure,
        f"{len(found)} {subject.split.split_name} images, evenly from all, with the "
        f"{len(found[0].predictions)} most probable classes; {right} are right. The right class is "
        "bold and its bar blue.",
    )


def _bars(axes: "Axes", answer: Answer, titles: list[str]) -> None:
    """Draw a bar for each class with its name on it, as the paper does."""
    for row, (label, probability) in enumerate(answer.predictions):
        is_right = label == answer.truth
        color, weight = (style.PALE_BLUE, "bold") if is_right else (style.PALE, "normal")
        axes.barh(row, 1, height=0.86, color="#f5f6f8")
        axes.barh(row, probability, height=0.86, color=color)
        look: dict[str, Any] = {"va": "center_baseline", "fontsize": 6.5, "fontweight": weight}
        axes.text(0.02, row, style.shorten(titles[label], 20), **look)
        axes.text(0.98, row, style.percent(probability), ha="right", **look)
    axes.set_xlim(0, 1)
    axes.set_ylim(CLASSES - 0.5, -0.5)
    axes.set_axis_off()
