"""Tar archives, read in place: headers are indexed once, images are read by their offset.

Nothing is ever extracted. A compressed archive is decompressed once, to a file in the work folder.
"""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from alexnet.errors import DataError
from alexnet.images.decode import ImageError
from alexnet.prepare.sources.base import MAX_FILE_BYTES, Item, ItemTable, Listing
from alexnet.prepare.sources.layout import arrange
from alexnet.progress import Progress

_BLOCK = 512
_CHUNK_BYTES = 4 * 2**20
_MAGIC: dict[bytes, Callable[[IO[bytes]], io.BufferedIOBase]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
# What the readers of tars and of packed files raise for damage, beside OSError.
BROKEN = (tarfile.TarError, EOFError, ValueError, OverflowError, zlib.error, lzma.LZMAError)


class Member(NamedTuple):
    """A file or folder inside an archive; `offset` counts from the start of the archive file."""

    name: str
    offset: int
    size: int
    is_folder: bool


class Archive(NamedTuple):
    """A plain tar to read, and the split it holds ("" if that is told by its folders)."""

    path: Path
    split: str = ""


@dataclass(frozen=True)
class TarSource:
    """The images in one archive of class folders, or in one archive for each split."""

    location: str
    archives: tuple[Archive, ...]
    version: str = ""
    kind: str = "tar"

    def listing(self, progress: Progress) -> Listing:
        """Index the archives: headers only."""
        progress.note(f"indexing {self.location}")
        items, ignored, notes = ItemTable(), 0, list[str]()
        for number, archive in enumerate(self.archives):
            files, folders = ItemTable(), list[str]()
            for member in members(archive.path):
                if member.is_folder:
                    folders.append(member.name)
                else:
                    files.append(Item("", "", member.name, (number, member.offset, member.size)))
            where = (
                self.location if len(self.archives) == 1 else f"{self.location} ({archive.split})"
            )
            part = arrange(files, folders, where, within=archive.split)
            for item in part.items:
                items.append(item)
            ignored += part.ignored
            notes += part.notes
        return Listing(items, ignored=ignored, notes=notes, version=self.version)

    def read(self, item: Item) -> bytes:
        """Return the bytes of the member."""
        number, offset, size = item.at
        return read_at(self.archives[number].path, offset, size)


def read_at(path: Path, offset: int, size: int) -> bytes:
    """Return `size` bytes of a file from `offset`; raises ImageError if no image is that large."""
    if size > MAX_FILE_BYTES:
        raise ImageError(f"a file of {size:,} bytes")
    with path.open("rb") as file:
        data = os.pread(file.fileno(), size, offset)
    if len(data) < size:
        raise DataError(f"{path} ends at byte {offset + len(data):,}: it changed while it was read")
    return data


def members(path: Path, start: int = 0, size: int | None = None) -> Iterator[Member]:
    """Yield the files and folders of a plain tar; `start` and `size` pick a tar within the file.

    Raises DataError if the archive is cut off or damaged, and for members that no data set needs
    and an attacker might: absolute paths, "..", links, devices.
    """
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        window = _Window(file, start, length - start if size is None else size)
        try:
            with tarfile.open(fileobj=window, mode="r:") as archive:
                while (info := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                    end = info.offset_data + info.size
                    if end > window.size:
                        raise DataError(
                            f"{path}: cut off at byte {length:,}, within {info.name!r}, "
                            f"which ends at byte {start + end:,}; fetch the archive again"
                        )
                    if info.name.strip("./"):
                        yield _checked(info, path, start)
                _check_end(archive, window, path, start)
        except BROKEN as error:
            place = start + window.tell()
            raise DataError(f"{path}: damaged near byte {place:,} ({error})") from error


def _checked(info: tarfile.TarInfo, path: Path, start: int) -> Member:
    name = PurePosixPath(info.name)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"{path}: member {info.name!r} points outside; refused")
    if not (info.isdir() or info.isreg()) or info.issparse():
        raise DataError(f"{path}: member {info.name!r} is a link or device; refused")
    return Member(str(name), start + info.offset_data, info.size, info.isdir())


def _check_end(archive: tarfile.TarFile, window: "_Window", path: Path, start: int) -> None:
    """Check that an archive ends with a block of zeros: tarfile takes any damage for an end."""
    window.seek(archive.offset)
    block = window.read(_BLOCK)
    if block != bytes(_BLOCK):
        what = "damaged" if len(block) == _BLOCK else "cut off"
        raise DataError(
            f"{path}: {what} at byte {start + archive.offset:,}; fetch the archive again"
        )


class _Window(io.RawIOBase):
    """A part of an open file, as a file of its own."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self.file, self.start, self.size, self.position = file, start, size, 0

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = base + offset
        return self.position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.size - self.position)
        count = left if size < 0 else min(size, left)
        data = os.pread(self.file.fileno(), count, self.start + self.position)
        self.position += len(data)
        return data


def is_tar(path: Path) -> bool:
    """Tell whether a file begins with the header of a tar member."""
    with path.open("rb") as file:
        try:
            tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
        except tarfile.TarError:
            return False
    return True


def stamp(*paths: Path) -> str:
    """Return names, sizes and dates of files: equal while nobody changes them."""
    stats = [(path.name, path.stat()) for path in paths]
    return "; ".join(f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in stats)


def first_member(path: Path) -> str:
    """Return the first name in a plain tar."""
    return next((member.name for member in members(path)), "")


def plain_tar(path: Path, work: Path, progress: Progress) -> Path:
    """Return a plain tar with the content of `path`: itself, or decompressed into `work`."""
    with path.open("rb") as file:
        start = file.read(max(map(len, _MAGIC)))
    opener = next((opener for magic, opener in _MAGIC.items() if start.startswith(magic)), None)
    if opener is None:
        return path
    work.mkdir(parents=True, exist_ok=True)
    out = work / f"{path.name}.tar"
    with (
        progress.task(f"decompress {path.name}", path.stat().st_size, "bytes") as advance,
        path.open("rb") as file,
        opener(file) as packed,
        out.open("wb") as plain,
    ):
        done = 0
        while chunk := _unpack(packed, path):
            plain.write(chunk)
            advance(file.tell() - done)
            done = file.tell()
    return out


def _unpack(packed: io.BufferedIOBase, path: Path) -> bytes:
    try:
        return packed.read(_CHUNK_BYTES)
    except (*BROKEN, OSError) as error:
        raise DataError(f"{path}: cut off or damaged ({error}); fetch the archive again") from error
