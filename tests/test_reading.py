"""Untrusted JSON and arrays: read as Python and numpy read them, or refused with one error."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet.storage.untrusted import map_array, parse_json, read_array_header


def npy(array: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(array), **options)
    return out.getvalue()


@pytest.mark.parametrize("dtype", ["|u1", "|b1", "<i2", ">i4", "<i8", "<f2", "<f4", ">f8"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 0, 2), (2, 3, 4)])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_arrays_are_those_that_numpy_reads(
    tmp_path: Path, dtype: str, shape: tuple[int, ...], version: tuple[int, int]
) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    path = tmp_path / "a.npy"
    path.write_bytes(npy(array, version=version))
    mapped = map_array(path)
    expected = np.load(path)
    assert (mapped.dtype, mapped.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(mapped, expected)


def test_the_order_of_fortran_is_kept(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(12).reshape(3, 4))
    (tmp_path / "a.npy").write_bytes(npy(array))
    np.testing.assert_array_equal(map_array(tmp_path / "a.npy"), array)


WHOLE = npy(np.arange(6, dtype="<i8"))


def with_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(48)


HEADER = b"{'descr': '<i8', 'fortran_order': False, 'shape': (6,), }\n"
BAD = {
    "empty": (b"", "not a .npy file"),
    "text": (b"no array at all, but text", "not a .npy file"),
    "a later version": (WHOLE.replace(b"NUMPY\x01", b"NUMPY\x09"), "not a .npy file"),
    "cut in the header": (WHOLE[:50], "a header that is not"),
    "cut in the numbers": (WHOLE[:-1], "47 bytes for shape"),
    "too long": (WHOLE + b"\0", "49 bytes for shape"),
    "objects": (with_header(HEADER.replace(b"<i8", b"|O")), "a header that is not"),
    "texts": (with_header(HEADER.replace(b"<i8", b"<U4")), "a header that is not"),
    "records": (with_header(HEADER.replace(b"'<i8'", b"[('a', '<i8')]")), "a header that is not"),
    "code": (with_header(HEADER.replace(b"False", b"exit()")), "a header that is not"),
    "an open bracket": (with_header(HEADER.replace(b"(6,)", b"(6,")), "a header that is not"),
    "a negative length": (with_header(HEADER.replace(b"6", b"-6")), "a header that is not"),
    "huge": (with_header(HEADER.replace(b"6,", b"99999999999, 99999999")), "48 bytes for shape"),
    "digits": (with_header(HEADER.replace(b"6", b"6" * 3000)), "a header that is not"),
    "a long header": (with_header(b" " * 5000), "a header of 5,000 bytes"),
    "dimensions": (with_header(HEADER.replace(b"6,", b"1," * 9)), "an array of 9 dimensions"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_array_of_numbers(tmp_path: Path, name: str) -> None:
    data, says = BAD[name]
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match=says):
        map_array(tmp_path / "a.npy")


def test_a_mapped_array_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(WHOLE)
    with pytest.raises(ValueError, match="read-only"):
        map_array(tmp_path / "a.npy")[0] = 1


def test_the_header_says_where_the_numbers_begin() -> None:
    header = read_array_header(io.BytesIO(WHOLE))
    assert (header.offset, header.bytes) == (len(WHOLE) - 48, 48)
    assert np.frombuffer(WHOLE[header.offset :], header.dtype).tolist() == list(range(6))


def test_json_is_what_python_reads() -> None:
    document = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    assert parse_json(json.dumps(document)) == document
    assert parse_json(json.dumps(document).encode("utf-16")) == document


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"a":' * 100_000, b"\xff\xfe\xfd", "9" * 5000]
)
def test_what_is_no_json(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the texts are Python's own
        parse_json(text)
