"""Classes from a table beside the images: labels.csv, or Tiny ImageNet's val_annotations.txt.

A table has a row for each image: its file name, with or without folders and ending, and its class.
The first row may name the columns. Columns are divided by commas, semicolons, tabs or spaces. Each
class may have a column of its own, with 1 for its images.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from alexnet.errors import DataError
from alexnet.images.decode import ImageError
from alexnet.prepare.sources.base import Item
from alexnet.prepare.sources.names import WNID_WITH_BOXES, class_key, few, is_visible, split_of

LABEL_COLUMNS = (
    "label", "labels", "class", "class_name", "classname", "class_id", "classid", "class name",
    "label_name", "category", "target", "wnid", "species", "breed", "predictionstring",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "set", "subset", "data set", "dataset", "partition")
SEVERAL_COLUMNS = ("tags", "attributes")
"""Titles of columns whose words are several classes of one image."""
_ENDINGS = (".csv", ".tsv", ".txt")
_IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_ONE, _ZERO = ("1", "1.0"), ("0", "0.0")
_MAX_BYTES = 256 * 2**20
_SAMPLE = 2000  # rows that show whether a table names the images


@dataclass(frozen=True)
class Labels:
    """The classes of images by name, their splits if the table says, and lines for the user."""

    classes: dict[str, str]
    splits: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


class _Table(NamedTuple):
    path: str
    titles: list[str]  # of the columns; empty if there are none
    rows: list[list[str]]
    name: int  # the column of the file names

    @property
    def header(self) -> list[str]:
        """Return the titles in lower case."""
        return [title.lower() for title in self.titles]


def is_table(path: str) -> bool:
    """Return whether a file may be a table of classes; a sample of an answer is none."""
    base = path.rpartition("/")[2].lower()
    return base.endswith(_ENDINGS) and is_visible(path) and "submission" not in base


def labels_from_tables(
    tables: Iterable[Item], read: Callable[[Item], bytes], names: Sequence[str], split: str
) -> Labels | None:
    """Return the classes of images from the tables beside them; None if no table names them.

    `names` are the images' paths below their folder, which is that of `split` or "". Raises
    DataError if the classes stay unclear.
    """
    images = _Names(names, split)
    stems = {name.rpartition("/")[2].rpartition(".")[0] for name in names}
    found = list[_Table]()
    for item in tables:
        if item.name.rpartition("/")[2].rpartition(".")[0] not in stems:  # no text for one image
            table = _parse(item.name, _content(item, read), images)
            if table is not None:
                found.append(table if _label_column(table) is not None else _from_one_hot(table))
    labelled = [(table, column) for table in found if (column := _label_column(table)) is not None]
    if found and not labelled:
        columns = few([name for i, name in enumerate(found[0].header) if i != found[0].name])
        raise DataError(
            f"{found[0].path} names the images, but it is unclear which column is the class "
            f"({columns or 'they have no names'}); call one column label"
        )
    parts = [_labels(table, column, images) for table, column in labelled]
    return _joined(labelled, parts, names) if parts else None


def class_titles(
    tables: Iterable[Item], read: Callable[[Item], bytes], classes: Set[str]
) -> dict[str, str]:
    """Return the words for classes from a table beside their folders, such as ImageNet's words.txt.

    Its lines are a class, a tab and the words. It may list further classes; a table that lacks some
    of these is another one.
    """
    for item in tables:
        try:
            text = read(item)[:_MAX_BYTES].decode("utf-8-sig")
        except (OSError, ImageError, ValueError):
            continue  # nobody said that it has anything to do with the classes
        pairs = (line.split("\t") for line in text.splitlines())
        words = {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
        titles = {key: words.get(key, "") for key in classes}
        if all(title and not title.isdecimal() for title in titles.values()):
            return titles
    return {}


def _content(item: Item, read: Callable[[Item], bytes]) -> bytes:
    try:
        return read(item)
    except (OSError, ImageError) as error:
        raise DataError(f"{item.name}, beside the images, cannot be read ({error})") from error


class _Names:
    """The images of one folder, found by the ways to write their names."""

    def __init__(self, names: Sequence[str], split: str) -> None:
        self.count, self.split = len(names), split
        self._forms: dict[str, str | None] = {}  # None: a way that fits several names
        for name in names:
            base = name.rpartition("/")[2]
            for form in {base, _stem(base)} - {name}:
                form = class_key(form)  # noqa: PLW2901
                self._forms[form] = None if form in self._forms else name
        self._forms.update((class_key(name), name) for name in names)

    def find(self, value: str) -> str | None:
        """Return the image that `value` names: with folders or without, perhaps without ending."""
        value = class_key(value.strip().replace("\\", "/"))
        while value not in self._forms and "/" in value:
            folder, _, value = value.partition("/")
            named = split_of(folder) if self.split else None
            if named is not None and not named[1] and named[0] != self.split:
                return None  # test/1.jpg is not train/1.jpg
        if value not in self._forms and value.lower().endswith(_IMAGE_ENDINGS):  # 1.JPG for 1.jpg
            value = _stem(value)
        return self._forms.get(value)


def _stem(base: str) -> str:
    return base.rpartition(".")[0] or base


def _parse(path: str, data: bytes, images: _Names) -> _Table | None:
    """Read a table; None if its rows name no images."""
    try:
        text = data[:_MAX_BYTES].decode("utf-8-sig")
        rows = _cells(text, images)
    except (ValueError, csv.Error):
        return None  # another kind of text
    width = len(rows[0]) if rows else 0
    has_header = width > 1 and not any(images.find(cell) is not None for cell in rows[0])
    titles = [cell.strip() for cell in rows[0]] if has_header else []
    body = rows[1:] if has_header else rows
    name = _name_column(body, [title.lower() for title in titles], width, images)
    if name is None:
        return None
    for line, row in enumerate(rows, 1):
        if len(row) != width:
            raise DataError(f"{path}:{line}: {len(row)} columns, {width} in the first line")
    return _Table(path, titles, body, name)


def _cells(text: str, images: _Names) -> list[list[str]]:
    """Divide the lines of a table; in Caffe's lists the file name before the class has spaces."""
    first = text.partition("\n")[0]
    divider = next((each for each in "\t,;" if each in first), " ")
    if divider == " ":
        pairs = [line.rsplit(None, 1) for line in text.splitlines() if line.strip()]
        names = [pair[0] for pair in pairs[:_SAMPLE] if len(pair) == 2]
        if any(" " in name and images.find(name) is not None for name in names):
            return pairs
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=divider, skipinitialspace=True)
    return [row for row in reader if any(cell.strip() for cell in row)]


