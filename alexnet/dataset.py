"""The packed data set: a folder of plain files that opens at once and reads at random.

docs/dataset.md describes every file; ten lines of numpy read it without this package.
"""

from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import DataError, UsageError
from alexnet.images.decode import RESIZES, ImageError, Pixels, Resize, decode_jpeg
from alexnet.progress import SILENT, Progress
from alexnet.storage.atomic import sha256_of
from alexnet.storage.untrusted import map_array, parse_json, read_array_header

FORMAT = "alexnet-dataset"
VERSION = 1
MANIFEST = "dataset.json"
STORES = ("raw", "jpeg")

_AGAIN = "prepare the data set again"

Labels = NDArray[np.int64]
Indices = NDArray[np.int64] | Sequence[int]


class Split:
    """The images of one split in their stored order; get it from `Dataset.split`."""

    def __init__(self, dataset: "Dataset", name: str, facts: dict[str, Any]) -> None:
        self.split_name = name
        self.labels: Labels = _load_array(dataset.path / facts["labels"]["file"])
        self._dataset = dataset
        self._names_file = dataset.path / facts["names"]["file"]
        self._line_starts: Labels | None = None
        self._shards = [dataset.path / shard["file"] for shard in facts["shards"]]
        # Image i lies in the shard s with _starts[s] <= i < _starts[s + 1].
        self._starts = np.cumsum([0] + [shard["images"] for shard in facts["shards"]])
        self._index: Labels | None = None
        if dataset.store == "jpeg":
            self._index = _load_array(dataset.path / facts["index"]["file"])
        else:
            self._headers = [
                _header_bytes(dataset, dataset.path / shard["file"], shard["images"])
                for shard in facts["shards"]
            ]
        self._check(facts)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Indices) -> Pixels:
        """Return the images at `indices`, in that order: (B, S, S, 3) uint8 RGB. Thread-safe."""
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"split {self.split_name} has {len(self)} images")
        images = np.empty((len(wanted), *self._dataset.mean_image.shape), np.uint8)
        shards = np.searchsorted(self._starts, wanted, side="right") - 1
        for shard in np.unique(shards).tolist():
            # Opened anew each time: ImageNet has more shards than a process may hold open, and
            # unlike a memory map a read can tell that a file was cut off meanwhile.
            try:
                with self._shards[shard].open("rb", buffering=0) as file:
                    for place in np.flatnonzero(shards == shard).tolist():
                        self._read_one(file, shard, int(wanted[place]), images[place])
            except OSError as error:
                raise DataError(f"{self._shards[shard]}: {error.strerror}; {_AGAIN}") from error
        return images

    def name(self, index: int) -> str:
        """Return what the source called image `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"split {self.split_name} has {len(self)} images")
        if self._line_starts is None:
            ends = np.flatnonzero(np.fromfile(self._names_file, np.uint8) == ord("\n"))
            self._line_starts = np.concatenate([[0], ends + 1])
        try:
            with self._names_file.open("rb") as file:
                file.seek(int(self._line_starts[index]))
                return str(parse_json(file.readline()))
        except (OSError, ValueError, IndexError) as error:
            where = f"{self._names_file}: line {index + 1}"
            raise DataError(f"{where} is no name ({error}); {_AGAIN}") from error

    def _read_one(self, file: FileIO, shard: int, index: int, out: Pixels) -> None:
        """Read image `index` from its open shard into `out` (S, S, 3)."""
        if self._index is None:
            first = int(self._starts[shard])
            file.seek(self._headers[shard] + (index - first) * out.nbytes)
            if file.readinto(out.data) != out.nbytes:
                raise DataError(f"{file.name}: cut off since it was opened; {_AGAIN}")
            return
        _, offset, length = self._index[index].tolist()
        file.seek(offset)
        try:
            out[:] = decode_jpeg(file.read(length))
        except (ImageError, ValueError) as error:
            where = f"{file.name}: image {index} of split {self.split_name}"
            raise DataError(f"{where} does not decode ({error}); {_AGAIN}") from error

    def _check(self, facts: dict[str, Any]) -> None:
        manifest = self._dataset.path / MANIFEST
        count = facts["images"]
        if self._starts[-1] != count or self.labels.shape != (count,):
            raise DataError(
                f"{manifest}: split {self.split_name} does not add up to {count} images"
            )
        if self._index is not None:
            self._check_index(self._dataset.path / facts["index"]["file"], facts)
        classes = len(self._dataset.classes)
        if (
            self.labels.min() < 0
            or self.labels.max() >= classes
            or (np.bincount(self.labels, minlength=classes).tolist() != facts["per_class"])
        ):
            file = self._dataset.path / facts["labels"]["file"]
            raise DataError(f"{file}: labels differ from the counts in {MANIFEST}; {_AGAIN}")
        self._check_digests(facts)

    def _check_digests(self, facts: dict[str, Any]) -> None:
        """Compare what says which image is which with its SHA-256; the shards take too long."""
        for kind in {"labels", "index"} & facts.keys():
            path = self._dataset.path / facts[kind]["file"]
            if sha256_of(path) != facts[kind]["sha256"]:
                raise DataError(f"{path}: changed since it was written; {_AGAIN}")

    def _check_index(self, path: Path, facts: dict[str, Any]) -> None:
        """Refuse places that lie outside of the shards, before anything is read from there."""
        index, count = self._index, facts["images"]
        if index is None or index.shape != (count, 3) or index.dtype.kind not in "iu":
            raise DataError(f"{path}: not {count} rows")
        shards, offsets, lengths = np.asarray(index, np.int64).T
        sizes = np.array([shard["bytes"] for shard in facts["shards"]], np.int64)
        mine = np.searchsorted(self._starts, np.arange(count), side="right") - 1
        inside = (offsets >= 0) & (lengths >= 0) & (lengths <= sizes[mine])
        if not (inside & (shards == mine) & (offsets <= sizes[mine] - lengths)).all():
            raise DataError(f"{path}: images that lie outside of their shards; {_AGAIN}")


class Dataset:
    """A packed data set, opened: checks the structure, reads no image.

    `size` is the side of the images, `resize` how they became squares ("short" or "warp"), `store`
    "raw" or "jpeg", `classes` the keys in the order of the labels and `titles` their names for
    people. `mean_image` is (S, S, 3) float32, `color_std` (3,) and `color_vectors` (3, 3, one
    vector per column) describe the colours of the training pixels in units
    of 0-255. Raises DataError with what is wrong and what to do.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info = read_manifest(self.path)
        try:
            self._open()
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise DataError(f"{self.path / MANIFEST}: malformed ({error!r}); {_AGAIN}") from error

    def _open(self) -> None:
        info = self.info
        self.size: int = info["size"]
        self.resize: Resize = info.get("resize", "short")  # sets from before there was a choice
        self.store: str = info["store"]
        self.classes: list[str] = info["classes"]
        self.titles: list[str] = info["titles"]
        self.fingerprint: str = info["fingerprint"]
        self.split_names: list[str] = list(info["splits"])
        if self.store not in STORES:
            raise DataError(f"{self.path / MANIFEST}: unknown store {self.store!r}")
        if self.resize not in RESIZES:
            raise DataError(f"{self.path / MANIFEST}: unknown resize {self.resize!r}")
        _check_texts(self.path, self.classes, self.titles)
        for file in _files(info):
            _check_size(self.path, file)
        self.color_std = np.array(info["color_std"], np.float64)
        self.color_vectors = np.array(info["color_vectors"], np.float64)
        self.mean_image = np.array(_load_array(self.path / info["mean_image"]["file"]))
        if self.mean_image.shape != (self.size, self.size, 3):
            raise DataError(
                f"{self.path / info['mean_image']['file']}: shape {self.mean_image.shape}"
            )
        self._splits = {name: Split(self, name, facts) for name, facts in info["splits"].items()}

    def split(self, name: str) -> Split:
        """Return a split by its name ("train", "val", "test"); UsageError if there is none."""
        if name not in self._splits:
            raise UsageError(
                f"{self.path} has no split {name!r}; it has {', '.join(self.split_names)}"
            )
        return self._splits[name]

    def verify(self, progress: Progress = SILENT) -> None:
        """Compare every file with its SHA-256; DataError names the first that differs."""
        files = list(_files(self.info))
        with progress.task("verify", sum(file["bytes"] for file in files), "bytes") as advance:
            for file in files:
                if sha256_of(self.path / file["file"]) != file["sha256"]:
                    raise DataError(f"{self.path / file['file']}: changed since it was written")
                advance(file["bytes"])


