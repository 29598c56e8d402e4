"""Filters of a first layer as pictures."""

import numpy as np
from numpy.typing import NDArray

from alexnet.images import Pixels


def filter_pictures(weights: NDArray[np.float32]) -> Pixels:
    """Return filters (N, 3, height, width) as pictures (N, height, width, 3).

    Grey is 0. The largest weight of each filter is 0 or 255 in its channel.
    """
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    shades = 127.5 + 127.5 * weights / np.where(largest > 0, largest, 1)
    return np.rint(shades).astype(np.uint8).transpose(0, 2, 3, 1)