def _from_one_hot(table: _Table) -> _Table:
    """Return the names and classes of a table with a column for each class, 1 for one, else 0.

    Any other table is returned as it is.
    """
    columns = [i for i, title in enumerate(table.titles) if i != table.name and _has_title(title)]
    marks = [[row[column].strip() for column in columns] for row in table.rows]
    ones = [[column for column, mark in zip(columns, row, strict=True) if mark in _ONE]
            for row in marks]  # fmt: skip
    is_one_hot = all(mark in _ONE + _ZERO for row in marks for mark in row)
    if len(columns) < 2 or not is_one_hot or any(len(found) != 1 for found in ones):
        return table
    rows = [
        [row[table.name], table.titles[found[0]]]
        for row, found in zip(table.rows, ones, strict=True)
    ]
    return _Table(table.path, ["file", "label"], rows, 0)


def _name_column(
    rows: Sequence[Sequence[str]], header: Sequence[str], width: int, images: _Names
) -> int | None:
    """Return the column that names most images, whole names first.

    Numbers of classes may look like names without their ending, but they repeat.
    """
    named: dict[int, set[str | None]] = {}
    whole: dict[int, bool] = {}
    for row in rows[:_SAMPLE]:
        for column, cell in enumerate(row[:width]):
            if not header or (_has_title(header[column]) and header[column] not in LABEL_COLUMNS):
                named.setdefault(column, set()).add(images.find(cell))
                is_whole = cell.strip().lower().endswith(_IMAGE_ENDINGS)
                whole[column] = whole.get(column, True) and is_whole
    counts = {column: len(found - {None}) for column, found in named.items()}
    best = max(counts, key=lambda i: (whole[i] and counts[i], counts[i], -i), default=None)
    return best if width > 1 and best is not None and counts[best] else None


def _has_title(title: str) -> bool:
    """Return whether a column has a title; pandas writes row numbers without one."""
    return bool(title) and not title.startswith("unnamed")


