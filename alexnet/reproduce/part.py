"""A part of a packed data set, as a data set of its own: what an experiment trains on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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


class Take(NamedTuple):
    """Images of one split of a data set that become a split of its part."""

    split: str
    origin: str
    start: int
    stop: int
    """Positions in `evenly`."""


@dataclass(frozen=True)
class Part(StoredImages):
    """A source of `prepare`: some images of a packed data set."""

    takes: tuple[Take, ...]

    kind = "part of a data set"

    def items(self) -> Iterator[Item]:
        """Yield the images of all takes."""
        for take in self.takes:
            labels = self.dataset.split(take.origin).labels
            at = self.dataset.split_names.index(take.origin)
            for index in np.sort(evenly(labels)[take.start : take.stop]).tolist():
                label = self.dataset.classes[labels[index]]
                yield Item(take.split, label, f"{take.origin}/{index}", (at, index, 0))


def evenly(labels: NDArray[np.int64], seed: int = 0) -> NDArray[np.int64]:
    """Return a random order in which any first n images have as many of each class as possible."""
    order = randomness.order(seed, 0, len(labels))
    rank = np.empty(len(labels), np.int64)  # of each image among those of its class
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        rank[mine] = np.arange(len(mine))
    return order[np.argsort(rank[order], kind="stable")]


def choose(
    dataset: Dataset, images: int, test_images: int, *, holds_out: bool = True
) -> tuple[Take, ...]:
    """Choose `images` training and `test_images` test images, 0: all, and validation images.

    A data set without test split is tested on its validation split, as ImageNet is; a tenth of its
    training images is held out for tuning instead. The validation images shrink as the training
    images do. Without `holds_out` all of both are training images. Raises `UsageError` for a data
    set with less than two splits.
    """
    sizes = {split: len(dataset.split(split)) for split in dataset.split_names}
    if "train" not in sizes or len(sizes) < 2:
        raise UsageError(f"{dataset.path} has no images to test on, only {', '.join(sizes)}")
    test = "test" if "test" in sizes else "val"
    last = sizes[test]
    tests = Take("test", test, 0, min(test_images or last, last))
    if not holds_out:
        known_splits = (name for name in ("train", "val") if name in sizes and name != test)
        return (*(Take("train", name, 0, sizes[name]) for name in known_splits), tests)
    if "val" in sizes and test != "val":
        known, tuned, origin = sizes["train"], sizes["val"], "val"
    else:
        tuned, origin = int(HELD_OUT * sizes["train"]), "train"
        known = sizes["train"] - tuned
    train = min(images or known, known)
    val = min(tuned, max(10 * len(dataset.classes), tuned * train // known))
    first = 0 if origin == "val" else known
    return (Take("train", "train", 0, train), Take("val", origin, first, first + val), tests)


def pack_part(
    data: Path,
    out: Path,
    images: int,
    test_images: int,
    progress: Progress,
    *,
    holds_out: bool = True,
) -> Path:
    """Pack what `choose` returns into a data set in the folder `out`; return its path."""
    dataset = Dataset(data)
    takes = choose(dataset, images, test_images, holds_out=holds_out)
    counts = [take.stop - take.start for take in takes]
    kind = "" if holds_out else "-all"
    folder = out / f"{dataset.fingerprint[:8]}-{'-'.join(map(str, counts))}{kind}"
    if not is_dataset(folder):
        prepare_dataset(
            Part(data, takes), folder, size=dataset.size, workers=1, val_fraction=0,
            progress=progress,
        )  # fmt: skip
    return folder
