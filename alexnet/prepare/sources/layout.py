"""Which class and split a file belongs to, from its path: class folders, with or without splits.

cat/1.jpg                   a class folder
train/cat/1.jpg             a split folder of class folders
./pets/train/cat/1.jpg      either of them below common leading folders
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from alexnet.errors import DataError
from alexnet.prepare.sources.base import Item, ItemTable, Listing

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Files that lie among images without being any. All others are judged by their content.
NOT_IMAGES = {
    ".csv", ".db", ".htm", ".html", ".ini", ".json", ".log", ".md", ".pdf", ".py", ".tsv", ".txt",
    ".url", ".xml", ".yaml", ".yml",
}  # fmt: skip
MAX_DEPTH = 100
"""How many folders may lie one in the other."""
# Finds the classes of validation images by their names.
LabelVal = Callable[[Sequence[str]], Mapping[str, str]]


def is_image_path(path: str) -> bool:
    """Tell whether a path may be an image: not hidden, not left by macOS, not a text file."""
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
    """Give each file (an Item of which only `name`, its path, and `at` count) a class and split.

    `folders` names the folders, so that empty ones are noticed. `within` says that all of it is
    one split. `label_val` finds the classes of validation images that lie in one flat folder.
    Raises DataError if this is no tree of class folders.
    """
    candidates, ignored = ItemTable(), 0
    for file in files:
        if is_image_path(file.name):
            candidates.append(file)
        else:
            ignored += 1
    root, top = _descend(_grow(candidates, folders), within)
    splits = {} if within else _split_folders(top)
    place = f"{where}/{root}".rstrip("/")
    _check(top, splits, place, label_val is not None)
    if not splits and not within:
        _check_number(top, place)
    labels = _flat_labels(candidates, root, splits, label_val)
    items, outside = ItemTable(), list[str]()
    for item in candidates:
        split, label = "", ""
        if item.name.startswith(root):
            split, label = _place(item.name.removeprefix(root), splits, labels)
        if label:
            name = f"{within}/{item.name}" if within else item.name
            items.append(Item(within or split, label, name, item.at))
        else:
            outside.append(item.name)
    notes = []
    if outside:
        first = f"the first is {outside[0]}"
        notes.append(f"{where}: {len(outside):,} outside the class folders passed over; {first}")
    return Listing(items, ignored=ignored + len(outside), notes=notes)


@dataclass
class _Folder:
    """How many files lie in a folder directly, and the folders in it."""

    files: int = 0
    folders: dict[str, "_Folder"] = field(default_factory=dict)

    def is_empty(self) -> bool:
        return not self.files and all(folder.is_empty() for folder in self.folders.values())

    def inhabited(self) -> dict[str, "_Folder"]:
        return {name: folder for name, folder in self.folders.items() if not folder.is_empty()}


def _grow(files: Iterable[Item], folders: Iterable[str]) -> _Folder:
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
        raise DataError(f"{path[:40]}... lies {len(parts):,} folders deep; refused")
    for part in parts:
        tree = tree.folders.setdefault(part, _Folder())
    return tree


def _descend(tree: _Folder, within: str) -> tuple[str, _Folder]:
    """Follow common leading folders down to the folder of the splits or classes."""
    root = ""
    while within or not _split_folders(tree):
        inhabited = tree.inhabited()
        if len(inhabited) != 1:
            break
        name, folder = inhabited.popitem()
        if not folder.inhabited():
            break
        root, tree = f"{root}{name}/", folder
    return root, tree


def _split_folders(top: _Folder) -> dict[str, str]:
    """Map the folders that are splits to their names; empty if the folders are classes.

    A class may be called "train" too (bus, car, train): a split holds folders, or stands among
    other splits only.
    """
    named = {name: SPLIT_NAMES[name.lower()] for name in top.folders if name.lower() in SPLIT_NAMES}
    if any(top.folders[name].inhabited() for name in named) or set(top.inhabited()) <= set(named):
        return named
    return {}


def _check(top: _Folder, splits: dict[str, str], where: str, flat_val: bool) -> None:
    """Refuse what is no tree of class folders."""
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
            remedy = "sort them into class folders, or take that folder away"
        _check_classes(folder, f"{where}/{name}", remedy)
    if not splits:
        _check_classes(top, where, "give the folder above, or sort them into class folders")
        _check_level(top, where)


def _check_classes(folder: _Folder, where: str, remedy: str) -> None:
    if not folder.folders:
        what = f"{folder.files:,} files but no class folders; {remedy}"
        raise DataError(f"{where} holds {what if folder.files else 'no images'}")
    empty = sorted(set(folder.folders) - set(folder.inhabited()))
    if empty:
        raise DataError(f"{where}: class folders without images: {few(empty)}; remove or fill them")


def _check_number(top: _Folder, where: str) -> None:
    classes = top.inhabited()
    if len(classes) == 1:
        raise DataError(f"{where} holds one class only ({few(classes)}); give the folder above")


def _check_level(top: _Folder, where: str) -> None:
    classes = top.inhabited()
    for name, folder in sorted(classes.items()):
        if _split_folders(folder) and not folder.files:
            raise DataError(f"{where}/{name} holds splits of its own; give that folder")
    if all(not folder.files and len(folder.inhabited()) > 1 for folder in classes.values()):
        raise DataError(
            f"{where}: the folders {few(sorted(classes))} hold folders, not images; "
            "give the folder whose folders are the classes"
        )


def _flat_labels(
    files: Iterable[Item], root: str, splits: dict[str, str], label_val: LabelVal | None
) -> Mapping[str, str]:
    """Find the labels of validation images that lie directly in their split folder."""
    folders = [name for name, split in splits.items() if split == "val"]
    if label_val is None or not folders:
        return {}
    prefix = f"{root}{folders[0]}/"
    below = (file.name.removeprefix(prefix) for file in files if file.name.startswith(prefix))
    names = sorted(name for name in below if "/" not in name)
    return label_val(names) if names else {}


def _place(path: str, splits: dict[str, str], labels: Mapping[str, str]) -> tuple[str, str]:
    """Return split and class of a path below the root; class "" if it is in no class folder."""
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
