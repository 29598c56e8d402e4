"""The numba kernels of a block: what stands between two convolutions, forward and backward.

Images are (H, W, C): the channels of a pixel lie together, so that sums across channels and maxima
across pixels both run along memory. A kernel takes one image at a time and streams through its
rows. It keeps as many rows as a pooling window is high, so an image is read once and everything in
between stays in the cache. Nothing is shared between images: the number of threads changes no bit.

In the rows kept ("gapped"), each tower of each pixel is followed by `GAP` zeros, and a row begins
with as many. Sums across channels then need no test for a border, and loops run over whole rows.

Whoever calls a kernel sees to its shapes: nothing is checked here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numba
import numpy as np

P = ParamSpec("P")
T = TypeVar("T")

SIZE = 5
"""The channels in a sum. All networks here have 5, which the additions below are written for."""
GAP = SIZE // 2
BEFORE, AFTER = 1, 2
"""`BlockPlan.norm`: normalise before the pool or after it; 0: not at all."""


class BlockPlan(NamedTuple):
    """What a kernel does: [ReLU] [normalisation] max-pool [normalisation] [ReLU]."""

    relu_first: bool
    relu_last: bool
    norm: int
    towers: int
    k: float
    alpha: float
    window: int
    """The pool's side; 1 with a stride of 1 stands for no pool."""
    stride: int


class Shape(NamedTuple):
    """How a row of pixels is kept: see `place`."""

    width: int
    towers: int
    step: int
    """From one pixel to the next: its channels, and zeros after each tower."""
    block: int
    """Pixels in each of the `stride` parts."""
    window: int
    stride: int


def compile_lazily(function: Callable[P, T], *, cache: bool = False) -> Callable[P, T]:
    """Let numba compile `function` when it is first called; `cache`: and keep that in a file.

    Fused multiply-adds are the only liberty: infinities and NaNs pass through as in PyTorch. The
    result runs without Python's lock.
    """
    options: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}
    compiled: Callable[P, T] = numba.njit(nogil=True, cache=cache, **options)(function)
    return compiled


def part(function: Callable[P, T]) -> Callable[P, T]:
    """Make `function` one that a kernel can call."""
    return compile_lazily(function)


