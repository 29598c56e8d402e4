"""Examines every image of a packed data set: broken, flat, dark, truncated and equal ones."""

from collections.abc import Iterator, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet.dataset import Dataset, Split
from alexnet.doctor.findings import LISTED, Report
from alexnet.doctor.signatures import (
    DARK_LEVEL,
    Signatures,
    are_similar,
    equal_groups,
    similar_pairs,
)
from alexnet.errors import DataError
from alexnet.images import Pixels
from alexnet.progress import Advance, Progress

BATCH_BYTES = 16 << 20
MAX_PAIRS = 20_000
"""The most pairs of similar images whose pixels are compared."""

Indices = NDArray[np.int64]


@dataclass
class Catalog:
    """All images of a data set, with indices from 0, one split after the other."""

    dataset: Dataset
    named: Set[str]
    """The splits whose images have names."""

    def __post_init__(self) -> None:
        """Compute where the splits start, and the label and split of each image."""
        self.splits = [self.dataset.split(name) for name in self.dataset.split_names]
        self.starts = np.cumsum([0] + [len(split) for split in self.splits])
        self.labels: Indices = np.concatenate([split.labels for split in self.splits])
        self.split_of = np.repeat(np.arange(len(self.splits)), np.diff(self.starts))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def describe(self, index: int) -> str:
        """Name an image: "train: cat/1.jpg (cat)"."""
        split = self.splits[int(self.split_of[index])]
        inside = index - int(self.starts[self.split_of[index]])
        known = split.split_name in self.named
        name = split.name(inside) if known else f"image {inside}"
        return f"{split.split_name}: {name} ({self.dataset.classes[int(self.labels[index])]})"

    def read(self, indices: Indices) -> Pixels:
        """Return the images `indices`, in that order."""
        size = self.dataset.size
        images = np.empty((len(indices), size, size, 3), np.uint8)
        for number, split in enumerate(self.splits):
            rows = np.flatnonzero(self.split_of[indices] == number)
            if len(rows):
                images[rows] = split.read(indices[rows] - self.starts[number])
        return images


