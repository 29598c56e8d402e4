"""What Pillow does not do for PNG: pass over packed texts, notice missing rows, keep 16 bits."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.images import Pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By the colour type: grey, RGB, palette, grey with alpha, RGB with alpha."""
# Of each pass of an interlaced image: first column and row, steps in columns and rows.
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4),
    (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
_LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}
"""Pillow's name of pixels that it reads the high bytes of: one with which it reads the low bytes.

For grey with alpha that one gives high byte and low byte of the grey, then of the alpha."""
_DEPTHS = (8, 10, 12, 14, 16)


def without_extras(data: bytes) -> bytes:
    """Remove the chunks that are not pixels: texts can unpack to gigabytes."""
    return SIGNATURE + b"".join(
        data[start:end] for kind, start, end in _chunks(data) if kind in _NEEDED
    )


def lacks_rows(data: bytes, image: Image.Image) -> bool:
    """Return whether the pixels end after fewer rows than the header says, without an error.

    Pillow leaves the missing rows at 0.
    """
    width, height, depth, color, *_, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    last = image.crop((0, image.height - 1, image.width, image.height))
    if not interlaced and last.tobytes().strip(b"\0"):
        return False
    bits = depth * _CHANNELS[color]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes)
    expected: int = sum(h * (1 + -(-w * bits // 8)) for w, h in sizes if w > 0 and h > 0)
    return _unpacked_bytes(data, expected) < expected


def _unpacked_bytes(data: bytes, limit: int) -> int:
    """Count the bytes that the pixels unpack to, up to about `limit`."""
    unpack, count = zlib.decompressobj(), 0
    for kind, start, end in _chunks(data):
        packed = data[start + 8 : end - 4] if kind == b"IDAT" else b""
        while packed and count < limit:
            count += len(unpack.decompress(packed, 2**20))
            packed = unpack.unconsumed_tail
    return count


def read_16_bits(data: bytes, image: Image.Image) -> Pixels | None:
    """Return 16-bit pixels as 8 bits, (H, W) or (H, W, 3); None where the high bytes are right.

    Cameras and microscopes fill 8 to 14 of the 16 bits. How many says the file (sBIT) where the
    values agree; otherwise it is the smallest of 8, 10, 12, 14 and 16 that holds the largest value.
    `image` is loaded.
    """
    depth, color = data[24], data[25]
    if depth != 16:
        return None
    values = np.asarray(image)
    if image.mode.startswith("I"):
        values = values.astype(np.uint16)
    elif values[..., :3].max() < 64:  # otherwise at least 15 bits are used
        values = _all_bits(data, values)
    else:
        return None
    bits = _used_bits(values, _significant_bits(data, color))
    return (values >> (bits - 8)).astype(np.uint8)


def _all_bits(data: bytes, high: Pixels) -> NDArray[np.uint16]:
    """Read the pixels again for the low bytes, which `high` lacks."""
    with Image.open(io.BytesIO(without_extras(data)), formats=["PNG"]) as image:
        mode = _LOW_BYTES[str(image.tile[0].args)]
        image.tile = [image.tile[0]._replace(args=mode)]
        low = np.asarray(image)
    low = low[..., 1:2] if mode == "RGBA" else low[..., :3]
    both: NDArray[np.uint16] = high[..., :3].astype(np.uint16) << 8 | low
    return both


def _used_bits(values: NDArray[np.uint16], significant: int) -> int:
    largest = int(values.max())
    if significant < 16:
        # The standard asks for values scaled to 16 bits, with the low bits zero or repeated.
        scaled = largest >> significant or not (values & (2 ** (16 - significant) - 1)).any()
        return 16 if scaled else max(8, significant)
    return next(bits for bits in _DEPTHS if largest < 2**bits)


def _significant_bits(data: bytes, color: int) -> int:
    """Return the largest number of sBIT, without the alpha's; 16 where there is none."""
    for kind, start, end in _chunks(data):
        if kind == b"sBIT":
            return max(data[start + 8 : end - 4][: 3 if color in (2, 6) else 1], default=16) or 16
    return 16


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each chunk: length, kind, body, checksum."""
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, position, position + 12 + length
        position += 12 + length
