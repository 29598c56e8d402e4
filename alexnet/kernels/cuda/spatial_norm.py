"""Response normalisation within each map (2012's second one) in Triton, for CUDA devices.

Channels are independent, so a program adds up the window of each pixel. The backward pass has two
kernels: the term that each pixel adds to the gradients around it, then the sums of these terms.
"""

# Kernels take their tensors, sizes and constants one by one.
# ruff: noqa: PLR0913, PLR0917

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.blocks import SpatialNorm
from alexnet.kernels.cuda.channels import inverse_powers
from alexnet.kernels.cuda.pixels import grid, pixels_and_channels, tiling


def run_spatial_norm(x: Tensor, norm: SpatialNorm) -> Tensor:
    """Apply `norm` to `x` (N, C, H, W), differentiably; the result is channels-last."""
    result: Tensor = _SpatialNormFunction.apply(x, norm)
    return result


class _SpatialNormFunction(torch.autograd.Function):
    """The kernels as one differentiable function."""

    @staticmethod
    def forward(ctx, x, norm):
        x = x.detach().contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x)
        _launch(_forward_kernel, (x, y), norm)
        ctx.save_for_backward(x)
        ctx.norm = norm
        return y

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        direct, terms = torch.empty_like(x, dtype=exact), torch.empty_like(x, dtype=exact)
        out = torch.empty_like(x)
        _launch(_terms_kernel, (x, gradient, direct, terms), ctx.norm)
        _launch(_backward_kernel, (x, direct, terms, out), ctx.norm)
        return out, None


def _launch(kernel: Any, tensors: tuple[Tensor, ...], norm: SpatialNorm) -> None:
    """Run a kernel over all pixels of its first tensor."""
    images, channels, height, width = tensors[0].shape
    count = images * height * width
    if count:
        kernel[grid(count, channels)](
            *tensors, count, height, width, size=norm.size, alpha=norm.alpha, beta=norm.beta,
            **tiling(tensors[0]),
        )  # fmt: skip


# The kernels.


@triton.jit
def _window_sum(
    x, pixel, channel, live, height, width, channels: tl.constexpr, size: tl.constexpr,
    square: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Add up the values, or their squares, of the `size` x `size` pixels around each."""
    column, row = pixel % width, pixel // width % height
    total = tl.zeros((pixel.shape[0], channel.shape[1]), wide)
    for i in range(size):
        down = i - size // 2
        in_map = live & (row + down >= 0) & (row + down < height)
        for j in tl.static_range(size):
            across = j - size // 2
            inside = in_map & (column + across >= 0) & (column + across < width)
            at = (pixel + (down * width + across)).to(tl.int64) * channels + channel
            value = tl.load(x + at, mask=inside, other=0).to(wide)
            total += value * value if square else value
    return total


@triton.jit
def _forward_kernel(
    x, y, count, height, width, size: tl.constexpr, alpha: tl.constexpr, beta: tl.constexpr,
    channels: tl.constexpr, pixels: tl.constexpr, block: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Normalise some of the `count` pixels."""
    pixel, channel = pixels_and_channels(channels, pixels, block)
    live = (pixel < count) & (channel < channels)
    total = _window_sum(x, pixel, channel, live, height, width, channels, size, True, wide)
    at = pixel.to(tl.int64) * channels + channel
    value = tl.load(x + at, mask=live, other=0).to(wide)
    power, _ = inverse_powers(1 + alpha * total, beta)
    value *= power
    tl.store(y + at, value.to(y.dtype.element_ty), mask=live)


@triton.jit
def _terms_kernel(
    x, gradient, direct, terms, count, height, width,
    size: tl.constexpr, alpha: tl.constexpr, beta: tl.constexpr,
    channels: tl.constexpr, pixels: tl.constexpr, block: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Compute the direct part of the gradient, and each pixel's term in the sums around it."""
    pixel, channel = pixels_and_channels(channels, pixels, block)
    live = (pixel < count) & (channel < channels)
    total = _window_sum(x, pixel, channel, live, height, width, channels, size, True, wide)
    power, inverse = inverse_powers(1 + alpha * total, beta)
    at = pixel.to(tl.int64) * channels + channel
    value = tl.load(x + at, mask=live, other=0).to(wide)
    part = tl.load(gradient + at, mask=live, other=0).to(wide) * power
    tl.store(direct + at, part, mask=live)
    tl.store(terms + at, part * value * inverse, mask=live)


@triton.jit
def _backward_kernel(
    x, direct, terms, out, count, height, width,
    size: tl.constexpr, alpha: tl.constexpr, beta: tl.constexpr,
    channels: tl.constexpr, pixels: tl.constexpr, block: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Compute the gradient from the results of `_terms_kernel`."""
    pixel, channel = pixels_and_channels(channels, pixels, block)
    live = (pixel < count) & (channel < channels)
    total = _window_sum(terms, pixel, channel, live, height, width, channels, size, False, wide)
    at = pixel.to(tl.int64) * channels + channel
    value = tl.load(x + at, mask=live, other=0).to(wide)
    part = tl.load(direct + at, mask=live, other=0)
    result = part - 2 * (alpha * (beta * (value * total)))
    tl.store(out + at, result.to(out.dtype.element_ty), mask=live)
