"""Image files to pixels: decoding, JPEG headers, resizing, YUV 4:2:0."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""8-bit pixels; the shape is given where one is used, usually (H, W, 3) RGB."""
Window = tuple[int, int, int, int]
"""Part of an image in whole pixels: left, top, right, bottom."""
Box = tuple[float, float, float, float]
"""Part of an image with fractions of pixels: left, top, right, bottom."""
