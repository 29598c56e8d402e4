"""ReLU, response normalisation and max-pool in one Triton kernel each way, for CUDA devices.

    (n, h, w, c) in memory --> ReLU? --> LocalResponseNorm? --> MaxPool2d? --> ReLU?

Each of the four may be missing. The forward pass writes the pooled values and, if a gradient is
needed, one byte for each: the index of the maximum in its window. The backward pass computes the
normalisation again from the input and gathers, so it needs no atomic additions and gives the same
bits each time. Sums are float32 (float64 for float64 inputs). Values are rounded to the input's
type where the reference layers round them, since that decides which of two nearly equal values is
the maximum.

A program computes some pixels, counted through all images, and some of their channels. The window
of five channels needs the neighbours of each: channels are loaded in aligned groups of four, with
the groups before and after, and each group is split into four tensors.
"""

# Kernels take their tensors, sizes and constants one by one.
# ruff: noqa: PLR0913, PLR0917

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.blocks import IDENTITY_NORM, IDENTITY_POOL, ChannelNorm, MaxPool

WINDOW = 5
"""Size of the window of channels: two on each side."""
GROUP = tl.constexpr(4)
"""Channels loaded together: at least two, so that a window lies in three groups."""
NO_GRADIENT = tl.constexpr(255)
"""The index for a maximum that the last ReLU set to 0."""
PIXELS, CHANNELS = 32, 32
"""Pixels, and at most so many channels, of one program."""


class Fused(NamedTuple):
    """The operations of one kernel, in the order of the fields."""

    relu: bool = False
    norm: ChannelNorm | None = None
    pool: MaxPool | None = None
    relu_after: bool = False
    """Only after a pool."""


def run_fused(x: Tensor, fused: Fused) -> Tensor:
    """Apply `fused` to `x` (N, C, H, W), differentiably; the result is channels-last.

    C must divide into towers of whole groups of four channels.
    """
    result: Tensor = _FusedFunction.apply(x, fused)
    return result


class _FusedFunction(torch.autograd.Function):
    """The two kernels as one differentiable function."""

    @staticmethod
    def forward(ctx, x, fused):
        x = x.detach().contiguous(memory_format=torch.channels_last)
        y, argmaxes = _forward(x, fused, save_argmax=ctx.needs_input_grad[0])
        ctx.save_for_backward(x, argmaxes)
        ctx.fused = fused
        return y

    @staticmethod
    def backward(ctx, gradient):
        x, argmaxes = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        return _backward(x, gradient, argmaxes, ctx.fused), None


def _empty(like: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    shape = (*like.shape[:2], height, width)
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)


def _constants(x: Tensor, fused: Fused) -> dict[str, Any]:
    """Return the constants that both kernels are compiled with."""
    pool, norm = fused.pool or IDENTITY_POOL, fused.norm or IDENTITY_NORM
    return tiling(x) | {
        "tower": x.shape[1] // norm.towers,
        "pool": pool.size,
        "stride": pool.stride,
        "relu": fused.relu,
        "norm": fused.norm is not None,
        "alpha": norm.alpha,
        "beta": norm.beta,
        "k": norm.k,
    }


def tiling(x: Tensor) -> dict[str, Any]:
    """Return the constants that a kernel over channels and pixels of `x` is compiled with."""
    return {
        "channels": x.shape[1],
        "pixels": PIXELS,
        "block": min(CHANNELS, triton.next_power_of_2(x.shape[1])),
        "wide": tl.float64 if x.dtype == torch.float64 else tl.float32,
    }


def grid(pixels: int, channels: int) -> tuple[int]:
    """Return the number of programs for so many pixels of all images."""
    blocks = triton.cdiv(channels, min(CHANNELS, triton.next_power_of_2(channels)))
    return (triton.cdiv(pixels, PIXELS) * blocks,)


