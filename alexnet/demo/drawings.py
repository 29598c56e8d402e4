"""The embedded data set: drawings of ten objects, the same every time.

Each picture is a function of (seed, split, index) alone, so any number of processes makes the same
data in any order. docs/demo.md shows examples and measures their difficulty.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from numpy.random import PCG64, Generator, SeedSequence

from alexnet.demo.scene import compose
from alexnet.demo.shapes import OBJECTS
from alexnet.errors import UsageError
from alexnet.images import Pixels
from alexnet.prepare.sources.base import Item, ItemTable, Listing
from alexnet.progress import Progress

VERSION = 1
"""Increase this when the pictures change, so that data sets are prepared again."""

CLASSES = tuple(OBJECTS)
SPLITS = ("train", "val", "test")
COUNTS: Mapping[str, int] = MappingProxyType({"train": 6000, "val": 1000, "test": 1000})


def draw_picture(seed: int, split: str, index: int) -> Pixels:
    """Draw picture `index` of a split, (64, 64, 3) RGB; its class is `index` % 10."""
    rng = Generator(PCG64(SeedSequence((seed, SPLITS.index(split), index))))
    draw_parts = OBJECTS[CLASSES[index % len(CLASSES)]]
    return compose(draw_parts(rng), rng)


@dataclass(frozen=True)
class Drawings:
    """The drawings as a source for `prepare_dataset`; other seeds give other pictures.

    `counts` is the number of pictures in each split. Raises `UsageError` for an unknown split.
    """

    seed: int = 0
    counts: Mapping[str, int] = field(default_factory=lambda: dict(COUNTS))
    kind: str = "drawings"

    def __post_init__(self) -> None:
        if unknown := set(self.counts) - set(SPLITS):
            raise UsageError(f"drawings have no split {', '.join(unknown)}; give {SPLITS}")

    @property
    def location(self) -> str:
        """Version and seed of the drawings, since they have no path."""
        return f"drawings version {VERSION}, seed {self.seed}"

    def listing(self, progress: Progress) -> Listing:  # noqa: ARG002 - nothing is read
        """List all pictures; `at` is (split, index, unused)."""
        items = ItemTable()
        for split, count in self.counts.items():
            for index in range(count):
                label = CLASSES[index % len(CLASSES)]
                at = (SPLITS.index(split), index, 0)
                items.append(Item(split, label, f"{split}/{index:05d}-{label}", at))
        return Listing(items, max_rejects=0, version=self.location)

    def read(self, item: Item) -> Pixels:
        """Draw the picture."""
        return draw_picture(self.seed, SPLITS[item.at[0]], item.at[1])
