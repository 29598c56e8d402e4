"""The official CIFAR-10 archives, cifar-10-python.tar.gz and cifar-10-binary.tar.gz.

The first holds pickles, which can run any code when Python loads them. This module reads them with
an unpickler that knows four harmless names and refuses all others.
"""

import io
import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.errors import DataError
from alexnet.images import Pixels
from alexnet.prepare.sources.base import Item, ItemTable, Listing
from alexnet.prepare.sources.tar import Member, members, read_at
from alexnet.progress import Progress

_IMAGE_BYTES = 3 * 32 * 32
_BATCHES = {f"data_batch_{number}": "train" for number in range(1, 6)} | {"test_batch": "test"}
PYTHON_FOLDER = "cifar-10-batches-py"
BINARY_FOLDER = "cifar-10-batches-bin"


@dataclass(frozen=True)
class Cifar10Source:
    """The 60,000 images of CIFAR-10 in the uncompressed tar `archive`.

    The images of the pickles are written to the file `pixels`. It is None for the binary archive,
    whose images are read from the tar itself.
    """

    location: str
    archive: Path
    pixels: Path | None
    version: str
    kind: str = "cifar10"

    def listing(self, progress: Progress) -> Listing:
        """List the images of all batches."""
        progress.note(f"reading {self.location}")
        files = {Path(m.name).name: m for m in members(self.archive) if not m.is_folder}
        suffix = "" if self.pixels else ".bin"
        missing = [name for name in _BATCHES if name + suffix not in files]
        if missing:
            raise DataError(f"{self.location}: no {', '.join(missing)} in it; download it again")
        names = self._class_names(files)
        if self.pixels is None:
            return self._list_binary(files, names)
        return self._list_pickles(files, names, self.pixels)

    def read(self, item: Item) -> Pixels:
        """Return the pixels; the files hold 1,024 red, then 1,024 green, then 1,024 blue values."""
        _, offset, size = item.at
        data = read_at(self.pixels or self.archive, offset, size)
        planes = np.frombuffer(data, np.uint8).reshape(3, 32, 32)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))

    def _class_names(self, files: dict[str, Member]) -> list[str]:
        file = files.get("batches.meta" if self.pixels else "batches.meta.txt")
        if file is None:
            raise DataError(f"{self.location}: no batches.meta in it; download it again")
        data = self._bytes(file)
        if self.pixels is None:
            names = data.decode("utf-8", "replace").split()
        else:
            listed = _load(data, file.name).get("label_names")
            names = [_text(name) for name in listed] if isinstance(listed, list) else []
        if len(set(names)) != len(names) or not names:
            raise DataError(f"{self.location}: {file.name} does not name the classes")
        return names

    def _list_binary(self, files: dict[str, Member], names: list[str]) -> Listing:
        items = ItemTable()
        for batch, split in _BATCHES.items():
            file = files[f"{batch}.bin"]
            if file.size % (1 + _IMAGE_BYTES):
                raise DataError(f"{self.location}: {file.name} is not a row of CIFAR-10 records")
            records = np.frombuffer(self._bytes(file), np.uint8).reshape(-1, 1 + _IMAGE_BYTES)
            labels = records[:, 0].tolist()
            start = file.offset + 1
            items.extend(self._items(batch, split, labels, names, start, 1 + _IMAGE_BYTES))
        return Listing(items, version=self.version)

    def _list_pickles(self, files: dict[str, Member], names: list[str], pixels: Path) -> Listing:
        items = ItemTable()
        pixels.parent.mkdir(parents=True, exist_ok=True)
        with pixels.open("wb") as out:
            for batch, split in _BATCHES.items():
                content = _load(self._bytes(files[batch]), files[batch].name)
                data, labels = content.get("data"), content.get("labels")
                if not (isinstance(data, _Array) and isinstance(labels, list)):
                    raise DataError(f"{self.location}: {batch} is not a CIFAR-10 batch")
                if data.shape != (len(labels), _IMAGE_BYTES):
                    raise DataError(
                        f"{self.location}: {batch}: {len(labels)} labels for {data.shape}"
                    )
                start = out.tell()
                out.write(data.data)
                items.extend(self._items(batch, split, labels, names, start, _IMAGE_BYTES))
        return Listing(items, version=self.version)

    def _items(
        self, batch: str, split: str, labels: list[Any], names: list[str], start: int, step: int
    ) -> Iterator[Item]:
        for number, label in enumerate(labels):
            if not (isinstance(label, int) and 0 <= label < len(names)):
                raise DataError(f"{self.location}: {batch}, image {number}: label {label!r}")
            at = (0, start + number * step, _IMAGE_BYTES)
            yield Item(split, names[label], f"{batch}/{number:05d}", at)

    def _bytes(self, file: Member) -> bytes:
        return read_at(self.archive, file.offset, file.size)


class _Dtype:
    """Replaces numpy.dtype: stores its code."""

    __slots__ = ("code",)

    def __init__(self, code: object, *_: object) -> None:
        self.code = _text(code)

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and the like: only arrays of bytes are accepted."""


class _Array:
    """Replaces numpy.ndarray: accepts bytes and their shape, nothing else."""

    __slots__ = ("data", "shape")

    def __init__(self) -> None:
        self.data, self.shape = b"", tuple[int, ...]()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", "|u1") or fortran:
            raise pickle.UnpicklingError("an array that is not of bytes in C order")
        if not isinstance(data, bytes) or math.prod(shape) != len(data):
            raise pickle.UnpicklingError(f"an array of shape {shape} with other data")
        self.data, self.shape = data, tuple(shape)


class _Reconstruct:
    """Replaces numpy's function that makes an empty array."""

    __slots__ = ()

    def __new__(cls, *_: object) -> Any:
        return _Array()

    def __setstate__(self, state: object) -> None:
        """Accept no state."""


class _Encode:
    """Replaces _codecs.encode, with which Python 3 writes bytes in old pickles."""

    __slots__ = ()

    def __new__(cls, text: str, *_encoding: str) -> Any:
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        """Accept no state."""


_REPLACEMENTS = {
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encode,
}


class _Unpickler(pickle.Unpickler):
    """Builds numbers, texts, lists, dicts and arrays of bytes; refuses any other name."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement for a name, never the object itself."""
        if (module, name) not in _REPLACEMENTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _REPLACEMENTS[module, name]


def _load(data: bytes, name: str) -> dict[str, Any]:
    """Read a pickled dictionary whose keys are texts; raises DataError."""
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:
        raise DataError(f"{name}: refused, not a CIFAR-10 pickle ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{name}: not a CIFAR-10 pickle")
    return {_text(key): value for key, value in content.items()}


def _text(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
