"""Every image of a packed data set, looked at once: what is broken, empty or there twice."""

from collections.abc import Iterator, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet.dataset import Dataset, Split
from alexnet.doctor.findings import LISTED, Notebook
from alexnet.doctor.pictures import Marks, equal_groups, look_alike, similar_pairs
from alexnet.errors import DataError
from alexnet.images.decode import Pixels
from alexnet.progress import Advance, Progress

BATCH_BYTES = 16 << 20
MAX_PAIRS = 20_000
"""Pairs of similar images that are compared pixel by pixel."""

Numbers = NDArray[np.int64]


@dataclass
class Roll:
    """All images of a data set, one split after the other, with numbers from 0."""

    dataset: Dataset
    named: Set[str]
    """The splits whose images have names."""

    def __post_init__(self) -> None:
        """Count."""
        self.splits = [self.dataset.split(name) for name in self.dataset.split_names]
        self.starts = np.cumsum([0] + [len(split) for split in self.splits])
        self.labels: Numbers = np.concatenate([split.labels for split in self.splits])
        self.split_of = np.repeat(np.arange(len(self.splits)), np.diff(self.starts))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def describe(self, number: int) -> str:
        """Name image `number`: "train: cat/1.jpg (cat)"."""
        split = self.splits[int(self.split_of[number])]
        place = number - int(self.starts[self.split_of[number]])
        known = split.split_name in self.named
        name = split.name(place) if known else f"image {place}"
        return f"{split.split_name}: {name} ({self.dataset.classes[int(self.labels[number])]})"

    def read(self, numbers: Numbers) -> Pixels:
        """Return the images `numbers`, in that order."""
        size = self.dataset.size
        images = np.empty((len(numbers), size, size, 3), np.uint8)
        for which, split in enumerate(self.splits):
            mine = np.flatnonzero(self.split_of[numbers] == which)
            if len(mine):
                images[mine] = split.read(numbers[mine] - self.starts[which])
        return images