def read_manifest(path: Path) -> dict[str, Any]:
    """Read `path`/dataset.json and check that it is one of ours; raises DataError."""
    manifest = path / MANIFEST
    try:
        info = parse_json(manifest.read_bytes())
    except OSError as error:
        raise DataError(
            f"{path} is not a packed data set (no readable {MANIFEST}); "
            f"make one with: alexnet prepare SOURCE {path}"
        ) from error
    except ValueError as error:
        raise DataError(f"{manifest}: not JSON ({error}); {_AGAIN}") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise DataError(f"{manifest}: not an {FORMAT}")
    if info.get("version") != VERSION:
        raise DataError(
            f"{manifest}: format version {info.get('version')}, this alexnet reads {VERSION}; "
            "use the alexnet that wrote it or prepare again"
        )
    return info


def _files(info: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every entry of the manifest that stands for a file with "bytes" and "sha256"."""
    yield info["mean_image"]
    yield info["rejects"]
    for split in info["splits"].values():
        yield split["labels"]
        yield split["names"]
        if "index" in split:
            yield split["index"]
        yield from split["shards"]


def _header_bytes(dataset: "Dataset", path: Path, images: int) -> int:
    """Check the header of a raw shard and return its length."""
    try:
        with path.open("rb") as file:
            header = read_array_header(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no .npy file ({error}); {_AGAIN}") from error
    expected = (images, dataset.size, dataset.size, 3)
    if header.shape != expected or header.dtype != np.uint8 or header.is_fortran:
        raise DataError(f"{path}: {header.dtype} of shape {header.shape}; {_AGAIN}")
    return header.offset


def _check_texts(folder: Path, classes: Any, titles: Any) -> None:
    """Refuse classes that are no texts, stand there twice or have no title each."""
    lists = isinstance(classes, list) and isinstance(titles, list)
    if (
        not lists
        or not classes
        or not all(isinstance(text, str) for text in [*classes, *titles])
        or len(set(classes)) != len(classes)
        or len(titles) != len(classes)
    ):
        raise DataError(f"{folder / MANIFEST}: classes and titles that are no names; {_AGAIN}")


def _check_size(folder: Path, facts: dict[str, Any]) -> None:
    name = facts["file"]
    if Path(name).name != name:
        raise DataError(f"{folder / MANIFEST}: {name!r} is not the name of a file")
    try:
        size = (folder / name).stat().st_size
    except OSError as error:
        raise DataError(f"{folder / name}: missing; {_AGAIN}") from error
    if size != facts["bytes"]:
        raise DataError(f"{folder / name}: {size:,} bytes, {facts['bytes']:,} expected; {_AGAIN}")


def _load_array(path: Path) -> NDArray[Any]:
    """Map a .npy file into memory."""
    try:
        return map_array(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {_AGAIN}") from error
