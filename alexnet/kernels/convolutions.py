"""Algorithms for convolutions: `torch.nn.Conv2d` with another order of additions."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.networks.layers import Input

Padding = tuple[int, int, int, int]
"""Zeros to the left, the right, the top and the bottom, as torch.nn.ZeroPad2d has them."""


@dataclass(frozen=True)
class ConvAlgorithm:
    """How a convolution is computed."""

    channels_last: bool = False
    """Whether images are stored with the channels of a pixel together."""
    space_to_depth: bool = False
    """Whether a convolution with a stride becomes one without, see `convolve_without_stride`."""
    groups: Literal["grouped", "split", "filled"] = "grouped"
    """A grouped convolution, one convolution per group, or one with zeros between groups."""


ChooseAlgorithm = Callable[[Tensor, nn.Conv2d], ConvAlgorithm]
"""Returns the algorithm of a convolution on images (N, C, H, W)."""


def convolve(
    x: Tensor, conv: nn.Conv2d, algorithm: ConvAlgorithm, *, with_bias: bool = True
) -> Tensor:
    """Convolve `x` (N, C, H, W) with the weights of `conv`, and add its bias if `with_bias`.

    `x` may also be in the layout `SpaceToDepth` of this convolution.
    """
    bias = conv.bias if with_bias else None
    if algorithm.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    if x.shape[1] != conv.in_channels:
        return convolve_space_to_depth(x, conv, bias)
    if conv.groups > 1 and algorithm.groups == "split":
        return convolve_groups(x, conv, bias)
    if conv.groups > 1 and algorithm.groups == "filled":
        weight = filled_weight(conv)
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation)
    if conv.groups == 1 and conv.stride[0] > 1 and algorithm.space_to_depth:
        return convolve_without_stride(x, conv, bias)
    return F.conv2d(x, conv.weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def is_supported(conv: nn.Conv2d) -> bool:
    """Tell whether `convolve` can run `conv`: equal strides, numeric zero padding, no dilation."""
    zeros = isinstance(conv.padding, tuple) and conv.padding_mode == "zeros"
    return zeros and conv.dilation == (1, 1) and conv.stride[0] == conv.stride[1]


def convolve_groups(x: Tensor, conv: nn.Conv2d, bias: Tensor | None) -> Tensor:
    """Run each group as a convolution of its own."""
    biases = bias.chunk(conv.groups) if bias is not None else [None] * conv.groups
    groups = zip(x.chunk(conv.groups, 1), conv.weight.chunk(conv.groups), biases, strict=True)
    return torch.cat(
        [
            F.conv2d(inputs, weight, group_bias, conv.stride, conv.padding, conv.dilation)
            for inputs, weight, group_bias in groups
        ],
        1,
    )


def filled_weight(conv: nn.Conv2d) -> Tensor:
    """Return the weights of `conv` as those of a convolution without groups, 0 between groups."""
    inputs, others = conv.weight.shape[1], conv.groups - 1
    return torch.cat(
        [
            F.pad(weight, (0, 0, 0, 0, group * inputs, (others - group) * inputs))
            for group, weight in enumerate(conv.weight.chunk(conv.groups))
        ]
    )


# Space to depth: each stride x stride square of pixels becomes one pixel.


class SpaceToDepth(NamedTuple):
    """The layout of images for a network whose first convolution has a stride.

    Each `stride` x `stride` square of pixels is one pixel of 3 * stride**2 channels.
    """

    stride: int
    before: int
    """Rows and columns of zeros above and left of the image."""
    shape: tuple[int, int, int]
    """Channels, rows and columns."""


def convolve_without_stride(x: Tensor, conv: nn.Conv2d, bias: Tensor | None) -> Tensor:
    """Compute a convolution of stride s as one of stride 1 with s * s times as many channels.

    Each s x s square of pixels becomes one pixel. The kernel is rearranged in the same way, with
    zeros where its side is no multiple of s: 11 x 11 with stride 4 over 3 channels becomes 3 x 3
    over 48.
    """
    stride, kernel = conv.stride[0], conv.weight.shape[2:]
    padding: list[int] = []  # as torch.nn.functional.pad takes it, the last dimension first
    for axis in (1, 0):
        side, before = x.shape[2 + axis], int(conv.padding[axis])
        squares = squares_along(side + 2 * before, kernel[axis], stride)
        padding += [before, squares * stride - side - before]  # negative: no window reaches there
    return convolve_space_to_depth(space_to_depth(F.pad(x, padding), stride), conv, bias)


def space_to_depth(x: Tensor, stride: int) -> Tensor:
    """Do what torch.nn.functional.pixel_unshuffle does, in one pass, to a channels-last result."""
    squares = torch.unflatten(torch.unflatten(x, 3, (-1, stride)), 2, (-1, stride))
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).permute(0, 3, 1, 2)


def convolve_space_to_depth(x: Tensor, conv: nn.Conv2d, bias: Tensor | None) -> Tensor:
    """Convolve images in the layout of `space_to_depth` with the stride of `conv`."""
    stride, (height, width) = conv.stride[0], conv.weight.shape[2:]
    weight = F.pad(conv.weight, (0, -width % stride, 0, -height % stride))
    return F.conv2d(x, F.pixel_unshuffle(weight, stride), bias)


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
