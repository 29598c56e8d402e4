"""Derive the class and the split of a file from its path, in a tree of class folders.

cat/1.jpg                   a class folder
train/cat/1.jpg             a split folder of class folders
./pets/train/cat/1.jpg      either, below common leading folders
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from alexnet.errors import DataError
from alexnet.prepare.sources.base import Item, ItemTable, Listing

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
NOT_IMAGES = {
    ".csv", ".db", ".htm", ".html", ".ini", ".json", ".log", ".md", ".pdf", ".py", ".tsv", ".txt",
    ".url", ".xml", ".yaml", ".yml",
}  # fmt: skip
"""Endings of files that often lie among images. All other files are recognised by content."""
MAX_DEPTH = 100
"""How deep folders may be nested."""
LabelVal = Callable[[Sequence[str]], Mapping[str, str]]
"""Returns the classes of validation images by their names."""


def is_image_path(path: str) -> bool:
    """Return whether a path may be an image: not hidden, not from macOS, not a text file."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
    return not hidden and path[path.rfind(".") :].lower() not in NOT_IMAGES


def arrange(
    files: Iterable[Item],
    folders: Iterable[str],
    where: str,
    *,
    within: str = "",
    label_val: LabelVal | None = None,
) -> Listing:
    """Assign a class and a split to each file, an Item with `name` (its path) and `at`.

    `folders` names the folders, so that empty ones are found. `within` is the split of all files if
    there is only one. `label_val` returns the classes of validation images in one flat folder.
    Raises DataError if this is not a tree of class folders.
    """
    candidates, ignored = ItemTable(), 0
    for file in files:
        if is_image_path(file.name):
            candidates.append(file)
        else:
            ignored += 1
    root, top = _descend(_build_tree(candidates, folders), within)
    splits = {} if within else _split_folders(top)
    top_path = f"{where}/{root}".rstrip("/")
    _check(top, splits, top_path, label_val is not None)
    if not splits and not within:
        _check_number(top, top_path)
    labels = _flat_labels(candidates, root, splits, label_val)
    items, outside = ItemTable(), list[str]()
    for item in candidates:
        split, label = "", ""
        if item.name.startswith(root):
            split, label = _split_and_class(item.name.removeprefix(root), splits, labels)
        if label:
            name = f"{within}/{item.name}" if within else item.name
            items.append(Item(within or split, label, name, item.at))
        else:
            outside.append(item.name)
    notes = []
    if outside:
        first = f"the first is {outside[0]}"
        notes.append(f"{where}: skipped {len(outside):,} files outside the class folders; {first}")
    return Listing(items, ignored=ignored + len(outside), notes=notes)


@dataclass
class _Folder:
    """The number of files directly in a folder, and its folders."""

    files: int = 0
    folders: dict[str, "_Folder"] = field(default_factory=dict)

    def is_empty(self) -> bool:
        return not self.files and all(folder.is_empty() for folder in self.folders.values())

    def nonempty(self) -> dict[str, "_Folder"]:
        return {name: folder for name, folder in self.folders.items() if not folder.is_empty()}


def _build_tree(files: Iterable[Item], folders: Iterable[str]) -> _Folder:
    tree = _Folder()
    for path in folders:
        if is_image_path(path):
            _folder_at(tree, path)
    for file in files:
        _folder_at(tree, file.name.rpartition("/")[0]).files += 1
    return tree


def _folder_at(tree: _Folder, path: str) -> _Folder:
    parts = path.split("/") if path else []
    if len(parts) > MAX_DEPTH:  # a crafted archive could exhaust the stack
        raise DataError(f"{path[:40]}... is {len(parts):,} folders deep; refused")
    for part in parts:
        tree = tree.folders.setdefault(part, _Folder())
    return tree


def _descend(tree: _Folder, within: str) -> tuple[str, _Folder]:
    """Follow common leading folders to the folder that holds the splits or classes."""
    root = ""
    while within or not _split_folders(tree):
        children = tree.nonempty()
        if len(children) != 1:
            break
        name, folder = children.popitem()
        if not folder.nonempty():
            break
        root, tree = f"{root}{name}/", folder
    return root, tree


def _split_folders(top: _Folder) -> dict[str, str]:
    """Map the folders that are splits to split names; empty if the folders are classes.

    A class may be called "train" too (bus, car, train): a split holds folders, or has only splits
    beside it.
    """
    named = {name: SPLIT_NAMES[name.lower()] for name in top.folders if name.lower() in SPLIT_NAMES}
    if any(top.folders[name].nonempty() for name in named) or set(top.nonempty()) <= set(named):
        return named
    return {}


def _check(top: _Folder, splits: dict[str, str], where: str, flat_val: bool) -> None:
    """Refuse anything that is not a tree of class folders."""
    if top.is_empty():
        raise DataError(f"{where} holds no images")
    if len(set(splits.values())) < len(splits):
        raise DataError(f"{where} holds the same split twice: {', '.join(sorted(splits))}")
    for name, split in sorted(splits.items()):
        folder = top.folders[name]
        if split == "val" and folder.files and not folder.folders:
            if flat_val:
                continue
            remedy = "for ImageNet's give the devkit or a label file, else sort them"
        else:
            remedy = "sort them into class folders, or remove that folder"
        _check_classes(folder, f"{where}/{name}", remedy)
    if not splits:
        _check_classes(top, where, "give the folder above, or sort them into class folders")
        _check_level(top, where)


def _check_classes(folder: _Folder, where: str, remedy: str) -> None:
    if not folder.folders:
        what = f"{folder.files:,} files but no class folders; {remedy}"
        raise DataError(f"{where} holds {what if folder.files else 'no images'}")
    empty = sorted(set(folder.folders) - set(folder.nonempty()))
    if empty:
        raise DataError(f"{where}: class folders without images: {few(empty)}; remove or fill them")


def _check_number(top: _Folder, where: str) -> None:
    classes = top.nonempty()
    if len(classes) == 1:
        raise DataError(f"{where} holds one class only ({few(classes)}); give the folder above")


def _check_level(top: _Folder, where: str) -> None:
    classes = top.nonempty()
    for name, folder in sorted(classes.items()):
        if _split_folders(folder) and not folder.files:
            raise DataError(f"{where}/{name} holds splits of its own; give that folder")
    if all(not folder.files and len(folder.nonempty()) > 1 for folder in classes.values()):
        raise DataError(
            f"{where}: the folders {few(sorted(classes))} hold folders, not images; "
            "give the folder whose folders are the classes"
        )


def _flat_labels(
    files: Iterable[Item], root: str, splits: dict[str, str], label_val: LabelVal | None
) -> Mapping[str, str]:
    """Return the labels of validation images that lie directly in their split folder."""
    folders = [name for name, split in splits.items() if split == "val"]
    if label_val is None or not folders:
        return {}
    prefix = f"{root}{folders[0]}/"
    below = (file.name.removeprefix(prefix) for file in files if file.name.startswith(prefix))
    names = sorted(name for name in below if "/" not in name)
    return label_val(names) if names else {}


def _split_and_class(
    path: str, splits: dict[str, str], labels: Mapping[str, str]
) -> tuple[str, str]:
    """Return split and class of a path below the root; class "" outside the class folders."""
    parts, split = path.split("/"), ""
    if splits:
        split = splits.get(parts.pop(0), "")
        if split == "val" and len(parts) == 1:
            return split, labels.get(parts[0], "")
    in_class_folder = len(parts) > 1 and (split or not splits)
    return split, parts[0] if in_class_folder else ""


def few(names: Iterable[str], most: int = 5) -> str:
    """Return the first names of many, for a message."""
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
