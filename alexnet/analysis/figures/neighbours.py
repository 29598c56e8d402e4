"""The training images nearest to others in the last hidden layer (paper, figure 4)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alexnet.analysis.features import taps
from alexnet.analysis.figures import style
from alexnet.analysis.figures.subject import MOST_IMAGES, Indices, Subject, evenly, last_hidden
from alexnet.progress import SILENT, Progress

QUERIES = 5


@dataclass(frozen=True)
class Neighbours:
    """For each query, the nearest training images, the nearest first."""

    layer: str
    images: Tensor
    """(queries, count): indices in the training split."""
    distances: Tensor
    """(queries, count): Euclidean distances of the outputs of `layer`."""
    searched: int
    """Training images that were compared."""


@torch.inference_mode()
def find_neighbours(
    subject: Subject,
    queries: Indices,
    count: int = 6,
    *,
    among: int = MOST_IMAGES,
    progress: Progress = SILENT,
) -> Neighbours:
    """Find the training images whose last hidden layer is nearest to that of the split's `queries`.

    At most `among` training images are compared, evenly from the whole split. Memory holds one
    batch and the nearest of each query.
    """
    layer = last_hidden(subject.model)

    def features(inputs: Tensor) -> Tensor:
        return taps(subject.model, inputs, [layer])[layer].flatten(1).double().cpu()

    own = features(subject.inputs(subject.split.read(queries)))
    wanted = evenly(len(subject.train), among)
    images = torch.empty((len(queries), 0), dtype=torch.int64)
    distances = torch.empty((len(queries), 0), dtype=torch.float64)
    with progress.task("find neighbours", len(wanted), "images") as advance:
        for indices, inputs in subject.batches(subject.train, wanted):
            found = torch.cdist(own, features(inputs), compute_mode="donot_use_mm_for_euclid_dist")
            new = (torch.from_numpy(indices), found)
            images, distances = keep_nearest((images, distances), new, count)
            advance(len(indices))
    return Neighbours(layer, images, distances, len(wanted))


def keep_nearest(
    nearest: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], count: int
) -> tuple[Tensor, Tensor]:
    """Return the `count` nearest images so far; of equally near ones those that came first.

    `nearest` are images and distances (queries, count or fewer), `new` the numbers of other images
    (N,) and their distances (queries, N).
    """
    images, distances = nearest
    numbers, found = new
    images = torch.cat([images, numbers.expand(len(images), -1)], 1)
    distances, order = torch.cat([distances, found], 1).sort(dim=1, stable=True)
    return images.gather(1, order[:, :count]), distances[:, :count]


def draw(subject: Subject, progress: Progress = SILENT) -> style.Drawing:
    """Draw five images of the split, each with the six nearest training images."""
    queries = evenly(len(subject.split), QUERIES)
    found = find_neighbours(subject, queries, progress=progress)
    columns = 1 + found.images.shape[1]
    figure = style.new_figure(1.12 * len(queries))
    widths = [1, 0.12] + [1] * (columns - 1)
    grid = figure.add_gridspec(len(queries), columns + 1, width_ratios=widths)
    same = 0
    for row, (query, nearest) in enumerate(zip(queries.tolist(), found.images, strict=True)):
        own = subject.seen(subject.split.read([query]))[0]
        title = subject.title(query)
        axes = figure.add_subplot(grid[row, 0])
        style.show_picture(axes, own, style.shorten(title), fontweight="bold")
        pictures = subject.seen(subject.train.read(nearest.tolist()))
        for column, (index, picture) in enumerate(zip(nearest.tolist(), pictures, strict=True)):
            other = subject.titles[int(subject.train.labels[index])]
            same += other == title
            look = {} if other == title else {"color": style.ORANGE, "fontstyle": "italic"}
            axes = figure.add_subplot(grid[row, column + 2])
            style.show_picture(axes, picture, style.shorten(other), **look)
    return style.Drawing(
        figure,
        f"{len(queries)} {subject.split.split_name} images (left) and the training images nearest "
        f"to them in {found.layer}, by Euclidean distance among {found.searched:,}. {same} of "
        f"{found.images.numel()} are of the same class; others are in italics.",
    )
