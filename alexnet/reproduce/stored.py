"""Images of a packed data set as a source of `prepare`, for another data set."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from alexnet.dataset import Dataset
from alexnet.images import Pixels
from alexnet.prepare.sources.base import Item, Listing
from alexnet.progress import Progress

HELD_OUT = 0.1
"""Share of the training images that are held out for tuning where nothing else is."""


@dataclass(frozen=True)
class StoredImages(ABC):
    """Some images of a packed data set; a subclass chooses which.

    `Item.at` is the number of the split in `Dataset.split_names` and the index in it.
    """

    data: Path

    @property
    @abstractmethod
    def kind(self) -> str:
        """The kind of source in a few words."""

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Yield the images that are chosen."""

    @property
    def location(self) -> str:
        """The path of the data set."""
        return str(self.data)

    @cached_property
    def dataset(self) -> Dataset:
        """The packed data set."""
        return Dataset(self.data)

    def listing(self, progress: Progress) -> Listing:  # noqa: ARG002 - the interface has it
        """List the images."""
        items = list(self.items())
        titles = dict(zip(self.dataset.classes, self.dataset.titles, strict=True))
        return Listing(items, titles={label: titles[label] for label in {i.label for i in items}})

    def read(self, item: Item) -> Pixels:
        """Return the pixels as they are stored."""
        number, index, _ = item.at
        split = self.dataset.split(self.dataset.split_names[number])
        pixels: Pixels = split.read([index])[0]
        return pixels
