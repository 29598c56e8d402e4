"""Write one shard of a packed data set: read, decode, scale and store up to 1,024 images."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from alexnet.images.decode import (
    ImageError,
    Pixels,
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
_BUFFER_BYTES = 4 * 2**20  # at most; a file of large pieces is written and read with less work
_MANY = 64  # images, for which it pays to get ready: see `load_square`

# Called with the number of images gone through since the last call, and the names and reasons of
# those that were rejected.
Report = Callable[[int, Sequence[tuple[str, str]]], None]


@dataclass(frozen=True)
class ShardTask:
    """What a worker is told: images `items`, numbered from `first` in their split."""

    name: str  # "train-00003"
    items: Sequence[Item]
    first: int
    size: int
    store: str  # "raw" or "jpeg"
    part: Path  # where to write the shard; it is moved to its place when it is whole
    resize: Resize = "short"

    @property
    def file(self) -> str:
        """Return the name of the finished file."""
        return f"{self.name}.{'npy' if self.store == 'raw' else 'tar'}"


@dataclass(frozen=True)
class ShardResult:
    """What a worker reports: the finished file, and which of the task's items are in it."""

    name: str
    file: str
    bytes: int
    sha256: str
    kept: NDArray[np.int64]  # positions in the task's items
    places: NDArray[np.int64]  # (n, 2): offset and length of each JPEG; (0, 2) for raw
    rejects: Sequence[tuple[int, str]]  # position, reason
    sums: ColorSums

    def save(self, path: Path) -> None:
        """Write it beside the shard, whole or not at all."""
        facts = {
            name: getattr(self, name) for name in ("name", "file", "bytes", "sha256", "rejects")
        }
        sums = self.sums
        part = path.with_suffix(".part")
        with part.open("wb") as out:
            np.savez(
                out,
                facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
                kept=self.kept,
                places=self.places,
                values=sums.values,
                products=sums.products,
                images=np.int64(sums.images),
            )
            sync(out)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> "ShardResult":
        """Read what `save` wrote; any exception means that it is of no use."""
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            facts = json.loads(saved["facts"].tobytes())
            facts["rejects"] = [(position, reason) for position, reason in facts["rejects"]]
            sums = ColorSums(int(saved["images"]), saved["values"], saved["products"])
            return cls(**facts, kept=saved["kept"], places=saved["places"], sums=sums)


def write_shard(source: Source, task: ShardTask, report: Report) -> ShardResult:
    """Write `task.part`, reporting all the way.

    Images that cannot be used are left out and listed. Other errors are raised.
    """
    kept, rejects = list[int](), list[tuple[int, str]]()
    sums = ColorSums.empty(task.size, few=True)
    many = len(task.items) >= _MANY
    buffer = min(_BUFFER_BYTES, _REPORT_EVERY * task.size**2 * 3)
    with task.part.open("wb", buffering=buffer) as out:
        writer: _Writer = _RawWriter(out, task.size) if task.store == "raw" else _JpegWriter(out)
        for start in range(0, len(task.items), _REPORT_EVERY):
            known = len(rejects)
            for position in range(start, min(start + _REPORT_EVERY, len(task.items))):
                item = task.items[position]
                try:
                    pixels = read_square(source, item, task.size, task.resize, many=many)
                except ImageError as error:
                    rejects.append((position, str(error)))
                else:
                    kept.append(position)
                    sums.add(writer.add(pixels, f"{item.label}/{task.first + position:08d}.jpg"))
            news = [(task.items[position].name, reason) for position, reason in rejects[known:]]
            report(position + 1 - start, news)
        places = writer.finish()
        sync(out)
    size, digest = task.part.stat().st_size, sha256_of(task.part)
    kept_array = np.array(kept, np.int64)
    return ShardResult(task.name, task.file, size, digest, kept_array, places, rejects, sums)


def read_square(
    source: Source, item: Item, size: int, resize: Resize, *, many: bool = False
) -> Pixels:
    """Return one image of a source as (size, size, 3) uint8 RGB; raises ImageError."""
    try:
        image = source.read(item)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error
    if isinstance(image, bytes):
        return load_square(image, size, resize=resize, many=many)
    return square_pixels(image, size, resize)


class _Writer(Protocol):
    def add(self, pixels: Pixels, name: str, /) -> Pixels:
        """Store an image and return the pixels that a reader will get."""

    def finish(self) -> NDArray[np.int64]:
        """Complete the file and return offset and length of each image."""


class _RawWriter:
    """A .npy file (n, S, S, 3); its header is written last, when n is known."""

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
    """A plain tar of JPEG files, without dates and owners, so that equal images are equal bytes."""

    def __init__(self, out: IO[bytes]) -> None:
        self.out, self.places = out, list[tuple[int, int]]()

    def add(self, pixels: Pixels, name: str, /) -> Pixels:
        data = encode_jpeg(pixels)
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self.out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        self.places.append((self.out.tell(), len(data)))
        self.out.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
        return decode_jpeg(data)

    def finish(self) -> NDArray[np.int64]:
        self.out.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of a tar
        return np.array(self.places, np.int64).reshape(-1, 2)
