"""Planar YUV 4:2:0: the brightness of each pixel and the colour of each 2 x 2 pixels.

It takes half the bytes of 8-bit RGB. The colours are those of JPEG (ITU-T T.871), computed in whole
numbers so that every device gives the same bits. A CPU runs loops compiled by numba; a GPU, or a
CPU without numba, runs the same in PyTorch.
"""

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor
from torch.nn import functional as F

_ONE = 16
"""A weight of 1 is 2**16."""
_LUMA = (19595, 38470, 7471)
_BLUE = (-11059, -21709, 32768)
_RED = (32768, -27439, -5329)
TO_RGB = (91881, 22554, 46802, 116130)
"""Weights of Cr added to red, of Cb and Cr subtracted from green, of Cb added to blue."""


def to_yuv420(pixels: Tensor) -> Tensor:
    """Write (B, S, S, 3) uint8 RGB, S even, as rows of S*S + 2 * (S/2 * S/2) bytes: Y, Cb, Cr.

    Greys are restored exactly and even colours within 2 levels of 255. Colours that change from
    pixel to pixel are replaced by their mean over 2 x 2 pixels.
    """
    if pixels.device.type == "cpu":
        with suppress(ImportError):
            return _to_yuv420_on_cpu(pixels)
    return _to_yuv420_by_torch(pixels)


def from_yuv420(rows: Tensor, side: int) -> Tensor:
    """Return the pixels (B, side, side, 3) uint8 RGB of rows written by `to_yuv420`.

    Colour is interpolated between the centres of the 2 x 2 pixels, as JPEG decoders do.
    """
    if rows.device.type == "cpu":
        with suppress(ImportError):
            return _from_yuv420_on_cpu(rows, side)
    return _from_yuv420_by_torch(rows, side)


def _to_yuv420_on_cpu(pixels: Tensor) -> Tensor:
    from alexnet.images.yuv420_loops import to_planes  # compiles, or loads compiled code

    images, side = pixels.shape[:2]
    rows = torch.empty((images, side * side * 3 // 2), dtype=torch.uint8)
    to_planes(pixels.contiguous().flatten(2).numpy(), _LUMA, _BLUE, _RED, _ONE, rows.numpy())
    return rows


def _from_yuv420_on_cpu(rows: Tensor, side: int) -> Tensor:
    from alexnet.images.yuv420_loops import from_planes  # compiles, or loads compiled code

    pixels = torch.empty((len(rows), side, side, 3), dtype=torch.uint8)
    from_planes(rows.contiguous().numpy(), TO_RGB, _ONE, pixels.flatten(2).numpy())
    return pixels


def _to_yuv420_by_torch(pixels: Tensor) -> Tensor:
    red, green, blue = pixels.to(torch.int32).unbind(3)
    luma = _weighted(_LUMA, (red, green, blue), _ONE)
    sums = [_sum_of_fours(plane) for plane in (red, green, blue)]
    chroma = [128 + _weighted(weights, sums, _ONE + 2) for weights in (_BLUE, _RED)]
    planes = [plane.clamp_(0, 255).to(torch.uint8).flatten(1) for plane in (luma, *chroma)]
    return torch.cat(planes, 1)


def _from_yuv420_by_torch(rows: Tensor, side: int) -> Tensor:
    luma, chroma = rows[:, : side * side], rows[:, side * side :]
    small = chroma.reshape(-1, 2, side // 2, side // 2).float()
    wide = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    # Interpolated values are sixteenths, which float32 holds exactly.
    blue, red = (wide * 16 - 128 * 16).to(torch.int32).unbind(1)
    y = luma.reshape(-1, side, side).to(torch.int32)
    red_in_red, blue_in_green, red_in_green, blue_in_blue = TO_RGB
    parts = [
        y + _rounded(red_in_red * red, _ONE + 4),
        y - _rounded(blue_in_green * blue + red_in_green * red, _ONE + 4),
        y + _rounded(blue_in_blue * blue, _ONE + 4),
    ]
    return torch.stack([part.clamp_(0, 255).to(torch.uint8) for part in parts], 3)


def _weighted(weights: Sequence[int], planes: Sequence[Tensor], shift: int) -> Tensor:
    total = planes[0] * weights[0] + planes[1] * weights[1] + planes[2] * weights[2]
    return _rounded(total, shift)


def _rounded(total: Tensor, shift: int) -> Tensor:
    """Divide by 2**shift, to the nearest whole number."""
    return (total + (1 << (shift - 1))) >> shift


def _sum_of_fours(plane: Tensor) -> Tensor:
    """Sum each 2 x 2 pixels: (B, S, S) to (B, S/2, S/2)."""
    rows = plane[:, 0::2] + plane[:, 1::2]
    return rows[:, :, 0::2] + rows[:, :, 1::2]
