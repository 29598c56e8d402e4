"""Decode an image file to a square of RGB pixels.

P 2: "we first rescaled the image such that the shorter side was of length 256, and then cropped out
the central 256x256 patch". The format is recognised by a file's content, never by its name. Only
five common formats are accepted.
"""

import io
import math
import re
import threading
import warnings
from collections.abc import Callable
from functools import cache
from typing import Literal, get_args

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from alexnet.errors import DataError, can_allocate
from alexnet.images import ORIENTATIONS, Box, Orientation, Pixels, Window, png
from alexnet.images.foreign import name_foreign
from alexnet.images.jpeg_header import size_from_header
from alexnet.images.jpeg_scans import find_damage, has_all_scans

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 100_000_000
"""Checked in the header, before any pixel is decoded."""
JPEG_QUALITY = 95
_MAX_BUFFER_BYTES = 2**24

Resize = Literal["short", "warp"]
"""short: scale the shorter side, then crop the centre (P 2); warp: scale both sides (Caffe)."""
RESIZES: tuple[Resize, ...] = get_args(Resize)


class ImageError(DataError):
    """An image cannot be used; the message is the reason, without the file name."""


def check_rules(resize: str, orientation: str) -> None:
    """Raise ValueError for an unknown rule."""
    if resize not in RESIZES:
        raise ValueError(f"resize is {resize!r}, not {' or '.join(RESIZES)}")
    if orientation not in ORIENTATIONS:
        raise ValueError(f"orientation is {orientation!r}, not {' or '.join(ORIENTATIONS)}")


def load_square(
    data: bytes,
    size: int,
    *,
    orientation: Orientation = "ignore",
    resize: Resize = "short",
    many: bool = False,
) -> Pixels:
    """Decode an image file to a square, (size, size, 3) uint8 RGB.

    `resize="short"` scales the shorter side to `size` (bicubic, antialiased) and crops the longer
    side evenly. "warp" scales both sides to `size` and changes the proportions (Caffe's networks).
    Transparency is dropped (see `to_rgb`); of several frames the first is used. `many=True` scales
    photographs in about a third of the time, to the same pixels, if simplejpeg is installed;
    loading the compiled code takes half a second (four seconds the first time on a machine).
    Raises ImageError.
    """
    # Pillow warns of corrupt EXIF data and the like; the user cannot act on that.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            turn = orientation == "turn"
            pixels = _fast_decode(data, size, turn) if data.startswith(b"\xff\xd8") else None
            if pixels is None:
                return square(_decode(data, size, turn), size, resize)
            fast = _fast_square(pixels, size) if many and resize == "short" else None
            return square(_from_buffer(pixels), size, resize) if fast is None else fast
        except ImageError:
            raise
        except Exception as error:  # noqa: BLE001 - a broken file can fail anywhere in a decoder
            reason = _reason(error, data)
    # What the decoder held is free again. Decoders hide that memory was short, and it is not the
    # file's fault: there must be enough for the largest image that is accepted.
    if not can_allocate(4 * MAX_PIXELS):
        raise MemoryError
    raise ImageError(reason)


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
        raise ImageError(_reason(error, data)) from error


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


def _decode(data: bytes, size: int, turn: bool) -> Image.Image:
    if not data:
        raise ImageError("empty file")
    is_png = data.startswith(png.SIGNATURE)
    stream = io.BytesIO(png.without_extras(data) if is_png else data)
    with Image.open(stream, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"{image.width} x {image.height} pixels: more than {MAX_PIXELS:,}")
        # JPEG decodes to 1/2, 1/4 or 1/8 cheaply; bicubic still scales by at least 2.
        image.draft(None, (2 * size, 2 * size))
        image.load()
        if image.format in ("JPEG", "MPO"):
            _refuse(find_damage(data, image, (2 * size, 2 * size)))
        elif is_png and png.lacks_rows(data, image):
            _refuse("damaged: the lower part of the image is missing")
        eight_bits = png.read_16_bits(data, image) if is_png else None
        pixels = to_rgb(image if eight_bits is None else Image.fromarray(eight_bits))
        return _turned(pixels, _orientation(image)) if turn else pixels


def _refuse(reason: str | None) -> None:
    if reason:
        raise ImageError(reason)


