"""ReLU, response normalisation and max-pool in one Triton kernel each way, for CUDA devices.

    (n, h, w, c) in memory --> ReLU? --> LocalResponseNorm? --> MaxPool2d? --> ReLU?

Each of the four may be missing. The forward pass writes the pooled values and, where a gradient is
wanted, one byte for each: the place in its window that it came from. The backward pass computes the
normalisation again from the input and gathers, so it needs no atomic additions and gives the same
bits each time. Sums are float32 (float64 for float64 inputs), and values are rounded to the input's
type where the plain layers round them: that decides which of two nearly equal values a pool takes.

A program works on some pixels, counted through all images, and some of their channels. The window
of five channels needs the neighbours of each: channels are loaded in aligned groups of four, whose
neighbours are the groups before and after, and each group is taken apart into four tensors.
"""

# Kernels take their tensors, sizes and constants one by one.
# ruff: noqa: PLR0913, PLR0917

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.blocks import ChannelNorm, MaxPool

WINDOW = 5
"""The size of the window of channels: two to each side."""
GROUP = tl.constexpr(4)
"""Channels loaded together: at least two, so that a window lies in three groups."""
NOWHERE = tl.constexpr(255)
"""The place of a pooled value that the last ReLU set to 0: it has no gradient."""
PIXELS, CHANNELS = 32, 32
"""So many pixels, and at most so many channels, for one program."""


class Stage(NamedTuple):
    """What one kernel does; the order is that of the fields."""

    relu: bool = False
    norm: ChannelNorm | None = None
    pool: MaxPool | None = None
    relu_after: bool = False
    """Only after a pool."""


def run_stage(x: Tensor, stage: Stage) -> Tensor:
    """Apply `stage` to `x` (N, C, H, W), differentiably; the result is channels-last.

    C must divide into towers of whole groups of four channels.
    """
    result: Tensor = _Stage.apply(x, stage)
    return result


class _Stage(torch.autograd.Function):
    """The two kernels as one differentiable function."""

    @staticmethod
    def forward(ctx, x, stage):
        x = x.detach().contiguous(memory_format=torch.channels_last)
        y, places = _forward(x, stage, keep=ctx.needs_input_grad[0])
        ctx.save_for_backward(x, places)
        ctx.stage = stage
        return y

    @staticmethod
    def backward(ctx, gradient):
        x, places = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        return _backward(x, gradient, places, ctx.stage), None


def pooled_side(side: int, pool: MaxPool) -> int:
    """Count the windows along a side: those that fit, or, with `ceil_mode`, that begin in it."""
    room = side - pool.size + (pool.stride - 1 if pool.ceil_mode else 0)
    count = room // pool.stride + 1
    return count - ((count - 1) * pool.stride >= side)


def _empty(like: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    shape = (*like.shape[:2], height, width)
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)


def _constants(x: Tensor, stage: Stage) -> dict[str, Any]:
    """Return what both kernels are compiled for."""
    pool = stage.pool or MaxPool(1, 1, ceil_mode=False)
    norm = stage.norm or ChannelNorm(WINDOW, 0.0, 0.75, 1.0, towers=1)
    return tiling(x) | {
        "tower": x.shape[1] // norm.towers,
        "pool": pool.size,
        "stride": pool.stride,
        "relu": stage.relu,
        "norm": stage.norm is not None,
        "alpha": norm.alpha,
        "beta": norm.beta,
        "k": norm.k,
    }


def tiling(x: Tensor) -> dict[str, Any]:
    """Return what a kernel over the channels and pixels of `x` is compiled for."""
    return {
        "channels": x.shape[1],
        "pixels": PIXELS,
        "block": min(CHANNELS, triton.next_power_of_2(x.shape[1])),
        "wide": tl.float64 if x.dtype == torch.float64 else tl.float32,
    }


def grid(pixels: int, channels: int) -> tuple[int]:
    """Return how many programs there are for so many pixels of all images."""
    blocks = triton.cdiv(channels, min(CHANNELS, triton.next_power_of_2(channels)))
    return (triton.cdiv(pixels, PIXELS) * blocks,)


