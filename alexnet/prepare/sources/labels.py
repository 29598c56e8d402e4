"""The classes of ImageNet's validation images, from the devkit or a label file.

The archive of validation images is flat. The devkit's ground truth gives the ILSVRC2012_ID of each
image, which only the devkit's meta.mat maps to a WordNet id. It is *not* the position in the sorted
ids, which networks predict. So bare numbers are accepted only with a devkit.
"""

import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from alexnet.errors import DataError
from alexnet.prepare.sources.mat import MatError, read_structs
from alexnet.prepare.sources.names import WNID_WITH_BOXES
from alexnet.prepare.sources.tar import DAMAGE

DEVKIT = "ILSVRC2012_devkit_t12"
SOLUTION = "LOC_val_solution.csv"
_KAGGLE_FOLDERS = ("CLS-LOC", "Data", "ILSVRC")
_META = "data/meta.mat"
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_WNID = re.compile(r"n\d{8}")
_MAX_DEVKIT_FILE_BYTES = 64 * 2**20
_MAX_LABEL_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Devkit:
    """The devkit: WordNet ids by ILSVRC2012_ID, display names by WordNet id, the ground truth."""

    path: Path
    wnids: Mapping[int, str]
    titles: Mapping[str, str]
    truth: Sequence[str]  # WordNet ids of the validation images, in the order of their names


