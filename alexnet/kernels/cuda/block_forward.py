"""The forward pass of a block in one Triton kernel.

A thread goes down the map, `COLUMNS` pooled pixels wide. It normalises each pixel once for all of
its windows: a row of maxima goes into every window that the row belongs to.

What competes in a window is called an entry: a value alone; a value and its code, where gradients
are needed; or both in one integer, for values of 16 bits that are at least 0. The bits of such a
value as a float32 are in the order of the numbers, NaN last, and end with zeros, where the code is.
"""

# Kernels take their tensors, sizes and constants one by one.
# ruff: noqa: PLR0913, PLR0917

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.blocks import IDENTITY_POOL
from alexnet.kernels.cuda.channels import (
    REACH,
    activated,
    inverse_powers,
    load,
    norm_scales,
    position_and_channel,
)
from alexnet.kernels.cuda.fused import Fused, constants, programs, rows_of_a_program

FIRST = tl.constexpr(255)
"""The code of a window's first pixel. Each next one has 1 less: of equals the first is largest."""
NO_GRADIENT = tl.constexpr(0)
"""The code of a maximum of 0 after a ReLU."""
COLUMNS = 2
"""Pooled pixels side by side that a thread computes."""
ROWS = 14
"""Rows of pooled pixels of a thread, at most."""


def run_forward(
    x: Tensor, bias: Tensor | None, fused: Fused, *, save_codes: bool
) -> tuple[Tensor, Tensor | None]:
    """Apply `fused` to `x` (N, C, H, W), channels-last; return the result and its codes, or None.

    codes: uint8, for each pooled value the position of the maximum in its window.
    """
    sizes, pool = constants(x, fused), fused.pool or IDENTITY_POOL
    height, width = x.shape[2:]
    out_height, out_width = pool.output_side(height), pool.output_side(width)
    y = _empty(x, out_height, out_width, x.dtype)
    codes = _empty(x, out_height, out_width, torch.uint8) if save_codes and fused.pool else None
    if y.numel():
        columns = len(x) * triton.cdiv(out_width, COLUMNS)
        rows = rows_of_a_program(out_height, columns, sizes, ROWS)
        strips = columns * triton.cdiv(out_height, rows)
        along, blocks = programs(strips, sizes)
        reaches_out = (out_height - 1) * pool.stride + pool.size > height or (
            (out_width - 1) * pool.stride + pool.size > width
        )
        forward_kernel[along * blocks,](
            x, bias, y, codes, strips, height, width, out_height, out_width, rows,
            relu_after=fused.relu_after, reaches_out=reaches_out, columns=COLUMNS, **sizes,
        )  # fmt: skip
    return y, codes


def _empty(like: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    shape = (*like.shape[:2], height, width)
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)


@triton.jit
def _entry(value, code: tl.constexpr, save: tl.constexpr, packed: tl.constexpr):
    """Make an entry of a value at the position `code` of a window."""
    if not save:
        entry = (value,)
    elif packed:
        entry = (value.to(tl.float32).to(tl.int32, bitcast=True) | code,)
    else:
        entry = value, tl.full(value.shape, code, tl.int32)
    return entry


@triton.jit
def _moved(entry, pixels):
    """Move an entry so many pixels on in its window."""
    if len(entry) == 2:
        moved = entry[0], entry[1] - pixels
    elif entry[0].dtype == tl.int32:
        moved = (entry[0] - pixels,)
    else:
        moved = entry
    return moved


@triton.jit
def _largest(one, two):
    """Return the larger entry, the first of equals; a NaN is larger than all numbers."""
    if len(one) == 1:
        largest = (tl.maximum(one[0], two[0], propagate_nan=tl.PropagateNan.ALL),)
    else:
        larger = (two[0] > one[0]) | (two[0] != two[0])
        largest = tl.where(larger, two[0], one[0]), tl.where(larger, two[1], one[1])
    return largest


@triton.jit
def _largest_each(maxima, row, pixels):
    """Return the larger entry of each window, where those of `row` are `pixels` further on."""
    results = ()
    for i in tl.static_range(len(row)):
        results += (_largest(maxima[i], _moved(row[i], pixels)),)
    return results


@triton.jit
def _with_row(begun, row, i, pool: tl.constexpr, stride: tl.constexpr):
    """Return the entries of windows that have begun, with a row that is `i` rows into the last."""
    results = ()
    for back in tl.static_range(len(begun)):
        entries = begun[back]
        if i + back * stride < pool:
            entries = _largest_each(entries, row, (i + back * stride) * pool)
        results += (entries,)
    return results


@triton.jit
def _store(entry, y, codes, inside, zero_has_gradient: tl.constexpr):
    """Write a window's maximum and its code."""
    if len(entry) == 1 and codes is not None:
        value, code = (entry[0] & -256).to(tl.float32, bitcast=True), entry[0] & 255
    elif codes is not None:
        value, code = entry
    else:
        value, code = entry[0], None
    tl.store(y, value.to(y.dtype.element_ty), mask=inside)
    if codes is not None:
        if not zero_has_gradient:
            code = tl.where(value == 0, NO_GRADIENT, code)
        tl.store(codes, code.to(tl.uint8), mask=inside)


