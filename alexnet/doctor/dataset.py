"""Examines a packed data set: its files, counts and names, and then every image."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alexnet.dataset import Dataset, Split
from alexnet.doctor.checksums import Expected, wrong_files
from alexnet.doctor.classes import FolderTally, check_classes
from alexnet.doctor.findings import Report, error_text
from alexnet.doctor.images import examine_images
from alexnet.doctor.published import compare_counts, published_counts
from alexnet.prepare.manifest import fingerprint
from alexnet.progress import Progress
from alexnet.storage.dataset_manifest import MANIFEST, read_manifest
from alexnet.storage.untrusted import parse_json

AGAIN = "prepare the data set again"
MAX_IMBALANCE = 10
"""The largest class may have this many times the images of the smallest without a warning."""
MAX_REJECTED = 0.01
"""The fraction of rejected images without a warning."""
MIN_DEVIATION = 1.0
"""Grey levels: the least standard deviation of the training pixels along their first colour."""
ORIENTATION = "orientation"
"""The key of dataset.json with the rule for photographs that their EXIF tag turns."""
PUBLISHED = ("cifar10", "imagenet")
"""The kinds of sources whose photographs no tag ever turned."""


def examine_dataset(path: Path, report: Report, progress: Progress) -> None:
    """Examine the packed data set at `path` and add what is found to `report`."""
    try:
        info = read_manifest(path)
    except Exception as error:  # noqa: BLE001 - any error is a finding
        report.damage("manifest", error_text(error, path / MANIFEST), AGAIN)
        return
    intact = _check_files(path, info, report, progress)
    try:
        dataset = Dataset(path)
    except Exception as error:  # noqa: BLE001 - any error is a finding
        report.damage("structure", error_text(error, path / MANIFEST), AGAIN)
        return
    if not _check_manifest(dataset, report):
        return
    _check_counts(dataset, report)
    _check_colors(dataset, report)
    _check_orientation(info, report)
    folders = FolderTally()
    names = dataset.split_names
    readable = {name for name in names if _check_names(dataset, name, folders, report)}
    check_classes(dataset.classes, folders, report)
    examine_images(dataset, report, progress, check_mean=intact, named=readable)


def listed_files(content: Any) -> Iterator[dict[str, Any]]:
    """Yield the entries of files in a manifest: objects with file, bytes and sha256."""
    if isinstance(content, dict):
        if {"file", "bytes", "sha256"} <= content.keys():
            yield content
        for value in content.values():
            yield from listed_files(value)
    if isinstance(content, list):
        for value in content:
            yield from listed_files(value)


def _check_files(path: Path, info: dict[str, Any], report: Report, progress: Progress) -> bool:
    """Compare the folder with its manifest; return whether every listed file is intact."""
    expected, names = [], {MANIFEST}
    for file in listed_files(info):
        name = str(file["file"])
        size = file["bytes"] if isinstance(file["bytes"], int) else None
        if Path(name).name == name:  # opening the data set refuses others
            names.add(name)
            expected.append(Expected(path / name, str(file["sha256"]), size))
    wrong = wrong_files(expected, "sha256", progress)
    if wrong:
        listed = [f"{file.name}: {problem}" for file, problem in wrong.items()]
        report.damage(
            "checksums",
            f"{len(wrong):,} of {len(expected):,} files are not as they were written",
            f"{AGAIN}, or copy these files from an intact copy",
            listed,
        )
    extra = sorted(entry.name for entry in path.iterdir() if entry.name not in names)
    if extra:
        names_text = ", ".join(extra[:5])
        report.note("files", f"not part of the data set: {names_text} ({len(extra):,} in all)")
    report.facts["files"] = len(expected)
    report.facts["bytes"] = sum(file.bytes or 0 for file in expected)
    return not wrong


def _check_manifest(dataset: Dataset, report: Report) -> bool:
    """Check what opening a data set does not; return whether the other checks can run."""
    try:
        agrees = fingerprint(dataset.info) == dataset.fingerprint
    except (KeyError, TypeError, ValueError):
        agrees = False
    if not agrees:
        report.damage(
            "manifest",
            f"{MANIFEST} was changed: its fingerprint does not match classes, labels and shards",
            AGAIN,
        )
    classes, titles = dataset.classes, dataset.titles
    if not all(isinstance(name, str) and name for name in [*classes, *titles]):
        report.damage("classes", "some classes have no name", AGAIN)
        return False
    if len(titles) != len(classes):
        report.damage("classes", f"{len(titles):,} titles for {len(classes):,} classes", AGAIN)
    if repeated := sorted({key for key in classes if classes.count(key) > 1}):
        report.damage("classes", "classes are listed twice", AGAIN, repeated)
    elif classes != sorted(classes):
        report.warn("classes", "the classes are not in sorted order", "compare with their source")
    if shared := sorted({title for title in titles if titles.count(title) > 1}):
        text = ", ".join(shared[:5])
        report.note("classes", f"{len(shared):,} titles name two classes ({text}): use the keys")
    return True


def _check_counts(dataset: Dataset, report: Report) -> None:
    """Check the numbers of images in splits and classes."""
    splits = dataset.info["splits"]
    per_class = {name: splits[name]["per_class"] for name in dataset.split_names}
    report.facts["splits"] = {
        name: _balance(dataset.classes, counts) for name, counts in per_class.items()
    }
    _check_balance(dataset.classes, per_class, report)
    _check_rejects(dataset, sum(map(sum, per_class.values())), report)
    provenance = dataset.info.get("provenance", {})
    known = published_counts(dataset.classes, provenance.get("source_kind"))
    if known:
        drawn = "val" not in known.images or _was_drawn(per_class, known.images["train"])
        compare_counts(known, per_class, report, drawn=drawn)


def _check_balance(
    classes: Sequence[str], per_class: dict[str, Sequence[int]], report: Report
) -> None:
    for name, counts in per_class.items():
        empty = [key for key, count in zip(classes, counts, strict=True) if not count]
        if empty:
            report.warn(
                "balance",
                f"{name} has no image of {len(empty):,} of {len(counts):,} classes",
                "errors on it do not include these classes",
                empty,
            )
        elif max(counts) > MAX_IMBALANCE * min(counts):
            report.warn(
                "balance",
                f"{name}: the largest class has {max(counts):,} images, the smallest {min(counts)}",
                "collect more images of the small classes, and check the errors per class",
            )
    for name in ("train", "val"):
        if name not in per_class:
            report.note("splits", f"there is no {name} split")


def _check_rejects(dataset: Dataset, images: int, report: Report) -> None:
    rejected = report.facts["rejects"] = dataset.rejects
    if rejected > MAX_REJECTED * (rejected + images):
        report.warn(
            "rejects",
            f"{rejected:,} of {rejected + images:,} images could not be used",
            f"see {dataset.path}/rejects.jsonl",
        )


def _was_drawn(per_class: dict[str, Sequence[int]], train: int) -> bool:
    """Return whether the validation images were taken from the training images."""
    return sum(per_class.get("train", ())) + sum(per_class.get("val", ())) == train


def _balance(classes: Sequence[str], counts: Sequence[int]) -> dict[str, Any]:
    smallest, largest = min(counts), max(counts)
    return {
        "images": sum(counts),
        "classes": sum(count > 0 for count in counts),
        "smallest_class": {"class": classes[counts.index(smallest)], "images": smallest},
        "largest_class": {"class": classes[counts.index(largest)], "images": largest},
    }


def _check_colors(dataset: Dataset, report: Report) -> None:
    deviation = float(dataset.color_std.max())
    if not deviation >= MIN_DEVIATION:
        report.damage(
            "colours",
            f"the training images have no spread of colours: color_std is {deviation:.3g}",
            "compare the images with their files; prepare again, which scales 16-bit values",
        )


def _check_orientation(info: dict[str, Any], report: Report) -> None:
    """Report the rule for the EXIF orientation, which the pixels do not show."""
    rule = report.facts["orientation"] = info.get(ORIENTATION)
    if rule is None and info.get("provenance", {}).get("source_kind") not in PUBLISHED:
        report.note(
            "orientation",
            f"{MANIFEST} has no rule for turned photographs: earlier versions ignored the EXIF "
            "orientation, so portrait ones may lie on their side; prepare again to turn them",
        )


def _check_names(dataset: Dataset, split_name: str, folders: FolderTally, report: Report) -> bool:
    """Compare each image's name with its label; return whether each image has a name.

    Names contain the class folder where the source had one. An image whose name contains another
    class but not its own has a wrong label.
    """
    split = dataset.split(split_name)
    keys, count, before = set(dataset.classes), 0, ""
    wrong, repeated = list[str](), list[str]()
    try:
        for number, name in enumerate(_names(dataset, split_name)):
            if number < len(split):
                label = dataset.classes[int(split.labels[number])]
                parts = name.split("/")
                folders.add(label, parts)
                if label not in parts and not keys.isdisjoint(parts):
                    wrong.append(f"{name} is labelled {label}")
            if name == before:  # names are sorted
                repeated.append(name)
            before, count = name, count + 1
    except (OSError, ValueError) as error:
        report.damage("names", f"the names of {split_name} cannot be read ({error})", AGAIN)
        return False
    if count != len(split):
        report.damage("names", f"{split_name} has {len(split):,} images, {count:,} names", AGAIN)
    if wrong:
        what = f"{len(wrong):,} images of {split_name} have a label that contradicts their name"
        report.damage("labels", what, AGAIN, wrong)
    if repeated:
        what = f"{len(repeated):,} names of {split_name} are used for two images"
        report.warn("names", what, "check whether these images are duplicates", repeated)
    _check_order(split, report)
    return count == len(split)


def _names(dataset: Dataset, split_name: str) -> Iterator[str]:
    path = dataset.path / dataset.info["splits"][split_name]["names"]["file"]
    with path.open("rb") as file:
        for line in file:
            name = parse_json(line)
            if not isinstance(name, str):
                raise ValueError(f"{name!r} is not a name")
            yield name


def _check_order(split: Split, report: Report) -> None:
    labels = split.labels
    if (labels[1:] < labels[:-1]).any():
        report.warn(
            "labels",
            f"{split.split_name} is not sorted by class, as prepare writes it",
            "compare some images with their labels",
        )
