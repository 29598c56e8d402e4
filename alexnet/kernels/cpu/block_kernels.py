"""The numba kernels of a block, forward and backward.

Images are (H, W, C): the channels of a pixel are contiguous, so sums across channels and maxima
across pixels both run along memory. A kernel takes one image at a time, row by row. It holds as
many rows as a pooling window is high, so an image is read once and intermediate values stay in the
processor's cache. Images share nothing: the number of threads changes no bit.

These rows are padded: `PAD` zeros before the first pixel and after each tower of each pixel. Sums
across channels then need no test for a border, and loops run over whole rows. `RowLayout` describes
a padded row.

bfloat16 images are 16-bit whole numbers to the kernels, which compute in float32 (`number_types`).

The kernels do not check shapes.
"""

from typing import Any, NamedTuple

import numpy as np

from alexnet.compiled import compiled_kernel, kernel_part
from alexnet.kernels.cpu.number_types import make_rows, narrow, widen

SIZE = 5
"""Channels in a sum. All networks here have 5, and the sums below are written out for 5."""
PAD = SIZE // 2
NO_NORM, BEFORE_POOL, AFTER_POOL = 0, 1, 2
"""Values of `BlockSpec.norm`."""


class BlockSpec(NamedTuple):
    """What a kernel computes: [ReLU] [normalisation] max-pool [normalisation] [ReLU]."""

    relu_first: bool
    relu_last: bool
    norm: int
    towers: int
    k: float
    alpha: float
    window: int
    """The pool's side; 1 with a stride of 1 means no pool."""
    stride: int


class RowLayout(NamedTuple):
    """The layout of a padded row of pixels, see `pixel_offset`."""

    width: int
    towers: int
    pixel: int
    """Values from one pixel to the next: its channels, and zeros after each tower."""
    block: int
    """Pixels in each of the `stride` blocks."""
    window: int
    stride: int


