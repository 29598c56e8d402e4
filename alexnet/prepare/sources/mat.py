"""Read structs from a MATLAB level 5 file, as far as ImageNet's meta.mat needs it.

SciPy's reader is meant for trusted files: a damaged file can crash the process (a segmentation
fault in SciPy 1.17). This reader follows "MAT-File Format" (The MathWorks, chapter 1). It reads
numbers, texts and structs of them, and refuses everything else.
"""

import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
_TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHARS = 1, 2, 4
_NUMERIC_CLASSES = range(6, 16)
_MAX_BYTES = 64 * 2**20
"""Size limit of a decompressed element; the devkit's has about 3 MB."""
_MAX_DEPTH = 4

Struct = dict[str, Any]


class MatError(ValueError):
    """The bytes are not a MATLAB file of this kind; the text says why."""


def read_structs(data: bytes, name: str) -> list[Struct]:
    """Return the elements of the struct array `name` as dictionaries by field.

    Values are texts, arrays of numbers, or lists of dictionaries. Raises `MatError`.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise MatError("it does not begin as a MATLAB file of level 5")
    for kind, body in _elements(memoryview(data)[128:], order):
        if kind == _COMPRESSED:
            kind, body = next(_elements(_unpack(body), order), (0, body))  # noqa: PLW2901
        if kind == _MATRIX:
            found, value = _matrix(body, order, 0)
            if found == name and isinstance(value, list):
                return value
    raise MatError(f"it has no structs called {name}")


def _unpack(body: memoryview) -> memoryview:
    try:
        unpacker = zlib.decompressobj()
        unpacked = unpacker.decompress(body, _MAX_BYTES)
    except zlib.error as error:
        raise MatError(f"damaged ({error})") from error
    if not unpacker.eof:
        raise MatError("cut off, or larger than any list of classes")
    return memoryview(unpacked)


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield the type and the bytes of each element."""
    position = 0
    while position + 8 <= len(data):
        kind, length = (int(n) for n in np.frombuffer(data[position : position + 8], f"{order}u4"))
        start = position + 8
        if kind >> 16:  # a small element: type, length and up to four bytes of data
            kind, length, start = kind & 0xFFFF, kind >> 16, position + 4
            if length > 4:
                raise MatError(f"a small element of {length} bytes")
        if length > len(data) - start:
            raise MatError(f"an element of {length:,} bytes where {len(data) - start:,} are left")
        yield kind, data[start : start + length]
        # All but compressed elements are padded to a multiple of eight bytes.
        end = start + length
        position = end if kind == _COMPRESSED else end + -end % 8


def _matrix(body: memoryview, order: str, depth: int) -> tuple[str, Any]:
    """Read a matrix: its name, and a text, an array or a list of structs; None for other kinds."""
    if depth > _MAX_DEPTH:
        raise MatError("structs within structs within structs")
    parts = _elements(body, order)
    flags, shape = _numbers(parts, order), _numbers(parts, order)
    name = bytes(_next(parts)[1]).decode("latin1")
    count = math.prod(int(size) for size in shape)
    kind = int(flags[0]) & 0xFF if len(flags) else 0
    if kind == _STRUCT:
        return name, _structs(parts, order, count, depth)
    if kind == _CHARS:
        return name, _text(_next(parts), order, count)
    if kind in _NUMERIC_CLASSES:
        values = _numbers(parts, order)
        if len(values) != count:
            raise MatError(f"{len(values):,} numbers for shape {shape.tolist()}")
        return name, values
    return name, None


def _structs(
    parts: Iterator[tuple[int, memoryview]], order: str, count: int, depth: int
) -> list[Struct]:
    """Read structs: the length of a field name, the names, then the values of each struct."""
    width = _numbers(parts, order)
    text = bytes(_next(parts)[1])
    if len(width) != 1 or not 1 <= width[0] <= 64 or len(text) % int(width[0]):
        raise MatError("structs without names of fields")
    size = int(width[0])
    fields = [
        text[start : start + size].split(b"\0")[0].decode("latin1")
        for start in range(0, len(text), size)
    ]
    structs = list[Struct]()
    while len(structs) < count:  # each needs bytes: a wrong count ends at the end of the file
        values = [_value(_next(parts), order, depth) for _ in fields]
        structs.append(dict(zip(fields, values, strict=True)))
        if not fields:
            raise MatError("structs without fields")
    return structs


def _value(element: tuple[int, memoryview], order: str, depth: int) -> Any:
    kind, body = element
    if kind != _MATRIX:
        raise MatError(f"an element of type {kind} where a matrix should be")
    return _matrix(body, order, depth + 1)[1] if len(body) else None  # no bytes: empty


def _numbers(parts: Iterator[tuple[int, memoryview]], order: str) -> NDArray[Any]:
    kind, body = _next(parts)
    code = _NUMBERS.get(kind)
    if code is None or len(body) % int(code[1]):
        raise MatError(f"{len(body)} bytes of type {kind} where numbers should be")
    return np.frombuffer(body, order + code)


def _text(element: tuple[int, memoryview], order: str, count: int) -> str:
    kind, body = element
    codec = {1: "latin1", 2: "latin1", 4: "utf-16"}.get(kind) or _TEXTS.get(kind)
    if codec is None:
        raise MatError(f"a text of type {kind}")
    if codec in ("utf-16", "utf-32"):
        codec += "-le" if order == "<" else "-be"
    text = bytes(body).decode(codec, "replace")
    if len(text) > count:
        raise MatError(f"{len(text):,} letters in a text of {count:,}")
    return text


def _next(parts: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    found = next(parts, None)
    if found is None:
        raise MatError("it ends within a matrix")
    return found
