"""8-bit images to the network's input in one Triton kernel, as `alexnet.transforms.augment` does.

The kernel crops, scales, mirrors, subtracts the mean, shifts the colour, and converts type and
layout: each input value is written once, and nothing else. Images of halved colour
(`alexnet.images.yuv420`) are converted to RGB on the way. The input may be in the layout that conv1
reads fastest (`alexnet.kernels.convolutions.SpaceToDepth`): `stride` x `stride` pixels become one
pixel of 3 * stride**2 channels, as by torch's pixel_unshuffle, with zeros around the image.
"""

# Kernels take their tensors, sizes and constants one by one.
# ruff: noqa: PLR0913, PLR0917

import math

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.images.yuv420 import TO_RGB
from alexnet.train.state import Indices, PixelFormat
from alexnet.transforms import AugmentParams, crop_corners

RED_IN_RED, BLUE_IN_GREEN, RED_IN_GREEN, BLUE_IN_BLUE = map(tl.constexpr, TO_RGB)
TILE = 512
"""Pixels written by one program."""


def crop_table(params: AugmentParams, rows: Indices, size: int, crop: int) -> Tensor:
    """Return (N, 4) int32 on the CPU: row of the image, top and left of its crop, mirrored or not.

    `rows` (N,) are the images' rows in the tensor that `prepare_batch` reads; `size` is their side.
    The crops are those of `alexnet.transforms.augment` where `min_crop_scale` is 0.
    """
    columns = [rows, *crop_corners(params, size, crop), params.flip]
    return torch.from_numpy(np.stack([column.astype(np.int32) for column in columns], axis=1))