def _forward(x: Tensor, stage: Stage, *, keep: bool) -> tuple[Tensor, Tensor | None]:
    constants = _constants(x, stage)
    height, width = x.shape[2:]
    if stage.pool:
        height, width = (pooled_side(side, stage.pool) for side in (height, width))
    y = _empty(x, height, width, x.dtype)
    places = _empty(x, height, width, torch.uint8) if keep and stage.pool else None
    if y.numel():
        pixels = len(x) * height * width
        _forward_kernel[grid(pixels, x.shape[1])](
            x, y, places, pixels, *x.shape[2:], height, width,
            relu_after=stage.relu_after, keep=places is not None, **constants,
        )  # fmt: skip
    return y, places


def _backward(x: Tensor, gradient: Tensor, places: Tensor | None, stage: Stage) -> Tensor:
    constants = _constants(x, stage)
    out = torch.empty_like(x)
    if out.numel():
        pixels = len(x) * x.shape[2] * x.shape[3]
        _backward_kernel[grid(pixels, x.shape[1])](
            x, gradient, places, out, pixels, *x.shape[2:], *gradient.shape[2:],
            slope=2 * constants["alpha"] * constants["beta"], **constants,
        )  # fmt: skip
    return out


# The kernels.


@triton.jit
def _load(x, offsets, live, relu: tl.constexpr, wide: tl.constexpr):
    """Load values in the type of sums, 0 where they are not `live`; `relu` keeps a NaN."""
    values = tl.load(x + offsets, mask=live, other=0).to(wide)
    return tl.where(values < 0, 0, values) if relu else values


