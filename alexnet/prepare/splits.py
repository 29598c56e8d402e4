"""Which images train, validate and test: the source's own splits, or a seeded draw by class."""

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
    """The classes in the order of their labels, and the items of each split by their numbers."""

    classes: list[str]
    splits: dict[str, list[int]]
    notes: list[str] = field(default_factory=list)


def plan_splits(items: Sequence[Item], val_fraction: float, seed: int) -> SplitPlan:
    """Order the items by split, class and name; draw a validation split if there is none.

    Raises DataError if there is nothing, a name twice, or a class that training lacks.
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
        _refuse_twins(keys, numbers, split)
    classes = {split: {keys[number][0] for number in found[split]} for split in SPLITS}
    notes = _check_classes(classes)
    drawn = bool(found["train"]) and not found["val"] and val_fraction > 0
    if drawn:
        found["train"], found["val"] = _draw(keys, found["train"], val_fraction, seed)
    splits = {split: numbers for split, numbers in found.items() if numbers}
    labels = sorted(set.union(*classes.values()))
    notes.append(_summary(len(labels), splits, "drawn from train" if drawn else ""))
    return SplitPlan(labels, splits, notes)


def _refuse_twins(keys: Sequence[_Key], numbers: Sequence[int], split: str) -> None:
    for one, other in pairwise(keys[number] for number in numbers):
        if one == other:
            raise DataError(f"{split} has {one[1]!r} twice")


def _check_classes(classes: dict[str, set[str]]) -> list[str]:
    """Refuse classes that cannot be learnt; return notes on those that cannot be measured."""
    train = classes["train"]
    if not train:
        return ["no training images: the mean image and colours are those of the others"]
    if len(train) == 1:
        raise DataError(f"one class only ({train.pop()}): there is nothing to tell apart")
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
    """Part `numbers` in two; the second has `fraction` of every class, at least 1 of 2 or more."""
    by_class: dict[str, list[int]] = {}
    for number in numbers:
        by_class.setdefault(keys[number][0], []).append(number)
    drawn: set[int] = set()
    for members in by_class.values():
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        # By a digest of the name: the lot of an image does not depend on the others.
        lots = {n: hashlib.sha256(f"{seed}/{keys[n][1]!r}".encode()).digest() for n in members}
        drawn.update(sorted(members, key=lots.__getitem__)[:count])
    return [n for n in numbers if n not in drawn], [n for n in numbers if n in drawn]


def _summary(classes: int, splits: dict[str, list[int]], drawn: str) -> str:
    parts = []
    for split, numbers in splits.items():
        origin = f" ({drawn})" if drawn and split == "val" else ""
        parts.append(f"{split} {len(numbers):,}{origin}")
    return f"{classes:,} classes; images: {', '.join(parts)}"