def examine_images(
    dataset: Dataset, book: Notebook, progress: Progress, *, count_mean: bool, named: Set[str]
) -> None:
    """Read every image and write down what is found.

    `count_mean` compares the mean image, too; `named` are the splits whose names can be read.
    """
    roll = Roll(dataset, named)
    marks, bad = Marks.empty(len(roll)), list[int]()
    sums = np.zeros((dataset.size, dataset.size, 3), np.int64)
    with progress.task("images", len(roll), "images") as advance:
        for which, split in enumerate(roll.splits):
            start = int(roll.starts[which])
            in_mean = split.split_name == "train" or "train" not in dataset.split_names
            step = max(1, BATCH_BYTES // (3 * dataset.size**2))
            for first, images in _good_batches(split, start, step, bad, advance):
                marks.look(first, images)
                if in_mean:
                    sums += images.sum(axis=0, dtype=np.int64)
    if bad:
        book.damage(
            "images",
            f"{len(bad):,} images cannot be decoded",
            "prepare the data set again",
            [roll.describe(number) for number in bad[:LISTED]],
        )
    elif count_mean:
        _check_mean(dataset, sums, book)
    _report_marks(roll, marks, book)
    good = np.setdiff1d(np.arange(len(roll)), bad)
    _report_equal(roll, marks, good, book)
    _report_similar(roll, marks, good, book, progress)


def _good_batches(
    split: Split, start: int, step: int, bad: list[int], advance: Advance
) -> Iterator[tuple[int, Pixels]]:
    """Yield images in batches with the number of the first; what cannot be read goes to `bad`."""
    for first in range(0, len(split), step):
        numbers = range(first, min(first + step, len(split)))
        try:
            yield start + first, split.read(numbers)
        except DataError:
            for number in numbers:
                if _reads(split, number):
                    yield start + number, split.read([number])
                else:
                    bad.append(start + number)
        advance(len(numbers))


def _reads(split: Split, number: int) -> bool:
    try:
        split.read([number])
    except DataError:
        return False
    return True


def _check_mean(dataset: Dataset, sums: Numbers, book: Notebook) -> None:
    train = "train" in dataset.split_names
    names = ["train"] if train else dataset.split_names
    mean = sums / sum(len(dataset.split(name)) for name in names)
    difference = float(np.abs(mean - dataset.mean_image).max())
    book.facts["mean_difference"] = difference
    if not difference < 0.01:
        book.damage(
            "mean image",
            f"mean_image.npy differs from the mean of the images by {difference:.2f} grey levels",
            "prepare the data set again",
        )


def _report_marks(roll: Roll, marks: Marks, book: Notebook) -> None:
    for check, flags, what, remedy in (
        ("flat", marks.flat, "show one even colour", "remove them, if they are not meant so"),
        ("cut", marks.cut, "end in an even grey, as where a JPEG was cut off", "look at them"),
    ):
        numbers = np.flatnonzero(flags)
        book.facts[check] = len(numbers)
        if len(numbers):
            listed = [roll.describe(int(number)) for number in numbers[:LISTED]]
            book.warn("images", f"{len(numbers):,} images {what}", remedy, listed)


def _report_equal(roll: Roll, marks: Marks, good: Numbers, book: Notebook) -> None:
    """Report images with exactly the same pixels: within a split, across splits, across classes."""
    order, begins = equal_groups(marks.digests[good])
    order = good[order]
    sizes = np.diff(begins, append=len(order))
    splits, labels = roll.split_of[order], roll.labels[order]
    across = _differ(splits, begins)
    contradict = _differ(labels, begins)
    book.facts["equal"] = {
        "groups": int((sizes > 1).sum()),
        "images": int((sizes[sizes > 1] - 1).sum()),
        "across_splits": int(across.sum()),
        "across_classes": int(contradict.sum()),
    }
    for groups, what, remedy in (
        (contradict, "in two classes", "one of the labels is wrong: correct the source"),
        (across, "in two splits", "errors there are too low: remove them from one split"),
        ((sizes > 1) & ~across & ~contradict, "in one class", "remove the copies, if they matter"),
    ):
        chosen = np.flatnonzero(groups)
        if len(chosen):
            listed = [
                " = ".join(roll.describe(int(n)) for n in order[begins[g] : begins[g] + 2])
                for g in chosen[:LISTED]
            ]
            book.warn(
                "duplicates", f"{len(chosen):,} images are there twice, {what}", remedy, listed
            )


def _differ(values: Numbers, begins: Numbers) -> NDArray[np.bool_]:
    """Tell for each group of neighbours whether its values are not all the same."""
    if not len(begins):
        return np.zeros(0, np.bool_)
    differ: NDArray[np.bool_] = np.minimum.reduceat(values, begins) != np.maximum.reduceat(
        values, begins
    )
    return differ


def _report_similar(
    roll: Roll, marks: Marks, good: Numbers, book: Notebook, progress: Progress
) -> None:
    """Report images that differ in detail only: scaled, compressed or brightened copies."""
    pairs = similar_pairs(marks, MAX_PAIRS)
    pairs = pairs[np.isin(pairs, good).all(axis=1)]
    alike = []
    with progress.task("similar images", len(pairs), "pairs") as advance:
        step = max(1, BATCH_BYTES // (6 * roll.dataset.size**2))
        for first in range(0, len(pairs), step):
            some = pairs[first : first + step]
            alike.append(some[look_alike(roll.read(some[:, 0]), roll.read(some[:, 1]))])
            advance(len(some))
    found = np.concatenate(alike) if alike else pairs[:0]
    across = found[roll.split_of[found[:, 0]] != roll.split_of[found[:, 1]]]
    book.facts["similar"] = {"pairs": len(found), "across_splits": len(across)}
    if len(found):
        first_ones = np.concatenate([across, found])[:LISTED]
        book.warn(
            "duplicates",
            f"{len(found):,} pairs of images differ in detail only, {len(across):,} across splits",
            "look at them: copies of training images make validation errors too low",
            [" ~ ".join(roll.describe(int(number)) for number in pair) for pair in first_ones],
        )