@triton.jit
def _value(
    x, biases, channel, live, tower: tl.constexpr, relu: tl.constexpr, norm: tl.constexpr,
    clamp: tl.constexpr, alpha: tl.constexpr, beta: tl.constexpr, k: tl.constexpr,
    group: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Load a pixel and compute what the pool takes, rounded to the type of `x`."""
    tiles = load(x, channel, live, tower, group, REACH if norm else 0)
    tiles = activated(tiles, biases, relu, wide)
    value = tiles[len(tiles) // 2]
    if norm:
        scales = norm_scales(tiles, alpha, k, group, 0)
        power, _ = inverse_powers(scales[0], beta)
        value *= power
    dtype: tl.constexpr = x.dtype.element_ty
    value = value.to(dtype).to(wide)
    if dtype.primitive_bitwidth == 16:
        # Nothing changes. But the compiler adds in the short type, and so has to round two values
        # in one instruction; else it rounds one by one, sixteen times as slowly as it multiplies.
        value = (value + 0).to(dtype).to(wide)
    if clamp:
        value = tl.maximum(value, 0, propagate_nan=tl.PropagateNan.ALL)
    return value


@triton.jit
def _row_of_maxima(
    x, biases, column, channel, live, width,
    channels: tl.constexpr, tower: tl.constexpr, pool: tl.constexpr, stride: tl.constexpr,
    relu: tl.constexpr, norm: tl.constexpr, clamp: tl.constexpr, packed: tl.constexpr,
    reaches_out: tl.constexpr, alpha: tl.constexpr, beta: tl.constexpr, k: tl.constexpr,
    save: tl.constexpr, columns: tl.constexpr, group: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Return the largest entries of `columns` windows in one row of the map."""
    values = ()
    for right in tl.static_range((columns - 1) * stride + pool):
        inside = live & (column + right < width)
        value = _value(
            x + right * channels, biases, channel, inside,
            tower, relu, norm, clamp, alpha, beta, k, group, wide,
        )  # fmt: skip
        if reaches_out:
            value = tl.where(inside, value, float("-inf"))
        values += (value,)
    maxima = ()
    for i in tl.static_range(columns):
        largest = _entry(values[i * stride], FIRST, save, packed)
        for right in tl.static_range(1, pool):
            entry = _entry(values[i * stride + right], FIRST - right, save, packed)
            largest = _largest(largest, entry)
        maxima += (largest,)
    return maxima


@triton.jit
def _no_maxima(
    save: tl.constexpr, packed: tl.constexpr, columns: tl.constexpr, positions: tl.constexpr,
    groups: tl.constexpr, group: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Return entries that are smaller than all others."""
    nothing = tl.full((positions, groups, group), float("-inf"), wide)
    maxima = ()
    for _ in tl.static_range(columns):
        maxima += (_entry(nothing, NO_GRADIENT, save, packed),)
    return maxima


@triton.jit
def forward_kernel(
    x, bias, y, codes, strips, height, width, out_height, out_width, rows,
    channels: tl.constexpr, tower: tl.constexpr, pool: tl.constexpr, stride: tl.constexpr,
    relu: tl.constexpr, norm: tl.constexpr, relu_after: tl.constexpr, reaches_out: tl.constexpr,
    alpha: tl.constexpr, beta: tl.constexpr, k: tl.constexpr, columns: tl.constexpr,
    positions: tl.constexpr, groups: tl.constexpr, group: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Compute strips of `rows` x `columns` pooled pixels, one in each thread."""
    _, strip, channel = position_and_channel(channels, positions, groups, group)
    across, down = tl.cdiv(out_width, columns), tl.cdiv(out_height, rows)
    left, up = strip % across * columns, strip // across % down * rows
    image = strip // (across * down)
    live = (strip < strips) & (channel < channels)
    at = x + ((image * height + up * stride) * width + left * stride).to(tl.int64) * channels
    save: tl.constexpr = codes is not None
    either: tl.constexpr = relu or relu_after
    clamp: tl.constexpr = relu_after and not relu  # ReLU and maximum may be exchanged
    packed: tl.constexpr = save and either and y.dtype.element_ty.primitive_bitwidth == 16
    reach: tl.constexpr = (pool + stride - 1) // stride  # rows of windows that share a row
    biases = None
    if bias is not None:
        biases = load(bias, channel, channel < channels, tower, group, REACH if norm else 0)
    nothing = _no_maxima(save, packed, columns, positions, groups, group, wide)
    # The entries so far of the windows that have begun, from the last one back.
    begun = ()
    for _ in tl.static_range(reach - 1):
        begun += (nothing,)
    for n in range(rows + reach - 1):
        begun = (nothing,) + begun  # noqa: RUF005 - Triton knows no stars
        # This loop is not unrolled: the compiler's time grows with the cube of a kernel's length.
        for i in range(min(pool, stride)):
            inside = live & ((up + n) * stride + i < height)
            row = _row_of_maxima(
                at + (n * stride + i) * width * channels, biases, left * stride, channel, inside,
                width, channels, tower, pool, stride, relu, norm, clamp, packed,
                reaches_out, alpha, beta, k, save, columns, group, wide,
            )  # fmt: skip
            begun = _with_row(begun, row, i, pool, stride)
        out_row = up + n - (reach - 1)
        out = ((image * out_height + out_row) * out_width + left).to(tl.int64) * channels
        out += channel + tl.arange(0, group)
        for j in tl.static_range(columns):
            inside = live & (n >= reach - 1) & (out_row < out_height) & (left + j < out_width)
            _store(
                begun[reach - 1][j], y + out + j * channels,
                codes + out + j * channels if save else None, inside, not either,
            )  # fmt: skip
        begun = begun[: reach - 1]
