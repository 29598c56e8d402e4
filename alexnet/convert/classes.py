"""The classes of an imported network, from a file in one of several formats."""

import re
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from alexnet.dataset import Dataset
from alexnet.errors import AlexnetError, UsageError
from alexnet.prepare.sources.imagenet_classes import imagenet_classes
from alexnet.storage.untrusted import parse_json

MAX_BYTES = 16 << 20
"""The largest file of classes; ImageNet's index has 36 KB."""

Names = tuple[list[str], list[str]]
"""Class keys (n02123045) and display names (tabby cat)."""


def likely_classes(count: int) -> Names:
    """Name unknown classes: a thousand get ImageNet's names, any other number get numbers."""
    known = imagenet_classes()
    if count == len(known):
        return list(known), list(known.values())
    names = [f"class {index:04d}" for index in range(count)]
    return names, names


def read_classes(path: Path, count: int) -> Names:
    """Read the names of `count` classes, in the order of the network's outputs.

    `path` is a packed data set, a JSON list, an index in JSON, from numbers to names ({"0": "cat"},
    or ImageNet's {"0": ["n01440764", "tench"]}) or from names to numbers ({"cat": 0}), or a text
    with one class on each line, such as Caffe's synset_words.txt ("n01440764 tench, Tinca tinca").
    Raises `UsageError` for another file or number of classes.
    """
    try:
        names, titles = _read(path)
    except OSError as error:
        raise UsageError(f"cannot read the classes in {path}: {error.strerror}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, AlexnetError) as error:
        raise UsageError(f"cannot read the classes in {path}: {error}") from None
    if len(names) != count:
        raise UsageError(f"{path} names {len(names):,} classes, the network has {count:,}")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{path} names two classes {repeated[0]}: give each its own key")
    return names, titles


def _read(path: Path) -> Names:
    if path.is_dir():
        data = Dataset(path)
        return list(data.classes), list(data.titles)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"the file has more than {MAX_BYTES:,} bytes")
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith(("[", "{")):
        return _from_json(parse_json(text))
    return _from_entries([_split(line.strip()) for line in text.splitlines() if line.strip()])


def _from_json(content: Any) -> Names:
    if isinstance(content, dict):
        content = _by_index(content)
    if not isinstance(content, list):
        raise ValueError(f"it holds a {type(content).__name__}, not a list or an index of classes")
    return _from_entries([_split(entry) if isinstance(entry, str) else entry for entry in content])


def _by_index(content: dict[str, Any]) -> list[Any]:
    """Return the classes of {"cat": 0} or {"0": "cat"} in the order of the numbers."""
    if all(type(value) is int for value in content.values()):
        numbered = [(number, name) for name, number in content.items()]
    elif all(name.isdecimal() for name in content):
        numbered = [(int(number), name) for number, name in content.items()]
    else:
        raise ValueError("its entries are neither numbers with names, nor names with numbers")
    numbered.sort(key=itemgetter(0))
    numbers = [number for number, _ in numbered]
    if numbers != list(range(len(numbers))):
        shown = ", ".join(map(str, numbers[:3]))
        raise ValueError(
            f"its numbers are {shown}, ..., {numbers[-1]}; those of the network's outputs are 0 to "
            f"{len(numbers) - 1}, each once"
        )
    return [name for _, name in numbered]


def _split(line: str) -> Sequence[str]:
    """Split "n01440764 tench, Tinca tinca" after the WordNet id; do not split other lines."""
    match = re.fullmatch(r"(n\d{8})\s+(.+)", line)
    return match.groups() if match else (line, line)


def _from_entries(entries: Sequence[Any]) -> Names:
    for entry in entries:
        if not isinstance(entry, list | tuple) or len(entry) < 2:
            raise ValueError(f"{str(entry)[:40]!r} is not a name, nor a list of key and name")
    return [str(entry[0]) for entry in entries], [str(entry[1]) for entry in entries]