@triton.jit
def _take_apart(values):
    """Turn (columns, channels) into four of (columns, channels / 4), by place in the group."""
    pairs = tl.reshape(values, (values.shape[0], values.shape[1] // GROUP, 2, 2))
    even, odd = tl.split(pairs)
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _put_together(first, second, third, fourth):
    """Undo `_take_apart`."""
    pairs = tl.join(tl.join(first, third), tl.join(second, fourth))
    return tl.reshape(pairs, (first.shape[0], first.shape[1] * GROUP))


@triton.jit
def inverse_power(scale, beta: tl.constexpr):
    """Compute scale ** -beta; for 0.75 from two square roots, which the hardware has."""
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
    # Each window adds one or two outer squares; nothing is subtracted, so nothing cancels.
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
    """Load and normalise a block; `before` and `after`: the tower has a group on that side."""
    x0, x1, x2, x3 = _take_apart(_load(x, offsets, live, relu, wide))
    _, _, p2, p3 = _take_apart(_load(x, offsets - GROUP, live & before, relu, wide))
    n0, n1, _, _ = _take_apart(_load(x, offsets + GROUP, live & after, relu, wide))
    s0, s1, s2, s3 = _scales(p2, p3, x0, x1, x2, x3, n0, n1, alpha, k)
    return _put_together(
        x0 * inverse_power(s0, beta),
        x1 * inverse_power(s1, beta),
        x2 * inverse_power(s2, beta),
        x3 * inverse_power(s3, beta),
    )


@triton.jit
def _group_of_tower(channel, tower: tl.constexpr):
    """Tell whether the tower has a group before and after that of each channel."""
    place = channel % tower
    return place >= GROUP, place < tower - GROUP


@triton.jit
def pixels_and_channels(channels: tl.constexpr, pixels: tl.constexpr, block: tl.constexpr):
    """Return this program's pixels (n, 1), counted through all images, and channels (1, n)."""
    blocks = tl.cdiv(channels, block)
    pixel = (tl.program_id(0) // blocks) * pixels + tl.arange(0, pixels)
    channel = (tl.program_id(0) % blocks) * block + tl.arange(0, block)
    return pixel[:, None], channel[None, :]


@triton.jit
def _forward_kernel(
    x, y, places, count, height, width, out_height, out_width,
    channels: tl.constexpr, tower: tl.constexpr, pool: tl.constexpr, stride: tl.constexpr,
    relu: tl.constexpr, norm: tl.constexpr, relu_after: tl.constexpr,
    alpha: tl.constexpr, beta: tl.constexpr, k: tl.constexpr,
    keep: tl.constexpr, pixels: tl.constexpr, block: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Compute some of the `count` pooled pixels."""
    pixel, channel = pixels_and_channels(channels, pixels, block)
    inside = (pixel < count) & (channel < channels)
    before, after = _group_of_tower(channel, tower)
    left = (pixel % out_width) * stride
    top = (pixel // out_width % out_height) * stride
    corner = (pixel // (out_width * out_height) * height + top) * width + left
    best = tl.full((pixels, block), float("-inf"), wide)
    place = tl.zeros((pixels, block), tl.int32)
    for down in range(pool):
        for right in tl.static_range(pool):
            live = inside & (top + down < height) & (left + right < width)
            at = x + (corner + (down * width + right)).to(tl.int64) * channels
            if norm:
                exact = _normalized(at, channel, live, before, after, relu, alpha, beta, k, wide)
            else:
                exact = _load(at, channel, live, relu, wide)
            value = exact.to(y.dtype.element_ty).to(wide)
            # As torch's pool: the first of equal values, and a NaN before all.
            larger = live & ((value > best) | (value != value))  # noqa: PLR0124
            best = tl.where(larger, value, best)
            place = tl.where(larger, down * pool + right, place)
    if relu_after:
        place = tl.where(best <= 0, NOWHERE, place)
        best = tl.where(best < 0, 0, best)
    out = pixel.to(tl.int64) * channels + channel
    tl.store(y + out, best.to(y.dtype.element_ty), mask=inside)
    if keep:
        tl.store(places + out, place.to(tl.uint8), mask=inside)


@triton.jit
def _gathered(
    gradient, places, image, row, column, channel, live, out_height, out_width,
    channels: tl.constexpr, pool: tl.constexpr, stride: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Add up the gradients of all windows that took their value from these pixels."""
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
                # Not part of the mask above: loads are wide where it is the same for all channels.
                place = tl.load(places + offsets, mask=taken, other=NOWHERE)
                part = tl.where(place == down * pool + right, part, 0)
            total += part
    return total.to(gradient.dtype.element_ty).to(wide)


@triton.jit
def _factors(x, g, s, beta: tl.constexpr):
    """Return the gradient's direct part, and what each channel adds to its neighbours'."""
    direct = g * inverse_power(s, beta)
    return direct, direct * x / s


@triton.jit
def _norm_backward(
    x, g, prev_x, prev_g, next_x, next_g,
    alpha: tl.constexpr, beta: tl.constexpr, k: tl.constexpr, slope: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of a block from values and gradients of three groups of channels."""
    x0, x1, x2, x3 = _take_apart(x)
    g0, g1, g2, g3 = _take_apart(g)
    p0, p1, p2, p3 = _take_apart(prev_x)
    _, _, gp2, gp3 = _take_apart(prev_g)
    n0, n1, n2, n3 = _take_apart(next_x)
    gn0, gn1, _, _ = _take_apart(next_g)
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
    return _put_together(d0, d1, d2, d3)


@triton.jit
def _backward_kernel(
    x, gradient, places, out, count, height, width, out_height, out_width,
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
        gradient, places, image, row, column, channel, live, out_height, out_width,
        channels, pool, stride, wide,
    )  # fmt: skip
    if norm:
        before, after = _group_of_tower(channel, tower)
        prev_x = _load(x + at, channel - GROUP, live & before, relu, wide)
        prev_g = _gathered(
            gradient, places, image, row, column, channel - GROUP, live & before,
            out_height, out_width, channels, pool, stride, wide,
        )  # fmt: skip
        next_x = _load(x + at, channel + GROUP, live & after, relu, wide)
        next_g = _gathered(
            gradient, places, image, row, column, channel + GROUP, live & after,
            out_height, out_width, channels, pool, stride, wide,
        )  # fmt: skip
        result = _norm_backward(
            value, result, prev_x, prev_g, next_x, next_g, alpha, beta, k, slope
        )
    if relu:
        result = tl.where(value <= 0, 0, result)
    tl.store(out + at + channel, result.to(out.dtype.element_ty), mask=live)
