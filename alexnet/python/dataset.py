"""A data set in Python: its splits by name, and their images by number."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset as TorchDataset

from alexnet.dataset import Dataset as StoredDataset
from alexnet.dataset import Labels, Split
from alexnet.images import Pixels
from alexnet.notebook import facts, table


class Images(TorchDataset[tuple[Pixels, int]]):
    """The images of one split with their labels, as a `torch.utils.data.DataLoader` takes them.

    Image i is `images[i]`: (size, size, 3) uint8 RGB, and the number of its class.
    """

    def __init__(self, split: Split, classes: Sequence[str], titles: Sequence[str]) -> None:
        self.split = split
        self.classes, self.titles = classes, titles

    @property
    def labels(self) -> Labels:
        """The number of each image's class: (N,) int64."""
        return self.split.labels

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Pixels, int]:
        """Return an image and its label; a negative number counts from the end."""
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Pixels, int]]:
        """Read a batch at once: a `DataLoader` calls this."""
        labels = self.labels[indices].tolist()
        return list(zip(self.split.read(indices), labels, strict=True))

    def __iter__(self) -> Iterator[tuple[Pixels, int]]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        name, classes = self.split.split_name, len(self.classes)
        return f"Images({name!r}: {len(self):,} images, {classes:,} classes)"


class Dataset(StoredDataset):
    """A packed data set: `dataset["val"]` has the images of a split, `len(dataset)` counts all.

    `size` is the side of the images, `resize` how they became squares ("short" or "warp"),
    `orientation` whether their EXIF tags turned them ("turn" or "ignore"), `store` "raw" or "jpeg",
    `classes` the names in the order of the labels and `titles` their display names, `rejects` the
    number of images left out. `mean_image` is (S, S, 3) float32.
    Opening one checks its structure and reads no image. Raises `DataError` with what is wrong.
    """

    def __getitem__(self, split: str) -> Images:
        """Return the images of "train", "val" or "test"; raises `UsageError` if there are none."""
        return Images(self.split(split), self.classes, self.titles)

    def __contains__(self, split: object) -> bool:
        return split in self.split_names

    def __iter__(self) -> Iterator[str]:
        return iter(self.split_names)

    def __len__(self) -> int:
        return sum(self._counts().values())

    def __repr__(self) -> str:
        counts = ", ".join(f"{count:,} {name}" for name, count in self._counts().items())
        return (
            f"Dataset({str(self.path)!r}: {counts} images of {self.size} x {self.size}, "
            f"{len(self.classes):,} classes)"
        )

    def _repr_html_(self) -> str:
        values: dict[str, Any] = {"images": f"{len(self):,} of {self.size} x {self.size} pixels"}
        values |= {"classes": f"{len(self.classes):,}", "stored as": self.store}
        counts = self._counts()
        splits = [split["per_class"] for split in self.info["splits"].values()]
        rows = [
            [title, *(f"{images[number]:,}" for images in splits)]
            for number, title in enumerate(self.titles[:MOST_CLASSES])
        ]
        if len(self.titles) > MOST_CLASSES:
            rows.append([f"{len(self.titles) - MOST_CLASSES:,} more", *("" for _ in counts)])
        shown = table(("class", *counts), rows, right=range(1, len(counts) + 1))
        return facts(f"Data set {self.path}", values) + shown

    def _counts(self) -> dict[str, int]:
        return {name: len(self.split(name)) for name in self.split_names}


MOST_CLASSES = 20
"""Classes that a notebook shows; the others are counted."""
