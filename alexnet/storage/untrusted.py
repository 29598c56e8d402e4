"""Reading JSON and arrays from untrusted files: every problem is a `ValueError`.

The readers of Python and numpy are made for well-formed files. A crafted JSON document exhausts
the stack. numpy lets Python parse the header of an array; crafted headers raise errors that numpy
does not document, and fail now and then in threads (CPython 3.11).
"""

import json
import math
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 4096
"""Bytes; numpy writes 128 for simple arrays."""
_MAX_RANK = 8
# numpy always writes the keys in this order (numpy.lib.format).
_HEADER = re.compile(
    r"\{\s*'descr':\s*'([<>|=]?[buif][1248])',\s*'fortran_order':\s*(True|False),"
    r"\s*'shape':\s*\(((?:\s*\d{1,12},)*(?:\s*\d{1,12})?)\),?\s*\}\s*"
)


class ArrayHeader(NamedTuple):
    """The header of a .npy file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool
    offset: int
    """Of the numbers in the file, in bytes."""

    @property
    def bytes(self) -> int:
        """Size of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON document. Raises `ValueError` if it is not valid."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_array_header(file: BinaryIO) -> ArrayHeader:
    """Read the header of a .npy file of numbers. Raises `ValueError` for anything else."""
    start = file.read(8)
    wide = start[6:7] != b"\x01"  # versions 2 and 3 have four bytes for the length
    length = int.from_bytes(file.read(4 if wide else 2), "little")
    if start[:6] != _MAGIC or start[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise ValueError("not a .npy file")
    if length > _MAX_HEADER:
        raise ValueError(f"a header of {length:,} bytes")
    match = _HEADER.fullmatch(file.read(length).decode("latin1"))
    if match is None:
        raise ValueError("a header that is not of an array of numbers")
    shape = tuple(int(part) for part in match[3].replace(",", " ").split())
    if len(shape) > _MAX_RANK:
        raise ValueError(f"an array of {len(shape)} dimensions")
    return ArrayHeader(np.dtype(match[1]), shape, match[2] == "True", file.tell())


def map_array(path: Path) -> NDArray[Any]:
    """Map a .npy file into memory, read-only.

    Raises `ValueError` for another file or a length that does not match the header, and `OSError`.
    """
    with path.open("rb") as file:
        header = read_array_header(file)
        size = os.fstat(file.fileno()).st_size
        if size != header.offset + header.bytes:
            raise ValueError(f"{size - header.offset:,} bytes for shape {header.shape}")
        order: Any = "F" if header.is_fortran else "C"
        if not header.bytes:  # nothing to map
            return np.empty(header.shape, header.dtype, order)
        return np.memmap(file, header.dtype, "r", header.offset, header.shape, order)
