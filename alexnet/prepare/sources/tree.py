"""A tree of folders, and which of its folders are splits, wrappers and classes."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from alexnet.errors import DataError
from alexnet.prepare.sources.base import Item
from alexnet.prepare.sources.names import SPLIT_NAMES, class_key, few, is_visible, split_of

MAX_DEPTH = 100
"""How deep folders may be nested."""
_ANNOTATIONS = {"annotations", "ground_truth", "groundtruth", "labels", "mask", "masks", "trimaps"}


@dataclass
class Folder:
    """The number of images directly in a folder, and its folders."""

    files: int = 0
    folders: dict[str, "Folder"] = field(default_factory=dict)

    def is_empty(self) -> bool:
        """Return whether no image lies in it or below it."""
        return not self.files and all(folder.is_empty() for folder in self.folders.values())

    def nonempty(self) -> dict[str, "Folder"]:
        """Return the folders in which images lie."""
        return {name: folder for name, folder in self.folders.items() if not folder.is_empty()}

    def total(self) -> int:
        """Return the number of images in it and below it."""
        return self.files + sum(folder.total() for folder in self.folders.values())


def build_tree(files: Iterable[Item], folders: Iterable[str]) -> Folder:
    """Return the tree of the images `files`, with the empty ones among `folders`."""
    tree = Folder()
    for path in folders:
        if is_visible(path):
            _folder_at(tree, path)
    for file in files:
        _folder_at(tree, file.name.rpartition("/")[0]).files += 1
    return tree


def _folder_at(tree: Folder, path: str) -> Folder:
    parts = path.split("/") if path else []
    if len(parts) > MAX_DEPTH:  # a crafted archive could exhaust the stack
        raise DataError(f"{path[:40]}... is {len(parts):,} folders deep; refused")
    for part in parts:
        tree = tree.folders.setdefault(part, Folder())
    return tree


def descend(tree: Folder, within: str) -> tuple[str, Folder]:
    """Follow common leading folders to the folder that holds the splits or classes."""
    root = ""
    while within or not split_folders(tree):
        children = tree.nonempty()
        if len(children) != 1:
            break
        name, folder = children.popitem()
        if not folder.nonempty():
            break
        root, tree = f"{root}{name}/", folder
    return root, tree


def unwrap(folder: Folder, known: set[str]) -> tuple[str, Folder]:
    """Follow a split's only folder to the folder that holds its classes: train/train/cat.

    A split may hold one class only, one of the `known` training classes: that is no wrapper.
    """
    prefix = ""
    while not folder.files and len(children := folder.nonempty()) == 1:
        name, child = children.popitem()
        inside = {class_key(each) for each in child.nonempty()}
        if class_key(name) in known or not inside or (known and not inside & known):
            break
        prefix, folder = f"{prefix}{name}/", child
    return prefix, folder


def split_folders(top: Folder) -> dict[str, str]:
    """Map the folders that are splits to split names; empty if the folders are classes.

    A class may be called "train" too (bus, car, train): a split holds folders, or has only splits
    beside it. Names may share further words, as seg_train and seg_test do, if all hold folders.
    """
    groups: dict[frozenset[str], dict[str, str]] = {}
    for name in top.folders:
        if found := split_of(name):
            groups.setdefault(found[1], {})[name] = found[0]
    exact = {name: SPLIT_NAMES[name.lower()] for name in top.folders if name.lower() in SPLIT_NAMES}
    named = groups.pop(frozenset(), {})
    if len(set(named.values())) < len(named) and exact:
        named = exact
    nonempty = top.nonempty()
    if any(top.folders[name].nonempty() for name in named) or (named and set(nonempty) <= {*named}):
        return named
    shared = [
        group
        for group in groups.values()
        if len(set(group.values())) == len(group) > 1
        and all(top.folders[name].nonempty() for name in group)
    ]
    return shared[0] if len(shared) == 1 else {}


def check_level(top: Folder, where: str) -> None:
    """Refuse folders of which it is not plain whether they are classes or groups of classes."""
    classes = top.nonempty()
    for name, folder in sorted(classes.items()):
        splits = {} if folder.files else split_folders(folder)
        if splits and all(folder.folders[split].files for split in splits):
            raise DataError(
                f"{where}/{name} is divided into {few(sorted(splits))}; sort by split first, as in "
                f"{min(splits)}/{name}"
            )
        if splits:
            raise DataError(f"{where}/{name} holds splits of its own; give that folder")
    kinds = {name.lower() for name in classes}
    if kinds & {"image", "images", "img", "imgs"} and kinds & _ANNOTATIONS:
        raise DataError(
            f"{where}: the folders {few(sorted(classes))} are images and what was drawn on them, "
            "not classes; name the classes in labels.csv (file,label) and move the others away"
        )
    if all(not folder.files and len(folder.nonempty()) > 1 for folder in classes.values()):
        raise DataError(
            f"{where}: the folders {few(sorted(classes))} hold folders, not images; "
            "give the folder whose folders are the classes"
        )
    inner = {name: found for name in sorted(classes) if (found := _branches(classes[name]))}
    for name, folders in inner.items():
        others = few(sorted(classes.keys() - inner.keys()), 3)
        raise DataError(
            f"{where}: unclear what the classes are: {name} holds images in the folders "
            f"{few(sorted(folders), 3)}{others and f', unlike {others}'}; put the images of each "
            "class directly into one folder"
        )


def _branches(folder: Folder) -> dict[str, Folder]:
    """Return the folders that hold most images of a class, if they are several."""
    inner = folder.nonempty()
    while not folder.files and len(inner) == 1:
        folder = inner.popitem()[1]
        inner = folder.nonempty()
    return inner if len(inner) > 1 and folder.total() > 2 * folder.files else {}
