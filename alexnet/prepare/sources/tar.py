"""Read images from tar archives without extracting them.

Headers are indexed once, and images are read by their offset. A compressed archive is decompressed
once, to a file in the work folder.
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
from alexnet.prepare.sources.layout import LabelVal, arrange
from alexnet.prepare.sources.zip import tar_from_zip
from alexnet.progress import Progress

_BLOCK = 512
_CHUNK_BYTES = 4 * 2**20
_MAGIC: dict[bytes, Callable[[IO[bytes]], io.BufferedIOBase]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError, zlib.error, lzma.LZMAError)
"""Errors for damaged tars and compressed files, beside OSError."""


class Member(NamedTuple):
    """A file or folder inside an archive; `offset` counts from the start of the archive file."""

    name: str
    offset: int
    size: int
    is_folder: bool


class Archive(NamedTuple):
    """An uncompressed tar, and the split that it holds ("" if its folders give the split)."""

    path: Path
    split: str = ""


@dataclass(frozen=True)
class TarSource:
    """The images in one archive of class folders, or in one archive per split.

    `label_val` is for an unpacked ImageNet in an archive, with its validation images in one folder.
    """

    location: str
    archives: tuple[Archive, ...]
    version: str = ""
    label_val: LabelVal | None = None
    kind: str = "tar"

    def listing(self, progress: Progress) -> Listing:
        """List the images from the headers of the archives."""
        progress.note(f"indexing {self.location}")
        items, ignored, notes, titles = ItemTable(), 0, list[str](), dict[str, str]()
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
            part = arrange(
                files,
                folders,
                where,
                read=self.read,
                within=archive.split,
                is_alone=len(self.archives) == 1,
                label_val=self.label_val,
            )
            items.extend(part.items)
            ignored += part.ignored
            notes += part.notes
            titles |= part.titles
        return Listing(items, titles, ignored, notes, version=self.version)

    def read(self, item: Item) -> bytes:
        """Return the bytes of the member."""
        number, offset, size = item.at
        return read_at(self.archives[number].path, offset, size)


def read_at(path: Path, offset: int, size: int) -> bytes:
    """Return `size` bytes of a file from `offset`; raises ImageError if that is too large."""
    if size > MAX_FILE_BYTES:
        raise ImageError(f"a file of {size:,} bytes")
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise DataError(f"{path} ends at byte {offset + len(data):,}: it changed while it was read")
    return data


def members(path: Path, start: int = 0, size: int | None = None) -> Iterator[Member]:
    """Yield the files and folders of a tar; `start` and `size` select a tar within the file.

    Raises DataError if the archive is cut off or damaged, and for members that no data set needs
    but an attack could use: absolute paths, "..", links, devices.
    """
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        section = _Section(file, start, length - start if size is None else size)
        try:
            with tarfile.open(fileobj=section, mode="r:") as archive:
                while (info := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # tarfile would store them all
                    end = info.offset_data + info.size
                    if end > section.size:
                        raise DataError(
                            f"{path}: cut off at byte {length:,}, within {info.name!r}, "
                            f"which ends at byte {start + end:,}; download the archive again"
                        )
                    if info.name.strip("./"):
                        yield _checked(info, path, start)
                _check_end(archive, section, path, start)
        except DAMAGE as error:
            offset = start + section.tell()
            raise DataError(f"{path}: damaged near byte {offset:,} ({error})") from error


def _checked(info: tarfile.TarInfo, path: Path, start: int) -> Member:
    name = PurePosixPath(info.name)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"{path}: member {info.name!r} points outside; refused")
    if not (info.isdir() or info.isreg()) or info.issparse():
        raise DataError(f"{path}: member {info.name!r} is a link or device; refused")
    return Member(str(name), start + info.offset_data, info.size, info.isdir())


def _check_end(archive: tarfile.TarFile, section: "_Section", path: Path, start: int) -> None:
    """Check that an archive ends with a block of zeros: tarfile treats any damage as the end."""
    section.seek(archive.offset)
    block = section.read(_BLOCK)
    if block != bytes(_BLOCK):
        what = "damaged" if len(block) == _BLOCK else "cut off"
        raise DataError(
            f"{path}: {what} at byte {start + archive.offset:,}; download the archive again"
        )


class _Section(io.RawIOBase):
    """A part of an open file, readable as a file."""

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
        self.file.seek(self.start + self.position)
        data = self.file.read(count)
        self.position += len(data)
        return data


def is_tar(path: Path) -> bool:
    """Return whether a file begins with the header of a tar member."""
    with path.open("rb") as file:
        try:
            tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
        except tarfile.TarError:
            return False
    return True


def stamp(*paths: Path) -> str:
    """Return names, sizes and dates of files, which show whether they have changed."""
    stats = [(path.name, path.stat()) for path in paths]
    return "; ".join(f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in stats)


def first_member(path: Path) -> str:
    """Return the first name in an uncompressed tar."""
    return next((member.name for member in members(path)), "")


def decompress(path: Path, work: Path, progress: Progress) -> Path:
    """Return `path` itself, or its content, decompressed, as a tar in `work`."""
    with path.open("rb") as file:
        start = file.read(max(map(len, _MAGIC)))
    opener = next((opener for magic, opener in _MAGIC.items() if start.startswith(magic)), None)
    is_zip = start.startswith((b"PK\3\4", b"PK\5\6"))
    if opener is None and not is_zip:
        return path
    work.mkdir(parents=True, exist_ok=True)
    out = work / f"{path.name}.tar"
    if is_zip:
        tar_from_zip(path, out, progress)
        return out
    assert opener is not None  # noqa: S101 - the branch above
    with (
        progress.task(f"decompress {path.name}", path.stat().st_size, "bytes") as advance,
        path.open("rb") as file,
        opener(file) as compressed,
        out.open("wb") as target,
    ):
        done = 0
        while chunk := _read_chunk(compressed, path):
            target.write(chunk)
            advance(file.tell() - done)
            done = file.tell()
    return out


def _read_chunk(compressed: io.BufferedIOBase, path: Path) -> bytes:
    try:
        return compressed.read(_CHUNK_BYTES)
    except (*DAMAGE, OSError) as error:
        raise DataError(
            f"{path}: cut off or damaged ({error}); download the archive again"
        ) from error
