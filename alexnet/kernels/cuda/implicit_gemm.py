"""Convolutions of stride 1 as matrix products in Triton, for CUDA devices: all three passes.

    forward, gradient of the input:  (channels, taps x channels) by (taps x channels, pixels)
    gradient of the weights:         (channels, pixels) by (pixels, taps x channels)

A tap is a position in the window. The matrix that holds each value once for every tap is never
written to memory: a program gathers its part of it from the images. Taps and channels are one axis
without gaps, so 48 channels leave nothing idle. Each group is a product of its own. The gradient of
the input is a forward pass with the weights reversed. That of the weights is a sum over all pixels:
programs compute parts of it, and a second kernel adds them in a fixed order, so that the bits are
the same each time.

All tensors are channels-last, weights (outputs, inputs / groups, height, width) too, in one type.
Products of 16-bit numbers are added up as float32; float32 numbers are multiplied exactly.

The kernels have run in Triton's interpreter and have been compiled for an H100; they have not yet
run on a GPU.
"""

# Kernels take their tensors, sizes and constants one by one.
# ruff: noqa: PLR0913, PLR0917

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.conv_forms import Tile

SHARED_MEMORY = 227 * 1024
"""Bytes that the programs of one multiprocessor of an H100 share."""
FAR = tl.constexpr(-(2**30))
"""A row outside of every image."""
BLOCK = 1024
"""Weights of which one program adds up the parts."""


def convolve(x: Tensor, weight: Tensor, padding: tuple[int, int], tile: Tile) -> Tensor:
    """Convolve `x` (N, C, H, W) with `weight` (outputs, C / groups, height, width), stride 1."""
    height, width = (
        side + 2 * zeros - kernel + 1
        for side, zeros, kernel in zip(x.shape[2:], padding, weight.shape[2:], strict=True)
    )
    groups = x.shape[1] // weight.shape[1]
    shape = (len(x), len(weight), height, width)
    return _run(x, weight, shape, padding, groups, tile, flipped=False)


def input_gradient(
    gradient: Tensor, weight: Tensor, shape: torch.Size, padding: tuple[int, int], tile: Tile
) -> Tensor:
    """Return the gradient by the input of this shape, given that by the result of `convolve`."""
    groups = shape[1] // weight.shape[1]
    rest = [kernel - 1 - zeros for kernel, zeros in zip(weight.shape[2:], padding, strict=True)]
    return _run(gradient, weight, shape, (rest[0], rest[1]), groups, tile, flipped=True)


