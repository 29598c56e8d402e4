"""Decode an image file to a square of RGB pixels.

P 2: "we first rescaled the image such that the shorter side was of length 256, and then cropped out
the central 256x256 patch". The format is recognised by a file's content, never by its name. Only
five common formats are accepted.
"""

import io
import math
import re
import struct
import threading
import warnings
from collections.abc import Callable
from functools import cache
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from alexnet.errors import DataError
from alexnet.images import Box, Pixels, Window
from alexnet.images.jpeg_header import size_from_header

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 100_000_000
"""Checked in the header, before any pixel is decoded."""
JPEG_QUALITY = 95
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}
_MAX_BUFFER_BYTES = 2**24
# Contains no JPEG marker (0xFF) and no long run of one code.
_MORE_DATA = bytes(range(255)) * 8

Resize = Literal["short", "warp"]
"""short: scale the shorter side, then crop the centre (P 2); warp: scale both sides (Caffe)."""
RESIZES: tuple[Resize, ...] = get_args(Resize)


class ImageError(DataError):
    """An image cannot be used; the message is the reason, without the file name."""


def load_square(
    data: bytes,
    size: int,
    *,
    orient: bool = False,
    resize: Resize = "short",
    many: bool = False,
) -> Pixels:
    """Decode an image file to a square, (size, size, 3) uint8 RGB.

    `resize="short"` scales the shorter side to `size` (bicubic, antialiased) and crops the longer
    side evenly. "warp" scales both sides to `size` and changes the proportions (Caffe's networks).
    Transparency is dropped; of several frames the first is used. `orient=True` turns the image as
    its EXIF tag says, which the published data sets did not do. `many=True` decodes photographs in
    about a third of the time, to the same pixels, if simplejpeg is installed; loading the compiled
    code takes half a second (four seconds the first time on a machine). Raises ImageError.
    """
    # Pillow warns of corrupt EXIF data and the like; the user cannot act on that.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = None
            if many and not orient and resize == "short":
                pixels = _fast_square(data, size)
            return square(_decode(data, size, orient), size, resize) if pixels is None else pixels
        except ImageError:
            raise
        except Exception as error:  # a broken file can fail anywhere in a decoder
            raise ImageError(_reason(error)) from error


def square(image: Image.Image, size: int, resize: Resize = "short") -> Pixels:
    """Resize an RGB image of Pillow to (size, size, 3) uint8; see `load_square`."""
    if resize == "warp":
        return np.array(image.resize((size, size), Image.Resampling.BICUBIC))
    # One step crops and scales, so that 1 x 5000 pixels never become 256 x 1,280,000.
    window, box = _central(image.width, image.height, size)
    scaled = image.crop(window).resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.array(scaled)


def _central(width: int, height: int, size: int) -> tuple[Window, Box]:
    """Return the window that decides the central square of an image, and the square within it.

    The rest of the image must not count: Pillow chooses from the whole shape whether it scales rows
    or columns first, which changes the last bits.
    """
    side = min(width, height)
    reach = int(2 * max(side / size, 1)) + 2  # pixels that the bicubic kernel covers on each side
    left, top = (width - side) / 2, (height - side) / 2
    window = (
        max(0, int(left) - reach),
        max(0, int(top) - reach),
        min(width, math.ceil(left) + side + reach),
        min(height, math.ceil(top) + side + reach),
    )
    left, top = left - window[0], top - window[1]
    return window, (left, top, left + side, top + side)


