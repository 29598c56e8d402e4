"""From the bytes of an image file to a square of RGB pixels.

The paper (section 2): "we first rescaled the image such that the shorter side was of length 256,
and then cropped out the central 256x256 patch". Files are judged by their content, never by their
name, and only five common formats are opened at all.
"""

import io
import math
import re
import struct
import threading
import warnings
from functools import cache
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from alexnet.errors import DataError
from alexnet.images.jpeg_header import plain_size

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Checked against the header, before any pixel is decoded.
MAX_PIXELS = 100_000_000
JPEG_QUALITY = 95
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}
_SCRATCH_BYTES = 2**24
# Not a marker of JPEG in it (0xFF), and no long run of one code.
_MORE_DATA = bytes(range(255)) * 8

Pixels = NDArray[np.uint8]
Window = tuple[int, int, int, int]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""
Resize = Literal["short", "warp"]
"""short: the short side to the size, then the centre (paper, section 2); warp: both (Caffe)."""
RESIZES: tuple[Resize, ...] = get_args(Resize)


class ImageError(DataError):
    """One image that cannot be used; the message is the reason, without the name of the file."""


def load_square(
    data: bytes,
    size: int,
    *,
    orient: bool = False,
    resize: Resize = "short",
    many: bool = False,
) -> Pixels:
    """Decode an image file to a square, (size, size, 3) uint8 RGB.

    The short side is scaled to `size` (bicubic, antialiased), the long side is cropped evenly; or
    both sides are scaled to it, whatever becomes of the proportions ("warp", as for Caffe's nets).
    Transparency is dropped, of several frames the first is taken. `orient=True` turns the image
    as its EXIF tag says; the data sets of the literature were made without. `many` takes half a
    second to get ready, four the first time on a machine, and then about a third of the time for
    each photograph, to the same pixels, where simplejpeg is installed. Raises ImageError.
    """
    # Pillow warns of corrupt EXIF data and the like: nothing that a person could act on.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = (
                _quick_square(data, size) if many and not orient and resize == "short" else None
            )
            return square(_decode(data, size, orient), size, resize) if pixels is None else pixels
        except ImageError:
            raise
        except Exception as error:  # a broken file can fail anywhere in a decoder
            raise ImageError(_reason(error)) from error


def square(image: Image.Image, size: int, resize: Resize = "short") -> Pixels:
    """Make a square of an RGB image of Pillow's: (size, size, 3) uint8; see `load_square`."""
    if resize == "warp":
        return np.array(image.resize((size, size), Image.Resampling.BICUBIC))
    # Cropping and scaling in one step: a strip of 1 x 5000 pixels never becomes 256 x 1,280,000.
    window, box = _central(image.width, image.height, size)
    scaled = image.crop(window).resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.array(scaled)