def _label_column(table: _Table) -> int | None:
    """Return the column with the classes; None if that is unclear."""
    width = len(table.rows[0]) if table.rows else 0
    others = [i for i in range(width) if i not in (table.name, _split_column(table))]
    if not table.header:  # as in Tiny ImageNet: the name, the class, and numbers of a box
        texts = [i for i in others if not all(row[i].strip().isdecimal() for row in table.rows)]
        return others[0] if len(others) == 1 else texts[0] if len(texts) == 1 else None
    known = [column for column in others if table.header[column] in LABEL_COLUMNS]
    pairs = {tuple(row[column].strip() for column in known) for row in table.rows}
    if known and all(len({pair[i] for pair in pairs}) == len(pairs) for i in range(len(known))):
        # Several columns for one thing, such as a number and a word: the word.
        return max(known, key=lambda column: not table.rows[0][column].strip().isdecimal())
    others = [column for column in others if _has_title(table.header[column])]
    values = {row[others[0]] for row in table.rows} if len(others) == 1 else set()
    base = table.path.rpartition("/")[2].lower()
    of_split = split_of(base.rpartition(".")[0])
    is_test = of_split is not None and of_split[0] == "test"  # may say anything but the class
    is_labels = bool(re.search("label|class|annot", base)) or not is_test
    return others[0] if is_labels and 0 < 2 * len(values) <= max(4, len(table.rows)) else None


def _labels(table: _Table, column: int, images: _Names) -> Labels:
    classes: dict[str, str] = {}
    splits: dict[str, str] = {}
    split = _split_column(table)
    absent = list[str]()
    is_of_several = bool(table.titles) and table.header[column] in SEVERAL_COLUMNS
    for line, row in enumerate(table.rows, 2 if table.header else 1):
        name = images.find(row[table.name])
        if name is None:
            if not _is_elsewhere(row, split, table.name, images.split):
                absent.append(row[table.name])
            continue
        label = _class_name(f"{table.path}:{line}", row[column], is_of_several)
        if classes.setdefault(name, label) != label:
            raise DataError(f"{table.path}:{line}: {name} has two classes")
        if split is not None:
            found = split_of(row[split])
            if found is None:
                raise DataError(
                    f"{table.path}:{line}: {row[split]!r} is no split (train, val, test)"
                )
            splits[name] = found[0]
    if 2 * len(classes) < min(len(table.rows), images.count):
        raise DataError(
            f"{table.path} names only {len(classes):,} of the images beside it; give it the names "
            "of the files, or remove it"
        )
    rows = f"{len(absent):,} of {len(table.rows):,} rows name no image here"
    notes = [f"{table.path}: {rows}, the first {absent[0]}"] if absent else []
    return Labels(classes, splits, notes)


def _class_name(place: str, text: str, is_of_several: bool) -> str:
    label = class_key(text.strip())
    if boxes := WNID_WITH_BOXES.fullmatch(label):
        label = boxes[1]
    if not label or "/" in label or label in (".", ".."):
        raise DataError(f"{place}: {label!r} cannot be the name of a class")
    if "|" in label or (" " in label and is_of_several):
        raise DataError(f"{place}: {label!r} names several classes; give each image one")
    return label


def _is_elsewhere(row: Sequence[str], column: int | None, name: int, split: str) -> bool:
    """Return whether a row is of another split than the folder's, by its column or its path."""
    if not split:
        return False
    folders = row[name].replace("\\", "/").split("/")[:-1]
    named = [split_of(each) for each in ([row[column]] if column is not None else []) + folders]
    return any(each is not None and each[0] != split for each in named)


def _split_column(table: _Table) -> int | None:
    columns = [i for i, title in enumerate(table.header) if title in SPLIT_COLUMNS]
    return next((i for i in columns if any(split_of(row[i]) for row in table.rows)), None)


def _joined(
    tables: Sequence[tuple[_Table, int]], parts: Sequence[Labels], names: Sequence[str]
) -> Labels:
    """Join the tables train.csv, val.csv and test.csv; refuse others that disagree."""
    classes: dict[str, str] = {}
    splits: dict[str, str] = {}
    for (table, _), part in zip(tables, parts, strict=True):
        of_file = split_of(table.path.rpartition("/")[2].rpartition(".")[0])
        for name, label in part.classes.items():
            if classes.setdefault(name, label) != label:
                raise DataError(
                    f"{few([each.path for each, _ in tables])} give {name} different classes; "
                    "keep one of them"
                )
            split = part.splits.get(name, of_file[0] if of_file and len(parts) > 1 else "")
            if splits.setdefault(name, split) != split:
                raise DataError(f"{name} is both in {split} and in {splits[name]}")
    if len({bool(split) for split in splits.values()}) > 1:
        raise DataError(f"{few([each.path for each, _ in tables])}: only some give a split")
    notes = [f"classes from {few([table.path for table, _ in tables])}"]
    notes += [note for part in parts for note in part.notes]
    missing = [name for name in names if name not in classes]
    if missing:
        notes.append(
            f"{tables[0][0].path} names {len(classes):,} of {len(names):,} images; the others are "
            f"left out, the first is {missing[0]}"
        )
    return Labels(classes, splits, notes)
