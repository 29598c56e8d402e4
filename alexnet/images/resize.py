"""Bicubic resizing and sums of colours, compiled by numba.

Resizing gives the same pixels as Pillow, bit for bit, in a fraction of the time. Both passes work
on whole lines of bytes, of which a processor handles sixteen or more at once: tiles of rows are
transposed to columns before the first pass and back to rows before the second. A tile fits into the
nearest cache. Weights are whole numbers, as in Pillow, so that no bit depends on the order of
additions.

The compiler vectorises a loop only if it is simple: slices begin at 0, steps are numbers in the
code and not an array's shape, and sums are 32-bit numbers throughout.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet.compiled import compiled
from alexnet.images import Box, Pixels, Window

BITS = 22
"""A weight of 1 is 2**22: the largest sums of 8-bit values just fit into 32 bits."""
GROUP = 8
"""Lines added in one loop; the number of weights is a multiple of it."""
TILE = 64
"""Rows and columns that are processed at a time."""
WORDS = 3 * TILE // 4
"""Length of a line of a tile: its reds, greens and blues, four bytes to a word."""

Words = NDArray[np.uint32]
"""Four bytes each, the first one lowest: a pixel's values, or one colour of four pixels."""
Sums = NDArray[np.int64] | NDArray[np.uint32]


class Taps(NamedTuple):
    """The lines from which each line of the result is computed."""

    first: NDArray[np.int64]
    """(S,) the first line that is used."""
    weights: NDArray[np.int32]
    """(S, K) the weights of that line and the K - 1 lines after it."""


