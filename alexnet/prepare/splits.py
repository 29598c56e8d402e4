"""Assign images to train, val and test: the source's splits, or a seeded draw by class."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from alexnet.errors import DataError
from alexnet.prepare.sources.base import Item

SPLITS = ("train", "val", "test")
_Key = tuple[str, str]  # label and name of an item


@dataclass(frozen=True)
class SplitPlan:
    """The classes in the order of their labels, and the item numbers of each split."""

    classes: list[str]
    splits: dict[str, list[int]]
    notes: list[str] = field(default_factory=list)


def plan_splits(items: Sequence[Item], val_fraction: float, seed: int) -> SplitPlan:
    """Order the items by split, class and name; draw a validation split if there is none.

    Raises DataError for an empty source, a name that occurs twice, or a class that train lacks.
    """
    if not items:
        raise DataError("the source holds no images")
    found: dict[str, list[int]] = {split: [] for split in SPLITS}
    keys = list[_Key]()
    for number, item in enumerate(items):
        found[item.split or "train"].append(number)
        keys.append((item.label, item.name))
    for split, numbers in found.items():
        numbers.sort(key=keys.__getitem__)
        _refuse_duplicates(keys, numbers, split)
    classes = {split: {keys[number][0] for number in found[split]} for split in SPLITS}
    notes = _check_classes(classes)
    drawn = bool(found["train"]) and not found["val"] and val_fraction > 0
    if drawn:
        found["train"], found["val"] = _draw(keys, found["train"], val_fraction, seed)
    splits = {split: numbers for split, numbers in found.items() if numbers}
    labels = sorted(set.union(*classes.values()))
    notes.append(_summary(len(labels), splits, "drawn from train" if drawn else ""))
    return SplitPlan(labels, splits, notes)


def _refuse_duplicates(keys: Sequence[_Key], numbers: Sequence[int], split: str) -> None:
    for one, other in pairwise(keys[number] for number in numbers):
        if one == other:
            raise DataError(f"{split} has {one[1]!r} twice")


def _check_classes(classes: dict[str, set[str]]) -> list[str]:
    """Refuse classes that cannot be learned; return notes on classes that cannot be measured."""
    train = classes["train"]
    if not train:
        return ["no training images: mean image and colours come from the other splits"]
    if len(train) == 1:
        raise DataError(f"one class only ({train.pop()}): there is nothing to distinguish")
    notes = []
    for split in ("val", "test"):
        unknown = sorted(classes[split] - train)
        if unknown:
            raise DataError(f"{split} has classes that train lacks: {', '.join(unknown[:5])}")
        missing = sorted(train - classes[split])
        if classes[split] and missing:
            notes.append(
                f"{split} has no images of {len(missing)} classes: {', '.join(missing[:5])}"
            )
    return notes


def _draw(
    keys: Sequence[_Key], numbers: list[int], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Divide `numbers`; the second part has `fraction` of every class, at least 1 if it has 2."""
    by_class: dict[str, list[int]] = {}
    for number in numbers:
        by_class.setdefault(keys[number][0], []).append(number)
    drawn: set[int] = set()
    for members in by_class.values():
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        # Sorting by a digest of the name makes the draw of an image independent of the others.
        digests = {n: hashlib.sha256(f"{seed}/{keys[n][1]!r}".encode()).digest() for n in members}
        drawn.update(sorted(members, key=digests.__getitem__)[:count])
    return [n for n in numbers if n not in drawn], [n for n in numbers if n in drawn]


def _summary(classes: int, splits: dict[str, list[int]], drawn: str) -> str:
    parts = []
    for split, numbers in splits.items():
        origin = f" ({drawn})" if drawn and split == "val" else ""
        parts.append(f"{split} {len(numbers):,}{origin}")
    return f"{classes:,} classes; images: {', '.join(parts)}"
