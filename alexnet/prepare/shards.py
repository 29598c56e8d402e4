"""Write one shard of a packed data set: read, decode, resize and store up to 1,024 images."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from alexnet.images import Orientation, Pixels
from alexnet.images.decode import (
    ImageError,
    Resize,
    decode_jpeg,
    encode_jpeg,
    load_square,
    square_pixels,
)
from alexnet.prepare.sources.base import Item, Source
from alexnet.prepare.statistics import ColorSums
from alexnet.storage.atomic import sha256_of, sync

IMAGES_PER_SHARD = 1024
_NPY_HEADER_BYTES = 128
_REPORT_EVERY = 16  # images
_MAX_BUFFER_BYTES = 4 * 2**20
_MANY = 64  # images for which loading the compiled code pays off: see `load_square`

OnProgress = Callable[[int, Sequence[tuple[str, str]]], None]
"""Gets the images processed since the last call, and names and reasons of the rejected ones."""


@dataclass(frozen=True)
class ShardTask:
    """The work for one shard: images `items`, numbered from `first` in their split."""

    name: str  # "train-00003"
    items: Sequence[Item]
    first: int
    size: int
    store: str  # "raw" or "jpeg"
    path: Path  # the temporary file to write
    resize: Resize = "short"
    orientation: Orientation = "ignore"

    @property
    def file(self) -> str:
        """Return the name of the finished file."""
        return f"{self.name}.{'npy' if self.store == 'raw' else 'tar'}"


@dataclass(frozen=True)
class ShardResult:
    """The finished file of a shard, and which items of its task are in it."""

    name: str
    file: str
    bytes: int
    sha256: str
    accepted: NDArray[np.int64]  # positions in the task's items
    extents: NDArray[np.int64]  # (n, 2): offset and length of each JPEG; (0, 2) for raw
    rejects: Sequence[tuple[int, str]]  # position, reason
    sums: ColorSums

    def save(self, path: Path) -> None:
        """Write the result to a file, completely or not at all."""
        facts = {
            name: getattr(self, name) for name in ("name", "file", "bytes", "sha256", "rejects")
        }
        sums = self.sums
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as out:
            np.savez(
                out,
                facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
                accepted=self.accepted,
                extents=self.extents,
                values=sums.values,
                products=sums.products,
                images=np.int64(sums.images),
            )
            sync(out)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "ShardResult":
        """Read a file written by `save`; any exception means that it is unusable."""
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            facts = json.loads(saved["facts"].tobytes())
            facts["rejects"] = [(position, reason) for position, reason in facts["rejects"]]
            sums = ColorSums(int(saved["images"]), saved["values"], saved["products"])
            return cls(**facts, accepted=saved["accepted"], extents=saved["extents"], sums=sums)


def write_shard(source: Source, task: ShardTask, report: OnProgress) -> ShardResult:
    """Write `task.path` and call `report` after every few images.

    Unusable images are left out and listed in the result. Other errors are raised.
    """
    accepted, rejects = list[int](), list[tuple[int, str]]()
    sums = ColorSums.empty(task.size, few=True)
    many = len(task.items) >= _MANY
    buffer = min(_MAX_BUFFER_BYTES, _REPORT_EVERY * task.size**2 * 3)
    with task.path.open("wb", buffering=buffer) as out:
        writer: _Writer = _RawWriter(out, task.size) if task.store == "raw" else _JpegWriter(out)
        for start in range(0, len(task.items), _REPORT_EVERY):
            known = len(rejects)
            for position in range(start, min(start + _REPORT_EVERY, len(task.items))):
                item = task.items[position]
                try:
                    pixels = read_square(source, item, task, many=many)
                except ImageError as error:
                    rejects.append((position, str(error)))
                else:
                    accepted.append(position)
                    sums.add(writer.add(pixels, f"{item.label}/{task.first + position:08d}.jpg"))
            news = [(task.items[position].name, reason) for position, reason in rejects[known:]]
            report(position + 1 - start, news)
        extents = writer.finish()
        sync(out)
    size, digest = task.path.stat().st_size, sha256_of(task.path)
    positions = np.array(accepted, np.int64)
    return ShardResult(task.name, task.file, size, digest, positions, extents, rejects, sums)


def read_square(source: Source, item: Item, task: ShardTask, *, many: bool) -> Pixels:
    """Return one image of a source as (size, size, 3) uint8 RGB; raises ImageError."""
    try:
        image = source.read(item)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error
    if isinstance(image, bytes):
        return load_square(
            image, task.size, resize=task.resize, orientation=task.orientation, many=many
        )
    return square_pixels(image, task.size, task.resize)


class _Writer(Protocol):
    def add(self, pixels: Pixels, name: str, /) -> Pixels:
        """Store an image and return the pixels that a reader will read."""

    def finish(self) -> NDArray[np.int64]:
        """Complete the file and return offset and length of each image."""


class _RawWriter:
    """Writes a .npy file (n, S, S, 3); the header comes last, when n is known."""

    def __init__(self, out: IO[bytes], size: int) -> None:
        self.out, self.size, self.count = out, size, 0
        out.write(bytes(_NPY_HEADER_BYTES))

    def add(self, pixels: Pixels, _name: str, /) -> Pixels:
        self.out.write(pixels.data)
        self.count += 1
        return pixels

    def finish(self) -> NDArray[np.int64]:
        header = io.BytesIO()
        shape = (self.count, self.size, self.size, 3)
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        assert len(header.getvalue()) == _NPY_HEADER_BYTES  # noqa: S101 - numpy pads it to this
        self.out.seek(0)
        self.out.write(header.getvalue())
        return np.empty((0, 2), np.int64)


class _JpegWriter:
    """Writes a tar of JPEG files, without dates and owners: equal images give equal bytes."""

    def __init__(self, out: IO[bytes]) -> None:
        self.out, self.extents = out, list[tuple[int, int]]()

    def add(self, pixels: Pixels, name: str, /) -> Pixels:
        data = encode_jpeg(pixels)
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self.out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        self.extents.append((self.out.tell(), len(data)))
        self.out.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
        return decode_jpeg(data)

    def finish(self) -> NDArray[np.int64]:
        self.out.write(bytes(2 * tarfile.BLOCKSIZE))  # the end marker of a tar
        return np.array(self.extents, np.int64).reshape(-1, 2)
