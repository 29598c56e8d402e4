"""The wire format of protocol buffers, in which Caffe's and ONNX's files are written.

A message is a sequence of fields. A field is a key (its number and wire type) and then a varint, 4
or 8 bytes, or a length with that many bytes. `caffe.py` and `read_onnx.py` know the numbers.
Reading copies nothing and compares each length with the bytes that are left, so that a crafted file
cannot take memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 100_000
"""Fields of one message; AlexNet's files have some hundreds."""

Value = int | memoryview


class WireError(ValueError):
    """The bytes are not a message; the text says why."""


@dataclass(frozen=True)
class Message:
    """The fields of one message, in the order of the file."""

    fields: tuple[tuple[int, int, Value], ...]
    """Number, wire type (VARINT and so on), and an integer or a view of the bytes."""

    @classmethod
    def parse(cls, data: memoryview) -> "Message":
        """Split `data` into fields. Raises `WireError` for bytes that are not a message."""
        fields = []
        for field in _fields(data):
            fields.append(field)
            if len(fields) > MAX_FIELDS:
                raise WireError(f"a message has more than {MAX_FIELDS:,} fields")
        return cls(tuple(fields))

    def has(self, number: int, wire_type: int) -> bool:
        """Check whether there is a field with that number and wire type."""
        return any(field[:2] == (number, wire_type) for field in self.fields)

    def bytes(self, number: int) -> list[memoryview]:
        """Return the bytes of each field `number`."""
        return [value for value in self._values(number, BYTES) if isinstance(value, memoryview)]

    def messages(self, number: int) -> "Iterator[Message]":
        """Parse each field `number` as a message, one after the other."""
        return (Message.parse(value) for value in self.bytes(number))

    def message(self, number: int) -> "Message":
        """Parse the last field `number`; an empty message where there is none."""
        found = self.bytes(number)
        return Message.parse(found[-1]) if found else Message(())

    def texts(self, number: int) -> list[str]:
        """Return each field `number` as text."""
        return [bytes(value).decode("utf-8", "replace") for value in self.bytes(number)]

    def text(self, number: int) -> str:
        """Return the last field `number` as text, "" where there is none."""
        return "".join(self.texts(number)[-1:])

    def integers(self, number: int) -> list[int]:
        """Return all signed 64-bit integers of field `number`, packed or one by one."""
        values: list[int] = []
        for found, wire_type, value in self.fields:
            if found == number and wire_type == VARINT and isinstance(value, int):
                values.append(_signed(value))
            elif found == number and isinstance(value, memoryview):
                position = 0
                while position < len(value):
                    integer, position = _varint(value, position)
                    values.append(_signed(integer))
                    if len(values) > MAX_FIELDS:
                        raise WireError(f"a list has more than {MAX_FIELDS:,} numbers")
        return values

    def integer(self, number: int, default: int) -> int:
        """Return the last integer of field `number`, `default` where there is none."""
        return [default, *self.integers(number)][-1]

    def numbers(self, number: int, dtype: str) -> NDArray[np.generic]:
        """Return the packed numbers of field `number`, in numpy's `dtype` ("<f4")."""
        parts = self.bytes(number)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        size = np.dtype(dtype).itemsize
        if len(data) % size:
            raise WireError(f"{len(data)} bytes are not a multiple of {size} bytes")
        return np.frombuffer(data, dtype)

    def float32(self, number: int) -> float | None:
        """Return the last float32 of field `number`, None where there is none."""
        found = self._values(number, FIXED32)
        return float(np.frombuffer(found[-1], "<f4")[0]) if found else None  # type: ignore[arg-type]

    def _values(self, number: int, wire_type: int) -> list[Value]:
        return [field[2] for field in self.fields if field[:2] == (number, wire_type)]


def _fields(data: memoryview) -> Iterator[tuple[int, int, Value]]:
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise WireError("a field has the number 0")
        if wire_type == VARINT:
            integer, position = _varint(data, position)
            yield number, wire_type, integer
            continue
        if wire_type == BYTES:
            length, position = _varint(data, position)
        elif wire_type in (FIXED32, FIXED64):
            length = 4 if wire_type == FIXED32 else 8
        else:
            raise WireError(f"a field has the unknown wire type {wire_type}")
        if length > len(data) - position:
            raise WireError(f"a field of {length:,} bytes where {len(data) - position:,} are left")
        yield number, wire_type, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Read seven bits from each byte, low ones first, until one has its high bit clear."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise WireError("the data end within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, position
    raise WireError("a number has more than ten bytes")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


# Writing: the bytes of a message are those of its fields, one after the other.


def varint_field(number: int, value: int) -> bytes:
    """Write a field with a non-negative integer."""
    return _write_varint(number << 3 | VARINT) + _write_varint(value)


def bytes_field(number: int, data: bytes | str) -> bytes:
    """Write a field with bytes, a text or a message."""
    data = data.encode() if isinstance(data, str) else data
    return _write_varint(number << 3 | BYTES) + _write_varint(len(data)) + data


def _write_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
