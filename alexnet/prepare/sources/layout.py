"""Derive the class and the split of a file from its path, in a tree of class folders.

cat/1.jpg                   a class folder
train/cat/1.jpg             a split folder of class folders
./pets/train/cat/1.jpg      either, below common leading folders
train/train/cat/1.jpg       a split packed twice
images/1.jpg, labels.csv    a flat folder, whose classes a table gives
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from alexnet.errors import DataError
from alexnet.prepare.sources.base import Item, ItemTable, Listing
from alexnet.prepare.sources.names import (
    SPLIT_NAMES,
    class_key,
    few,
    is_image_path,
    is_neutral,
)
from alexnet.prepare.sources.tables import (
    Labels,
    class_titles,
    is_table,
    labels_from_tables,
)
from alexnet.prepare.sources.tree import (
    Folder,
    build_tree,
    check_level,
    descend,
    split_folders,
    unwrap,
)

LabelVal = Callable[[Sequence[str]], Mapping[str, str]]
"""Returns the classes of validation images by their names."""
Read = Callable[[Item], bytes]
_ORDER = ("train", "", "val", "test")


@dataclass
class _Part:
    """The folder of a split, or the only one; `labels` gives classes where folders do not."""

    split: str
    prefix: str  # the path of the folder, ending in "/"
    folder: Folder
    where: str
    labels: Labels | None = None


@dataclass
class _Arrangement:
    """The input of `arrange`, and what it finds."""

    candidates: ItemTable
    tables: ItemTable
    read: Read
    label_val: LabelVal | None
    is_alone: bool  # whether no other archive holds another split
    known: set[str] = field(default_factory=set)  # the classes of train
    notes: list[str] = field(default_factory=list)


def arrange(
    files: Iterable[Item],
    folders: Iterable[str],
    where: str,
    *,
    read: Read,
    within: str = "",
    is_alone: bool = True,
    label_val: LabelVal | None = None,
) -> Listing:
    """Assign a class and a split to each file, an Item with `name` (its path) and `at`.

    `folders` names the folders, so that empty ones are found. `read` returns the content of a file.
    `within` is the split of all files if there is only one; `is_alone` says that no other archive
    holds another split. `label_val` returns the classes of
    validation images in one flat folder. Raises DataError where the classes are not plain.
    """
    source, ignored = _Arrangement(ItemTable(), ItemTable(), read, label_val, is_alone), 0
    for file in files:
        if is_image_path(file.name):
            source.candidates.append(file)
        else:
            ignored += 1
            if is_table(file.name):
                source.tables.append(file)
    parts = _parts(source, folders, where, within)
    for part in parts:
        _find_classes(source, part, parts)
    listing = _assign(source, parts, where, within)
    return replace(listing, titles=_titles(source, parts), ignored=ignored + listing.ignored)


def _parts(source: _Arrangement, folders: Iterable[str], where: str, within: str) -> list[_Part]:
    """Find the folders of the splits, train first."""
    root, top = descend(build_tree(source.candidates, folders), within)
    top_path = f"{where}/{root}".rstrip("/")
    if top.is_empty():
        raise DataError(f"{where} holds no images")
    splits = {} if within else split_folders(top)
    if not splits:
        return [_Part(within, root, top, top_path)]
    if len(set(splits.values())) < len(splits):
        raise DataError(f"{top_path} holds the same split twice: {', '.join(sorted(splits))}")
    parts = [
        _Part(split, f"{root}{name}/", top.folders[name], f"{top_path}/{name}")
        for name, split in splits.items()
    ]
    parts.sort(key=lambda part: _ORDER.index(part.split))
    inside = {name for part in parts for name in part.folder.nonempty()}
    for name, folder in top.nonempty().items():
        if name not in splits and inside & folder.nonempty().keys():
            raise DataError(
                f"{top_path}: {few(sorted(splits))} are splits, but {name} holds class folders "
                "too; call it train, val or test, or move it away"
            )
    return parts


def _find_classes(source: _Arrangement, part: _Part, parts: Sequence[_Part]) -> None:
    """Find where the classes of a split are: in its folders, or in a table."""
    if part.folder.is_empty():
        raise DataError(f"{part.where} holds no images")
    inner, part.folder = unwrap(part.folder, source.known)
    part.prefix, part.where = part.prefix + inner, f"{part.where}/{inner}".rstrip("/")
    only = _only_folder(source, part)
    if only is not None:
        part.labels = _labels(source, part, f"{part.prefix}{only}")
    if part.labels is not None or only == "" or (only and is_neutral(only)):
        part.prefix, part.where = f"{part.prefix}{only}", f"{part.where}/{only}".rstrip("/")
        _check_labels(source, part, parts)
    else:
        _check_folders(source, part)
    if part.split in ("train", ""):
        names = part.labels.classes.values() if part.labels else part.folder.nonempty()
        source.known = set(map(class_key, names))


def _only_folder(source: _Arrangement, part: _Part) -> str | None:
    """Return the one folder in which the images lie, "" for the part's own; None for several."""
    children = part.folder.nonempty()
    if not children:
        return ""
    name, child = next(iter(children.items()))
    is_alone = len(children) == 1 and not part.folder.files and not child.nonempty()
    return f"{name}/" if is_alone and class_key(name) not in source.known else None


def _labels(source: _Arrangement, part: _Part, prefix: str) -> Labels | None:
    """Return what a label file or a table says of the images below `prefix`."""
    below = (file.name for file in source.candidates if file.name.startswith(prefix))
    names = sorted(name.removeprefix(prefix) for name in below)
    is_flat = prefix == part.prefix or is_neutral(prefix.removeprefix(part.prefix))
    if part.split == "val" and source.label_val is not None and is_flat:
        return Labels(dict(source.label_val(names)))
    folders = ((table, table.name[: table.name.rfind("/") + 1]) for table in source.tables)
    tables = [table for table, folder in folders if prefix.startswith(folder)]
    return labels_from_tables(tables, source.read, names, part.split)


