"""The numba kernels of normalisation within each map, the 2012 code's second one in layer 2.

Images are (H, W, C), as in `block_kernels`. A row is W * C values: the same channel of the next
pixel is at a distance of C, so sums over 5 pixels are sums of shifted rows.
"""

from typing import Any

import numpy as np

from alexnet.compiled import compiled_kernel, kernel_part
from alexnet.kernels.cpu.block_kernels import PAD, SIZE


@kernel_part
def sum_window(rows: Any, h: int, channels: int, columns: Any, sums: Any) -> None:
    """Set `sums` to the sums of `rows` over the 5 x 5 pixels around each pixel of row `h`.

    `columns` holds the sums over rows only, with two pixels of zeros at either end.
    """
    edge = PAD * channels
    for i in range(sums.size):
        columns[edge + i] = rows[h, i]
    for other in range(max(0, h - PAD), min(h + PAD + 1, rows.shape[0])):
        if other != h:
            for i in range(sums.size):
                columns[edge + i] += rows[other, i]
    for i in range(sums.size):
        sums[i] = columns[i] + columns[i + channels]
    for shift in range(2, SIZE):
        for i in range(sums.size):
            sums[i] += columns[i + shift * channels]


@kernel_part
def inverse_roots(sums: Any, alpha: float, root: Any) -> None:
    """Set `root` to 1 / sqrt(1 + alpha * sums)."""
    one, alpha_ = sums.dtype.type(1), sums.dtype.type(alpha)
    for i in range(sums.size):
        root[i] = one / np.sqrt(one + alpha_ * sums[i])


@kernel_part
def square(rows: Any, squares: Any) -> None:
    """Set `squares` to the squares of an image's values."""
    for h in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            squares[h, i] = rows[h, i] * rows[h, i]


@compiled_kernel
def forward(images: Any, out: Any, first: int, last: int, alpha: float) -> None:
    """Compute the images `first` to `last` of `out` from `images`, both (N, H, W, C)."""
    height, width, channels = images.shape[1:]
    squares = np.zeros((height, width * channels), images.dtype)
    columns = np.zeros((width + 2 * PAD) * channels, images.dtype)
    sums = np.zeros(width * channels, images.dtype)
    root = np.zeros(width * channels, images.dtype)
    for n in range(first, last):
        rows = images[n].reshape((height, width * channels))
        results = out[n].reshape((height, width * channels))
        square(rows, squares)
        for h in range(height):
            sum_window(squares, h, channels, columns, sums)
            inverse_roots(sums, alpha, root)
            for i in range(sums.size):
                results[h, i] = rows[h, i] * (root[i] * np.sqrt(root[i]))


@compiled_kernel
def backward(images: Any, g_out: Any, g_in: Any, first: int, last: int, alpha: float) -> None:
    """Compute the gradient `g_in` by `images` from `g_out`, the gradient by `forward`'s result.

    With d = 1 + alpha * sum: g_in[i] = g_out[i] * d[i]**-0.75
    - 1.5 * alpha * a[i] * (sum over the 25 pixels j around i of g_out[j] * a[j] * d[j]**-1.75).
    """
    height, width, channels = images.shape[1:]
    squares = np.zeros((height, width * channels), images.dtype)
    scaled = np.zeros((height, width * channels), images.dtype)
    terms = np.zeros((height, width * channels), images.dtype)
    columns = np.zeros((width + 2 * PAD) * channels, images.dtype)
    sums = np.zeros(width * channels, images.dtype)
    root = np.zeros(width * channels, images.dtype)
    factor = images.dtype.type(1.5 * alpha)
    for n in range(first, last):
        rows = images[n].reshape((height, width * channels))
        g_rows = g_out[n].reshape((height, width * channels))
        results = g_in[n].reshape((height, width * channels))
        square(rows, squares)
        for h in range(height):
            sum_window(squares, h, channels, columns, sums)
            inverse_roots(sums, alpha, root)
            for i in range(sums.size):
                scaled[h, i] = g_rows[h, i] * (root[i] * np.sqrt(root[i]))
                terms[h, i] = scaled[h, i] * rows[h, i] * (root[i] * root[i])
        for h in range(height):
            sum_window(terms, h, channels, columns, sums)
            for i in range(sums.size):
                results[h, i] = scaled[h, i] - factor * rows[h, i] * sums[i]
