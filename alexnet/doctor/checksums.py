"""Comparing files with their checksums, in chunks, with progress."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alexnet.progress import Advance, Progress

CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Expected:
    """A file with its expected digest and size; `bytes` is None where the size is unknown."""

    path: Path
    digest: str
    bytes: int | None = None


def wrong_files(
    files: Iterable[Expected], kind: Literal["sha256", "md5"], progress: Progress
) -> dict[Path, str]:
    """Read files and return what is wrong with each one that is not as expected.

    A file of another size is not read, since its digest cannot be right.
    """
    wrong, to_read = dict[Path, str](), dict[Path, tuple[Expected, int]]()
    for file in files:
        try:
            size = file.path.stat().st_size
        except (OSError, ValueError) as error:
            wrong[file.path] = f"cannot be read ({reason(error)})"
            continue
        if file.bytes is not None and size != file.bytes:
            wrong[file.path] = f"{size:,} bytes, not {file.bytes:,}"
        else:
            to_read[file.path] = file, size
    total = sum(size for _, size in to_read.values())
    with progress.task("checksums", total, "bytes") as advance:
        for path, (file, _) in to_read.items():
            try:
                digest = digest_of(path, kind, advance)
            except OSError as error:
                wrong[path] = f"cannot be read ({reason(error)})"
                continue
            if digest != file.digest:
                wrong[path] = f"its {kind.upper()} is {digest}, not {file.digest}"
    return wrong


def digest_of(path: Path, kind: Literal["sha256", "md5"], advance: Advance) -> str:
    """Return a file's digest in hexadecimal digits; `advance` gets the bytes read."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def reason(error: Exception) -> str:
    """Return in a few words why a file could not be read."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
