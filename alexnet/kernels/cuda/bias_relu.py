"""Bias and ReLU in one Triton kernel each way, with sums for the gradient of the bias.

PyTorch adds the bias of a channels-last convolution in a kernel of its own, applies ReLU in another
and sums the bias's gradient in a third. Here the result is written once; the backward pass reads
result and gradient once.
"""

# Kernels take their tensors, sizes and constants one by one.
# ruff: noqa: PLR0913, PLR0917

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from alexnet.kernels.cuda.pixels import grid, pixels_and_channels, tiling

TILES = 16
"""Tiles of pixels that a program of the backward pass adds up."""


def run_bias_relu(x: Tensor, bias: Tensor | None) -> Tensor:
    """Return max(x + bias, 0) for `x` (N, C, H, W), differentiably, channels-last.

    The bias (C,) is rounded to the type of `x`, and so is the sum.
    """
    result: Tensor = _BiasReluFunction.apply(x, bias)
    return result


class _BiasReluFunction(torch.autograd.Function):
    """The two kernels as one differentiable function; only the result is kept."""

    @staticmethod
    def forward(ctx, x, bias):
        x = x.detach().contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x)
        pixels = len(x) * x.shape[2] * x.shape[3]
        ctx.bias_type = x.dtype
        if bias is not None:
            ctx.bias_type = bias.dtype
            bias = bias.detach().contiguous()
        if pixels:
            bias_relu_kernel[grid(pixels, x.shape[1])](x, bias, y, pixels, **tiling(x))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (y,) = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        images, channels, height, width = y.shape
        pixels, sizes = images * height * width, tiling(y)
        out, sums = torch.empty_like(y), None
        programs = triton.cdiv(pixels, sizes["pixels"] * TILES)
        if ctx.needs_input_grad[1]:
            exact = torch.float64 if y.dtype == torch.float64 else torch.float32
            sums = y.new_empty(programs, channels, dtype=exact)
        if pixels:
            bias_relu_backward_kernel[grid(programs * sizes["pixels"], channels)](
                y, gradient, out, sums, pixels, tiles=TILES, **sizes
            )
        return out, sums.sum(0).to(ctx.bias_type) if sums is not None else None


@triton.jit
def bias_relu_kernel(
    x, bias, y, count, channels: tl.constexpr, pixels: tl.constexpr, block: tl.constexpr,
    wide: tl.constexpr,
):  # fmt: skip
    """Compute some of the `count` pixels."""
    pixel, channel = pixels_and_channels(channels, pixels, block)
    live = (pixel < count) & (channel < channels)
    at = pixel.to(tl.int64) * channels + channel
    value = tl.load(x + at, mask=live, other=0).to(wide)
    if bias is not None:
        added = tl.load(bias + channel, mask=channel < channels, other=0)
        value += added.to(x.dtype.element_ty).to(wide)
    value = tl.maximum(value, 0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=live)


@triton.jit
def bias_relu_backward_kernel(
    y, gradient, out, sums, count, tiles: tl.constexpr, channels: tl.constexpr,
    pixels: tl.constexpr, block: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of `tiles` x `pixels` of the `count` pixels, and add them up."""
    pixel, channel = pixels_and_channels(channels, pixels, block)
    number = tl.program_id(0) // tl.cdiv(channels, block)
    pixel += number * pixels * (tiles - 1)
    total = tl.zeros((pixels, block), wide)
    for _ in range(tiles):
        live = (pixel < count) & (channel < channels)
        at = pixel.to(tl.int64) * channels + channel
        value = tl.load(y + at, mask=live, other=0).to(wide)
        part = tl.load(gradient + at, mask=live, other=0).to(wide)
        part = tl.where(value <= 0, 0, part)
        tl.store(out + at, part.to(out.dtype.element_ty), mask=live)
        total += part
        pixel += pixels
    if sums is not None:
        at = number * channels + channel
        tl.store(sums + at, tl.sum(total, 0, keep_dims=True), mask=channel < channels)
