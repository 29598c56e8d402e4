"""What is published about the data sets of the literature: how many images, which archives."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet.doctor.files import Expected, wrong_files
from alexnet.doctor.findings import Notebook
from alexnet.errors import AlexnetError
from alexnet.prepare.sources.imagenet import TRAIN, VAL, ImageNetSource, find_devkit
from alexnet.prepare.sources.labels import DEVKIT, ValLabels
from alexnet.progress import Progress

# As image-net.org offers them, by MD5; torchvision's ImageNet class checks the same.
ARCHIVES = {
    TRAIN: "1d675b47d978889d74fa0da5fadfb00e",
    VAL: "29b22e2961454d5413ddabcf34fc5622",
    f"{DEVKIT}.tar.gz": "fa75699e90414af021442c21a62c3abf",
}
_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Counts:
    """How many images a published data set has, in all and in each class."""

    name: str
    images: Mapping[str, int]
    per_class: Mapping[str, tuple[int, int]]
    """Fewest and most, where that is published."""


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
    """Recognise ImageNet by its thousand WordNet ids, CIFAR-10 by the archive that was read."""
    if len(classes) == 1000 and all(map(_WNID.fullmatch, classes)):
        return IMAGENET
    return CIFAR10 if source_kind == "cifar10" and len(classes) == 10 else None


def compare_counts(
    known: Counts, per_class: Mapping[str, Sequence[int]], book: Notebook, *, drawn: bool
) -> None:
    """Compare the images of each split with what is published; `drawn`: val is a part of train."""
    counts = {split: list(numbers) for split, numbers in per_class.items()}
    if drawn and "val" in counts and "train" in counts:
        counts["train"] = [a + b for a, b in zip(counts["train"], counts.pop("val"), strict=True)]
    for split, numbers in counts.items():
        wanted, found = known.images.get(split), sum(numbers)
        if wanted is None:
            continue
        fewest, most = known.per_class.get(split, (0, wanted))
        if found != wanted or min(numbers) < fewest or max(numbers) > most:
            limits = f"{fewest:,} to {most:,}" if fewest != most else f"{fewest:,}"
            book.warn(
                "published counts",
                f"{split} has {found:,} images, {min(numbers):,} to {max(numbers):,} in a class; "
                f"{known.name} has {wanted:,}, {limits} in a class",
                "results are not comparable with published ones; rejects.jsonl lists what was left "
                "out, else prepare from the whole archives",
            )
        else:
            book.note("published counts", f"{split} has the {wanted:,} images of {known.name}")


def find_archives(folder: Path) -> list[Path]:
    """List which of ImageNet's archives lie in a folder."""
    return [folder / name for name in ARCHIVES if (folder / name).is_file()]


def examine_archives(folder: Path, book: Notebook, progress: Progress) -> None:
    """Check ImageNet's archives in `folder`: their MD5, and that their members can be counted."""
    found = find_archives(folder)
    missing = [name for name in ARCHIVES if folder / name not in found]
    if missing:
        book.note("archives", f"{folder} has no {', '.join(missing)}")
    wrong = wrong_files([Expected(path, ARCHIVES[path.name]) for path in found], "md5", progress)
    for path, problem in wrong.items():
        book.damage(
            "archives",
            f"{path} is not the published archive: {problem}",
            "fetch it again from image-net.org",
        )
    book.facts["archives"] = {path.name: path not in wrong for path in found}
    if any(path.name.endswith(".tar") for path in found):
        _count_members(folder, book, progress)


def _count_members(folder: Path, book: Notebook, progress: Progress) -> None:
    """Index the archives as `prepare` does, which finds those that are cut off."""
    train, val = (folder / name for name in (TRAIN, VAL))
    devkit = find_devkit(folder)
    source = ImageNetSource(
        str(folder),
        train if train.is_file() else None,
        val if val.is_file() and devkit else None,  # without the devkit they have no classes
        ValLabels(None, devkit),
    )
    counts: dict[str, dict[str, int]] = {}
    try:
        for item in source.listing(progress).items:
            classes = counts.setdefault(item.split, {})
            classes[item.label] = classes.get(item.label, 0) + 1
    except AlexnetError as error:
        book.damage("archives", str(error), "fetch the archive again")
        return
    book.facts["members"] = {split: sum(numbers.values()) for split, numbers in counts.items()}
    per_class = {split: list(numbers.values()) for split, numbers in counts.items()}
    compare_counts(IMAGENET, per_class, book, drawn=False)
