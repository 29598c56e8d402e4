"""What the names of files and folders mean: images or side files, classes, splits."""

import re
import unicodedata
from collections.abc import Iterable

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
NEUTRAL_WORDS = {
    "data", "dataset", "files", "folder", "image", "images", "img", "imgs", "jpeg", "jpg", "photo",
    "photos", "pictures", "png", "set", "split", "subset",
}  # fmt: skip
"""Words in the name of a folder that say nothing about classes."""
NOT_IMAGES = {
    # texts, tables and documents
    ".csv", ".db", ".doc", ".docx", ".htm", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".log",
    ".md", ".ods", ".pdf", ".pptx", ".py", ".rst", ".rtf", ".sh", ".toml", ".tsv", ".txt", ".url",
    ".xls", ".xlsx", ".xml", ".yaml", ".yml",
    # what cameras, telephones and photograph programs write beside an image
    ".aae", ".lrcat", ".lrv", ".on1", ".pp3", ".thm", ".xmp",
    # videos and sound
    ".3gp", ".avi", ".m4a", ".m4v", ".mkv", ".mov", ".mp3", ".mp4", ".mpeg", ".mpg", ".mts",
    ".wav", ".webm", ".wmv",
    # archives and arrays
    ".7z", ".bz2", ".gz", ".h5", ".lnk", ".mat", ".npy", ".npz", ".parquet", ".pkl", ".pt", ".pth",
    ".rar", ".tar", ".tgz", ".tmp", ".xz", ".zip", ".zst",
}  # fmt: skip
"""Endings of files that often lie among images. All other files are recognised by content."""
TEMPORARY = {"tmp", "temp"}
"""Names of files that a program left behind, as in Caltech-101: a copy of an image, if any."""
WNID_WITH_BOXES = re.compile(r"(n\d{8})(?: [-\d.]+){4}(?: \1(?: [-\d.]+){4})*")
"""Kaggle's PredictionString: a class and a box, once for each object."""
_NOT_FOLDERS = {
    *("__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin"),
    "system volume information",
}


def is_image_path(path: str) -> bool:
    """Return whether a path may be an image: not hidden, not a system's own, not a side file."""
    is_left_behind = path[path.rfind("/") + 1 :].lower() in TEMPORARY
    is_side_file = is_left_behind or path[path.rfind(".") :].lower() in NOT_IMAGES
    return not is_side_file and is_visible(path)


def is_visible(path: str) -> bool:
    """Return whether no part of a path is hidden or kept by a system for itself."""
    return not any(part.startswith(".") or part.lower() in _NOT_FOLDERS for part in path.split("/"))


def class_key(name: str) -> str:
    """Return the key of a class: names that look the same are one, as macOS writes them too."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def split_of(name: str) -> tuple[str, frozenset[str]] | None:
    """Return the split that a name contains as a word, and its other words but neutral ones.

    "Training_Set" gives train and nothing else, "seg_test" test and "seg"; None without a split.
    """
    words = re.findall(r"[^\W\d_]+", name.lower())
    words = [
        short if (short := word.removesuffix("set")) in SPLIT_NAMES else word for word in words
    ]
    splits = [word for word in words if word in SPLIT_NAMES]
    if len(splits) != 1:
        return None
    return SPLIT_NAMES[splits[0]], frozenset(words) - {splits[0]} - NEUTRAL_WORDS


def is_neutral(name: str) -> bool:
    """Return whether a name says nothing about the class of what is in it: "images", "test"."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    return bool(words) and set(words) <= NEUTRAL_WORDS | SPLIT_NAMES.keys()


def few(names: Iterable[str], most: int = 5) -> str:
    """Return the first names of many, for a message."""
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