@dataclass(frozen=True)
class ValLabels:
    """The source of the validation labels: a label file, a devkit, or both."""

    file: Path | None
    devkit: Path | None

    def titles(self) -> Mapping[str, str]:
        """Return display names by WordNet id; none without a devkit."""
        return self._devkit.titles if self._devkit else {}

    def label(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return the WordNet id of each image, given all names in sorted order."""
        if self.file is not None:
            return read_labels(self.file, names, self._devkit)
        if self._devkit is None:
            raise DataError(
                f"ImageNet's validation archive holds no labels: put {DEVKIT}.tar.gz beside it, "
                "or give the devkit or a label file"
            )
        _check_count(self._devkit.path, len(self._devkit.truth), len(names))
        return dict(zip(names, self._devkit.truth, strict=True))

    @cached_property
    def _devkit(self) -> Devkit | None:
        return None if self.devkit is None else read_devkit(self.devkit)


def find_solution(path: Path) -> Path | None:
    """Return Kaggle's file of validation labels in the folder `path`, or above ILSVRC/Data/CLS-LOC.

    An archive's is searched beside it.
    """
    folder = path.resolve() if path.is_dir() else path.resolve().parent
    while not (folder / SOLUTION).is_file():
        if folder.name not in _KAGGLE_FOLDERS:
            return None
        folder = folder.parent
    return folder / SOLUTION


def read_labels(path: Path, names: Sequence[str], devkit: Devkit | None) -> Mapping[str, str]:
    """Read a label file: "NAME WNID" on each line, or one WNID per line in the order of the names.

    A name may lack its folder and its ending; the first line may name the columns, as in Kaggle's
    LOC_val_solution.csv. Numbers instead of WNIDs are the devkit's ILSVRC2012_IDs. Raises DataError
    with the line for anything that does not match `names` exactly.
    """
    rows = _read_rows(path)
    known = {name.rpartition(".")[0]: name for name in names} | {name: name for name in names}
    lines = {name: line for line, name in enumerate(names)}
    first = 1 + (len(rows) == len(names) + 1 and _is_header(rows[0], known))
    rows = rows[first - 1 :]
    if rows and len(rows[0]) == 2:
        lines = _lines_by_name(path, [row[0] for row in rows], known, first)
    _check_count(path, len(rows), len(names))
    wnids = _wnids(path, [row[-1] for row in rows], devkit, first)
    if devkit and rows and rows[0][-1].isdecimal():
        _compare(path, [wnids[lines[name]] for name in names], devkit)
    return {name: wnids[lines[name]] for name in names}


def _read_rows(path: Path) -> list[list[str]]:
    """Read the lines of a label file: all have one word, or all have two."""
    try:
        if path.stat().st_size > _MAX_LABEL_BYTES:
            raise ValueError(f"it is longer than {_MAX_LABEL_BYTES:,} bytes")
        text = path.read_text("utf-8-sig").rstrip()
    except ValueError as error:
        raise DataError(f"{path}: not a text file ({error})") from error
    rows = [_words(line.strip()) for line in text.splitlines()]
    for line, row in enumerate(rows, 1):
        if len(row) != len(rows[0]) or len(row) > 2 or "" in row:
            raise DataError(f'{path}:{line}: not "NAME WNID" or "WNID" like the first line')
    return rows


def _words(line: str) -> list[str]:
    """Divide a line; a class with boxes, once for each object as in Kaggle's file, is one word."""
    name, _, boxes = line.partition(",")
    match = WNID_WITH_BOXES.fullmatch(boxes.strip())
    return [name, match[1]] if match else re.split(r"[\s,;]+", line)


def _is_header(row: Sequence[str], known: Mapping[str, str]) -> bool:
    """Return whether a row names columns: it has neither a label nor the name of an image."""
    is_label = row[-1].isdecimal() or _WNID.fullmatch(row[-1])
    return not is_label and row[0].rpartition("/")[2] not in known


def _lines_by_name(
    path: Path, names: Sequence[str], known: Mapping[str, str], first: int
) -> dict[str, int]:
    lines: dict[str, int] = {}
    for line, name in enumerate(names):
        base = name.rpartition("/")[2]
        if base not in known:
            raise DataError(f"{path}:{line + first}: no validation image is named {base}")
        base = known[base]
        if base in lines:
            raise DataError(
                f"{path}:{line + first}: {base} is already on line {lines[base] + first}"
            )
        lines[base] = line
    return lines


def _check_count(path: Path, labels: int, images: int) -> None:
    if labels != images:
        raise DataError(f"{path}: {labels:,} labels for {images:,} validation images")


def _wnids(path: Path, labels: Sequence[str], devkit: Devkit | None, first: int) -> list[str]:
    """Return the WordNet ids of labels that are all ids, or all numbers of the devkit."""
    numbers = bool(labels) and labels[0].isdecimal()
    if numbers and devkit is None:
        raise DataError(
            f"{path} holds bare numbers: they may be ILSVRC2012_IDs or positions in sorted order, "
            "from 0 or from 1, and a wrong guess mixes up all classes; give the devkit too, or a "
            "file with WordNet ids"
        )
    wnids = []
    for line, label in enumerate(labels, first):
        if numbers and devkit is not None:
            wnid = devkit.wnids.get(int(label)) if label.isdecimal() else None
        else:
            wnid = label if _WNID.fullmatch(label) else None
        if wnid is None:
            kind = "an ILSVRC2012_ID of the devkit" if numbers else "a WordNet id such as n01440764"
            raise DataError(f"{path}:{line}: {label!r} is not {kind}")
        wnids.append(wnid)
    return wnids


def _compare(path: Path, wnids: Sequence[str], devkit: Devkit) -> None:
    """Refuse numbers that contradict the devkit: they count the classes in another way."""
    if len(wnids) == len(devkit.truth):
        differ = sum(a != b for a, b in zip(wnids, devkit.truth, strict=True))
        if differ:
            raise DataError(
                f"{path}: {differ:,} of {len(wnids):,} numbers contradict the ground truth in "
                f"{devkit.path}; they are not ILSVRC2012_IDs, or in another order"
            )


def read_devkit(path: Path) -> Devkit:
    """Read the devkit, an archive or the folder unpacked from it; raises DataError."""
    meta, truth = _devkit_file(path, _META), _devkit_file(path, _TRUTH)
    wnids, titles = _leaves(path, meta)
    truth_wnids = []
    for line, text in enumerate(truth.decode("ascii", "replace").split(), 1):
        if not text.isdecimal() or int(text) not in wnids:
            raise DataError(f"{path}: {_TRUTH}:{line}: {text!r} is not an ILSVRC2012_ID of {_META}")
        truth_wnids.append(wnids[int(text)])
    return Devkit(path, wnids, titles, truth_wnids)


def _devkit_file(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            with (path / name).open("rb") as file:
                return file.read(_MAX_DEVKIT_FILE_BYTES)
        with tarfile.open(path) as archive:
            for info in archive:
                if info.name.endswith(name) and info.isreg():
                    member = archive.extractfile(info)
                    return member.read(_MAX_DEVKIT_FILE_BYTES) if member else b""
    except (*DAMAGE, OSError) as error:
        raise DataError(f"{path}: cannot be read as the devkit ({error})") from error
    raise DataError(f"{path}: no {name} in it; give {DEVKIT}.tar.gz as published")


def _leaves(path: Path, meta: bytes) -> tuple[dict[int, str], dict[str, str]]:
    """Return WordNet ids and display names of the classes: the synsets without children."""
    wnids, titles = {}, {}
    try:
        for synset in read_structs(meta, "synsets"):
            if synset["num_children"].item() == 0:
                wnid = str(synset["WNID"])
                wnids[int(synset["ILSVRC2012_ID"].item())] = wnid
                titles[wnid] = str(synset["words"])
    except (MatError, KeyError, AttributeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: {_META} cannot be read ({error!r})") from error
    return wnids, titles