def _central(width: int, height: int, size: int) -> tuple[Window, Box]:
    """Return the part of an image that decides its central square, and the square's place in it.

    What lies farther away must not count: Pillow looks at the whole image's shape to choose
    whether it scales rows or columns first, which changes the last bits.
    """
    side = min(width, height)
    reach = int(2 * max(side / size, 1)) + 2  # of the bicubic kernel
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
    """Do to pixels (H, W, 3) uint8 RGB what `load_square` does to a file."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ImageError(f"pixels of shape {pixels.shape} {pixels.dtype}, not (H, W, 3) uint8")
    return square(Image.fromarray(pixels), size, resize)


def encode_jpeg(pixels: Pixels) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG of quality 95, chroma halved as OpenCV does it."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return out.getvalue()


def decode_jpeg(data: bytes) -> Pixels:
    """Decode a JPEG of our own making to (H, W, 3) uint8 RGB; safe in threads.

    simplejpeg is used if it is installed: the same pixels as Pillow's, in half the time.
    Raises ImageError.
    """
    try:
        return _jpeg_decoder()(data)
    except (ValueError, OSError, SyntaxError) as error:
        raise ImageError(_reason(error)) from error


class _Decoder(Protocol):
    def __call__(self, data: bytes, /) -> Pixels: ...


@cache
def _jpeg_decoder() -> _Decoder:
    try:
        import simplejpeg
    except ImportError:
        return _decode_with_pillow
    decoder: _Decoder = simplejpeg.decode_jpeg
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
        # JPEG decodes to 1/2, 1/4, 1/8 cheaply. Staying at twice the size keeps bicubic in charge.
        image.draft(None, (2 * size, 2 * size))
        image.load()
        _refuse_missing_end(image, data, size)
        return to_rgb(_oriented(image) if orient else image)


def _quick_square(data: bytes, size: int) -> Pixels | None:
    """Do what `load_square` does for a photograph in JPEG without a flaw; None for all else."""
    pixels = _quick_decode(data, size) if data.startswith(b"\xff\xd8") else None
    if pixels is None:
        return None
    from alexnet.images.resize import bicubic  # compiles, or loads what was compiled

    height, width, _ = pixels.shape
    window, box = _central(width, height, size)
    left, top, right, bottom = window
    if bottom - top > 1.05 * (right - left):  # where Pillow may scale the columns first
        return None
    return bicubic(pixels, window, box, size)


class _Scratch(threading.local):
    """Where a thread decodes to, again and again: such memory is still in the processor's cache."""

    def __init__(self) -> None:
        self.place = bytearray()

    def room(self, count: int) -> bytearray | None:
        """Return `count` bytes or more; None, so that others see to it, for a very large image."""
        if count > _SCRATCH_BYTES:
            return None
        if count > len(self.place):
            self.place = bytearray(count)
        return self.place


_scratch = _Scratch()


def _quick_decode(data: bytes, size: int) -> Pixels | None:
    """Decode to (H, W, 4), as large as Pillow would; None for what libjpeg has a word to say on.

    The next call in this thread may overwrite the pixels.
    """
    try:
        import simplejpeg
    except ImportError:
        return None
    whole = plain_size(data) or _size_by_pillow(data)
    if whole is None or whole[0] * whole[1] > MAX_PIXELS:
        return None
    width, height = _drafted(*whole, size)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data,
            "RGBX",
            min_height=height,
            min_width=width,
            buffer=_scratch.room(height * width * 4),
            strict=True,
        )
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (height, width) else None


def _size_by_pillow(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a JPEG in grey or colour; None for other colours."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return image.size if image.mode in ("RGB", "L") else None


def _drafted(width: int, height: int, size: int) -> tuple[int, int]:
    """Return how large an image is that `_decode` lets be decoded at a half, quarter or eighth."""
    reduced = min(width, height) // (2 * size)
    part = next((part for part in (8, 4, 2) if reduced >= part), 1)
    return -(-width // part), -(-height // part)


def _refuse_missing_end(image: Image.Image, data: bytes, size: int) -> None:
    """Raise ImageError for a JPEG whose data end early, though its end marker is there.

    The decoder fills what is missing with grey, silently. A grey last pixel is the sign, but an
    image may be grey: only if its data end early do more data before the end marker change it.
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
    """Turn an image as its EXIF tag says; tags that cannot be read turn nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - whatever the parser of the tags stumbles on
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode of Pillow's to RGB; 16-bit grey keeps its high byte, alpha is dropped."""
    if image.mode.startswith("I"):  # Pillow itself would clip instead of scaling
        high_byte = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(high_byte).convert("RGB")
    return image.convert("RGB")


def _without_extras(data: bytes) -> bytes:
    """Drop from a PNG the chunks that are not pixels: texts can unpack to gigabytes."""
    if not data.startswith(_PNG_SIGNATURE):
        return data
    kept, position = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length  # length, kind, body, checksum
        if kind in _PNG_CHUNKS:
            kept.append(data[position:end])
        position = end
    return b"".join(kept)


def _reason(error: Exception) -> str:
    """Say in a few words, the same in every run, why an image failed."""
    if isinstance(error, UnidentifiedImageError):
        return "not a JPEG, PNG, WEBP, GIF or BMP image"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    text = re.sub(r"<[^>]* at 0x[0-9a-f]+>", "the file", " ".join(str(error).split()))
    return f"damaged: {text or type(error).__name__}"