def bicubic(pixels: Pixels, window: Window, box: Box, size: int) -> Pixels:
    """Resize the square `box` of (H, W, 4) pixels to (size, size, 3).

    `box` is counted from the corner of `window`; pixels outside `window` have no effect. The fourth
    value of a pixel is ignored. The result is that of Pillow where it scales rows first (Pillow
    scales columns first for some images much higher than wide).
    """
    left, top, right, bottom = window
    width, height = right - left, bottom - top
    across = taps(width, box[0], box[2], size)
    down = taps(height, box[1], box[3], size)
    # (parts of the width, height rounded up to whole tiles, words)
    rows = np.empty((-(-size // TILE), -(-height // TILE) * TILE, WORDS), np.uint32)
    words = pixels.view(np.uint32)[:, :, 0]
    _scale_across(words, left, top, width, across.first, across.weights, rows)
    result = np.empty((size, size, 3), np.uint8)
    _scale_down(rows, height, down.first, down.weights, result.reshape(size, -1))
    return result


@lru_cache(maxsize=256)
def taps(length: int, start: float, end: float, size: int) -> Taps:
    """Compute the taps that scale the lines `start` to `end`, of `length`, to `size` lines.

    The cubic (a = -0.5) is stretched when the result has fewer lines, so that every line counts.
    """
    scale = (end - start) / size
    stretch = max(scale, 1.0)
    centre = start + (np.arange(size) + 0.5) * scale
    first = np.maximum((centre - 2 * stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + 2 * stretch + 0.5).astype(np.int64), length)
    count = -(-int((last - first).max()) // GROUP) * GROUP
    weights, total = np.zeros((size, count)), np.zeros(size)
    for k in range(count):
        weights[:, k] = np.where(k < last - first, _cubic((first + k - centre + 0.5) / stretch), 0)
        total += weights[:, k]
    whole = weights / total[:, None] * (1 << BITS)
    return Taps(first, np.trunc(whole + np.copysign(0.5, whole)).astype(np.int32))


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@compiled
def _scale_across(
    pixels: Words,
    left: int,
    top: int,
    width: int,
    first: NDArray[np.int64],
    weights: NDArray[np.int32],
    rows: Words,
) -> None:
    """Scale rows of (H, W) pixels, each from `left` over `width`, to `rows` (parts, R, WORDS)."""
    columns = np.empty((width, WORDS), np.uint32)
    scaled = np.empty((TILE, 3 * TILE), np.uint8)
    for y in range(0, rows.shape[1], TILE):
        _to_columns(pixels[min(top + y, len(pixels) - 1) :], left, columns)
        for part in range(len(rows)):
            chosen = slice(part * TILE, min((part + 1) * TILE, len(weights)))
            _combine(columns.view(np.uint8), first[chosen], weights[chosen], scaled)
            _to_rows(scaled, rows[part, y : y + TILE])


@compiled
def _scale_down(
    rows: Words, height: int, first: NDArray[np.int64], weights: NDArray[np.int32], out: Pixels
) -> None:
    """Scale columns of `rows` (parts, `height` or more, WORDS) to pixels in `out` (S, 3 * S)."""
    size = len(out)
    scaled = np.empty((size, 3 * TILE), np.uint8)
    for part in range(len(rows)):
        _combine(rows[part, :height].view(np.uint8), first, weights, scaled)
        start, end = part * TILE, min((part + 1) * TILE, size)
        for y in range(size):
            line, row = scaled[y], out[y, 3 * start : 3 * end]
            reds, greens, blues = line[:TILE], line[TILE : 2 * TILE], line[2 * TILE :]
            for x in range(end - start):
                row[3 * x], row[3 * x + 1], row[3 * x + 2] = reds[x], greens[x], blues[x]


@compiled
def _combine(
    lines: Pixels, first: NDArray[np.int64], weights: NDArray[np.int32], out: Pixels
) -> None:
    """Compute each line of `out` (S, B) as a weighted sum of `lines` (N, B)."""
    if weights.shape[1] == GROUP:
        _combine_eight(lines, first, weights, out)
    else:
        _combine_many(lines, first, weights, out)


@compiled
def _combine_eight(
    lines: Pixels, first: NDArray[np.int64], weights: NDArray[np.int32], out: Pixels
) -> None:
    """Combine lines with a single group of weights, in one loop."""
    last = len(lines) - 1
    half = np.int32(1 << (BITS - 1))
    for y in range(len(first)):
        # Weights beyond the last line are 0, so any line may stand there.
        k, line = first[y], out[y]
        a, b = lines[min(k, last)], lines[min(k + 1, last)]
        c, d = lines[min(k + 2, last)], lines[min(k + 3, last)]
        e, f = lines[min(k + 4, last)], lines[min(k + 5, last)]
        g, h = lines[min(k + 6, last)], lines[min(k + 7, last)]
        p, q, r, s = weights[y, 0], weights[y, 1], weights[y, 2], weights[y, 3]
        t, u, v, w = weights[y, 4], weights[y, 5], weights[y, 6], weights[y, 7]
        for j in range(line.size):
            # Without the conversions numba would widen sums of 32-bit numbers to 64 bits.
            total = np.int32(half + np.int32(p * np.int32(a[j]) + q * np.int32(b[j])))
            total = np.int32(total + np.int32(r * np.int32(c[j]) + s * np.int32(d[j])))
            total = np.int32(total + np.int32(t * np.int32(e[j]) + u * np.int32(f[j])))
            total = np.int32(total + np.int32(v * np.int32(g[j]) + w * np.int32(h[j])))
            line[j] = min(max(total >> np.int32(BITS), np.int32(0)), np.int32(255))


@compiled
def _combine_many(
    lines: Pixels, first: NDArray[np.int64], weights: NDArray[np.int32], out: Pixels
) -> None:
    """Combine lines with any number of weights."""
    last = len(lines) - 1
    total = np.empty(lines.shape[1], np.int32)
    for y in range(len(first)):
        total[:] = 1 << (BITS - 1)
        for k in range(0, weights.shape[1], 4):
            start = first[y] + k
            a, b = lines[min(start, last)], lines[min(start + 1, last)]
            c, d = lines[min(start + 2, last)], lines[min(start + 3, last)]
            p, q, r, s = weights[y, k], weights[y, k + 1], weights[y, k + 2], weights[y, k + 3]
            for j in range(total.size):
                total[j] += np.int32(
                    np.int32(p * np.int32(a[j]) + q * np.int32(b[j]))
                    + np.int32(r * np.int32(c[j]) + s * np.int32(d[j]))
                )
        line = out[y]
        for j in range(total.size):
            line[j] = min(max(total[j] >> np.int32(BITS), np.int32(0)), np.int32(255))


@compiled
def _to_columns(pixels: Words, left: int, columns: Words) -> None:
    """Write TILE rows of `pixels`, starting at `left`, as `columns` (W, WORDS)."""
    full, one, two, three = np.uint32(255), np.uint32(8), np.uint32(16), np.uint32(24)
    last = len(pixels) - 1
    words = np.empty((3, TILE // 4, TILE), np.uint32)
    for start in range(0, len(columns), TILE):
        width = min(TILE, len(columns) - start)
        for q in range(TILE // 4):
            # Rows beyond the last one are not used, so any row may stand there.
            a = pixels[min(4 * q, last), left + start : left + start + width]
            b = pixels[min(4 * q + 1, last), left + start : left + start + width]
            c = pixels[min(4 * q + 2, last), left + start : left + start + width]
            d = pixels[min(4 * q + 3, last), left + start : left + start + width]
            reds, greens, blues = words[0, q, :width], words[1, q, :width], words[2, q, :width]
            for x in range(width):
                i, j, k, m = a[x], b[x], c[x], d[x]
                reds[x] = i & full | (j & full) << one | (k & full) << two | m << three
                greens[x] = (
                    (i >> one & full)
                    | (j >> one & full) << one
                    | (k >> one & full) << two
                    | m >> one << three
                )
                blues[x] = (
                    (i >> two & full)
                    | (j >> two & full) << one
                    | (k >> two & full) << two
                    | m >> two << three
                )
        _transpose(words.reshape(-1, TILE), columns[start : start + width])


@compiled
def _to_rows(columns: Pixels, rows: Words) -> None:
    """Write TILE columns (TILE, 3 * TILE) as `rows` (TILE, WORDS)."""
    one, two, three = np.uint32(8), np.uint32(16), np.uint32(24)
    words = np.empty((3, TILE // 4, TILE), np.uint32)
    for color in range(3):
        part = columns[:, color * TILE : (color + 1) * TILE]
        for q in range(TILE // 4):
            a, b, c, d = part[4 * q], part[4 * q + 1], part[4 * q + 2], part[4 * q + 3]
            word = words[color, q]
            for y in range(TILE):
                word[y] = (
                    np.uint32(a[y])
                    | np.uint32(b[y]) << one
                    | np.uint32(c[y]) << two
                    | np.uint32(d[y]) << three
                )
    _transpose(words.reshape(-1, TILE), rows)


@compiled
def _transpose(lines: Words, out: Words) -> None:
    """Swap lines and columns."""
    for x in range(len(out)):
        for j in range(out.shape[1]):
            out[x, j] = lines[j, x]


@compiled
def add_colors(pixels: Pixels, values: Sums, products: Sums) -> None:
    """Add (H, W, 3) pixels to `values` of that shape, and channels' products to `products` (3, 3).

    W is at most 66,051, so that 32 bits hold the sum of a row.
    """
    rows = pixels.reshape(len(pixels), -1)
    for y in range(len(rows)):
        row = rows[y]
        rr = rg = rb = gg = gb = bb = np.uint32(0)
        for x in range(row.size // 3):
            r, g, b = np.uint32(row[3 * x]), np.uint32(row[3 * x + 1]), np.uint32(row[3 * x + 2])
            rr, rg, rb = np.uint32(rr + r * r), np.uint32(rg + r * g), np.uint32(rb + r * b)
            gg, gb, bb = np.uint32(gg + g * g), np.uint32(gb + g * b), np.uint32(bb + b * b)
        for i, j, total in (
            (0, 0, rr), (0, 1, rg), (0, 2, rb),
            (1, 0, rg), (1, 1, gg), (1, 2, gb),
            (2, 0, rb), (2, 1, gb), (2, 2, bb),
        ):  # fmt: skip
            products[i, j] += total
    flat, sums = pixels.reshape(-1), values.reshape(-1)
    for i in range(flat.size):
        sums[i] += flat[i]
