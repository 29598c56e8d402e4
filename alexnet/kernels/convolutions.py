"""Convolutions: `torch.nn.Conv2d` by algorithms that add in another order."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.kernels.blocks import add_bias
from alexnet.kernels.conv_forms import ConvAlgorithm, Geometry
from alexnet.kernels.conv_passes import convolve_by_passes
from alexnet.networks.layers import Input

Padding = tuple[int, int, int, int]
"""Zeros to the left, the right, the top and the bottom, as torch.nn.ZeroPad2d has them."""

ChooseAlgorithm = Callable[[Tensor, nn.Conv2d], ConvAlgorithm]
"""Returns the algorithm of a convolution on images (N, C, H, W)."""


def convolve(
    x: Tensor, conv: nn.Conv2d, algorithm: ConvAlgorithm, *, with_bias: bool = True
) -> Tensor:
    """Convolve `x` (N, C, H, W) with the weights of `conv`, and add its bias if `with_bias`.

    `x` may also be in the layout `SpaceToDepth` of this convolution.
    """
    if algorithm.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    if algorithm.space_to_depth and can_rearrange(x, conv):
        x = rearrange(x, conv)
    weight, geometry = equivalent(x, conv)
    bias = conv.bias if with_bias else None
    if algorithm.is_plain:
        return F.conv2d(x, weight, bias, *geometry, 1, x.shape[1] // weight.shape[1])
    return add_bias(convolve_by_passes(x, weight, geometry, algorithm), bias)


def run_step(x: Tensor, conv: nn.Conv2d, algorithm: ConvAlgorithm) -> tuple[Tensor, ...]:
    """Do what a step does with a convolution of `x`, to be timed or compared.

    Returns the result and, where it learns, the gradients by the weights and by `x` that are
    needed.
    """
    inputs = x.detach().requires_grad_(x.requires_grad)
    y = convolve(inputs, conv, algorithm)
    needed = [tensor for tensor in (conv.weight, inputs) if tensor.requires_grad]
    if not y.requires_grad:
        return (y,)
    return y.detach(), *torch.autograd.grad(y, needed, torch.ones_like(y))


def equivalent(x: Tensor, conv: nn.Conv2d) -> tuple[Tensor, Geometry]:
    """Return weights and geometry of a convolution of `x` as it is, which computes `conv`."""
    if is_rearranged(x, conv):
        return rearranged_weight(conv), Geometry()
    rows, columns = (int(zeros) for zeros in conv.padding)
    return conv.weight, Geometry(conv.stride[0], (rows, columns))


def is_supported(conv: nn.Conv2d) -> bool:
    """Tell whether `convolve` can run `conv`: equal strides, numeric zero padding, no dilation."""
    zeros = isinstance(conv.padding, tuple) and conv.padding_mode == "zeros"
    return zeros and conv.dilation == (1, 1) and conv.stride[0] == conv.stride[1]


# Space to depth: each stride x stride square of pixels becomes one pixel, so that a convolution of
# stride s becomes one of stride 1 with s * s times as many channels. The kernel is rearranged in
# the same way, with zeros where its side is no multiple of s: 11 x 11 with stride 4 over 3 channels
# becomes 3 x 3 over 48.


class SpaceToDepth(NamedTuple):
    """The layout of images for a network whose first convolution has a stride.

    Each `stride` x `stride` square of pixels is one pixel of 3 * stride**2 channels.
    """

    stride: int
    before: int
    """Rows and columns of zeros above and left of the image."""
    shape: tuple[int, int, int]
    """Channels, rows and columns."""


def is_rearranged(x: Tensor, conv: nn.Conv2d) -> bool:
    """Tell whether `x` is in the layout of space to depth for `conv`."""
    return x.shape[1] != conv.in_channels


def can_rearrange(x: Tensor, conv: nn.Conv2d) -> bool:
    """Tell whether `rearrange` would change `x`, which needs a stride and no groups."""
    return conv.stride[0] > 1 and conv.groups == 1 and not is_rearranged(x, conv)


def rearrange(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return images (N, C, H, W) in the layout of space to depth for `conv`."""
    stride, kernel = conv.stride[0], conv.weight.shape[2:]
    padding: list[int] = []  # as torch.nn.functional.pad takes it, the last dimension first
    for axis in (1, 0):
        side, before = x.shape[2 + axis], int(conv.padding[axis])
        squares = squares_along(side + 2 * before, kernel[axis], stride)
        padding += [before, squares * stride - side - before]  # negative: no window reaches there
    return space_to_depth(F.pad(x, padding), stride)


def space_to_depth(x: Tensor, stride: int) -> Tensor:
    """Do what torch.nn.functional.pixel_unshuffle does, in one pass, to a channels-last result."""
    squares = torch.unflatten(torch.unflatten(x, 3, (-1, stride)), 2, (-1, stride))
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).permute(0, 3, 1, 2)


def rearranged_weight(conv: nn.Conv2d) -> Tensor:
    """Return the weights of `conv` for images in the layout of space to depth."""
    stride, (height, width) = conv.stride[0], conv.weight.shape[2:]
    return F.pixel_unshuffle(F.pad(conv.weight, (0, -width % stride, 0, -height % stride)), stride)


def squares_along(side: int, kernel: int, stride: int) -> int:
    """Count the squares along a side of so many pixels that the windows of a kernel reach."""
    return (side - kernel) // stride + -(-kernel // stride)


def input_layout(rows: Iterable[nn.Module]) -> SpaceToDepth | None:
    """Return the layout of images for the first convolution of a network's rows.

    None if that has no stride, or if the rows do not begin with input, padding and convolution.
    """
    shape: tuple[int, int, int] | None = None
    padding = (0, 0, 0, 0)
    for row in rows:
        if isinstance(row, Input):
            shape = row.shape
        elif type(row) is nn.ZeroPad2d:
            padding = row.padding
        else:
            break
    else:
        return None
    if shape is None or type(row) is not nn.Conv2d or not is_supported(row):
        return None
    return _layout(shape, padding, row) if row.groups == 1 and row.stride[0] > 1 else None


def _layout(shape: tuple[int, int, int], padding: Padding, conv: nn.Conv2d) -> SpaceToDepth | None:
    """Return the layout of images (channels, height, width) with zeros of `padding` and `conv`."""
    left, right, top, bottom = padding
    (channels, height, width), stride = shape, conv.stride[0]
    conv_rows, conv_columns = (int(zeros) for zeros in conv.padding)
    if left + conv_columns != top + conv_rows:
        return None
    rows = squares_along(height + top + bottom + 2 * conv_rows, conv.kernel_size[0], stride)
    columns = squares_along(width + left + right + 2 * conv_columns, conv.kernel_size[1], stride)
    return SpaceToDepth(stride, top + conv_rows, (channels * stride**2, rows, columns))
