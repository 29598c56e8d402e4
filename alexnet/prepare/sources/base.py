"""The interface between `prepare` and a source of images: a folder, an archive, a generator."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, overload

import numpy as np

from alexnet.images import Pixels
from alexnet.progress import Progress

MAX_FILE_BYTES = 256 * 2**20
"""No image file is this large; reading a larger file would only fill the memory."""


class Item(NamedTuple):
    """One image of a source, without its pixels.

    `split` is "train", "val", "test", or "" if the source has no splits. `label` is the key of the
    class (a folder name, a WordNet id). `name` is unique and stable, and identifies the image to
    the user. `at` is for the source's own use, for example archive, offset and size.
    """

    split: str
    label: str
    name: str
    at: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Listing:
    """All images of a source, in any order.

    `titles` gives the display names of classes that have one; `ignored` counts skipped files;
    `notes` are lines for the user; `max_rejects` is how many bad images are normal for this source;
    `version` changes when the bytes behind the items change (sizes and dates of the archives).
    """

    items: Sequence[Item]
    titles: Mapping[str, str] = field(default_factory=dict)
    ignored: int = 0
    notes: Sequence[str] = ()
    max_rejects: int = 100
    version: str = ""


class Source(Protocol):
    """A source of images.

    It is pickled and sent to worker processes, so it must be small: paths and settings, not the
    listing. Workers call `read` with items of the listing, in any order. The same item must always
    give the same image.
    """

    @property
    def kind(self) -> str:
        """The kind of source in one word ("folder", "tar", "imagenet", "drawings")."""

    @property
    def location(self) -> str:
        """The path of the source, as the user wrote it; "" if it has none."""

    def listing(self, progress: Progress) -> Listing:
        """List the source once; raise DataError if it cannot be used."""

    def read(self, item: Item) -> bytes | Pixels:
        """Return the image: an encoded file, or pixels (H, W, 3) uint8 RGB.

        Raise ImageError or OSError if only this image cannot be read: it is listed as rejected.
        Raise DataError if the source itself is broken.
        """


class ItemTable(Sequence[Item]):
    """Items in columns, about 140 bytes each, so that a million of them fit in memory."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}
        self._splits: list[str] = []
        self._labels: list[str] = []
        self._names: list[str] = []
        self._at = np.empty((1024, 3), np.int64)

    def append(self, item: Item) -> None:
        """Add one item at the end."""
        count = len(self._names)
        if count == len(self._at):
            self._at = np.concatenate([self._at, np.empty_like(self._at)])
        self._at[count] = item.at
        # One shared string per split and class, not one per image.
        self._splits.append(self._words.setdefault(item.split, item.split))
        self._labels.append(self._words.setdefault(item.label, item.label))
        self._names.append(item.name)

    def extend(self, items: Iterable[Item]) -> None:
        """Add items at the end."""
        for item in items:
            self.append(item)

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            at = map(tuple, self._at[: len(self)][index].tolist())
            return list(map(Item, self._splits[index], self._labels[index], self._names[index], at))
        archive, offset, size = self._at[index].tolist()
        names = self._splits[index], self._labels[index], self._names[index]
        return Item(*names, (archive, offset, size))

    def __iter__(self) -> Iterator[Item]:
        for start in range(0, len(self), 1024):  # rows of an array are slow one by one
            yield from self[start : start + 1024]