def _forward(x: Tensor, fused: Fused, *, save_argmax: bool) -> tuple[Tensor, Tensor | None]:
    constants = _constants(x, fused)
    height, width = x.shape[2:]
    if fused.pool:
        height, width = fused.pool.output_side(height), fused.pool.output_side(width)
    y = _empty(x, height, width, x.dtype)
    argmaxes = _empty(x, height, width, torch.uint8) if save_argmax and fused.pool else None
    if y.numel():
        pixels = len(x) * height * width
        _forward_kernel[grid(pixels, x.shape[1])](
            x, y, argmaxes, pixels, *x.shape[2:], height, width,
            relu_after=fused.relu_after, save_argmax=argmaxes is not None, **constants,
        )  # fmt: skip
    return y, argmaxes


def _backward(x: Tensor, gradient: Tensor, argmaxes: Tensor | None, fused: Fused) -> Tensor:
    constants = _constants(x, fused)
    out = torch.empty_like(x)
    if out.numel():
        pixels = len(x) * x.shape[2] * x.shape[3]
        _backward_kernel[grid(pixels, x.shape[1])](
            x, gradient, argmaxes, out, pixels, *x.shape[2:], *gradient.shape[2:],
            slope=2 * constants["alpha"] * constants["beta"], **constants,
        )  # fmt: skip
    return out


# The kernels.


@triton.jit
def _load(x, offsets, live, relu: tl.constexpr, wide: tl.constexpr):
    """Load values in the type of sums, 0 where `live` is false; `relu` leaves a NaN."""
    values = tl.load(x + offsets, mask=live, other=0).to(wide)
    return tl.where(values < 0, 0, values) if relu else values