@part
def place(pixel: int, shape: Shape) -> int:
    """Return where in a kept row a pixel begins.

    With a stride of 2 the pixels 0, 2, 4 ... come first, then 1, 3, 5 ...: so the first pixels of
    all windows lie together, and so do the second and the third ones.
    """
    return GAP + (pixel % shape.stride * shape.block + pixel // shape.stride) * shape.step


@part
def row_size(shape: Shape) -> int:
    """Count the values of a kept row."""
    return GAP + shape.stride * shape.block * shape.step


@part
def load(pixels: Any, row: Any, shape: Shape, relu: bool) -> None:
    """Copy one row of an image (W, C) to a kept one, negative values as 0 if `relu`."""
    size = pixels.shape[1] // shape.towers
    zero = row.dtype.type(0)
    for pixel in range(pixels.shape[0]):
        for tower in range(shape.towers):
            start = place(pixel, shape) + tower * (size + GAP)
            source = pixels[pixel, tower * size : (tower + 1) * size]
            target = row[start : start + size]
            for channel in range(size):
                value = source[channel]
                target[channel] = zero if relu and value < zero else value


@part
def store(row: Any, mask: Any, pixels: Any, shape: Shape, relu: bool) -> None:
    """Copy a kept row to one of an image (W, C), as 0 where `mask` is not above 0 if `relu`."""
    size = pixels.shape[1] // shape.towers
    zero = row.dtype.type(0)
    for pixel in range(pixels.shape[0]):
        for tower in range(shape.towers):
            start = place(pixel, shape) + tower * (size + GAP)
            source, over = row[start : start + size], mask[start : start + size]
            target = pixels[pixel, tower * size : (tower + 1) * size]
            for channel in range(size):
                target[channel] = zero if relu and over[channel] <= zero else source[channel]


@part
def normalize(a: Any, root: Any, b: Any, squares: Any, k: float, alpha: float) -> None:
    """b = a * d**-0.75 with d = k + alpha * (sum of 5 squares), for one gapped row.

    `root` becomes 1 / sqrt(d), from which d**-0.75 is root * sqrt(root), without a logarithm.
    """
    one, k_, alpha_ = a.dtype.type(1), a.dtype.type(k), a.dtype.type(alpha)
    for i in range(a.size):
        squares[i + GAP] = a[i] * a[i]
    for i in range(a.size):
        near = squares[i] + squares[i + 1] + squares[i + 2] + squares[i + 3] + squares[i + 4]
        r = one / np.sqrt(k_ + alpha_ * near)
        root[i] = r
        b[i] = a[i] * (r * np.sqrt(r))


@part
def normalize_backward(a: Any, root: Any, g: Any, terms: Any, alpha: float) -> None:
    """Turn the gradient `g` by b into the one by a, in place, for one gapped row.

    With d = k + alpha * sum: g_a[i] = g[i] * d[i]**-0.75
    - 1.5 * alpha * a[i] * (sum over the 5 channels j around i of g[j] * a[j] * d[j]**-1.75).
    """
    factor = a.dtype.type(1.5 * alpha)
    for i in range(a.size):
        r = root[i]
        scaled = g[i] * (r * np.sqrt(r))
        g[i] = scaled
        terms[i + GAP] = scaled * a[i] * (r * r)
    for i in range(a.size):
        near = terms[i] + terms[i + 1] + terms[i + 2] + terms[i + 3] + terms[i + 4]
        g[i] -= factor * a[i] * near


@part
def copy(values: Any, row: Any) -> None:
    """Copy `values` to `row`. Written out: numba takes seconds to compile `row[:] = values`."""
    for i in range(row.size):
        row[i] = values[i]


@part
def clear(row: Any) -> None:
    """Set a row to 0."""
    zero = row.dtype.type(0)
    for i in range(row.size):
        row[i] = zero


@part
def cut(g: Any, values: Any) -> None:
    """Set the gradient `g` to 0 where ReLU has made `values` 0."""
    zero = g.dtype.type(0)
    for i in range(g.size):
        g[i] = zero if values[i] <= zero else g[i]


@part
def keep_larger(best: Any, values: Any) -> None:
    """Replace values of `best` by larger ones, and by NaN, as PyTorch's pool does."""
    for i in range(best.size):
        value = values[i]
        best[i] = value if value > best[i] or value != value else best[i]  # noqa: PLR0124


@part
def column(row: Any, x: int, windows: int, shape: Shape) -> Any:
    """Return the x-th pixel of each of the `windows` windows of a row, of those that have it."""
    count = min(windows, (shape.width - x + shape.stride - 1) // shape.stride)
    start = place(x, shape)
    return row[start : start + count * shape.step]


@part
def pool(rows: Any, tall: Any, pooled: Any, top: int, bottom: int, shape: Shape) -> None:
    """Take the largest value of each window whose rows are `top` to `bottom` of the image.

    `rows` holds the last rows of the image: row h in h modulo their number.
    """
    windows = pooled.size // shape.step
    copy(rows[top % rows.shape[0]], tall)
    for h in range(top + 1, bottom):
        keep_larger(tall, rows[h % rows.shape[0]])
    copy(column(tall, 0, windows, shape), pooled[GAP:])
    for x in range(1, shape.window):
        values = column(tall, x, windows, shape)
        keep_larger(pooled[GAP : GAP + values.size], values)


@part
def move(values: Any, best: Any, g: Any, target: Any) -> None:
    """Give the gradient `g` of maxima to `target` where `values` are the maxima; 0 is left of it.

    Called for the pixels of a window in turn, so that the first of equal ones gets it.
    """
    zero = g.dtype.type(0)
    for i in range(values.size):
        here = not values[i] < best[i]
        target[i] += g[i] if here else zero
        g[i] = zero if here else g[i]


@part
def pool_backward(
    rows: Any, pooled: Any, g: Any, targets: Any, top: int, bottom: int, shape: Shape
) -> None:
    """Give the gradients `g` of a row of maxima to `targets`, rows of gradients as `rows` are."""
    windows = pooled.size // shape.step
    for h in range(top, bottom):
        slot = h % rows.shape[0]
        for x in range(shape.window):
            values = column(rows[slot], x, windows, shape)
            target = column(targets[slot], x, windows, shape)
            move(values, pooled[GAP:], g[GAP:], target)


@part
def make_rows(count: int, size: int, like: Any) -> Any:
    """Make `count` rows of so many values, all 0."""
    return np.zeros((count, size), like.dtype)


@part
def make_shape(images: Any, plan: BlockPlan) -> Shape:
    """Lay out the rows of `images`."""
    width, channels = images.shape[2:]
    block = (width + plan.stride - 1) // plan.stride
    return Shape(width, plan.towers, channels + plan.towers * GAP, block, plan.window, plan.stride)


@part
def pooled_shape(out: Any, shape: Shape) -> Shape:
    """Lay out the rows of what is pooled, in which pixels stand in their order."""
    width = out.shape[2]
    return Shape(width, shape.towers, shape.step, width, 1, 1)


def forward(images: Any, out: Any, first: int, last: int, plan: BlockPlan) -> None:
    """Compute the images `first` to `last` of `out` (N, h, w, C) from `images` (N, H, W, C)."""
    height, shape = images.shape[1], make_shape(images, plan)
    small = pooled_shape(out, shape)
    kept = make_rows(plan.window, row_size(shape), images)
    wide = make_rows(3, row_size(shape), images)
    tall, root, a = wide[0], wide[1], wide[2]
    narrow = make_rows(2, row_size(small), images)
    pooled, normed = narrow[0], narrow[1]
    squares = np.zeros(a.size + 2 * GAP, images.dtype)
    for n in range(first, last):
        loaded = 0
        for i in range(out.shape[1]):
            top = i * plan.stride
            bottom = min(top + plan.window, height)
            while loaded < bottom:
                row = kept[loaded % plan.window]
                if plan.norm == BEFORE:
                    load(images[n, loaded], a, shape, plan.relu_first)
                    normalize(a, root, row, squares, plan.k, plan.alpha)
                else:
                    load(images[n, loaded], row, shape, plan.relu_first)
                loaded += 1
            pool(kept, tall, pooled, top, bottom, shape)
            result = pooled
            if plan.norm == AFTER:
                normalize(pooled, root, normed, squares, plan.k, plan.alpha)
                result = normed
            store(result, result, out[n, i], small, plan.relu_last)


def backward(images: Any, g_out: Any, g_in: Any, first: int, last: int, plan: BlockPlan) -> None:
    """Compute the gradient `g_in` by `images` from `g_out`, that by the result of `forward`."""
    height, shape = images.shape[1], make_shape(images, plan)
    small = pooled_shape(g_out, shape)
    a = make_rows(plan.window, row_size(shape), images)
    b = make_rows(plan.window, row_size(shape), images) if plan.norm == BEFORE else a
    g = make_rows(plan.window, row_size(shape), images)
    roots = make_rows(plan.window, row_size(shape), images)
    tall = make_rows(1, row_size(shape), images)[0]
    narrow = make_rows(4, row_size(small), images)
    pooled, normed, root, grads = narrow[0], narrow[1], narrow[2], narrow[3]
    terms = np.zeros(tall.size + 2 * GAP, images.dtype)
    for n in range(first, last):
        loaded = stored = 0
        for i in range(g_out.shape[1]):
            top = i * plan.stride
            bottom = min(top + plan.window, height)
            while loaded < bottom:
                slot = loaded % plan.window
                load(images[n, loaded], a[slot], shape, plan.relu_first)
                if plan.norm == BEFORE:
                    normalize(a[slot], roots[slot], b[slot], terms, plan.k, plan.alpha)
                clear(g[slot])
                loaded += 1
            pool(b, tall, pooled, top, bottom, shape)
            clear(grads)  # the zeros between towers too, which NaNs may have spoilt
            load(g_out[n, i], grads, small, False)
            if plan.relu_last:
                cut(grads, pooled)
            if plan.norm == AFTER:
                normalize(pooled, root, normed, terms, plan.k, plan.alpha)
                normalize_backward(pooled, root, grads, terms, plan.alpha)
            pool_backward(b, pooled, grads, g, top, bottom, shape)
            done = i + 1 == g_out.shape[1]
            while stored < (height if done else top + plan.stride):
                slot = stored % plan.window
                if stored >= loaded:
                    clear(g[slot])  # a row below the last window
                elif plan.norm == BEFORE:
                    normalize_backward(a[slot], roots[slot], g[slot], terms, plan.alpha)
                store(g[slot], a[slot], g_in[n, stored], shape, plan.relu_first)
                stored += 1
