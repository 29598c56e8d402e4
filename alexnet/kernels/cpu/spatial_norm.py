"""The numba kernels of normalisation within each map, the 2012 code's second in layer 2.

Images are (H, W, C), as in `cpu_kernels`. A row is taken as its W * C values in a line: the same
channel of the next pixel is C further on, so sums over 5 pixels are sums of shifted lines.
"""

from typing import Any

import numpy as np

from alexnet.kernels.cpu.block_kernels import GAP, SIZE, part


@part
def sum_around(rows: Any, h: int, channels: int, tall: Any, near: Any) -> None:
    """Set `near` to the sums of `rows` over the 5 x 5 pixels around each pixel of row `h`.

    `tall` holds the sums over rows only, between two pixels of zeros at either end.
    """
    edge = GAP * channels
    for i in range(near.size):
        tall[edge + i] = rows[h, i]
    for other in range(max(0, h - GAP), min(h + GAP + 1, rows.shape[0])):
        if other != h:
            for i in range(near.size):
                tall[edge + i] += rows[other, i]
    for i in range(near.size):
        near[i] = tall[i] + tall[i + channels]
    for shift in range(2, SIZE):
        for i in range(near.size):
            near[i] += tall[i + shift * channels]


@part
def roots(near: Any, alpha: float, root: Any) -> None:
    """Set `root` to 1 / sqrt(1 + alpha * near)."""
    one, alpha_ = near.dtype.type(1), near.dtype.type(alpha)
    for i in range(near.size):
        root[i] = one / np.sqrt(one + alpha_ * near[i])


@part
def square(rows: Any, squares: Any) -> None:
    """Set `squares` to those of an image's values."""
    for h in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            squares[h, i] = rows[h, i] * rows[h, i]


def forward(images: Any, out: Any, first: int, last: int, alpha: float) -> None:
    """Compute the images `first` to `last` of `out` from `images`, both (N, H, W, C)."""
    height, width, channels = images.shape[1:]
    squares = np.zeros((height, width * channels), images.dtype)
    tall = np.zeros((width + 2 * GAP) * channels, images.dtype)
    near = np.zeros(width * channels, images.dtype)
    root = np.zeros(width * channels, images.dtype)
    for n in range(first, last):
        rows = images[n].reshape((height, width * channels))
        results = out[n].reshape((height, width * channels))
        square(rows, squares)
        for h in range(height):
            sum_around(squares, h, channels, tall, near)
            roots(near, alpha, root)
            for i in range(near.size):
                results[h, i] = rows[h, i] * (root[i] * np.sqrt(root[i]))


def backward(images: Any, g_out: Any, g_in: Any, first: int, last: int, alpha: float) -> None:
    """Compute the gradient `g_in` by `images` from `g_out`, that by the result of `forward`.

    With d = 1 + alpha * sum: g_in[i] = g_out[i] * d[i]**-0.75
    - 1.5 * alpha * a[i] * (sum over the 25 pixels j around i of g_out[j] * a[j] * d[j]**-1.75).
    """
    height, width, channels = images.shape[1:]
    squares = np.zeros((height, width * channels), images.dtype)
    scaled = np.zeros((height, width * channels), images.dtype)
    terms = np.zeros((height, width * channels), images.dtype)
    tall = np.zeros((width + 2 * GAP) * channels, images.dtype)
    near = np.zeros(width * channels, images.dtype)
    root = np.zeros(width * channels, images.dtype)
    factor = images.dtype.type(1.5 * alpha)
    for n in range(first, last):
        rows = images[n].reshape((height, width * channels))
        given = g_out[n].reshape((height, width * channels))
        results = g_in[n].reshape((height, width * channels))
        square(rows, squares)
        for h in range(height):
            sum_around(squares, h, channels, tall, near)
            roots(near, alpha, root)
            for i in range(near.size):
                scaled[h, i] = given[h, i] * (root[i] * np.sqrt(root[i]))
                terms[h, i] = scaled[h, i] * rows[h, i] * (root[i] * root[i])
        for h in range(height):
            sum_around(terms, h, channels, tall, near)
            for i in range(near.size):
                results[h, i] = scaled[h, i] - factor * rows[h, i] * near[i]
