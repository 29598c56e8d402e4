"""The packed data set: a folder of plain files that opens at once and reads at random.

docs/dataset.md describes every file; ten lines of NumPy read it without this package.
`alexnet.storage.dataset_manifest` checks the files.
"""

from collections.abc import Sequence
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import DataError, UsageError
from alexnet.images import ORIENTATIONS, Orientation, Pixels
from alexnet.images.decode import RESIZES, ImageError, Resize, decode_jpeg
from alexnet.progress import SILENT, Progress
from alexnet.storage import dataset_manifest as manifest
from alexnet.storage.atomic import expanded, sha256_of
from alexnet.storage.dataset_manifest import AGAIN, MANIFEST, Facts
from alexnet.storage.untrusted import parse_json

CHOICES = {"store": ("raw", "jpeg"), "resize": RESIZES, "orientation": ORIENTATIONS}
"""What these entries of dataset.json may be."""

Labels = NDArray[np.int64]
Indices = NDArray[np.int64] | Sequence[int]


class Split:
    """The images of one split in their stored order; get it from `Dataset.split`."""

    def __init__(self, dataset: "Dataset", name: str, facts: Facts) -> None:
        folder = dataset.path
        self.split_name = name
        self.labels: Labels = manifest.load_array(folder / facts["labels"]["file"])
        self._side = dataset.size
        self._names_file = folder / facts["names"]["file"]
        self._line_starts: Labels | None = None
        self._shards = [folder / shard["file"] for shard in facts["shards"]]
        # Image i lies in the shard s with _starts[s] <= i < _starts[s + 1].
        self._starts = np.cumsum([0] + [shard["images"] for shard in facts["shards"]])
        manifest.check_labels(folder, name, facts, self.labels, len(dataset.classes))
        self._index: Labels | None = None
        if dataset.store == "jpeg":
            path = folder / facts["index"]["file"]
            self._index = manifest.load_array(path)
            manifest.check_index(path, facts, self._index, self._shard_of(np.arange(len(self))))
        else:
            self._headers = [
                manifest.header_bytes(
                    folder / shard["file"], (shard["images"], self._side, self._side, 3)
                )
                for shard in facts["shards"]
            ]
        manifest.check_digests(folder, facts)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Indices) -> Pixels:
        """Return the images at `indices`, in that order: (B, S, S, 3) uint8 RGB. Thread-safe."""
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"split {self.split_name} has {len(self)} images")
        images = np.empty((len(wanted), self._side, self._side, 3), np.uint8)
        shards = self._shard_of(wanted)
        for shard in np.unique(shards).tolist():
            # Opened anew each time: ImageNet has more shards than a process may hold open, and
            # unlike a memory map a read notices a file that was truncated meanwhile.
            try:
                with self._shards[shard].open("rb", buffering=0) as file:
                    for row in np.flatnonzero(shards == shard).tolist():
                        self._read_one(file, shard, int(wanted[row]), images[row])
            except OSError as error:
                raise DataError(f"{self._shards[shard]}: {error.strerror}; {AGAIN}") from error
        return images

    def name(self, index: int) -> str:
        """Return the name of image `index` in the source."""
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
            line = f"{self._names_file}: line {index + 1}"
            raise DataError(f"{line} is no name ({error}); {AGAIN}") from error

    def _shard_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        shards: NDArray[np.int64] = np.searchsorted(self._starts, indices, side="right") - 1
        return shards

    def _read_one(self, file: FileIO, shard: int, index: int, out: Pixels) -> None:
        """Read image `index` from its open shard into `out` (S, S, 3)."""
        if self._index is None:
            first = int(self._starts[shard])
            file.seek(self._headers[shard] + (index - first) * out.nbytes)
            if file.readinto(out.data) != out.nbytes:
                raise DataError(f"{file.name}: cut off since it was opened; {AGAIN}")
            return
        _, offset, length = self._index[index].tolist()
        file.seek(offset)
        try:
            out[:] = decode_jpeg(file.read(length))
        except (ImageError, ValueError) as error:
            image = f"{file.name}: image {index} of split {self.split_name}"
            raise DataError(f"{image} does not decode ({error}); {AGAIN}") from error


class Dataset:
    """A packed data set, opened: checks the structure, reads no image.

    `size` is the side of the images, `resize` how they became squares ("short" or "warp"),
    `orientation` whether their EXIF tags turned them ("turn" or "ignore"), `store` "raw" or "jpeg",
    `classes` the names in the order of the labels and `titles` their display names, `rejects` the
    number of images left out. `mean_image` is (S, S, 3) float32; `color_std` (3,) and
    `color_vectors` (3, 3, one vector per column) describe the colours of the training pixels in
    units of 0-255.
    Raises `DataError` with what is wrong and what to do.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = expanded(path)
        self.info = manifest.read_manifest(self.path)
        try:
            self._open()
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise DataError(f"{self.path / MANIFEST}: malformed ({error!r}); {AGAIN}") from error

    def _open(self) -> None:
        info = self.info
        self.size: int = info["size"]
        self.resize: Resize = info["resize"]
        self.orientation: Orientation = info.get("orientation", "ignore")
        self.store: str = info["store"]
        self.classes: list[str] = info["classes"]
        self.titles: list[str] = info["titles"]
        self.fingerprint: str = info["fingerprint"]
        self.split_names: list[str] = list(info["splits"])
        self.rejects = int(info["rejects"]["count"])
        manifest.check_choices(self.path, info, CHOICES)
        manifest.check_classes(self.path, self.classes, self.titles)
        manifest.check_files(self.path, info)
        self.color_std = np.array(info["color_std"], np.float64)
        self.color_vectors = np.array(info["color_vectors"], np.float64)
        mean_file = self.path / info["mean_image"]["file"]
        self.mean_image = np.array(manifest.load_array(mean_file))
        if self.mean_image.shape != (self.size, self.size, 3):
            raise DataError(f"{mean_file}: shape {self.mean_image.shape}")
        self._splits = {name: Split(self, name, facts) for name, facts in info["splits"].items()}

    def split(self, name: str) -> Split:
        """Return the split "train", "val" or "test"; raises `UsageError` if there is none."""
        if name not in self._splits:
            raise UsageError(
                f"{self.path} has no split {name!r}; it has {', '.join(self.split_names)}"
            )
        return self._splits[name]

    def verify(self, progress: Progress = SILENT) -> None:
        """Compare every file with its SHA-256. Raises `DataError` for the first that differs."""
        files = list(manifest.listed_files(self.info))
        with progress.task("verify", sum(file["bytes"] for file in files), "bytes") as advance:
            for file in files:
                if sha256_of(self.path / file["file"]) != file["sha256"]:
                    raise DataError(f"{self.path / file['file']}: changed since it was written")
                advance(file["bytes"])