@kernel_part
def pixel_offset(x: int, layout: RowLayout) -> int:
    """Return the offset of pixel `x` in a padded row.

    With a stride of 2 the pixels 0, 2, 4 ... come first, then 1, 3, 5 ...: the first pixels of all
    windows are contiguous, and so are the second and the third ones.
    """
    return PAD + (x % layout.stride * layout.block + x // layout.stride) * layout.pixel


@kernel_part
def row_size(layout: RowLayout) -> int:
    """Count the values of a padded row."""
    return PAD + layout.stride * layout.block * layout.pixel


@kernel_part
def load_row(pixels: Any, row: Any, layout: RowLayout, relu: bool) -> None:
    """Copy one row of an image (W, C) to a padded row; `relu` replaces negative values by 0."""
    size = pixels.shape[1] // layout.towers
    zero = row.dtype.type(0)
    for x in range(pixels.shape[0]):
        for tower in range(layout.towers):
            start = pixel_offset(x, layout) + tower * (size + PAD)
            source = pixels[x, tower * size : (tower + 1) * size]
            target = row[start : start + size]
            for channel in range(size):
                value = widen(source[channel])
                target[channel] = zero if relu and value < zero else value


@kernel_part
def store_row(row: Any, mask: Any, pixels: Any, layout: RowLayout, relu: bool) -> None:
    """Copy a padded row to one of an image (W, C); `relu` writes 0 where `mask` <= 0."""
    size = pixels.shape[1] // layout.towers
    zero = row.dtype.type(0)
    for x in range(pixels.shape[0]):
        for tower in range(layout.towers):
            start = pixel_offset(x, layout) + tower * (size + PAD)
            source, over = row[start : start + size], mask[start : start + size]
            target = pixels[x, tower * size : (tower + 1) * size]
            for channel in range(size):
                value = zero if relu and over[channel] <= zero else source[channel]
                target[channel] = narrow(value, target)


@kernel_part
def normalize(a: Any, root: Any, b: Any, squares: Any, k: float, alpha: float) -> None:
    """b = a * d**-0.75 with d = k + alpha * (sum of 5 squares), for one padded row.

    `root` becomes 1 / sqrt(d). Then d**-0.75 is root * sqrt(root), without a logarithm.
    """
    one, k_, alpha_ = a.dtype.type(1), a.dtype.type(k), a.dtype.type(alpha)
    for i in range(a.size):
        squares[i + PAD] = a[i] * a[i]
    for i in range(a.size):
        near = squares[i] + squares[i + 1] + squares[i + 2] + squares[i + 3] + squares[i + 4]
        r = one / np.sqrt(k_ + alpha_ * near)
        root[i] = r
        b[i] = a[i] * (r * np.sqrt(r))


@kernel_part
def normalize_backward(a: Any, root: Any, g: Any, terms: Any, alpha: float) -> None:
    """Turn the gradient `g` by b into the one by a, in place, for one padded row.

    With d = k + alpha * sum: g_a[i] = g[i] * d[i]**-0.75
    - 1.5 * alpha * a[i] * (sum over the 5 channels j around i of g[j] * a[j] * d[j]**-1.75).
    """
    factor = a.dtype.type(1.5 * alpha)
    for i in range(a.size):
        r = root[i]
        scaled = g[i] * (r * np.sqrt(r))
        g[i] = scaled
        terms[i + PAD] = scaled * a[i] * (r * r)
    for i in range(a.size):
        near = terms[i] + terms[i + 1] + terms[i + 2] + terms[i + 3] + terms[i + 4]
        g[i] -= factor * a[i] * near


@kernel_part
def copy(values: Any, row: Any) -> None:
    """Copy `values` to `row` in a loop: numba takes seconds to compile `row[:] = values`."""
    for i in range(row.size):
        row[i] = values[i]


@kernel_part
def clear(row: Any) -> None:
    """Set a row to 0."""
    zero = row.dtype.type(0)
    for i in range(row.size):
        row[i] = zero


@kernel_part
def relu_backward(g: Any, values: Any) -> None:
    """Set the gradient `g` to 0 where ReLU has made `values` 0."""
    zero = g.dtype.type(0)
    for i in range(g.size):
        g[i] = zero if values[i] <= zero else g[i]


@kernel_part
def maximum(best: Any, values: Any) -> None:
    """Replace values of `best` by larger ones, and by NaN, as PyTorch's pool does."""
    for i in range(best.size):
        value = values[i]
        best[i] = value if value > best[i] or value != value else best[i]  # noqa: PLR0124


@kernel_part
def window_pixels(row: Any, x: int, windows: int, layout: RowLayout) -> Any:
    """Return pixel `x` of each of the `windows` windows of a row that has such a pixel."""
    count = min(windows, (layout.width - x + layout.stride - 1) // layout.stride)
    start = pixel_offset(x, layout)
    return row[start : start + count * layout.pixel]


@kernel_part
def pool(rows: Any, maxima: Any, pooled: Any, top: int, bottom: int, layout: RowLayout) -> None:
    """Set `pooled` to the maximum of each window whose rows are `top` to `bottom` of the image.

    `rows` is a ring buffer: row h of the image is in row h modulo their number. `maxima` becomes
    the maximum over these rows.
    """
    windows = pooled.size // layout.pixel
    copy(rows[top % rows.shape[0]], maxima)
    for h in range(top + 1, bottom):
        maximum(maxima, rows[h % rows.shape[0]])
    copy(window_pixels(maxima, 0, windows, layout), pooled[PAD:])
    for x in range(1, layout.window):
        values = window_pixels(maxima, x, windows, layout)
        maximum(pooled[PAD : PAD + values.size], values)


@kernel_part
def move_gradient(values: Any, best: Any, g: Any, target: Any) -> None:
    """Move the gradient `g` of the maxima `best` to `target` where `values` equal them.

    The caller takes the pixels of a window in order, so the first of equal values receives it.
    """
    zero = g.dtype.type(0)
    for i in range(values.size):
        is_maximum = not values[i] < best[i]
        target[i] += g[i] if is_maximum else zero
        g[i] = zero if is_maximum else g[i]


@kernel_part
def pool_backward(
    rows: Any, pooled: Any, g: Any, targets: Any, top: int, bottom: int, layout: RowLayout
) -> None:
    """Move the gradients `g` of a row of maxima to `targets`, a ring buffer like `rows`."""
    windows = pooled.size // layout.pixel
    for h in range(top, bottom):
        slot = h % rows.shape[0]
        for x in range(layout.window):
            values = window_pixels(rows[slot], x, windows, layout)
            target = window_pixels(targets[slot], x, windows, layout)
            move_gradient(values, pooled[PAD:], g[PAD:], target)


@kernel_part
def input_layout(images: Any, spec: BlockSpec) -> RowLayout:
    """Return the layout of the rows of `images`."""
    width, channels = images.shape[2:]
    block = (width + spec.stride - 1) // spec.stride
    pixel = channels + spec.towers * PAD
    return RowLayout(width, spec.towers, pixel, block, spec.window, spec.stride)


@kernel_part
def output_layout(out: Any, layout: RowLayout) -> RowLayout:
    """Return the layout of the rows of what is pooled, whose pixels are in their order."""
    width = out.shape[2]
    return RowLayout(width, layout.towers, layout.pixel, width, 1, 1)


@compiled_kernel
def forward(images: Any, out: Any, first: int, last: int, spec: BlockSpec) -> None:
    """Compute the images `first` to `last` of `out` (N, h, w, C) from `images` (N, H, W, C)."""
    height, layout = images.shape[1], input_layout(images, spec)
    out_layout = output_layout(out, layout)
    rows = make_rows(spec.window, row_size(layout), images)
    scratch = make_rows(3, row_size(layout), images)
    maxima, root, a = scratch[0], scratch[1], scratch[2]
    out_scratch = make_rows(2, row_size(out_layout), images)
    pooled, normed = out_scratch[0], out_scratch[1]
    squares = make_rows(1, a.size + 2 * PAD, images)[0]
    for n in range(first, last):
        loaded = 0
        for i in range(out.shape[1]):
            top = i * spec.stride
            bottom = min(top + spec.window, height)
            while loaded < bottom:
                row = rows[loaded % spec.window]
                if spec.norm == BEFORE_POOL:
                    load_row(images[n, loaded], a, layout, spec.relu_first)
                    normalize(a, root, row, squares, spec.k, spec.alpha)
                else:
                    load_row(images[n, loaded], row, layout, spec.relu_first)
                loaded += 1
            pool(rows, maxima, pooled, top, bottom, layout)
            result = pooled
            if spec.norm == AFTER_POOL:
                normalize(pooled, root, normed, squares, spec.k, spec.alpha)
                result = normed
            store_row(result, result, out[n, i], out_layout, spec.relu_last)


@compiled_kernel
def backward(images: Any, g_out: Any, g_in: Any, first: int, last: int, spec: BlockSpec) -> None:
    """Compute the gradient `g_in` by `images` from `g_out`, the gradient by `forward`'s result."""
    height, layout = images.shape[1], input_layout(images, spec)
    out_layout = output_layout(g_out, layout)
    a = make_rows(spec.window, row_size(layout), images)
    b = make_rows(spec.window, row_size(layout), images) if spec.norm == BEFORE_POOL else a
    g = make_rows(spec.window, row_size(layout), images)
    roots = make_rows(spec.window, row_size(layout), images)
    maxima = make_rows(1, row_size(layout), images)[0]
    scratch = make_rows(4, row_size(out_layout), images)
    pooled, normed, root, g_pooled = scratch[0], scratch[1], scratch[2], scratch[3]
    terms = make_rows(1, maxima.size + 2 * PAD, images)[0]
    for n in range(first, last):
        loaded = stored = 0
        for i in range(g_out.shape[1]):
            top = i * spec.stride
            bottom = min(top + spec.window, height)
            while loaded < bottom:
                slot = loaded % spec.window
                load_row(images[n, loaded], a[slot], layout, spec.relu_first)
                if spec.norm == BEFORE_POOL:
                    normalize(a[slot], roots[slot], b[slot], terms, spec.k, spec.alpha)
                clear(g[slot])
                loaded += 1
            pool(b, maxima, pooled, top, bottom, layout)
            clear(g_pooled)  # the zeros between towers too, which a NaN may have overwritten
            load_row(g_out[n, i], g_pooled, out_layout, False)
            if spec.relu_last:
                relu_backward(g_pooled, pooled)
            if spec.norm == AFTER_POOL:
                normalize(pooled, root, normed, terms, spec.k, spec.alpha)
                normalize_backward(pooled, root, g_pooled, terms, spec.alpha)
            pool_backward(b, pooled, g_pooled, g, top, bottom, layout)
            while stored < (height if i + 1 == g_out.shape[1] else top + spec.stride):
                slot = stored % spec.window
                if stored >= loaded:
                    clear(g[slot])  # a row below the last window
                elif spec.norm == BEFORE_POOL:
                    normalize_backward(a[slot], roots[slot], g[slot], terms, spec.alpha)
                store_row(g[slot], a[slot], g_in[n, stored], layout, spec.relu_first)
                stored += 1