@triton.jit
def _split_group(values):
    """Split (pixels, channels) into four of (pixels, channels / 4), by index in the group."""
    pairs = tl.reshape(values, (values.shape[0], values.shape[1] // GROUP, 2, 2))
    even, odd = tl.split(pairs)
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _join_group(first, second, third, fourth):
    """Undo `_split_group`."""
    pairs = tl.join(tl.join(first, third), tl.join(second, fourth))
    return tl.reshape(pairs, (first.shape[0], first.shape[1] * GROUP))


@triton.jit
def inverse_power(scale, beta: tl.constexpr):
    """Compute scale ** -beta; 0.75 needs two square roots only, which are hardware instructions."""
    if beta == 0.75:
        root = tl.rsqrt(scale)
        power = root * tl.sqrt(root)
    else:
        power = tl.exp2(-beta * tl.log2(scale))
    return power


@triton.jit
def _scales(a, b, c, d, e, f, g, h, alpha: tl.constexpr, k: tl.constexpr):
    """Compute the scales of the middle four of eight neighbouring channels."""
    middle = c * c + d * d + e * e + f * f
    # Each window adds one or two outer squares. Nothing is subtracted, so no digits cancel.
    inner = c * c + d * d + e * e
    return (
        k + alpha * (a * a + b * b + inner),
        k + alpha * (b * b + middle),
        k + alpha * (middle + g * g),
        k + alpha * (d * d + e * e + f * f + g * g + h * h),
    )


@triton.jit
def _normalized(
    x, offsets, live, before, after,
    relu: tl.constexpr, alpha: tl.constexpr, beta: tl.constexpr, k: tl.constexpr,
    wide: tl.constexpr,
):  # fmt: skip
    """Load and normalise values; `before` and `after`: the tower has a group on that side."""
    x0, x1, x2, x3 = _split_group(_load(x, offsets, live, relu, wide))
    _, _, p2, p3 = _split_group(_load(x, offsets - GROUP, live & before, relu, wide))
    n0, n1, _, _ = _split_group(_load(x, offsets + GROUP, live & after, relu, wide))
    s0, s1, s2, s3 = _scales(p2, p3, x0, x1, x2, x3, n0, n1, alpha, k)
    return _join_group(
        x0 * inverse_power(s0, beta),
        x1 * inverse_power(s1, beta),
        x2 * inverse_power(s2, beta),
        x3 * inverse_power(s3, beta),
    )


@triton.jit
def _has_neighbours(channel, tower: tl.constexpr):
    """Tell whether the tower has a group before and after that of each channel."""
    index = channel % tower
    return index >= GROUP, index < tower - GROUP


@triton.jit
def pixels_and_channels(channels: tl.constexpr, pixels: tl.constexpr, block: tl.constexpr):
    """Return this program's pixels (n, 1), counted through all images, and channels (1, n)."""
    blocks = tl.cdiv(channels, block)
    pixel = (tl.program_id(0) // blocks) * pixels + tl.arange(0, pixels)
    channel = (tl.program_id(0) % blocks) * block + tl.arange(0, block)
    return pixel[:, None], channel[None, :]


@triton.jit
def _forward_kernel(
    x, y, argmaxes, count, height, width, out_height, out_width,
    channels: tl.constexpr, tower: tl.constexpr, pool: tl.constexpr, stride: tl.constexpr,
    relu: tl.constexpr, norm: tl.constexpr, relu_after: tl.constexpr,
    alpha: tl.constexpr, beta: tl.constexpr, k: tl.constexpr,
    save_argmax: tl.constexpr, pixels: tl.constexpr, block: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Compute some of the `count` pooled pixels."""
    pixel, channel = pixels_and_channels(channels, pixels, block)
    inside = (pixel < count) & (channel < channels)
    before, after = _has_neighbours(channel, tower)
    left = (pixel % out_width) * stride
    top = (pixel // out_width % out_height) * stride
    corner = (pixel // (out_width * out_height) * height + top) * width + left
    best = tl.full((pixels, block), float("-inf"), wide)
    argmax = tl.zeros((pixels, block), tl.int32)
    for down in range(pool):
        for right in tl.static_range(pool):
            live = inside & (top + down < height) & (left + right < width)
            at = x + (corner + (down * width + right)).to(tl.int64) * channels
            if norm:
                exact = _normalized(at, channel, live, before, after, relu, alpha, beta, k, wide)
            else:
                exact = _load(at, channel, live, relu, wide)
            value = exact.to(y.dtype.element_ty).to(wide)
            # As torch's pool: the first of equal values, and a NaN before all numbers.
            larger = live & ((value > best) | (value != value))  # noqa: PLR0124
            best = tl.where(larger, value, best)
            argmax = tl.where(larger, down * pool + right, argmax)
    if relu_after:
        argmax = tl.where(best <= 0, NO_GRADIENT, argmax)
        best = tl.where(best < 0, 0, best)
    out = pixel.to(tl.int64) * channels + channel
    tl.store(y + out, best.to(y.dtype.element_ty), mask=inside)
    if save_argmax:
        tl.store(argmaxes + out, argmax.to(tl.uint8), mask=inside)


@triton.jit
def _gathered(
    gradient, argmaxes, image, row, column, channel, live, out_height, out_width,
    channels: tl.constexpr, pool: tl.constexpr, stride: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Add up the gradients of all windows whose maximum is at these pixels."""
    reach: tl.constexpr = (pool + stride - 1) // stride  # windows along a side with a pixel
    total = tl.zeros((column.shape[0], channel.shape[1]), wide)
    for i in range(reach):
        up = row // stride - (reach - 1 - i)
        down = row - up * stride
        within = live & (up >= 0) & (up < out_height) & (down < pool)
        for j in tl.static_range(reach):
            left = column // stride - (reach - 1 - j)
            right = column - left * stride
            taken = within & (left >= 0) & (left < out_width) & (right < pool)
            window = (image * out_height + up) * out_width + left
            offsets = window.to(tl.int64) * channels + channel
            part = _load(gradient, offsets, taken, False, wide)
            if pool > 1:
                # Not part of the mask above: loads are wide if it is the same for all channels.
                index = tl.load(argmaxes + offsets, mask=taken, other=NO_GRADIENT)
                part = tl.where(index == down * pool + right, part, 0)
            total += part
    return total.to(gradient.dtype.element_ty).to(wide)


@triton.jit
def _factors(x, g, s, beta: tl.constexpr):
    """Return the direct part of the gradient, and each channel's term in its neighbours' sums."""
    direct = g * inverse_power(s, beta)
    return direct, direct * x / s


@triton.jit
def _norm_backward(
    x, g, prev_x, prev_g, next_x, next_g,
    alpha: tl.constexpr, beta: tl.constexpr, k: tl.constexpr, slope: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of a block from values and gradients of three groups of channels."""
    x0, x1, x2, x3 = _split_group(x)
    g0, g1, g2, g3 = _split_group(g)
    p0, p1, p2, p3 = _split_group(prev_x)
    _, _, gp2, gp3 = _split_group(prev_g)
    n0, n1, n2, n3 = _split_group(next_x)
    gn0, gn1, _, _ = _split_group(next_g)
    sp2, sp3, s0, s1 = _scales(p0, p1, p2, p3, x0, x1, x2, x3, alpha, k)
    s2, s3, sn0, sn1 = _scales(x0, x1, x2, x3, n0, n1, n2, n3, alpha, k)
    _, tp2 = _factors(p2, gp2, sp2, beta)
    _, tp3 = _factors(p3, gp3, sp3, beta)
    d0, t0 = _factors(x0, g0, s0, beta)
    d1, t1 = _factors(x1, g1, s1, beta)
    d2, t2 = _factors(x2, g2, s2, beta)
    d3, t3 = _factors(x3, g3, s3, beta)
    _, tn0 = _factors(n0, gn0, sn0, beta)
    _, tn1 = _factors(n1, gn1, sn1, beta)
    d0 -= slope * x0 * (tp2 + tp3 + t0 + t1 + t2)
    d1 -= slope * x1 * (tp3 + t0 + t1 + t2 + t3)
    d2 -= slope * x2 * (t0 + t1 + t2 + t3 + tn0)
    d3 -= slope * x3 * (t1 + t2 + t3 + tn0 + tn1)
    return _join_group(d0, d1, d2, d3)


@triton.jit
def _backward_kernel(
    x, gradient, argmaxes, out, count, height, width, out_height, out_width,
    channels: tl.constexpr, tower: tl.constexpr, pool: tl.constexpr, stride: tl.constexpr,
    relu: tl.constexpr, norm: tl.constexpr,
    alpha: tl.constexpr, beta: tl.constexpr, k: tl.constexpr, slope: tl.constexpr,
    pixels: tl.constexpr, block: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of some of the input's `count` pixels."""
    pixel, channel = pixels_and_channels(channels, pixels, block)
    live = (pixel < count) & (channel < channels)
    column, row, image = pixel % width, pixel // width % height, pixel // (width * height)
    at = pixel.to(tl.int64) * channels
    value = _load(x + at, channel, live, relu, wide)
    result = _gathered(
        gradient, argmaxes, image, row, column, channel, live, out_height, out_width,
        channels, pool, stride, wide,
    )  # fmt: skip
    if norm:
        before, after = _has_neighbours(channel, tower)
        prev_x = _load(x + at, channel - GROUP, live & before, relu, wide)
        prev_g = _gathered(
            gradient, argmaxes, image, row, column, channel - GROUP, live & before,
            out_height, out_width, channels, pool, stride, wide,
        )  # fmt: skip
        next_x = _load(x + at, channel + GROUP, live & after, relu, wide)
        next_g = _gathered(
            gradient, argmaxes, image, row, column, channel + GROUP, live & after,
            out_height, out_width, channels, pool, stride, wide,
        )  # fmt: skip
        result = _norm_backward(
            value, result, prev_x, prev_g, next_x, next_g, alpha, beta, k, slope
        )
    if relu:
        result = tl.where(value <= 0, 0, result)
    tl.store(out + at + channel, result.to(out.dtype.element_ty), mask=live)
