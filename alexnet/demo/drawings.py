"""The embedded data set: pictures of ten drawn things, made here, the same ones every time.

Each picture is a function of (seed, split, index) alone, so any number of processes make the same
data in any order. docs/demo.md shows some and says how hard they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from alexnet.demo.scene import compose
from alexnet.demo.shapes import THINGS
from alexnet.errors import UsageError
from alexnet.prepare.sources.base import Item, ItemTable, Listing
from alexnet.progress import Progress

VERSION = 1
"""To be raised when the pictures change, so that prepared ones are made anew."""

CLASSES = tuple(THINGS)
SPLITS = ("train", "val", "test")
COUNTS: Mapping[str, int] = MappingProxyType({"train": 6000, "val": 1000, "test": 1000})


def draw_picture(seed: int, split: str, index: int) -> NDArray[np.uint8]:
    """Make picture `index` of a split: (64, 64, 3) RGB. It shows the class `index` % 10."""
    rng = Generator(PCG64(SeedSequence((seed, SPLITS.index(split), index))))
    thing = THINGS[CLASSES[index % len(CLASSES)]]
    return compose(thing(rng), rng)


@dataclass(frozen=True)
class Drawings:
    """The drawings as a source for `prepare_dataset`; other seeds give other pictures.

    `counts` says how many pictures each split has. Raises `UsageError` for an unknown split.
    """

    seed: int = 0
    counts: Mapping[str, int] = field(default_factory=lambda: dict(COUNTS))

    def __post_init__(self) -> None:
        if unknown := set(self.counts) - set(SPLITS):
            raise UsageError(f"drawings have no split {', '.join(unknown)}; give {SPLITS}")

    @property
    def kind(self) -> str:
        """One word for what this is."""
        return "drawings"

    @property
    def location(self) -> str:
        """Which drawings these are: their version and seed, since no place holds them."""
        return f"drawings version {VERSION}, seed {self.seed}"

    def listing(self, progress: Progress) -> Listing:  # noqa: ARG002 - there is nothing to search
        """List all pictures; `at` is (split, index, unused)."""
        items = ItemTable()
        for split, count in self.counts.items():
            for index in range(count):
                label = CLASSES[index % len(CLASSES)]
                at = (SPLITS.index(split), index, 0)
                items.append(Item(split, label, f"{split}/{index:05d}-{label}", at))
        return Listing(items, max_rejects=0, version=self.location)

    def read(self, item: Item) -> NDArray[np.uint8]:
        """Draw the picture."""
        return draw_picture(self.seed, SPLITS[item.at[0]], item.at[1])