def weight_gradient(
    gradient: Tensor, x: Tensor, shape: torch.Size, padding: tuple[int, int], tile: Tile
) -> Tensor:
    """Return the gradient by the weights of this shape, given that by the result of `convolve`."""
    x, gradient = _channels_last(x), _channels_last(gradient)
    groups = x.shape[1] // shape[1]
    outputs, inputs, depth = shape[0] // groups, shape[1], shape[1:].numel()
    pixels = gradient.numel() // shape[0]
    programs = groups * triton.cdiv(outputs, tile.channels) * triton.cdiv(depth, tile.columns)
    share = _pixels_of_part(pixels, programs, tile, x)
    parts = triton.cdiv(pixels, share)
    sums = torch.empty(parts, shape.numel(), dtype=torch.float32, device=x.device)
    if parts:
        _weight_kernel[(programs * parts,)](
            x, gradient, sums, pixels, share, *x.shape[2:], *padding, inputs, outputs, groups,
            shape[2:].numel(), shape[3], *gradient.shape[2:], *tile[:3],
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    _add_kernel[(triton.cdiv(shape.numel(), BLOCK),)](sums, out, shape.numel(), parts, BLOCK)
    return out


def _run(
    x: Tensor,
    weight: Tensor,
    shape: tuple[int, ...],
    padding: tuple[int, int],
    groups: int,
    tile: Tile,
    *,
    flipped: bool,
) -> Tensor:
    """Convolve to a result of `shape`, with the weights reversed and transposed if `flipped`."""
    x, weight = _channels_last(x), _channels_last(weight)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    inputs, outputs = x.shape[1] // groups, shape[1] // groups
    pixels = y.numel() // shape[1]
    programs = groups * triton.cdiv(outputs, tile.channels) * triton.cdiv(pixels, tile.columns)
    if programs:
        _convolve_kernel[(programs,)](
            x, weight, y, pixels, *x.shape[2:], *shape[2:], *padding, inputs, outputs, groups,
            weight.shape[2:].numel(), weight.shape[3], flipped, *tile[:3],
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return y


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _pixels_of_part(pixels: int, programs: int, tile: Tile, x: Tensor) -> int:
    """Return how many pixels a program adds up, so that the device is full once."""
    stage = (tile.channels + tile.columns) * tile.depth * x.element_size()
    resident = max(1, SHARED_MEMORY // (tile.stages * stage))
    processors = 1
    if x.is_cuda:
        processors = torch.cuda.get_device_properties(x.device).multi_processor_count
    parts = max(1, processors * resident // programs)
    steps: int = triton.cdiv(triton.cdiv(pixels, parts), tile.depth)
    return max(1, steps) * tile.depth


# The kernels. Sizes are arguments, so that one compilation serves all layers.

# `inputs` and `outputs` only are compiled apart: as multiples of 16, which are loaded in pieces of
# 16 bytes, and as others.

SIZES = ("pixels", "height", "width", "top", "left", "groups", "taps", "kernel_width")


@triton.jit
def _divide(number, divisor):
    """Return quotient and remainder of numbers >= 0; unsigned division needs fewer instructions."""
    quotient = (number.to(tl.uint32) // tl.cast(divisor, tl.uint32)).to(tl.int32)
    return quotient, number - quotient * divisor


@triton.jit
def _inside(row, column, height, width):
    """Tell which pixels lie in the image; unsigned, a number below 0 is a large one."""
    in_rows = row.to(tl.uint32) < tl.cast(height, tl.uint32)
    return in_rows & (column.to(tl.uint32) < tl.cast(width, tl.uint32))


@triton.jit(do_not_specialize=(*SIZES, "out_height", "out_width"))
def _convolve_kernel(
    x, weight, y, pixels, height, width, out_height, out_width, top, left,
    inputs, outputs, groups, taps, kernel_width, flipped: tl.constexpr,
    block_channels: tl.constexpr, block_pixels: tl.constexpr, block_depth: tl.constexpr,
):  # fmt: skip
    """Compute some channels of some pixels of `y`, counted through all images.

    `inputs` and `outputs` are channels of one group of `x` and `y`.
    """
    blocks = tl.cdiv(outputs, block_channels)
    number = tl.program_id(0)
    output = number % blocks * block_channels + tl.arange(0, block_channels)
    group = number // blocks % groups
    pixel = number // (blocks * groups) * block_pixels + tl.arange(0, block_pixels)
    line, column = _divide(pixel, out_width)
    image, row = _divide(line, out_height)
    row, column = row - top, column - left
    corner = x + ((image * height + row) * width + column).to(tl.int64) * (inputs * groups)
    corner += group * inputs
    row = tl.where(pixel < pixels, row, FAR)
    depth = taps * inputs
    total = tl.zeros((block_channels, block_pixels), tl.float32)
    for start in range(0, depth, block_depth):
        position = start + tl.arange(0, block_depth)
        tap, channel = _divide(position, inputs)
        down, right = _divide(tap, kernel_width)
        offset = (down * width + right) * (inputs * groups) + channel
        down = tl.where(position < depth, down, FAR)
        inside = _inside(row[:, None] + down, column[:, None] + right, height, width)
        # Cached: the windows of neighbouring pixels overlap.
        values = tl.load(corner[:, None] + offset, mask=inside, other=0, cache_modifier=".ca")
        if flipped:
            first = (group * inputs + channel) * (taps * outputs) + (taps - 1 - tap) * outputs
            at = weight + first[:, None] + output
        else:
            at = weight + (group * outputs + output) * depth + position[:, None]
        live = (position < depth)[:, None] & (output < outputs)
        weights = tl.load(at, mask=live, other=0)
        total = tl.dot(tl.trans(weights), tl.trans(values), total, input_precision="ieee")
    at = y + pixel.to(tl.int64)[:, None] * (outputs * groups) + (group * outputs + output)
    live = (pixel < pixels)[:, None] & (output < outputs)
    tl.store(at, tl.trans(total).to(y.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize=(*SIZES, "share"))
def _weight_kernel(
    x, gradient, sums, pixels, share, height, width, top, left,
    inputs, outputs, groups, taps, kernel_width,
    out_height: tl.constexpr, out_width: tl.constexpr,
    block_channels: tl.constexpr, block_positions: tl.constexpr, block_depth: tl.constexpr,
):  # fmt: skip
    """Add up some weights' gradients over `share` pixels, counted through all images."""
    depth = taps * inputs
    blocks, positions = tl.cdiv(outputs, block_channels), tl.cdiv(depth, block_positions)
    number = tl.program_id(0)
    output = number % blocks * block_channels + tl.arange(0, block_channels)
    position = number // blocks % positions * block_positions + tl.arange(0, block_positions)
    group = number // (blocks * positions) % groups
    part = number // (blocks * positions * groups)
    tap, channel = _divide(position, inputs)
    down, right = _divide(tap, kernel_width)
    down, right = down - top, right - left
    source = x + (down * width + right) * (inputs * groups) + group * inputs + channel
    down = tl.where(position < depth, down, FAR)
    total = tl.zeros((block_channels, block_positions), tl.float32)
    for start in range(part * share, tl.minimum((part + 1) * share, pixels), block_depth):
        pixel = start + tl.arange(0, block_depth)
        # The divisors are constants: division by others would take a quarter of the instructions.
        line, column = _divide(pixel, out_width)
        image, row = _divide(line, out_height)
        corner = ((image * height + row) * width + column).to(tl.int64) * (inputs * groups)
        row = tl.where(pixel < pixels, row, FAR)
        inside = _inside(row[:, None] + down, column[:, None] + right, height, width)
        values = tl.load(source + corner[:, None], mask=inside, other=0, cache_modifier=".ca")
        first = pixel.to(tl.int64) * (outputs * groups) + group * outputs
        live = (pixel < pixels)[:, None] & (output < outputs)
        gradients = tl.load(gradient + first[:, None] + output, mask=live, other=0)
        total = tl.dot(tl.trans(gradients), values, total, input_precision="ieee")
    first = ((part * groups + group) * outputs + output).to(tl.int64) * depth
    live = (output < outputs)[:, None] & (position < depth)
    tl.store(sums + first[:, None] + position, total, mask=live)


@triton.jit(do_not_specialize=("parts",))
def _add_kernel(sums, out, count, parts, block: tl.constexpr):
    """Add the parts (parts, count) of a sum in their order."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    total = tl.zeros((block,), tl.float32)
    for _ in range(parts):
        total += tl.load(sums + at, mask=at < count, other=0)
        sums += count
    tl.store(out + at, total.to(out.dtype.element_ty), mask=at < count)