def _fast_square(pixels: Pixels, size: int) -> Pixels | None:
    """Resize (H, W, 4) pixels as `square` does; return None for a shape that is left to it."""
    from alexnet.images.resize import bicubic  # compiles, or loads compiled code

    height, width, _ = pixels.shape
    window, box = _central(width, height, size)
    left, top, right, bottom = window
    if bottom - top > 1.05 * (right - left):  # where Pillow may scale the columns first
        return None
    return bicubic(pixels, window, box, size)


def _from_buffer(pixels: Pixels) -> Image.Image:
    """Return (H, W, 4) pixels as an RGB image of Pillow."""
    height, width, _ = pixels.shape
    return Image.frombytes("RGB", (width, height), pixels, "raw", "RGBX")


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


def _fast_decode(data: bytes, size: int, turn: bool) -> Pixels | None:
    """Decode to (H, W, 4), as large as Pillow would; None if libjpeg reports anything.

    The next call in this thread may overwrite the pixels.
    """
    try:
        import simplejpeg
    except ImportError:
        return None
    header = size_from_header(data)
    whole, orientation = (header, 1) if header else _header_by_pillow(data, turn)
    if whole is None or whole[0] * whole[1] > MAX_PIXELS or not has_all_scans(data):
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
    if pixels.shape[:2] != (height, width):
        return None
    if orientation == 1:
        return pixels
    turned = _TURNS[orientation](pixels.view(np.uint32))  # four bytes move faster as one number
    return np.ascontiguousarray(turned).view(np.uint8)


def _header_by_pillow(data: bytes, turn: bool) -> tuple[tuple[int, int] | None, int]:
    """Return width and height of a grey or RGB JPEG, None for other colours, and how to turn it."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        size = image.size if image.mode in ("RGB", "L") else None
        return size, _orientation(image) if turn else 1


def _drafted(width: int, height: int, size: int) -> tuple[int, int]:
    """Return the width and height to which `_decode` decodes: all, a half, quarter or eighth."""
    reduction = min(width, height) // (2 * size)
    divisor = next((divisor for divisor in (8, 4, 2) if reduction >= divisor), 1)
    return -(-width // divisor), -(-height // divisor)


_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
"""By the number in the EXIF tag: how (H, W, ...) pixels are turned upright."""


def _orientation(image: Image.Image) -> int:
    """Return the number of the EXIF tag; 1, which changes nothing, if it cannot be read."""
    try:
        number = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - the parser of the tags can fail in any way
        return 1
    return number if number in _TURNS else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return image
    return Image.fromarray(np.ascontiguousarray(_TURNS[orientation](np.asarray(image))))


def upright(image: Image.Image, orientation: Orientation) -> Image.Image:
    """Convert an image of Pillow to RGB and turn it, unless told not to, as its EXIF tag says.

    Raises ImageError.
    """
    try:
        pixels = to_rgb(image)
    except (OSError, SyntaxError, ValueError) as error:  # a file that is read only now
        raise ImageError(_reason(error)) from error
    return _turned(pixels, _orientation(image)) if orientation == "turn" else pixels


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a mode of Pillow with 8 bits or less to RGB; drop alpha.

    Where the alpha alone holds the drawing, such as black ink on nothing, it is laid on white.
    """
    if image.mode.startswith(("I", "F")):  # Pillow would clip instead of scaling
        raise ImageError(f"pixels of mode {image.mode}, which have more than 8 bits")
    pixels = image.convert("RGB")
    if image.has_transparency_data and np.ptp(pixels.getextrema(), axis=1).max() == 0:
        opacity = image.convert("RGBA").getchannel("A")
        if len(set(opacity.getextrema())) > 1:
            pixels = Image.composite(pixels, Image.new("RGB", pixels.size, "white"), opacity)
    return pixels


def _reason(error: Exception, data: bytes) -> str:
    """Return why an image failed, in words that are the same in every run."""
    if isinstance(error, UnidentifiedImageError):
        foreign = name_foreign(data)
        return "not a JPEG, PNG, WEBP, GIF or BMP image" + (f" but {foreign}" if foreign else "")
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    text = re.sub(r"<[^>]* at 0x[0-9a-f]+>", "the file", " ".join(str(error).split()))
    return f"damaged: {text or type(error).__name__}"