def prepare_batch(
    rows: Tensor,
    table: Tensor,
    shift: Tensor,
    mean: Tensor,
    out: Tensor,
    *,
    size: int,
    pixel_format: PixelFormat = "rgb",
    before: int = 0,
    divisor: float = 1.0,
    matrices: Tensor | None = None,
) -> Tensor:
    """Fill `out` with (image - mean + shift) / divisor of the crops in `table`; return it.

    With `matrices` (N, 2, 3) float32, `alexnet.transforms.crop_matrices`, crops have any size and
    are scaled bilinearly; only the images' rows are then taken from `table`.

    rows: (M, bytes of an image) uint8, contiguous, images of side `size` in `pixel_format`; table:
    (N, 4), see `crop_table`; shift: (N, 3) float32; mean: (3, crop, crop) float32; all on one
    device. out: (N, 3, crop, crop), or (N, 3 * stride**2, height, width), whose first pixel is
    `before` pixels above and left of the crop; any float type and memory format.
    """
    stride = math.isqrt(out.shape[1] // 3)
    values = triton.next_power_of_2(stride * stride)
    columns = min(triton.next_power_of_2(out.shape[3]), max(1, TILE // values))
    grid = (len(out) * out.shape[2], triton.cdiv(out.shape[3], columns))
    _kernel[grid](
        rows, table, shift, mean.contiguous(), out, matrices, rows.shape[1], size, before,
        *out.shape[2:], *out.stride(), divisor, crop=mean.shape[1], stride=stride,
        columns=columns, values=values, halved=pixel_format == "yuv420",
        scaled=matrices is not None,
    )  # fmt: skip
    return out


@triton.jit
def _chroma(plane, y, x, side, live):
    """Return 16 times the colour of pixels, from a plane of half the side.

    As `alexnet.images.yuv420.from_yuv420`: 3 parts nearest value, 1 part next one, in each axis.
    """
    near_y, near_x = y // 2, x // 2
    far_y = tl.minimum(tl.maximum(near_y + 2 * (y % 2) - 1, 0), side - 1)
    far_x = tl.minimum(tl.maximum(near_x + 2 * (x % 2) - 1, 0), side - 1)
    nearest = tl.load(plane + near_y * side + near_x, mask=live, other=0).to(tl.int32)
    below = tl.load(plane + far_y * side + near_x, mask=live, other=0).to(tl.int32)
    beside = tl.load(plane + near_y * side + far_x, mask=live, other=0).to(tl.int32)
    across = tl.load(plane + far_y * side + far_x, mask=live, other=0).to(tl.int32)
    return 9 * nearest + 3 * (below + beside) + across - 128 * 16


@triton.jit
def _level(luma, change):
    """Add `change` / 2**20 to the brightness, rounded and limited to 8 bits."""
    level = luma + ((change + (1 << 19)) >> 20)
    return tl.minimum(tl.maximum(level, 0), 255)


@triton.jit
def _pixels(source, y, x, size, live, halved: tl.constexpr):
    """Return red, green and blue of pixels of one image, 0 ... 255 as float32."""
    offset = y * size + x
    if halved:
        luma = tl.load(source + offset, mask=live, other=0).to(tl.int32)
        half = size // 2
        cb = _chroma(source + size * size, y, x, half, live)
        cr = _chroma(source + size * size + half * half, y, x, half, live)
        red = _level(luma, RED_IN_RED * cr)
        green = luma - ((BLUE_IN_GREEN * cb + RED_IN_GREEN * cr + (1 << 19)) >> 20)
        green = tl.minimum(tl.maximum(green, 0), 255)
        blue = _level(luma, BLUE_IN_BLUE * cb)
    else:
        red = tl.load(source + offset * 3, mask=live, other=0)
        green = tl.load(source + offset * 3 + 1, mask=live, other=0)
        blue = tl.load(source + offset * 3 + 2, mask=live, other=0)
    return red.to(tl.float32), green.to(tl.float32), blue.to(tl.float32)


@triton.jit
def _position(matrix, x, y, size, crop: tl.constexpr):
    """Return where a crop's pixels lie along one axis of the image, as torch's grid_sample does.

    `matrix` points to a row of `crop_matrices`. Outside of the image its edge continues.
    """
    at = tl.load(matrix) * ((2 * x + 1) / crop - 1) + tl.load(matrix + 1) * ((2 * y + 1) / crop - 1)
    at = ((at + tl.load(matrix + 2) + 1) * size - 1) / 2
    return tl.minimum(tl.maximum(at, 0), size - 1)


@triton.jit
def _scaled_pixels(source, matrix, y, x, size, live, crop: tl.constexpr, halved: tl.constexpr):
    """Return `_pixels` between pixels, bilinearly."""
    across, down = _position(matrix, x, y, size, crop), _position(matrix + 3, x, y, size, crop)
    left, top = across.to(tl.int32), down.to(tl.int32)  # rounds down
    right, bottom = tl.minimum(left + 1, size - 1), tl.minimum(top + 1, size - 1)
    to_right, to_bottom = across - left, down - top
    r, g, b = _pixels(source, top, left, size, live, halved)
    r1, g1, b1 = _pixels(source, top, right, size, live, halved)
    r, g, b = r + (r1 - r) * to_right, g + (g1 - g) * to_right, b + (b1 - b) * to_right
    r2, g2, b2 = _pixels(source, bottom, left, size, live, halved)
    r3, g3, b3 = _pixels(source, bottom, right, size, live, halved)
    r2, g2, b2 = r2 + (r3 - r2) * to_right, g2 + (g3 - g2) * to_right, b2 + (b3 - b2) * to_right
    return r + (r2 - r) * to_bottom, g + (g2 - g) * to_bottom, b + (b2 - b) * to_bottom


@triton.jit
def _store(
    target, pixel, mean, shift, color, y, x, live, inside, divisor, step_q, crop: tl.constexpr,
    stride: tl.constexpr,
):  # fmt: skip
    """Write one colour of pixels."""
    center = tl.load(mean + (color * crop + y) * crop + x, mask=live, other=0)
    value = tl.div_rn(pixel - center + tl.load(shift + color), divisor)
    target += color * stride * stride * step_q
    tl.store(target, tl.where(live, value, 0).to(target.dtype.element_ty), mask=inside)


@triton.jit
def _kernel(
    rows, table, shift, mean, out, matrices, length, size, before, height, width,
    step_n, step_q, step_i, step_j, divisor,
    crop: tl.constexpr, stride: tl.constexpr, columns: tl.constexpr, values: tl.constexpr,
    halved: tl.constexpr, scaled: tl.constexpr,
):  # fmt: skip
    """Write `columns` pixels of one row of one image's input."""
    batch, i = tl.program_id(0) // height, tl.program_id(0) % height
    j = (tl.program_id(1) * columns + tl.arange(0, columns))[:, None]
    q = tl.arange(0, values)[None, :]
    y = i * stride + q // stride - before
    x = j * stride + q % stride - before
    inside = (j < width) & (q < stride * stride)
    live = inside & (y >= 0) & (y < crop) & (x >= 0) & (x < crop)
    source = rows + tl.load(table + batch * 4).to(tl.int64) * length
    if scaled:
        matrix = matrices + batch * 6
        red, green, blue = _scaled_pixels(source, matrix, y, x, size, live, crop, halved)
    else:
        down = tl.load(table + batch * 4 + 1) + y
        mirrored = tl.load(table + batch * 4 + 3)
        across = tl.load(table + batch * 4 + 2) + x + mirrored * (crop - 1 - 2 * x)
        red, green, blue = _pixels(source, down, across, size, live, halved)
    target = out + batch.to(tl.int64) * step_n + i * step_i + j * step_j + q * step_q
    image_shift = shift + batch * 3
    _store(target, red, mean, image_shift, 0, y, x, live, inside, divisor, step_q, crop, stride)
    _store(target, green, mean, image_shift, 1, y, x, live, inside, divisor, step_q, crop, stride)
    _store(target, blue, mean, image_shift, 2, y, x, live, inside, divisor, step_q, crop, stride)