def examine_images(
    dataset: Dataset, report: Report, progress: Progress, *, check_mean: bool, named: Set[str]
) -> None:
    """Read every image and add what is found to `report`.

    `check_mean` compares the mean image, too; `named` are the splits whose names can be read.
    """
    catalog = Catalog(dataset, named)
    signatures, bad = Signatures.empty(len(catalog)), list[int]()
    sums = np.zeros((dataset.size, dataset.size, 3), np.int64)
    batch = max(1, BATCH_BYTES // (3 * dataset.size**2))
    with progress.task("images", len(catalog), "images") as advance:
        for start, split in zip(catalog.starts, catalog.splits, strict=False):
            in_mean = split.split_name == "train" or "train" not in dataset.split_names
            for first, images in _good_batches(split, int(start), batch, bad, advance):
                signatures.add(first, images)
                if in_mean:
                    sums += images.sum(axis=0, dtype=np.int64)
    if bad:
        report.damage(
            "images",
            f"{len(bad):,} images cannot be decoded",
            "prepare the data set again",
            [catalog.describe(index) for index in bad[:LISTED]],
        )
    elif check_mean:
        _check_mean(dataset, sums, report)
    _report_flags(catalog, signatures, report)
    # Dark images are equal because their values are lost; no label of theirs is wrong.
    good = np.setdiff1d(np.flatnonzero(~signatures.dark), bad)
    _report_equal(catalog, signatures, good, report)
    _report_similar(catalog, signatures, good, report, progress)


def _good_batches(
    split: Split, start: int, batch: int, bad: list[int], advance: Advance
) -> Iterator[tuple[int, Pixels]]:
    """Yield images in batches with the index of the first; add unreadable ones to `bad`.

    `start` is the index of the split's first image.
    """
    for first in range(0, len(split), batch):
        indices = range(first, min(first + batch, len(split)))
        try:
            yield start + first, split.read(indices)
        except DataError:
            for index in indices:
                try:
                    yield start + index, split.read([index])
                except DataError:
                    bad.append(start + index)
        advance(len(indices))


def _check_mean(dataset: Dataset, sums: Indices, report: Report) -> None:
    train = "train" in dataset.split_names
    names = ["train"] if train else dataset.split_names
    mean = sums / sum(len(dataset.split(name)) for name in names)
    difference = float(np.abs(mean - dataset.mean_image).max())
    report.facts["mean_difference"] = difference
    if not difference < 0.01:
        report.damage(
            "mean image",
            f"mean_image.npy differs from the mean of the images by {difference:.2f} grey levels",
            "prepare the data set again",
        )


def _report_flags(catalog: Catalog, signatures: Signatures, report: Report) -> None:
    for check, flags, what, remedy in (
        ("flat", signatures.flat, "show one uniform colour", "remove them unless intended"),
        (
            "dark",
            signatures.dark,
            f"are nearly black (nothing above {DARK_LEVEL} of 255), as 16-bit files read wrongly",
            "compare them with their files; prepare again, which scales 16-bit values",
        ),
        (
            "cut",
            signatures.cut,
            "end in uniform grey, as truncated JPEGs do",
            "compare them with their files; prepare again, which rejects truncated ones",
        ),
    ):
        indices = np.flatnonzero(flags)
        report.facts[check] = len(indices)
        if len(indices):
            listed = [catalog.describe(int(index)) for index in indices[:LISTED]]
            report.warn("images", f"{len(indices):,} images {what}", remedy, listed)


def _report_equal(catalog: Catalog, signatures: Signatures, good: Indices, report: Report) -> None:
    """Report images with exactly the same pixels: within a split, across splits, across classes."""
    order, starts = equal_groups(signatures.digests[good])
    order = good[order]
    sizes = np.diff(starts, append=len(order))
    splits, labels = catalog.split_of[order], catalog.labels[order]
    across = _differ(splits, starts)
    contradict = _differ(labels, starts)
    report.facts["equal"] = {
        "groups": int((sizes > 1).sum()),
        "images": int((sizes[sizes > 1] - 1).sum()),
        "across_splits": int(across.sum()),
        "across_classes": int(contradict.sum()),
    }
    for groups, what, remedy in (
        (contradict, "in two classes", "one of the labels is wrong: correct the source"),
        (across, "in two splits", "measured errors are too low: remove them from one split"),
        ((sizes > 1) & ~across & ~contradict, "in one class", "remove the copies if they matter"),
    ):
        chosen = np.flatnonzero(groups)
        if len(chosen):
            listed = [
                " = ".join(catalog.describe(int(index)) for index in order[start : start + 2])
                for start in starts[chosen[:LISTED]]
            ]
            report.warn("duplicates", f"{len(chosen):,} images occur twice, {what}", remedy, listed)


def _differ(values: Indices, starts: Indices) -> NDArray[np.bool_]:
    """Return for each group of neighbours whether its values differ."""
    if not len(starts):
        return np.zeros(0, np.bool_)
    lowest, highest = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return np.asarray(lowest != highest)


def _report_similar(
    catalog: Catalog, signatures: Signatures, good: Indices, report: Report, progress: Progress
) -> None:
    """Report near-duplicates: scaled, compressed or brightened copies."""
    pairs = similar_pairs(signatures, MAX_PAIRS)
    pairs = pairs[np.isin(pairs, good).all(axis=1)]
    similar = []
    with progress.task("similar images", len(pairs), "pairs") as advance:
        step = max(1, BATCH_BYTES // (6 * catalog.dataset.size**2))
        for first in range(0, len(pairs), step):
            some = pairs[first : first + step]
            similar.append(some[are_similar(catalog.read(some[:, 0]), catalog.read(some[:, 1]))])
            advance(len(some))
    found = np.concatenate(similar) if similar else pairs[:0]
    across = found[catalog.split_of[found[:, 0]] != catalog.split_of[found[:, 1]]]
    report.facts["similar"] = {"pairs": len(found), "across_splits": len(across)}
    if len(found):
        listed = np.concatenate([across, found])[:LISTED]
        report.warn(
            "duplicates",
            f"{len(found):,} pairs of images are near-duplicates, {len(across):,} across splits",
            "check them: copies of training images make validation errors too low",
            [" ~ ".join(catalog.describe(int(index)) for index in pair) for pair in listed],
        )
