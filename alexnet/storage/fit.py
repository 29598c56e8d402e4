"""Whether a data set fits a network: its classes, matched by name, and its images."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from alexnet.errors import DataError
from alexnet.progress import Progress

Classes = tuple[Path, Sequence[str]]
"""A run or data set, and the names of its classes in order."""
Images = tuple[Path, int, str, str]
"""A run or data set, the side of its images, how they became squares, how they were turned."""

NAMES_SHOWN = 5
"""Names of classes in a message; the others are counted."""


def match_classes(known: Sequence[str], given: Sequence[str]) -> list[int | None]:
    """Return the number in `known` of each class `given`, by name; None for those not in it.

    Names match that differ in their Unicode form alone: macOS stores "é" as two characters.
    """
    numbers = {unicodedata.normalize("NFC", name): number for number, name in enumerate(known)}
    numbers |= {name: number for number, name in enumerate(known)}
    return [numbers.get(name, numbers.get(unicodedata.normalize("NFC", name))) for name in given]


def class_numbers(
    network: Classes, data: Classes, images: Sequence[int], progress: Progress
) -> list[int]:
    """Return the number in the network of each class of the data; -1 for those not in it.

    `images` counts the images of each class. Notes classes that only one side has. Raises
    `DataError` for images of classes that the network does not know.
    """
    (run, known), (path, given) = network, data
    numbers = match_classes(known, given)
    counts = dict(zip(given, images, strict=True))
    unknown = [name for name, number in zip(given, numbers, strict=True) if number is None]
    lacking = [name for number, name in enumerate(known) if number not in numbers]
    lacks = f"it lacks {classes_text(lacking)} of the {len(known):,} of {run}" if lacking else ""
    named = [f"{name}: {counts[name]:,} images" for name in unknown]
    extra = f"{classes_text(named)} that {run} does not know"
    if any(counts[name] for name in unknown):
        more = f"; {lacks}" if lacking else ""
        raise DataError(f"{path} has other classes: {extra}{more} (classes are matched by name)")
    if unknown:
        progress.note(f"{path} has {extra}")
    if lacking:
        progress.note(f"{path}: {lacks}")
    return [-1 if number is None else number for number in numbers]


def subset_of(classes: int, numbers: Sequence[int]) -> list[int]:
    """Return the known `numbers` in order if they are a part of the `classes`, else nothing."""
    known = sorted({number for number in numbers if number >= 0})
    return known if 1 < len(known) < classes else []


def same_classes(first: Classes, other: Classes) -> list[int]:
    """Return the number in the run `other` of each class of the run `first`.

    Raises `DataError` if they were not trained on the same classes.
    """
    numbers = match_classes(other[1], first[1])
    missing = [name for name, number in zip(first[1], numbers, strict=True) if number is None]
    extra = [name for number, name in enumerate(other[1]) if number not in numbers]
    if missing or extra:
        sides = ((first[0], missing), (other[0], extra))
        found = [f"only {path} knows {classes_text(names)}" for path, names in sides if names]
        raise DataError(f"runs of different classes cannot be averaged: {'; '.join(found)}")
    return [number for number in numbers if number is not None]


def classes_text(names: Sequence[str]) -> str:
    """Write "2 classes (cat, dog)", or "12 classes (a, b, c, d, e, ...)"."""
    noun = "class" if len(names) == 1 else "classes"
    more = ", ..." if len(names) > NAMES_SHOWN else ""
    return f"{len(names):,} {noun} ({', '.join(names[:NAMES_SHOWN])}{more})"


def check_images(network: Images, data: Images, progress: Progress) -> None:
    """Raise `DataError` for images of another size than a run was trained on.

    Notes those that became squares in another way, or were turned in another way.
    """
    (run, size, *trained), (path, given_size, *given) = network, data
    if given_size != size:
        raise DataError(
            f"{path} holds images of side {given_size}, {run} was trained on {size}: prepare it "
            f"with --size {size}"
        )
    for option, ours, theirs in zip(("resize", "orientation"), trained, given, strict=True):
        if theirs != ours:
            progress.note(
                f"{run} prepares images with --{option} {ours}, {path} was made with {theirs}: "
                f"for the preprocessing that predict uses, prepare the data with "
                f"--{option} {ours}"
            )
