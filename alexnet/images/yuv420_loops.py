"""RGB to planar YUV 4:2:0 and back on a CPU, compiled by numba.

`alexnet.images.yuv420` does the same in PyTorch. These loops process pairs of rows in 32-bit whole
numbers; `alexnet.images.resize` explains what makes such loops fast.
"""

import numpy as np
from numpy.typing import NDArray

from alexnet.compiled import compiled
from alexnet.images import Pixels

Line = NDArray[np.int32]
Weights = tuple[int, int, int]
FourWeights = tuple[int, int, int, int]


@compiled
def to_planes(
    pixels: Pixels, luma: Weights, blue: Weights, red: Weights, one: int, rows: Pixels
) -> None:
    """Write (B, S, 3 * S) RGB as `rows` (B, S * S * 3 / 2): Y, Cb, Cr; weight 1 is 2**`one`."""
    side = pixels.shape[1]
    half = side // 2
    sums = np.empty((3, side), np.int32)
    for image in range(len(pixels)):
        row = rows[image]
        ys, small = row[: side * side], row[side * side :].reshape(2, half * half)
        for k in range(half):
            upper, lower = pixels[image, 2 * k], pixels[image, 2 * k + 1]
            start = 2 * k * side
            _add_luma(upper, luma, one, ys[start : start + side])
            _add_luma(lower, luma, one, ys[start + side : start + 2 * side])
            for color in range(3):
                _add_pair(upper[color:], lower[color:], sums[color])
            _add_chroma(sums, blue, one + 2, small[0, k * half : (k + 1) * half])
            _add_chroma(sums, red, one + 2, small[1, k * half : (k + 1) * half])


@compiled
def _add_luma(row: Pixels, weights: Weights, shift: int, out: Pixels) -> None:
    """Write the brightness of a row of pixels (3 * S)."""
    p, q, r = np.int32(weights[0]), np.int32(weights[1]), np.int32(weights[2])
    bits, half = np.int32(shift), np.int32(1 << (shift - 1))
    for x in range(out.size):
        a, b, c = np.int32(row[3 * x]), np.int32(row[3 * x + 1]), np.int32(row[3 * x + 2])
        total = np.int32(np.int32(p * a + q * b) + np.int32(r * c + half))
        out[x] = min(max(total >> bits, np.int32(0)), np.int32(255))


@compiled
def _add_pair(upper: Pixels, lower: Pixels, out: Line) -> None:
    """Sum one colour of two rows of pixels."""
    for x in range(out.size):
        out[x] = np.int32(upper[3 * x]) + np.int32(lower[3 * x])


@compiled
def _add_chroma(sums: Line, weights: Weights, shift: int, out: Pixels) -> None:
    """Write a colour difference of each 2 x 2 pixels from the sums of two rows (3, S)."""
    p, q, r = np.int32(weights[0]), np.int32(weights[1]), np.int32(weights[2])
    bits, half = np.int32(shift), np.int32(1 << (shift - 1))
    reds, greens, blues = sums[0], sums[1], sums[2]
    for x in range(out.size):
        a = np.int32(reds[2 * x] + reds[2 * x + 1])
        b = np.int32(greens[2 * x] + greens[2 * x + 1])
        c = np.int32(blues[2 * x] + blues[2 * x + 1])
        total = np.int32(np.int32(p * a + q * b) + np.int32(r * c + half))
        out[x] = min(max(np.int32(total >> bits) + np.int32(128), np.int32(0)), np.int32(255))


@compiled
def from_planes(rows: Pixels, weights: FourWeights, one: int, pixels: Pixels) -> None:
    """Write the `rows` of `to_planes` as `pixels` (B, S, 3 * S), with interpolated colour.

    `weights` are those of Cr for red, of Cb and Cr for green (subtracted), of Cb for blue.
    """
    side = pixels.shape[1]
    half = side // 2
    blues, reds = np.empty(side, np.int32), np.empty(side, np.int32)
    for image in range(len(pixels)):
        row = rows[image]
        small = row[side * side :].reshape(2, half, half)
        for y in range(side):
            near = y // 2
            far = min(max(near + 2 * (y % 2) - 1, 0), half - 1)
            _interpolate(small[0, near], small[0, far], blues)
            _interpolate(small[1, near], small[1, far], reds)
            line = row[y * side : (y + 1) * side]
            _color(line, blues, reds, weights, one + 4, pixels[image, y])


@compiled
def _interpolate(near: Pixels, far: Pixels, out: Line) -> None:
    """Interpolate between the centres of 2 x 2 pixels; write sixteenths minus their mid value.

    A quarter of each value comes from its neighbours, where there are any.
    """
    count = near.size
    between = np.empty(count + 2, np.int32)
    inner = between[1:]
    for k in range(count):
        inner[k] = 3 * np.int32(near[k]) + np.int32(far[k])
    between[0], inner[count] = inner[0], inner[count - 1]
    before, after = between[:count], between[2:]
    for k in range(count):
        own = 3 * inner[k] - np.int32(128 * 16)
        out[2 * k] = own + before[k]
        out[2 * k + 1] = own + after[k]


@compiled
def _color(
    line: Pixels, blues: Line, reds: Line, weights: FourWeights, shift: int, out: Pixels
) -> None:
    """Write one row of pixels (3 * S) from its brightness and colour differences."""
    p, q = np.int32(weights[0]), np.int32(weights[1])
    r, s = np.int32(weights[2]), np.int32(weights[3])
    bits, half = np.int32(shift), np.int32(1 << (shift - 1))
    least, most = np.int32(0), np.int32(255)
    for x in range(line.size):
        y, blue, red = np.int32(line[x]), blues[x], reds[x]
        of_red = np.int32(np.int32(p * red + half) >> bits)
        of_both = np.int32(np.int32(np.int32(q * blue + r * red) + half) >> bits)
        of_blue = np.int32(np.int32(s * blue + half) >> bits)
        out[3 * x] = min(max(np.int32(y + of_red), least), most)
        out[3 * x + 1] = min(max(np.int32(y - of_both), least), most)
        out[3 * x + 2] = min(max(np.int32(y + of_blue), least), most)
