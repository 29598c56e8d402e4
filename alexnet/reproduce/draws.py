"""Random draws from a packed data set: some images of each class to learn from, others to test on.

The protocol is that of Caltech-101 (Fei-Fei, Fergus, Perona 2004): N random training images of each
class and up to 50 of the others as test images. The class BACKGROUND_Google, of other images, is
left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet import randomness
from alexnet.dataset import Dataset
from alexnet.errors import UsageError
from alexnet.prepare import prepare_dataset
from alexnet.prepare.sources.base import Item
from alexnet.progress import Progress
from alexnet.reproduce.stored import HELD_OUT, StoredImages
from alexnet.storage.folders import is_dataset

TEST_IMAGES = 50
"""Of each class, at most."""
BACKGROUND = "BACKGROUND_Google"
"""Caltech-101's class of images that show none of the others."""

Rows = NDArray[np.int64]
"""Positions of images in a data set, whose splits follow each other."""


def draw_all(
    counts: Sequence[int], seeds: int, side: int, data: Path, out: Path, progress: Progress
) -> dict[tuple[int, int], Path]:
    """Pack a draw for each of `counts`, the training images of each class, and each seed.

    Returns their folders in `out`. Raises `UsageError` for a class with too few images.
    """
    dataset = Dataset(data)
    parts: dict[tuple[int, int], Path] = {}
    for images in counts:
        for seed in range(seeds):
            folder = out / f"{dataset.fingerprint[:8]}-{side}-{images}-images-{seed}"
            if not is_dataset(folder):
                source = Draw(data, images, max(counts), seed)
                prepare_dataset(source, folder, size=side, workers=1, progress=progress)
            parts[images, seed] = folder
    return parts


@dataclass(frozen=True)
class Draw(StoredImages):
    """A source of `prepare`: random images of each class of a packed data set.

    An image's name is its position in the data set, whose splits follow each other.
    """

    images: int
    """Training images of each class."""
    most: int
    """The largest number of them in any draw. So all have the same test images."""
    seed: int

    kind = "draw from a data set"

    def items(self) -> Iterator[Item]:
        """Yield the images that are drawn. Raises `UsageError` for a class with too few."""
        labels, origins = all_labels(self.dataset), positions(self.dataset)
        for label, name in enumerate(self.dataset.classes):
            if name == BACKGROUND:
                continue
            mine = np.flatnonzero(labels == label)
            if len(mine) <= self.most:
                raise UsageError(
                    f"transfer needs more than {self.most} images of each class, {self.data} has "
                    f"{len(mine)} of {name}"
                )
            mine = mine[randomness.order(self.seed, label, len(mine))]
            for split, rows in divided(mine, self.images, self.most).items():
                for row in rows.tolist():
                    yield Item(split, name, str(row), (*origins[row], 0))


def divided(rows: Rows, images: int, most: int) -> dict[str, Rows]:
    """Divide a class's images, in random order, among the splits.

    The first `images` are for training; of these the last ones, a tenth, are held out.
    """
    held_out = max(1, round(HELD_OUT * images))
    known = rows[:images]
    return {
        "train": known[:-held_out],
        "val": known[-held_out:],
        "test": rows[most : most + TEST_IMAGES],
    }


def all_labels(dataset: Dataset) -> Rows:
    """Return the labels of all images, split after split."""
    return np.concatenate([dataset.split(name).labels for name in dataset.split_names])


def positions(dataset: Dataset) -> list[tuple[int, int]]:
    """List all images as number of the split and index in it."""
    sizes = [len(dataset.split(name)) for name in dataset.split_names]
    return [(split, index) for split, size in enumerate(sizes) for index in range(size)]
