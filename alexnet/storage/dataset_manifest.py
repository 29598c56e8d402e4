"""The checks of a packed data set's files, before anything is read from them.

dataset.json and its arrays may be damaged, or come from a stranger. Every function raises
`DataError` that says what is wrong and what to do.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import DataError
from alexnet.storage.atomic import sha256_of
from alexnet.storage.folders import DATASET, is_dataset, not_a_dataset
from alexnet.storage.untrusted import map_array, parse_json, read_array_header

FORMAT = "alexnet-dataset"
VERSION = 1
MANIFEST = DATASET

AGAIN = "prepare the data set again"

Facts = dict[str, Any]
"""What dataset.json says of the data set, a split or a file."""


def read_manifest(path: Path) -> Facts:
    """Read `path`/dataset.json and check that it is one of ours."""
    manifest = path / MANIFEST
    try:
        info = parse_json(manifest.read_bytes())
    except OSError as error:
        problem = f"{manifest}: {error.strerror}" if is_dataset(path) else not_a_dataset(path)
        raise DataError(problem) from error
    except ValueError as error:
        raise DataError(f"{manifest}: not JSON ({error}); {AGAIN}") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise DataError(f"{manifest}: not an {FORMAT}")
    if info.get("version") != VERSION:
        raise DataError(
            f"{manifest}: format version {info.get('version')}, this alexnet reads {VERSION}; "
            "use the alexnet that wrote it or prepare again"
        )
    return info


def listed_files(info: Facts) -> Iterator[Facts]:
    """Yield the manifest's entry of every file, with "file", "bytes" and "sha256"."""
    yield info["mean_image"]
    yield info["rejects"]
    for split in info["splits"].values():
        yield split["labels"]
        yield split["names"]
        if "index" in split:
            yield split["index"]
        yield from split["shards"]


def load_array(path: Path) -> NDArray[Any]:
    """Map a .npy file into memory."""
    try:
        return map_array(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {AGAIN}") from error


def header_bytes(path: Path, shape: tuple[int, ...]) -> int:
    """Check that a raw shard is a uint8 array of `shape`; return the length of its header."""
    try:
        with path.open("rb") as file:
            header = read_array_header(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no .npy file ({error}); {AGAIN}") from error
    if header.shape != shape or header.dtype != np.uint8 or header.is_fortran:
        raise DataError(f"{path}: {header.dtype} of shape {header.shape}; {AGAIN}")
    return header.offset


def check_files(folder: Path, info: Facts) -> None:
    """Check that every listed file lies in `folder` and has its size."""
    for facts in listed_files(info):
        name = facts["file"]
        if Path(name).name != name:
            raise DataError(f"{folder / MANIFEST}: {name!r} is not the name of a file")
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            raise DataError(f"{folder / name}: missing; {AGAIN}") from error
        if size != facts["bytes"]:
            raise DataError(
                f"{folder / name}: {size:,} bytes, {facts['bytes']:,} expected; {AGAIN}"
            )


def check_choices(folder: Path, info: Facts, choices: Mapping[str, Sequence[str]]) -> None:
    """Check that each named entry of dataset.json, if it is there, is one of its choices."""
    for name, values in choices.items():
        if name in info and info[name] not in values:
            raise DataError(f"{folder / MANIFEST}: unknown {name} {info[name]!r}")


def check_spread(folder: Path, color_std: NDArray[np.float64]) -> None:
    """Check that the training images have more than one colour, as training needs."""
    if not color_std.max() > 0:
        raise DataError(
            f"{folder}: all pixels of the training images have the same colour, so there is "
            "nothing to learn; compare the images with their files, and prepare again"
        )


def check_classes(folder: Path, classes: Any, titles: Any) -> None:
    """Check that classes are different texts with a display name each."""
    lists = isinstance(classes, list) and isinstance(titles, list)
    if (
        not lists
        or not classes
        or not all(isinstance(text, str) for text in [*classes, *titles])
        or len(set(classes)) != len(classes)
        or len(titles) != len(classes)
    ):
        raise DataError(f"{folder / MANIFEST}: classes and titles that are no names; {AGAIN}")


def check_labels(folder: Path, name: str, facts: Facts, labels: NDArray[Any], classes: int) -> None:
    """Check that the labels of a split agree with the counts in its manifest."""
    count = facts["images"]
    if labels.shape != (count,) or sum(shard["images"] for shard in facts["shards"]) != count:
        raise DataError(f"{folder / MANIFEST}: split {name} does not add up to {count} images")
    if (
        labels.min() < 0
        or labels.max() >= classes
        or np.bincount(labels, minlength=classes).tolist() != facts["per_class"]
    ):
        file = folder / facts["labels"]["file"]
        raise DataError(f"{file}: labels differ from the counts in {MANIFEST}; {AGAIN}")


def check_index(path: Path, facts: Facts, index: NDArray[Any], shard_of: NDArray[np.int64]) -> None:
    """Check that each image of an index (N, 3: shard, offset, length) lies inside its shard."""
    count = facts["images"]
    if index.shape != (count, 3) or index.dtype.kind not in "iu":
        raise DataError(f"{path}: not {count} rows")
    shards, offsets, lengths = np.asarray(index, np.int64).T
    sizes = np.array([shard["bytes"] for shard in facts["shards"]], np.int64)[shard_of]
    inside = (offsets >= 0) & (lengths >= 0) & (lengths <= sizes)
    if not (inside & (shards == shard_of) & (offsets <= sizes - lengths)).all():
        raise DataError(f"{path}: images that lie outside of their shards; {AGAIN}")


def check_digests(folder: Path, facts: Facts) -> None:
    """Compare labels and index with their SHA-256; the shards would take too long."""
    for kind in {"labels", "index"} & facts.keys():
        path = folder / facts[kind]["file"]
        if sha256_of(path) != facts[kind]["sha256"]:
            raise DataError(f"{path}: changed since it was written; {AGAIN}")
