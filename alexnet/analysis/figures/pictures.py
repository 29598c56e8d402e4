"""Pictures as arrays of pixels: sheets of tiles, and images that fade where a map is low."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.images import Pixels

PAPER = 255.0
"""What an image fades to."""


def enlarged(pictures: Pixels, times: int) -> Pixels:
    """Make squares of side `times` of the pixels of pictures (N, height, width, 3)."""
    return pictures.repeat(times, axis=1).repeat(times, axis=2)


def sheet(tiles: Sequence[Pixels] | Pixels, across: int, gap: int = 1) -> Pixels:
    """Arrange pictures (height, width, 3) of one size in rows of `across`: RGBA.

    Between the tiles are gaps of `gap` pixels, transparent, as is what the last row lacks.
    """
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // across)
    size = rows * (height + gap) - gap, across * (width + gap) - gap
    out = np.zeros((*size, 4), np.uint8)
    for number, tile in enumerate(tiles):
        top = number // across * (height + gap)
        left = number % across * (width + gap)
        out[top : top + height, left : left + width, :3] = tile
        out[top : top + height, left : left + width, 3] = 255
    return out


def scaled(picture: Pixels, side: int) -> Pixels:
    """Scale a picture to a height of `side`: small ones to visible squares, others smoothly."""
    height, width = picture.shape[:2]
    size = max(1, round(width * side / height)), side
    smooth = Image.Resampling.LANCZOS if height > 24 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize(size, smooth))


def spotlight(picture: Pixels, heat: NDArray[np.float32]) -> Pixels:
    """Show a picture (H, W, 3) where `heat` (H, W) is high; elsewhere it is grey and pale.

    1 is the largest heat; below 0 is as 0. It can be read without colours, too.
    """
    largest = max(float(heat.max()), 1e-12)
    visible = np.clip(heat / largest, 0, 1)[..., None]
    grey = picture.mean(axis=2, keepdims=True)
    pale = PAPER - 0.35 * (PAPER - grey)
    faded: Pixels = np.rint(visible * picture + (1 - visible) * pale).astype(np.uint8)
    return faded


def png_address(pixels: Pixels) -> str:
    """Return a picture as a data address (data:image/png;base64,...)."""
    png = png_bytes(pixels, optimize=True)
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def png_bytes(pixels: Pixels, *, optimize: bool = False) -> bytes:
    """Return a picture as a PNG file; `optimize` takes longer and makes it smaller."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=optimize)
    return file.getvalue()
