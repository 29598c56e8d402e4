"""What `prepare` asks of a source of images, whatever it is: a folder, an archive, a generator."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from alexnet.progress import Progress

Pixels = NDArray[np.uint8]

# No image file is this large; reading one would only fill the memory.
MAX_FILE_BYTES = 256 * 2**20


class Item(NamedTuple):
    """One image of a source: which it is and where it lies, not its pixels.

    `split` is "train", "val", "test", or "" where the source has no splits. `label` is the key of
    the class (a folder name, a WordNet id). `name` is unique and stable: it says to a person
    which image this is. `at` is for the source's own use, for example archive, offset and size.
    """

    split: str
    label: str
    name: str
    at: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Listing:
    """Everything a source holds, in any order, and what was noticed while looking.

    `titles` gives a better name for a class where there is one; `ignored` counts what was passed
    over; `notes` are lines for the person; `max_rejects` is how many bad images are normal here;
    `version` changes when the bytes behind the items change (sizes and dates of the archives).
    """

    items: Sequence[Item]
    titles: Mapping[str, str] = field(default_factory=dict)
    ignored: int = 0
    notes: Sequence[str] = ()
    max_rejects: int = 100
    version: str = ""


class Source(Protocol):
    """Something that images can be prepared from.

    It is sent to worker processes (pickled), so it must be small: paths and settings, not the
    listing. Workers call `read` with items of the listing, in any order; the same item must
    always give the same image.
    """

    @property
    def kind(self) -> str:
        """One word for what this is ("folder", "tar", "imagenet", "drawings")."""

    @property
    def location(self) -> str:
        """Where it is, as the person wrote it; "" if it is nowhere."""

    def listing(self, progress: Progress) -> Listing:
        """Look through the source once; raise DataError if it cannot be used."""

    def read(self, item: Item) -> bytes | Pixels:
        """Return the image: an encoded file, or pixels (H, W, 3) uint8 RGB.

        Raise ImageError or OSError if this one image cannot be read: it is then listed as
        rejected. Raise DataError if the source itself is broken.
        """


class ItemTable(Sequence[Item]):
    """Items in columns, about 140 bytes each: a million of them fit in memory."""

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

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            places = map(tuple, self._at[: len(self)][index].tolist())
            return list(
                map(Item, self._splits[index], self._labels[index], self._names[index], places)
            )
        archive, offset, size = self._at[index].tolist()
        names = self._splits[index], self._labels[index], self._names[index]
        return Item(*names, (archive, offset, size))

    def __iter__(self) -> Iterator[Item]:
        for start in range(0, len(self), 1024):  # a row of an array by itself takes long
            yield from self[start : start + 1024]
