"""A packed data set, examined: its files, its counts, its names, and then every image."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alexnet.dataset import MANIFEST, Dataset, Split, read_manifest
from alexnet.doctor.contents import examine_images
from alexnet.doctor.files import Expected, wrong_files
from alexnet.doctor.findings import Notebook, told
from alexnet.doctor.published import compare_counts, published_counts
from alexnet.prepare.manifest import fingerprint
from alexnet.progress import Progress
from alexnet.storage.untrusted import parse_json

AGAIN = "prepare the data set again"
MAX_IMBALANCE = 10
"""How many times as large as the smallest class the largest may be without a word."""
MAX_REJECTED = 0.01


def examine_dataset(path: Path, book: Notebook, progress: Progress) -> None:
    """Examine the packed data set at `path` and write down what is found."""
    try:
        info = read_manifest(path)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the person asked for
        book.damage("manifest", told(error, path / MANIFEST), AGAIN)
        return
    whole = _check_files(path, info, book, progress)
    try:
        dataset = Dataset(path)
    except Exception as error:  # noqa: BLE001 - as above
        book.damage("structure", told(error, path / MANIFEST), AGAIN)
        return
    if not _check_manifest(dataset, book):
        return
    _check_counts(dataset, book)
    readable = {name for name in dataset.split_names if _check_names(dataset, name, book)}
    examine_images(dataset, book, progress, count_mean=whole, named=readable)


def listed_files(content: Any) -> Iterator[dict[str, Any]]:
    """Yield whatever in a manifest stands for a file: an object with file, bytes and sha256."""
    if isinstance(content, dict):
        if {"file", "bytes", "sha256"} <= content.keys():
            yield content
        for value in content.values():
            yield from listed_files(value)
    if isinstance(content, list):
        for value in content:
            yield from listed_files(value)


def _check_files(path: Path, info: dict[str, Any], book: Notebook, progress: Progress) -> bool:
    """Compare every file with the manifest, and the folder with the list; tell if all agree."""
    expected, names = [], {MANIFEST}
    for file in listed_files(info):
        name = str(file["file"])
        size = file["bytes"] if isinstance(file["bytes"], int) else None
        if Path(name).name == name:  # others are refused when the data set is opened
            names.add(name)
            expected.append(Expected(path / name, str(file["sha256"]), size))
    wrong = wrong_files(expected, "sha256", progress)
    if wrong:
        listed = [f"{file.name}: {problem}" for file, problem in wrong.items()]
        book.damage(
            "checksums",
            f"{len(wrong):,} of {len(expected):,} files are not as they were written",
            f"{AGAIN}, or copy these files again from where they are whole",
            listed,
        )
    extra = sorted(entry.name for entry in path.iterdir() if entry.name not in names)
    if extra:
        book.note("files", f"not of the data set: {', '.join(extra[:5])} ({len(extra):,} in all)")
    book.facts["files"] = len(expected)
    book.facts["bytes"] = sum(file.bytes or 0 for file in expected)
    return not wrong


def _check_manifest(dataset: Dataset, book: Notebook) -> bool:
    """Look for what opening a data set does not; tell if the rest can be looked at."""
    try:
        agrees = fingerprint(dataset.info) == dataset.fingerprint
    except (KeyError, TypeError, ValueError):
        agrees = False
    if not agrees:
        book.damage(
            "manifest",
            f"{MANIFEST} was changed: the fingerprint is not that of its classes, labels and "
            "shards",
            AGAIN,
        )
    classes, titles = dataset.classes, dataset.titles
    if not all(isinstance(name, str) and name for name in [*classes, *titles]):
        book.damage("classes", "some classes have no name", AGAIN)
        return False
    if len(titles) != len(classes):
        book.damage("classes", f"{len(titles):,} titles for {len(classes):,} classes", AGAIN)
    if twice := sorted({key for key in classes if classes.count(key) > 1}):
        book.damage("classes", "classes stand in the list twice", AGAIN, twice)
    elif classes != sorted(classes):
        book.warn("classes", "the classes are not in sorted order", "compare with their source")
    alike = sorted({title for title in titles if titles.count(title) > 1})
    if alike:
        book.note(
            "classes",
            f"{len(alike):,} names stand for two classes ({', '.join(alike[:5])}): go by the keys",
        )
    return True


def _check_counts(dataset: Dataset, book: Notebook) -> None:
    """Look at how the images are spread over splits and classes."""
    splits = dataset.info["splits"]
    per_class = {name: splits[name]["per_class"] for name in dataset.split_names}
    book.facts["splits"] = {
        name: _balance(dataset.classes, counts) for name, counts in per_class.items()
    }
    for name, counts in per_class.items():
        empty = [key for key, n in zip(dataset.classes, counts, strict=True) if not n]
        if empty:
            book.warn(
                "balance",
                f"{name} has no image of {len(empty):,} of {len(counts):,} classes",
                "errors there say nothing of these classes",
                empty,
            )
        elif max(counts) > MAX_IMBALANCE * min(counts):
            book.warn(
                "balance",
                f"{name}: the largest class has {max(counts):,} images, the smallest {min(counts)}",
                "collect more of the small classes, and look at the errors per class",
            )
    for missing in {"train", "val"} - set(per_class):
        book.note("splits", f"there is no {missing} split")
    rejected, kept = dataset.info["rejects"]["count"], sum(map(sum, per_class.values()))
    book.facts["rejects"] = rejected
    if isinstance(rejected, int) and rejected > MAX_REJECTED * (rejected + kept):
        book.warn(
            "rejects",
            f"{rejected:,} of {rejected + kept:,} images could not be used",
            f"see {dataset.path}/rejects.jsonl",
        )
    provenance = dataset.info.get("provenance", {})
    known = published_counts(dataset.classes, provenance.get("source_kind"))
    if known:
        drawn = "val" not in known.images or _was_drawn(per_class, known.images["train"])
        compare_counts(known, per_class, book, drawn=drawn)


def _was_drawn(per_class: dict[str, Sequence[int]], train: int) -> bool:
    """Tell whether the validation images were taken from the training images."""
    return sum(per_class.get("train", ())) + sum(per_class.get("val", ())) == train


def _balance(classes: Sequence[str], counts: Sequence[int]) -> dict[str, Any]:
    smallest, largest = min(counts), max(counts)
    return {
        "images": sum(counts),
        "classes": sum(count > 0 for count in counts),
        "smallest_class": {"class": classes[counts.index(smallest)], "images": smallest},
        "largest_class": {"class": classes[counts.index(largest)], "images": largest},
    }


def _check_names(dataset: Dataset, split_name: str, book: Notebook) -> bool:
    """Compare each image's name with its label; tell whether there is a name for each image.

    The class folder stands in the name where the source had one. Names that have another class in
    them, and not their own, were given a wrong label.
    """
    split = dataset.split(split_name)
    keys, count, before = set(dataset.classes), 0, ""
    wrong, twins = list[str](), list[str]()
    try:
        for number, name in enumerate(_names(dataset, split_name)):
            if number < len(split):
                label = dataset.classes[int(split.labels[number])]
                parts = set(name.split("/"))
                if parts & keys and label not in parts:
                    wrong.append(f"{name} is labelled {label}")
            if name == before:  # they are in order
                twins.append(name)
            before, count = name, count + 1
    except (OSError, ValueError) as error:
        book.damage("names", f"the names of {split_name} cannot be read ({error})", AGAIN)
        return False
    if count != len(split):
        book.damage("names", f"{split_name} has {len(split):,} images, {count:,} names", AGAIN)
    if wrong:
        what = f"{len(wrong):,} images of {split_name} have a label that contradicts their name"
        book.damage("labels", what, AGAIN, wrong)
    if twins:
        what = f"{len(twins):,} names of {split_name} stand for two images"
        book.warn("names", what, "look whether these images are there twice", twins)
    _check_order(split, book)
    return count == len(split)


def _names(dataset: Dataset, split_name: str) -> Iterator[str]:
    path = dataset.path / dataset.info["splits"][split_name]["names"]["file"]
    with path.open("rb") as file:
        for line in file:
            name = parse_json(line)
            if not isinstance(name, str):
                raise ValueError(f"{name!r} is no name")
            yield name


def _check_order(split: Split, book: Notebook) -> None:
    labels = split.labels
    if (labels[1:] < labels[:-1]).any():
        book.warn(
            "labels",
            f"{split.split_name} is not in the order of its classes, as prepare writes it",
            "compare some images with their labels",
        )
