"""A folder of class folders."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from alexnet.errors import DataError
from alexnet.images.decode import ImageError
from alexnet.prepare.sources.base import MAX_FILE_BYTES, Item, ItemTable, Listing
from alexnet.prepare.sources.labels import ValLabels
from alexnet.prepare.sources.layout import arrange
from alexnet.progress import Progress

_FolderId = tuple[int, int]
"""Device and inode: identify a folder whatever path leads to it."""


@dataclass(frozen=True)
class FolderSource:
    """The images in the class folders of `path`; symbolic links are followed, loops are not.

    `val_labels` are for an unpacked ImageNet that has all validation images in one folder.
    """

    path: Path
    val_labels: ValLabels | None = None
    kind: str = "folder"

    @property
    def location(self) -> str:
        """The folder, as the user wrote it."""
        return str(self.path)

    def listing(self, progress: Progress) -> Listing:
        """List the files of the folder."""
        progress.note(f"listing {self.path}")
        walk, files = _Walk(self.path), ItemTable()
        files.extend(walk.files())
        labels = self.val_labels
        listing = arrange(
            files,
            walk.folders,
            self.location,
            read=self.read,
            label_val=labels.label if labels else None,
        )
        return replace(
            listing,
            titles={**listing.titles, **(labels.titles() if labels else {})},
            ignored=listing.ignored + walk.ignored,
            notes=[*walk.notes, *listing.notes],
        )

    def read(self, item: Item) -> bytes:
        """Return the bytes of the file."""
        _, size, _ = item.at
        if size > MAX_FILE_BYTES:
            raise ImageError(f"a file of {size:,} bytes")
        return (self.path / item.name).read_bytes()


class _Walk:
    """One pass over a folder: its files in a stable order, its folders, and notes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: list[str] = []
        self.notes: list[str] = []
        self.ignored = 0

    def files(self) -> Iterator[Item]:
        """Yield each file with its path and `at` (0, size, modification time)."""
        status = self.root.stat()
        yield from self._below("", {(status.st_dev, status.st_ino)})

    def _below(self, prefix: str, above: set[_FolderId]) -> Iterator[Item]:
        folder = self.root / prefix
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
        for entry in entries:
            name = prefix + entry.name
            try:
                status = entry.stat()
            except OSError:  # a broken link: listed here, rejected with its reason when read
                yield Item("", "", name)
                continue
            folder_id = (status.st_dev, status.st_ino)
            if stat.S_ISREG(status.st_mode):
                yield Item("", "", name, (0, status.st_size, status.st_mtime_ns))
            elif not stat.S_ISDIR(status.st_mode):
                self.ignored += 1  # a pipe, socket or device: reading it could block forever
            elif folder_id in above:
                self.ignored += 1
                self.notes.append(f"{self.root / name} links to a folder above it: not followed")
            else:
                self.folders.append(name)
                yield from self._below(f"{name}/", above | {folder_id})
