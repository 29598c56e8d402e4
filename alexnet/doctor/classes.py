"""Checks whether the classes of a data set are classes: not splits, not groups of classes."""

import re
from collections.abc import Sequence

from alexnet.doctor.findings import LISTED, Report

REMEDY = "prepare the folders again from the folder whose subfolders are the classes"

VEHICLES = {"train", "Train", "trains", "Trains"}
"""Alone these are classes, such as in COCO."""

# Names that people give to the folders of a split, without signs and digits: training_set,
# seg_test, val2017, Validation images.
_SPLIT = re.compile(
    r"(seg|my|data|dataset|images?|the)?"
    r"(train(ing|val)?|test(ing)?|val(id|idation)?|pred(ict|iction)?|dev|eval|evaluation|holdout)"
    r"(set|split|data|dataset|images?|samples|folder|dir)?"
)


def named_like_a_split(name: str) -> bool:
    """Return whether a class has the name of a split."""
    return bool(_SPLIT.fullmatch(re.sub(r"[^a-z]", "", name.lower())))


class FolderTally:
    """Collects, from the images' names, the folders that lie inside of each class's folder."""

    def __init__(self) -> None:
        self.inside: dict[str, set[str]] = {}

    def add(self, label: str, parts: Sequence[str]) -> None:
        """Count an image of class `label` whose name has these `parts`."""
        if label not in parts:
            return
        after = parts[parts.index(label) + 1 :]
        while after and after[0] == label:  # test_set/test_set/cats
            after = after[1:]
        folders = self.inside.setdefault(label, set())
        if len(after) > 1 and len(folders) < LISTED:
            folders.add(after[0])

    def several(self) -> dict[str, list[str]]:
        """Return the classes whose images lie in several folders, with these folders."""
        return {label: sorted(names) for label, names in self.inside.items() if len(names) > 1}


def check_classes(classes: Sequence[str], folders: FolderTally, report: Report) -> None:
    """Report classes that are splits, and classes that have folders like classes in them."""
    several = folders.several()
    inner = [f"{label}: {', '.join(names[:5])}" for label, names in several.items()]
    splits = [name for name in classes if named_like_a_split(name)]
    shown = ", ".join(splits[:5])
    if len(splits) == len(classes):
        report.damage("classes", f"all classes are named like splits: {shown}", REMEDY, inner)
    elif len(splits) > 1 or several.keys() & set(splits) or set(splits) - VEHICLES:
        report.warn("classes", f"some classes are named like splits: {shown}", REMEDY, inner)
    elif several:
        report.warn(
            "classes",
            f"the images of {len(several):,} of {len(classes):,} classes lie in several folders, "
            "which may be the classes",
            f"if so, {REMEDY}",
            inner,
        )
