"""Published numbers of images of ImageNet and CIFAR-10, and ImageNet's published archives."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet.doctor.checksums import Expected, wrong_files
from alexnet.doctor.findings import Report
from alexnet.errors import AlexnetError
from alexnet.prepare.sources.imagenet import TRAIN, VAL, ImageNetSource, find_devkit
from alexnet.prepare.sources.labels import DEVKIT, ValLabels
from alexnet.progress import Progress

# The MD5 sums of image-net.org; torchvision's ImageNet class checks the same.
ARCHIVES = {
    TRAIN: "1d675b47d978889d74fa0da5fadfb00e",
    VAL: "29b22e2961454d5413ddabcf34fc5622",
    f"{DEVKIT}.tar.gz": "fa75699e90414af021442c21a62c3abf",
}
_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Counts:
    """The numbers of images of a published data set, in all and in each class."""

    name: str
    images: Mapping[str, int]
    per_class: Mapping[str, tuple[int, int]]
    """Fewest and most, where they are published."""


# Russakovsky et al. 2015, table 2. The labels of the test images were never published.
IMAGENET = Counts(
    "ILSVRC-2012",
    {"train": 1_281_167, "val": 50_000, "test": 100_000},
    {"train": (732, 1300), "val": (50, 50)},
)
# Krizhevsky 2009: 6,000 images of each class, a sixth of them for testing.
CIFAR10 = Counts(
    "CIFAR-10", {"train": 50_000, "test": 10_000}, {"train": (5000, 5000), "test": (1000, 1000)}
)


def published_counts(classes: Sequence[str], source_kind: object) -> Counts | None:
    """Recognise ImageNet by its thousand WordNet ids, CIFAR-10 by the kind of its source."""
    if len(classes) == 1000 and all(map(_WNID.fullmatch, classes)):
        return IMAGENET
    return CIFAR10 if source_kind == "cifar10" and len(classes) == 10 else None


def compare_counts(
    known: Counts, per_class: Mapping[str, Sequence[int]], report: Report, *, drawn: bool
) -> None:
    """Compare the images of each split with the published numbers.

    `drawn` says that the validation images were taken from the published training images.
    """
    counts = {split: list(numbers) for split, numbers in per_class.items()}
    if drawn and "val" in counts and "train" in counts:
        counts["train"] = [a + b for a, b in zip(counts["train"], counts.pop("val"), strict=True)]
    for split, numbers in counts.items():
        expected, found = known.images.get(split), sum(numbers)
        if expected is None:
            continue
        fewest, most = known.per_class.get(split, (0, expected))
        if found != expected or min(numbers) < fewest or max(numbers) > most:
            limits = f"{fewest:,} to {most:,}" if fewest != most else f"{fewest:,}"
            report.warn(
                "published counts",
                f"{split} has {found:,} images, {min(numbers):,} to {max(numbers):,} in a class; "
                f"{known.name} has {expected:,}, {limits} in a class",
                "results are not comparable with published ones; see rejects.jsonl for rejected "
                "images, or prepare from the complete archives",
            )
        else:
            report.note("published counts", f"{split} has the {expected:,} images of {known.name}")


def find_archives(folder: Path) -> list[Path]:
    """List ImageNet's archives in a folder."""
    return [folder / name for name in ARCHIVES if (folder / name).is_file()]


def examine_archives(folder: Path, report: Report, progress: Progress) -> None:
    """Check the MD5 of ImageNet's archives in `folder`, and count their members."""
    found = find_archives(folder)
    missing = [name for name in ARCHIVES if folder / name not in found]
    if missing:
        report.note("archives", f"{folder} has no {', '.join(missing)}")
    wrong = wrong_files([Expected(path, ARCHIVES[path.name]) for path in found], "md5", progress)
    for path, problem in wrong.items():
        report.damage(
            "archives",
            f"{path} is not the published archive: {problem}",
            "download it again from image-net.org",
        )
    report.facts["archives"] = {path.name: path not in wrong for path in found}
    if any(path.name.endswith(".tar") for path in found):
        _count_members(folder, report, progress)


def _count_members(folder: Path, report: Report, progress: Progress) -> None:
    """Index the archives as `prepare` does, which finds truncated ones."""
    train, val = (folder / name for name in (TRAIN, VAL))
    devkit = find_devkit(folder)
    source = ImageNetSource(
        str(folder),
        train if train.is_file() else None,
        val if val.is_file() and devkit else None,  # the devkit has their classes
        ValLabels(None, devkit),
    )
    counts: dict[str, dict[str, int]] = {}
    try:
        for item in source.listing(progress).items:
            classes = counts.setdefault(item.split, {})
            classes[item.label] = classes.get(item.label, 0) + 1
    except AlexnetError as error:
        report.damage("archives", str(error), "download the archive again")
        return
    report.facts["members"] = {split: sum(numbers.values()) for split, numbers in counts.items()}
    per_class = {split: list(numbers.values()) for split, numbers in counts.items()}
    compare_counts(IMAGENET, per_class, report, drawn=False)
