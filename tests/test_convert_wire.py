"""The reader and writer of protocol buffers against Google's library, and against nonsense."""

import struct
from typing import Any

import numpy as np
import pytest
from convert_makers import CAFFE
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from alexnet.convert.wire import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Message,
    WireError,
    bytes_field,
    varint_field,
)


def parse(data: bytes) -> Message:
    return Message.parse(memoryview(data))


def test_the_examples_of_the_specification() -> None:
    assert parse(b"\x08\x96\x01").fields == ((1, VARINT, 150),)
    assert varint_field(1, 150) == b"\x08\x96\x01"
    assert parse(b"\x12\x07testing").text(2) == "testing"
    assert bytes_field(2, "testing") == b"\x12\x07testing"
    assert parse(b"\x32\x06\x03\x8e\x02\x9e\xa7\x05").integers(6) == [3, 270, 86942]
    assert parse(b"\x08" + b"\xff" * 9 + b"\x01").integer(1, 0) == -1


numbers = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(numbers, max_size=5), st.text(max_size=20), st.binary(max_size=50))
def test_it_reads_what_the_library_writes(dims: list[int], name: str, raw: bytes) -> None:
    tensor = TensorProto(dims=dims, name=name, raw_data=raw, data_type=7)
    message = parse(bytes(tensor.SerializeToString()))
    assert message.integers(1) == dims
    assert message.text(8) == name
    assert [bytes(part) for part in message.bytes(9)] == [raw]
    assert message.integer(2, 0) == 7
    assert message.integer(3, -5) == -5


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=8), st.lists(numbers, max_size=4))
def test_it_reads_packed_numbers_and_messages(values: list[float], dims: list[int]) -> None:
    blob = CAFFE["BlobProto"](data=values)
    blob.shape.dim.extend(dims)
    net = CAFFE["NetParameter"](name="net")
    net.layer.add(name="a").blobs.append(blob)
    net.layer.add(name="b")
    layers = list(parse(net.SerializeToString()).messages(100))
    assert [layer.text(1) for layer in layers] == ["a", "b"]
    (read,) = layers[0].messages(7)
    np.testing.assert_array_equal(read.numbers(5, "<f4"), np.array(values, np.float32))
    assert read.message(7).integers(1) == dims
    assert layers[1].message(7).fields == ()


@given(st.text(max_size=20), st.integers(0, 2**63 - 1), st.binary(max_size=300))
def test_the_library_reads_what_it_writes(name: str, size: int, raw: bytes) -> None:
    data = bytes_field(8, name) + varint_field(1, size) + bytes_field(9, raw)
    tensor = TensorProto.FromString(data)
    assert (tensor.name, list(tensor.dims), tensor.raw_data) == (name, [size], raw)


def test_a_single_number_of_four_bytes() -> None:
    message = parse(bytes([2 << 3 | FIXED32]) + struct.pack("<f", 0.75))
    assert message.float32(2) == 0.75
    assert message.float32(3) is None
    message = parse(bytes([2 << 3 | FIXED64]) + bytes(8))
    assert message.has(2, FIXED64)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x08", "the data end within a number"),
        (b"\x08\x80", "the data end within a number"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "more than ten bytes"),
        (b"\x00\x01", "the number 0"),
        (b"\x0b\x0c", "the unknown wire type 3"),
        (b"\x0f", "the unknown wire type 7"),
        (b"\x0a\x05abc", "a field of 5 bytes where 3 are left"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "where 0 are left"),
        (b"\x0d\x00\x00", "a field of 4 bytes where 2 are left"),
        (b"\x08\x01" * 100_001, "more than 100,000 fields"),
    ],
)
def test_nonsense_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        parse(data)


def test_nonsense_inside_is_refused() -> None:
    with pytest.raises(WireError, match="3 bytes are not a multiple of 4 bytes"):
        parse(b"\x0a\x03abc").numbers(1, "<f4")
    with pytest.raises(WireError, match="more than 100,000 numbers"):
        parse(bytes_field(1, bytes(100_001))).integers(1)
    with pytest.raises(WireError, match="data end within a number"):
        parse(b"\x0a\x01\x80").integers(1)


@given(st.binary(max_size=200))
def test_noise_is_a_wire_error_or_fields_that_fill_it(data: bytes) -> None:
    try:
        message = parse(data)
    except WireError:
        return
    sizes: dict[int, Any] = {FIXED32: 4, FIXED64: 8}
    held = sum(
        len(value) if isinstance(value, memoryview) and kind == BYTES else sizes.get(kind, 1)
        for _, kind, value in message.fields
    )
    assert held + len(message.fields) <= len(data)
