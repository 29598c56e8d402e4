"""MATLAB level 5 files, written by SciPy: our reader compared with SciPy's."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from fuzzing import Surface, fuzz, limits
from scipy.io import loadmat, savemat

from alexnet.prepare.sources.mat import MatError, read_structs

FIELDS = ("ID", "WNID", "words", "children", "empty", "part")


def structs(count: int) -> np.ndarray[Any, Any]:
    rows = np.empty((count, 1), [(name, object) for name in FIELDS])
    for number in range(count):
        identity = np.uint16(number + 1) if number % 2 else float(number + 1)
        words = ["plain words", "Füße, crème", "写真"][number % 3]
        children = np.arange(number % 4, dtype=np.int32)
        part = {"inner": np.float32(number), "text": "in it"}
        rows[number, 0] = (identity, f"n{number:08d}", words, children, [], part)
    return rows


def mat(**options: Any) -> bytes:
    out = io.BytesIO()
    savemat(out, {"before": np.eye(2), "synsets": structs(20), "after": "text"}, **options)
    return out.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("oned_as", ["row", "column"])
def test_structs_are_those_that_scipy_reads(compressed: bool, oned_as: Any) -> None:
    data = mat(do_compression=compressed, oned_as=oned_as)
    theirs = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
    ours = read_structs(data, "synsets")
    assert len(ours) == len(theirs) == 20
    for one, other in zip(ours, theirs, strict=True):
        assert tuple(one) == FIELDS
        assert one["ID"].item() == int(other["ID"])
        assert (one["WNID"], one["words"]) == (str(other["WNID"]), str(other["words"]))
        np.testing.assert_array_equal(one["children"], np.atleast_1d(other["children"]))
        assert len(one["empty"]) == 0
        inner = one["part"][0]
        assert (inner["inner"].item(), inner["text"]) == (
            float(other["part"]["inner"]),
            "in it",
        )


def element(kind: int, body: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}II", kind, len(body)) + body + bytes(-len(body) % 8)


def matrix(
    kind: int, shape: tuple[int, int], name: bytes, *parts: bytes, order: str = "<"
) -> bytes:
    flags = element(6, struct.pack(f"{order}II", kind, 0), order)
    sizes = element(5, struct.pack(f"{order}ii", *shape), order)
    return element(14, flags + sizes + element(1, name, order) + b"".join(parts), order)


def by_hand(order: str) -> bytes:
    """One struct with a number and a text, as the format's description has it."""
    number = matrix(6, (1, 1), b"", element(9, struct.pack(f"{order}d", 7.0), order), order=order)
    text = matrix(
        4, (1, 2), b"", element(4, "né".encode(f"utf-16-{'lb'[order == '>']}e"), order), order=order
    )
    width = element(5, struct.pack(f"{order}i", 4), order)
    names = element(1, b"a\0\0\0b\0\0\0", order)
    whole = matrix(2, (1, 1), b"synsets", width, names, number, text, order=order)
    mark = struct.pack(f"{order}HH", 0x0100, 0x4D49)
    return b"MATLAB 5.0 MAT-file".ljust(124) + mark + whole


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_file_written_by_hand_in_either_order_of_bytes(order: str) -> None:
    (found,) = read_structs(by_hand(order), "synsets")
    assert (found["a"].tolist(), found["b"]) == ([7.0], "né")


def after_head(*elements: bytes) -> bytes:
    return by_hand("<")[:128] + b"".join(elements)


NUMBERS = element(9, struct.pack("<d", 1.0))
WIDTH, NAMES = element(5, struct.pack("<i", 4)), element(1, b"a\0\0\0")
BAD = {
    "no such file": (b"text" * 100, "does not begin"),
    "short": (b"MATLAB", "does not begin"),
    "another name": (mat().replace(b"synsets", b"sinsets"), "no structs called"),
    "no structs": (after_head(matrix(6, (1, 1), b"synsets", NUMBERS)), "no structs called"),
    "a length that lies": (after_head(struct.pack("<II", 14, 1 << 30)), "an element of 1,073"),
    "a small one that is large": (after_head(struct.pack("<II", 9 << 16 | 14, 0)), "small element"),
    "a count that lies": (
        after_head(matrix(2, (1 << 15, 1 << 15), b"synsets", WIDTH, NAMES)),
        "it ends within a matrix",
    ),
    "numbers that lie": (
        after_head(matrix(6, (1000, 1000), b"synsets", NUMBERS)),
        "1 numbers for shape",
    ),
    "no fields": (
        after_head(matrix(2, (9, 9), b"synsets", WIDTH, element(1, b""))),
        "structs without fields",
    ),
    "no width": (
        after_head(matrix(2, (1, 1), b"synsets", element(5, bytes(4)), NAMES)),
        "without names of fields",
    ),
    "no matrix in it": (
        after_head(matrix(2, (1, 1), b"synsets", WIDTH, NAMES, NUMBERS)),
        "where a matrix should be",
    ),
    "packed damage": (after_head(element(15, b"no zlib")), "damaged"),
    "packed and cut": (after_head(element(15, zlib.compress(bytes(999))[:-6])), "cut off"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_such_file(name: str) -> None:
    data, says = BAD[name]
    with pytest.raises(MatError, match=says):
        read_structs(data, "synsets")


def test_structs_in_structs_end_somewhere() -> None:
    inner = matrix(6, (1, 1), b"", NUMBERS)
    for _ in range(50):
        inner = matrix(2, (1, 1), b"synsets", WIDTH, NAMES, inner)
    with pytest.raises(MatError, match="within structs"):
        read_structs(after_head(inner), "synsets")


@pytest.mark.fault(50)
def test_what_unpacks_to_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet.prepare.sources.mat._MAX_BYTES", 100_000)
    bomb = element(15, zlib.compress(bytes(10**6)))
    with pytest.raises(MatError, match="larger than any list of classes"):
        read_structs(after_head(bomb), "synsets")


@pytest.mark.fault(50)
def test_damage_is_a_mat_error_or_a_list() -> None:
    surface = Surface(
        [mat(), mat(do_compression=True)], lambda data: read_structs(data, "synsets"), (MatError,)
    )
    with limits():
        tally = fuzz(surface, 1, inputs=200)
    assert tally.failures == []
    assert tally.outcomes["read"] > 10
