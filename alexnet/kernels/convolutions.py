"""Convolutions in the form that is fastest on a device.

They compute what `torch.nn.Conv2d` does, from the same parameters; only the order of additions
differs.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.networks.layers import Input

Sides = tuple[int, int, int, int]
"""Zeros to the left, the right, the top and the bottom, as torch.nn.ZeroPad2d has them."""


@dataclass(frozen=True)
class ConvAlgorithm:
    """How convolutions are computed."""

    channels_last: bool = False
    """Whether images are kept with the channels of a pixel together."""
    unshuffle: bool = False
    """Whether a convolution with a stride becomes one without, by `unshuffled`."""
    groups: Literal["grouped", "split", "filled"] = "grouped"
    """Groups as PyTorch runs them, as a convolution each, or as one whose other weights are 0."""


Choose = Callable[[Tensor, nn.Conv2d], ConvAlgorithm]
"""Returns the forms in which a convolution is computed on such images."""


def cpu_forms(_x: Tensor, _conv: nn.Conv2d) -> ConvAlgorithm:
    """Return what is fastest on a CPU, by measurements (docs/speed.md); GPUs: `cuda_forms`."""
    return ConvAlgorithm(channels_last=True)


class SpaceToDepth(NamedTuple):
    """The images of a network whose first convolution has a stride, rearranged for it.

    Each `stride` x `stride` square of pixels is one pixel of 3 * stride**2 channels.
    """

    stride: int
    before: int
    """Rows and columns of zeros above and left of the image."""
    shape: tuple[int, int, int]
    """Channels, rows and columns."""


def convolve(x: Tensor, conv: nn.Conv2d, forms: ConvAlgorithm) -> Tensor:
    """Convolve `x` (N, C, H, W) with the weights of `conv`, in the forms given.

    `x` may be rearranged for that already (`SpaceToDepth`).
    """
    if forms.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    if x.shape[1] != conv.in_channels:
        return convolve_cells(x, conv)
    if conv.groups > 1 and forms.groups == "split":
        return split_groups(x, conv)
    if conv.groups > 1 and forms.groups == "filled":
        return F.conv2d(x, filled(conv), conv.bias, conv.stride, conv.padding, conv.dilation)
    if conv.groups == 1 and conv.stride[0] > 1 and forms.unshuffle:
        return unshuffled(x, conv)
    result: Tensor = conv(x)
    return result


def is_known(conv: nn.Conv2d) -> bool:
    """Tell whether `convolve` can run `conv`: square steps, padding with a number of zeros."""
    numbers = isinstance(conv.padding, tuple) and conv.padding_mode == "zeros"
    return numbers and conv.dilation == (1, 1) and conv.stride[0] == conv.stride[1]


def split_groups(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Run each group as a convolution of its own."""
    biases = conv.bias.chunk(conv.groups) if conv.bias is not None else [None] * conv.groups
    parts = zip(x.chunk(conv.groups, 1), conv.weight.chunk(conv.groups), biases, strict=True)
    return torch.cat(
        [
            F.conv2d(part, weight, bias, conv.stride, conv.padding, conv.dilation)
            for part, weight, bias in parts
        ],
        1,
    )


def filled(conv: nn.Conv2d) -> Tensor:
    """Return the weights of `conv` as those of a convolution without groups, 0 between groups."""
    inputs, others = conv.weight.shape[1], conv.groups - 1
    parts = conv.weight.chunk(conv.groups)
    return torch.cat(
        [
            F.pad(part, (0, 0, 0, 0, group * inputs, (others - group) * inputs))
            for group, part in enumerate(parts)
        ]
    )


def unshuffled(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Convolve with a stride of s as without one, over s * s times as many channels.

    Each s x s square of pixels becomes one pixel, and the kernel is cut up in the same way, with
    zeros where it is no multiple of s: 11 x 11 with stride 4 over 3 channels becomes 3 x 3 over 48.
    """
    stride, kernel = conv.stride[0], conv.weight.shape[2:]
    sides: list[int] = []  # as torch.nn.functional.pad takes them, the last dimension first
    for axis in (1, 0):
        length, padding = x.shape[2 + axis], int(conv.padding[axis])
        cells = cells_along(length + 2 * padding, kernel[axis], stride)
        sides += [padding, cells * stride - length - padding]  # negative: no window reaches there
    return convolve_cells(rearranged(F.pad(x, sides), stride), conv)


def rearranged(x: Tensor, stride: int) -> Tensor:
    """Do what torch.nn.functional.pixel_unshuffle does, in one pass, to a channels-last result."""
    squares = torch.unflatten(torch.unflatten(x, 3, (-1, stride)), 2, (-1, stride))
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).permute(0, 3, 1, 2)


def convolve_cells(cells: Tensor, conv: nn.Conv2d) -> Tensor:
    """Convolve images whose s x s squares of pixels are one, s being the stride of `conv`."""
    stride, (high, wide) = conv.stride[0], conv.weight.shape[2:]
    weight = F.pad(conv.weight, (0, -wide % stride, 0, -high % stride))
    return F.conv2d(cells, F.pixel_unshuffle(weight, stride), conv.bias)


def cells_along(length: int, kernel: int, stride: int) -> int:
    """Count the squares along a side of `length` pixels that the windows of a kernel reach."""
    return (length - kernel) // stride + -(-kernel // stride)


def first_cells(rows: Iterable[nn.Module]) -> SpaceToDepth | None:
    """Return how images are rearranged for the first convolution of a network's rows.

    None if it has no stride, or the table begins in a way that is not known here.
    """
    shape: tuple[int, int, int] | None = None
    pad = (0, 0, 0, 0)
    for row in rows:
        if isinstance(row, Input):
            shape = row.shape
        elif type(row) is nn.ZeroPad2d:
            pad = row.padding
        else:
            break
    else:
        return None
    if shape is None or type(row) is not nn.Conv2d or not is_known(row):
        return None
    return _cells(shape, pad, row) if row.groups == 1 and row.stride[0] > 1 else None


def _cells(shape: tuple[int, int, int], pad: Sides, conv: nn.Conv2d) -> SpaceToDepth | None:
    """Return the cells of images of that shape, with zeros of `pad` and of `conv` around them."""
    left, right, top, bottom = pad
    (channels, height, width), stride = shape, conv.stride[0]
    own_rows, own_columns = (int(own) for own in conv.padding)
    if left + own_columns != top + own_rows:
        return None
    rows = cells_along(height + top + bottom + 2 * own_rows, conv.kernel_size[0], stride)
    columns = cells_along(width + left + right + 2 * own_columns, conv.kernel_size[1], stride)
    return SpaceToDepth(stride, top + own_rows, (channels * stride**2, rows, columns))