def _check_labels(source: _Arrangement, part: _Part, parts: Sequence[_Part]) -> None:
    """Refuse images in one folder whose classes are not known; leave out those of a test split."""
    if part.labels is not None:
        source.notes += [f"{part.where}: {note}" for note in part.labels.notes]
        return
    count = sum(file.name.startswith(part.prefix) for file in source.candidates)
    if part.split == "test" and (len(parts) > 1 or not source.is_alone):
        part.labels = Labels({})
        source.notes.append(
            f"{part.where}: {count:,} images without classes: left out (labels.csv could give them)"
        )
        return
    remedy = "give the folder above, or sort them into class folders"
    if part.split == "val":
        remedy = "for ImageNet's give the devkit or a label file, else sort them"
    elif part.split:
        remedy = "sort them into class folders, or remove that folder"
    raise DataError(
        f"{part.where} holds {count:,} files but no class folders; {remedy}, or name their classes "
        "in labels.csv (file,label)"
    )


def _check_table(source: _Arrangement, part: _Part) -> None:
    """Refuse class folders beside a table called labels that divides the images in another way."""
    tables = [
        table
        for table in source.tables
        if table.name.rpartition("/")[2].lower().startswith("labels.")
        and part.prefix.startswith(table.name[: table.name.rfind("/") + 1])
    ]
    if not tables:
        return
    below = (file.name for file in source.candidates if file.name.startswith(part.prefix))
    names = [name.removeprefix(part.prefix) for name in below]
    names = [name for name in names if "/" in name]
    labels = labels_from_tables(tables, source.read, names, part.split)
    pairs = {(name.partition("/")[0], c) for name, c in labels.classes.items()} if labels else set()
    if len(pairs) > min(len({pair[0] for pair in pairs}), len({pair[1] for pair in pairs})):
        raise DataError(
            f"{tables[0].name} gives other classes than the folders of {part.where}: remove it, or "
            "put all images into one folder"
        )


def _check_folders(source: _Arrangement, part: _Part) -> None:
    """Refuse class folders that are none, are empty or are alone."""
    classes = part.folder.nonempty()
    empty = sorted(set(part.folder.folders) - classes.keys())
    if empty and part.split in ("train", ""):
        raise DataError(
            f"{part.where}: class folders without images: {few(empty)}; remove or fill them"
        )
    unknown = [name for name in empty if class_key(name) not in source.known]
    if unknown:
        source.notes.append(f"{part.where}: class folders without images: {few(unknown)}")
    alike: dict[str, list[str]] = {}
    for name in sorted(classes):
        alike.setdefault(class_key(name).casefold().strip(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            one = len({class_key(name) for name in names}) == 1
            result = "are one class" if one else "are different classes, with almost one name"
            source.notes.append(f"{part.where}: the folders {few(names)} {result}")
    check_level(part.folder, part.where)
    _check_table(source, part)
    splits = [name for name in classes if SPLIT_NAMES.get(name.lower(), "train") != "train"]
    if not part.split and splits:
        raise DataError(
            f"{part.where}: {few(splits)} is a name for a split, beside class folders: call it "
            "otherwise if it is a class, else move the class folders into train"
        )
    if not part.split and len(classes) == 1:
        raise DataError(
            f"{part.where} holds one class only ({few(classes)}); give the folder above"
        )


def _assign(source: _Arrangement, parts: Sequence[_Part], where: str, within: str) -> Listing:
    """List the images that have a class; count and note the others."""
    items, outside = ItemTable(), list[str]()
    for item in source.candidates:
        split, label = _split_and_class(item.name, parts)
        if label:
            name = f"{within}/{item.name}" if within else item.name
            items.append(Item(split, label, name, item.at))
        else:
            outside.append(item.name)
    skipped = [name for name in outside if not _is_labelled_part(name, parts)]
    if len(skipped) > len(items):
        raise DataError(
            f"{where}: {len(skipped):,} of {len(source.candidates):,} images lie outside the class "
            f"folders, the first is {skipped[0]}; sort them in, or move them away"
        )
    if skipped:
        first = f"the first is {skipped[0]}"
        source.notes.append(
            f"{where}: skipped {len(skipped):,} files outside the class folders; {first}"
        )
    return Listing(items, ignored=len(outside), notes=source.notes)


def _titles(source: _Arrangement, parts: Sequence[_Part]) -> dict[str, str]:
    """Return the words for the classes that a table beside all splits has; none without one."""
    folders = ((table, table.name[: table.name.rfind("/") + 1]) for table in source.tables)
    above = [
        table for table, folder in folders if all(part.prefix.startswith(folder) for part in parts)
    ]
    return class_titles(above, source.read, source.known) if source.known else {}


def _is_labelled_part(name: str, parts: Sequence[_Part]) -> bool:
    """Return whether a table, not a folder, decides on this image: its absence is noted there."""
    return any(part.labels is not None and name.startswith(part.prefix) for part in parts)


def _split_and_class(path: str, parts: Sequence[_Part]) -> tuple[str, str]:
    """Return split and class of a path; class "" outside the class folders."""
    for part in parts:
        if path.startswith(part.prefix):
            below = path.removeprefix(part.prefix)
            if part.labels is not None:
                split = part.split or part.labels.splits.get(below, "")
                return split, part.labels.classes.get(below, "")
            label, slash, _ = below.partition("/")
            return part.split, class_key(label) if slash else ""
    return "", ""
