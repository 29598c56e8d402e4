"""Small images, folders and archives for the tests of `prepare`."""

import importlib.util
import io
import os
import pickle
import signal
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.prepare.sources.base import Item, Listing
from alexnet.progress import Progress, Silent

Pixels = NDArray[np.uint8]


def picture(seed: int, height: int = 24, width: int = 30) -> Pixels:
    """Make smooth coloured noise (height, width, 3) from a seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(pixels: Pixels | Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Encode pixels or a Pillow image as a file of the given kind."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def photo(seed: int, height: int = 24, width: int = 30) -> bytes:
    """Make a JPEG file."""
    return encode(picture(seed, height, width), quality=90)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Build one chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def write_tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files by their paths below `folder`."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def tree(counts: Mapping[str, int], seed: int = 0) -> dict[str, bytes]:
    """Make JPEG files by path: {"train/cat": 3} gives train/cat/0.jpg to 2.jpg."""
    paths = [f"{folder}/{i}.jpg" for folder, count in counts.items() for i in range(count)]
    return {path: photo(seed + number) for number, path in enumerate(paths)}


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    """Write files into a tar; a `mode` such as "w:gz" compresses it."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into a zip archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_folders(path: Path, folders: list[str], files: Mapping[str, bytes]) -> Path:
    """Write a tar with entries for its folders, as the command tar does."""
    write_tar(path, files)
    with tarfile.open(path, "a") as archive:
        for folder in folders:
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
    return path


def write_special(path: Path, name: str, kind: bytes, target: str = "") -> Path:
    """Write a tar with one good image and a member of a special kind (a link, a device)."""
    with tarfile.open(path, "w") as archive:
        for folder in ("a", "b"):
            info = tarfile.TarInfo(f"{folder}/0.jpg")
            info.size = len(photo(0))
            archive.addfile(info, io.BytesIO(photo(0)))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return path


def python2_batch(data: Pixels, labels: list[int]) -> bytes:
    """Pickle a CIFAR-10 batch as Python 2 did: texts are bytes, the array names numpy.core."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(value)) + value  # BINSTRING

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)  # BININT

    shape = number(data.shape[0]) + number(data.shape[1]) + b"\x86"  # TUPLE2
    empty = b"cnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"  # TUPLE3 REDUCE
    code = text(b"u1") + number(0) + number(1) + b"\x87R"
    state = number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0)
    dtype = b"cnumpy\ndtype\n" + code + b"(" + state + b"tb"  # MARK TUPLE BUILD
    content = number(1) + shape + dtype + b"\x89" + text(data.tobytes())  # NEWFALSE
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + empty + b"(" + content + b"tb"
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"  # EMPTY_LIST APPENDS
    items = text(b"data") + array + text(b"labels") + listed
    return b"\x80\x02}(" + items + b"u."  # PROTO EMPTY_DICT MARK SETITEMS STOP


CIFAR_NAMES = ["airplane", "bird", "cat"]


def cifar_batches(per_batch: int = 6) -> dict[str, tuple[Pixels, list[int]]]:
    """Make the six batches of a small CIFAR-10: rows of 3,072 bytes and labels."""
    rng = np.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    labels = [i % len(CIFAR_NAMES) for i in range(per_batch)]
    return {n: (rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8), labels) for n in names}


def cifar_python_files(per_batch: int = 6) -> dict[str, bytes]:
    """Make the files of cifar-10-python.tar.gz."""
    top = "cifar-10-batches-py"
    files = {f"{top}/{n}": python2_batch(*batch) for n, batch in cifar_batches(per_batch).items()}
    meta = {"label_names": CIFAR_NAMES, "num_cases_per_batch": per_batch, "num_vis": 3072}
    files[f"{top}/batches.meta"] = pickle.dumps(meta, protocol=2)
    files[f"{top}/readme.html"] = b"<html></html>"
    return files


def cifar_binary_files(per_batch: int = 6) -> dict[str, bytes]:
    """Make the files of cifar-10-binary.tar.gz."""
    top = "cifar-10-batches-bin"
    files = {f"{top}/batches.meta.txt": "\n".join([*CIFAR_NAMES, ""]).encode()}
    for name, (data, labels) in cifar_batches(per_batch).items():
        rows = (bytes([label]) + row.tobytes() for label, row in zip(labels, data, strict=True))
        files[f"{top}/{name}.bin"] = b"".join(rows)
    return files


def load_script(name: str) -> ModuleType:
    """Import scripts/NAME.py."""
    path = Path(__file__).parents[1] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Recorder(Silent):
    """A Progress that records its calls."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.tasks: dict[str, list[int]] = {}

    def note(self, message: str) -> None:
        self.notes.append(message)

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Any]:
        counts = self.tasks.setdefault(label, [total])
        yield lambda count, text="": counts.append(count)


def content(folder: Path) -> dict[str, bytes]:
    """Read all files of a data set, without the date in dataset.json."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    lines = files["dataset.json"].splitlines()
    files["dataset.json"] = b"\n".join(line for line in lines if b'"created"' not in line)
    return files


@dataclass(frozen=True)
class Drawn:
    """A source without files: `counts` images of each class, (24, 30, 3) pixels."""

    counts: Mapping[str, int]
    kind: str = "drawn"
    location: str = ""

    def listing(self, progress: Progress) -> Listing:
        names = [(label, i) for label, count in self.counts.items() for i in range(count)]
        items = [
            Item("", label, f"{label}-{i:03d}", (seed, 0, 0))
            for seed, (label, i) in enumerate(names)
        ]
        return Listing(items, titles={"a": "ants"})

    def read(self, item: Item) -> bytes | Pixels:
        return picture(item.at[0])


@dataclass(frozen=True)
class Deadly(Drawn):
    """A source that ends the process that reads image 5, once, if the file `fuse` exists."""

    fuse: Path = Path()
    how: str = "kill"

    def read(self, item: Item) -> bytes | Pixels:
        if item.at[0] == 5 and self.fuse.exists():
            self.fuse.unlink()
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "exit":
                os._exit(3)
            raise ZeroDivisionError("a mistake in the source")
        return super().read(item)
