"""The backward pass of a block in one Triton kernel, with sums for the gradient of a bias.

A thread goes down the map in cells of `stride` x `stride` pixels, so that it reads the gradient of
a window once for all pixels of a cell. It gathers the gradients of the windows whose maximum is at
a pixel, and computes the normalisation again from the input.

Sums stay in the wide type until the input's gradient is written: the reference layers round in
between. The sums over the map, for a bias, are those of the numbers before they are rounded.
"""

# Kernels take their tensors, sizes and constants one by one.
# ruff: noqa: PLR0913, PLR0917

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.cuda.block_forward import FIRST
from alexnet.kernels.cuda.channels import (
    REACH,
    activated,
    inverse_powers,
    load,
    nearest,
    norm_scales,
    position_and_channel,
    window_sums,
)
from alexnet.kernels.cuda.fused import Fused, constants, programs, rows_of_a_program

ROWS = 14
"""Rows of cells of a thread, at most."""


def run_backward(
    x: Tensor | None,
    bias: Tensor | None,
    gradient: Tensor,
    codes: Tensor | None,
    fused: Fused,
    shape: Sequence[int],
    *,
    sum_bias: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of the input, (N, C, H, W) = `shape`, and of a bias (C,), or None.

    x: the input; only read where `fused` has a normalisation. gradient: that of the result;
    codes: see `run_forward`. All are channels-last.
    """
    out = gradient.new_empty(shape).contiguous(memory_format=torch.channels_last)
    sizes = constants(out, fused)
    images, channels, height, width = shape
    stride = sizes["stride"]
    columns, cells_down = images * triton.cdiv(width, stride), triton.cdiv(height, stride)
    rows = rows_of_a_program(cells_down, columns, sizes, ROWS)
    strips = columns * triton.cdiv(cells_down, rows)
    along, blocks = programs(strips, sizes)
    exact = torch.float64 if out.dtype == torch.float64 else torch.float32
    sums = gradient.new_empty(along, channels, dtype=exact) if sum_bias else None
    if out.numel():
        backward_kernel[along * blocks,](
            x, bias, gradient, codes, out, sums, strips, height, width, *gradient.shape[2:], rows,
            slope=2 * sizes["alpha"] * sizes["beta"], **sizes,
        )  # fmt: skip
    return out, sums.sum(0) if sums is not None else None


@triton.jit
def _load_windows(
    gradient, codes, at, up, left, channel, live, out_height, out_width,
    channels: tl.constexpr, tower: tl.constexpr, reach: tl.constexpr, group: tl.constexpr,
    halo: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Load gradients and codes of the windows that reach into a cell, from the last one back."""
    windows = ()
    for i in tl.static_range(reach):
        for j in tl.static_range(reach):
            inside = live & (up >= i) & (up - i < out_height) & (left >= j) & (left - j < out_width)
            window = at - (i * out_width + j) * channels
            tiles = load(gradient + window, channel, inside, tower, group, halo)
            gradients = activated(tiles, None, False, wide)
            positions = ()
            if codes is not None:
                positions = load(codes + window, channel, inside, tower, group, halo)
            windows += ((gradients, positions),)
    return windows


@triton.jit
def _gathered(
    windows, row: tl.constexpr, column: tl.constexpr,
    pool: tl.constexpr, stride: tl.constexpr, reach: tl.constexpr,
):  # fmt: skip
    """Add up the gradients of all windows whose maximum is at this pixel of the cell."""
    totals = ()
    for tile in tl.static_range(len(windows[0][0])):
        parts = ()
        for i in tl.static_range(reach):
            for j in tl.static_range(reach):
                gradients, positions = windows[i * reach + j]
                if row + i * stride < pool and column + j * stride < pool:
                    part = gradients[tile]
                    if len(positions) > 0:
                        code = FIRST - ((row + i * stride) * pool + column + j * stride)
                        part = tl.where(positions[tile] == code, part, 0)
                    parts += (part,)
        total = parts[0] if len(parts) > 0 else tl.zeros_like(windows[0][0][tile])
        for i in tl.static_range(1, len(parts)):
            total += parts[i]
        totals += (total,)
    return totals


@triton.jit
def _norm_backward(
    values, gradients, group: tl.constexpr, relu: tl.constexpr,
    alpha: tl.constexpr, beta: tl.constexpr, k: tl.constexpr, slope: tl.constexpr,
):  # fmt: skip
    """Return the gradient by the values of each thread, from those by the normalised values.

    The values have a halo of twice `REACH`, the gradients one of `REACH`: three tiles each.
    """
    scales = norm_scales(values, alpha, k, group, REACH)
    near = nearest(values, REACH)
    direct, terms = (), ()
    for i in tl.static_range(3):
        power, inverse = inverse_powers(scales[i], beta)
        part = gradients[i] * power
        direct += (part,)
        terms += (part * (near[i] * inverse),)
    sums = window_sums(terms, group, 0)
    result = direct[1] - slope * values[1] * sums[0]
    if relu:
        result = tl.where(values[1] <= 0, 0, result)
    return result


@triton.jit
def backward_kernel(
    x, bias, gradient, codes, out, sums, strips, height, width, out_height, out_width, rows,
    channels: tl.constexpr, tower: tl.constexpr, pool: tl.constexpr, stride: tl.constexpr,
    relu: tl.constexpr, norm: tl.constexpr,
    alpha: tl.constexpr, beta: tl.constexpr, k: tl.constexpr, slope: tl.constexpr,
    positions: tl.constexpr, groups: tl.constexpr, group: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Compute strips of `rows` cells, one below the other, one strip in each thread."""
    number, strip, channel = position_and_channel(channels, positions, groups, group)
    across, down = tl.cdiv(width, stride), tl.cdiv(tl.cdiv(height, stride), rows)
    left, up, image = strip % across, strip // across % down * rows, strip // (across * down)
    live = (strip < strips) & (channel < channels)
    window = ((image * out_height + up) * out_width + left).to(tl.int64) * channels
    pixel = ((image * height + up * stride) * width + left * stride).to(tl.int64) * channels
    reach: tl.constexpr = (pool + stride - 1) // stride
    halo: tl.constexpr = REACH if norm else 0
    mask: tl.constexpr = relu and codes is None  # else NO_GRADIENT has done it
    biases = None
    if norm and bias is not None:
        biases = load(bias, channel, channel < channels, tower, group, 2 * halo)
    total = tl.zeros((positions, groups, group), wide)
    for n in range(rows):
        windows = _load_windows(
            gradient, codes, window, up + n, left, channel, live, out_height, out_width,
            channels, tower, reach, group, halo, wide,
        )  # fmt: skip
        for i in tl.static_range(stride):
            for j in tl.static_range(stride):
                inside = live & ((up + n) * stride + i < height) & (left * stride + j < width)
                at = pixel + (i * width + j) * channels
                gradients = _gathered(windows, i, j, pool, stride, reach)
                result = gradients[len(gradients) // 2]
                if norm:
                    tiles = load(x + at, channel, inside, tower, group, 2 * halo)
                    values = activated(tiles, biases, relu, wide)
                    result = _norm_backward(
                        values, gradients, group, mask, alpha, beta, k, slope
                    )  # fmt: skip
                at += channel + tl.arange(0, group)
                tl.store(out + at, result.to(out.dtype.element_ty), mask=inside)
                total += result
        window += out_width * channels
        pixel += stride * width * channels
    if sums is not None:
        at = sums + number * channels + channel + tl.arange(0, group)
        tl.store(at, tl.sum(total, 0, keep_dims=True), mask=channel < channels)
