"""Image files to pixels: decoding, JPEG headers, resizing, YUV 4:2:0."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""8-bit pixels; the shape is given where one is used, usually (H, W, 3) RGB."""
Window = tuple[int, int, int, int]
"""Part of an image in whole pixels: left, top, right, bottom."""
Box = tuple[float, float, float, float]
"""Part of an image with fractions of pixels: left, top, right, bottom."""
Orientation = Literal["turn", "ignore"]
"""turn: turn a photograph as its EXIF tag says; ignore: as stored, like the published data sets.

Data sets and runs without this key were made before there was a choice: "ignore".
"""
ORIENTATIONS: tuple[Orientation, ...] = get_args(Orientation)