def square_pixels(pixels: Pixels, size: int, resize: Resize = "short") -> Pixels:
    """Resize pixels (H, W, 3) uint8 RGB as `load_square` resizes a file."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ImageError(f"pixels of shape {pixels.shape} {pixels.dtype}, not (H, W, 3) uint8")
    return square(Image.fromarray(pixels), size, resize)


def encode_jpeg(pixels: Pixels) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG of quality 95 with chroma halved, as OpenCV does."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return out.getvalue()


def decode_jpeg(data: bytes) -> Pixels:
    """Decode a JPEG written by `encode_jpeg` to (H, W, 3) uint8 RGB; thread-safe.

    simplejpeg is used if it is installed: the same pixels as with Pillow, in half the time.
    Raises ImageError.
    """
    try:
        return _jpeg_decoder()(data)
    except (ValueError, OSError, SyntaxError) as error:
        raise ImageError(_reason(error)) from error


@cache
def _jpeg_decoder() -> Callable[[bytes], Pixels]:
    try:
        import simplejpeg
    except ImportError:
        return _decode_with_pillow
    decoder: Callable[[bytes], Pixels] = simplejpeg.decode_jpeg
    return decoder


def _decode_with_pillow(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return np.array(image.convert("RGB"))


def _decode(data: bytes, size: int, orient: bool) -> Image.Image:
    if not data:
        raise ImageError("empty file")
    with Image.open(io.BytesIO(_without_extras(data)), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"{image.width} x {image.height} pixels: more than {MAX_PIXELS:,}")
        # JPEG decodes to 1/2, 1/4 or 1/8 cheaply; bicubic still scales by at least 2.
        image.draft(None, (2 * size, 2 * size))
        image.load()
        _refuse_missing_end(image, data, size)
        return to_rgb(_oriented(image) if orient else image)


def _fast_square(data: bytes, size: int) -> Pixels | None:
    """Do the same as `load_square` for a flawless JPEG photograph; return None for others."""
    pixels = _fast_decode(data, size) if data.startswith(b"\xff\xd8") else None
    if pixels is None:
        return None
    from alexnet.images.resize import bicubic  # compiles, or loads compiled code

    height, width, _ = pixels.shape
    window, box = _central(width, height, size)
    left, top, right, bottom = window
    if bottom - top > 1.05 * (right - left):  # where Pillow may scale the columns first
        return None
    return bicubic(pixels, window, box, size)


class _DecodeBuffer(threading.local):
    """Memory that a thread decodes to repeatedly, so that it stays in the processor's cache."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def get(self, count: int) -> bytearray | None:
        """Return `count` bytes or more; None for a very large image."""
        if count > _MAX_BUFFER_BYTES:
            return None
        if count > len(self.bytes):
            self.bytes = bytearray(count)
        return self.bytes


_buffer = _DecodeBuffer()


def _fast_decode(data: bytes, size: int) -> Pixels | None:
    """Decode to (H, W, 4), as large as Pillow would; None if libjpeg reports anything.

    The next call in this thread may overwrite the pixels.
    """
    try:
        import simplejpeg
    except ImportError:
        return None
    whole = size_from_header(data) or _size_by_pillow(data)
    if whole is None or whole[0] * whole[1] > MAX_PIXELS:
        return None
    width, height = _drafted(*whole, size)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data,
            "RGBX",
            min_height=height,
            min_width=width,
            buffer=_buffer.get(height * width * 4),
            strict=True,
        )
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (height, width) else None


def _size_by_pillow(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a grey or RGB JPEG; None for other colours."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return image.size if image.mode in ("RGB", "L") else None


def _drafted(width: int, height: int, size: int) -> tuple[int, int]:
    """Return the width and height to which `_decode` decodes: all, a half, quarter or eighth."""
    reduction = min(width, height) // (2 * size)
    divisor = next((divisor for divisor in (8, 4, 2) if reduction >= divisor), 1)
    return -(-width // divisor), -(-height // divisor)


def _refuse_missing_end(image: Image.Image, data: bytes, size: int) -> None:
    """Raise ImageError for a JPEG whose data end early although its end marker is present.

    The decoder silently fills the missing part with grey, so a grey last pixel is a first sign.
    The image may really be grey: then more data before the end marker do not change it.
    """
    corner = image.getpixel((image.width - 1, image.height - 1))
    if image.format not in ("JPEG", "MPO") or corner not in (128, (128, 128, 128)):
        return
    end = data.rfind(b"\xff\xd9")
    with Image.open(io.BytesIO(data[:end] + _MORE_DATA + data[end:]), formats=["JPEG"]) as longer:
        longer.draft(None, (2 * size, 2 * size))
        if longer.tobytes() != image.tobytes():
            raise ImageError("damaged: the lower part of the image is missing")


def _oriented(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF tag says; ignore tags that cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - the parser of the tags can fail in any way
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode of Pillow to RGB; keep the high byte of 16-bit grey and drop alpha."""
    if image.mode.startswith("I"):  # Pillow would clip instead of scaling
        high_byte = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(high_byte).convert("RGB")
    return image.convert("RGB")


def _without_extras(data: bytes) -> bytes:
    """Remove the chunks of a PNG that are not pixels: texts can unpack to gigabytes."""
    if not data.startswith(_PNG_SIGNATURE):
        return data
    parts, position = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length  # length, kind, body, checksum
        if kind in _PNG_CHUNKS:
            parts.append(data[position:end])
        position = end
    return b"".join(parts)


def _reason(error: Exception) -> str:
    """Return why an image failed, in words that are the same in every run."""
    if isinstance(error, UnidentifiedImageError):
        return "not a JPEG, PNG, WEBP, GIF or BMP image"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    text = re.sub(r"<[^>]* at 0x[0-9a-f]+>", "the file", " ".join(str(error).split()))
    return f"damaged: {text or type(error).__name__}"
