"""8-bit images to the network's input in one Triton kernel: what `alexnet.transforms.augment` does.

Crop, mirror, mean, colour, the type of the numbers and the order in memory: each input value is
written once, and nothing else. Images may have their colour halved (`alexnet.images.yuv420`): their
pixels are made on the way. The input may be in the form that conv1 reads best
(`alexnet.kernels.convolutions.SpaceToDepth`): `stride` x `stride` pixels become one with 3 * stride**2
channels, as torch's pixel_unshuffle makes it, with zeros around the image.
"""

# Kernels take their tensors, sizes and constants one by one.
# ruff: noqa: PLR0913, PLR0917

import math

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from alexnet.images.yuv420 import TO_RGB
from alexnet.train.image_cache import PixelFormat
from alexnet.transforms import AugmentParams

RED_IN_RED, BLUE_IN_GREEN, RED_IN_GREEN, BLUE_IN_BLUE = map(tl.constexpr, TO_RGB)
TILE = 512
"""Pixels written by one program."""


def windows(draws: AugmentParams, images: NDArray[np.int64], size: int, crop: int) -> Tensor:
    """Return (N, 4) int32 on the CPU: image's number, window's top and left, mirrored or not.

    `images` are the numbers of the images within the tensor that `prepare_batch` reads, of side
    `size`. The windows are `alexnet.transforms.augment`'s where `min_crop_scale` is 0.
    """
    places = size - crop + 1
    corners = [np.floor(at * places).astype(np.int32) for at in (draws.top, draws.left)]
    columns = [images.astype(np.int32), *corners, draws.flip.astype(np.int32)]
    return torch.from_numpy(np.stack(columns, axis=1))


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
) -> Tensor:
    """Fill `out` with (image - mean + shift) / divisor of the windows in `table`; return it.

    rows: (M, bytes of an image) uint8, contiguous, images of side `size` in the form that
    `alexnet.train.image_cache` keeps; table: (N, 4), see `windows`; shift: (N, 3) float32; mean:
    (3, crop, crop) float32; all on one device. out: (N, 3, crop, crop), or (N, 3 * stride**2, height, width)
    whose first pixel lies `before` pixels above and left of the window; any float type and memory
    format.
    """
    stride = math.isqrt(out.shape[1] // 3)
    values = triton.next_power_of_2(stride * stride)
    columns = min(triton.next_power_of_2(out.shape[3]), max(1, TILE // values))
    grid = (len(out) * out.shape[2], triton.cdiv(out.shape[3], columns))
    _kernel[grid](
        rows, table, shift, mean.contiguous(), out, rows.shape[1], size, before, *out.shape[2:],
        *out.stride(), divisor, crop=mean.shape[1], stride=stride, columns=columns, values=values,
        halved=pixel_format == "yuv420",
    )  # fmt: skip
    return out


@triton.jit
def _chroma(plane, y, x, side, live):
    """Return 16 times the colour of pixels, from a plane of half the side.

    As `alexnet.images.yuv420.from_yuv420`: 3 parts of the nearest value, one of the next, each way.
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
    """Add a change of 2**20ths to the brightness; the result is 8-bit."""
    level = luma + ((change + (1 << 19)) >> 20)
    return tl.minimum(tl.maximum(level, 0), 255)


@triton.jit
def _store(
    target, pixel, mean, shift, color, y, x, live, inside, divisor, step_q, crop: tl.constexpr,
    stride: tl.constexpr,
):  # fmt: skip
    """Write one colour of pixels."""
    center = tl.load(mean + (color * crop + y) * crop + x, mask=live, other=0)
    value = tl.div_rn(pixel.to(tl.float32) - center + tl.load(shift + color), divisor)
    target += color * stride * stride * step_q
    tl.store(target, tl.where(live, value, 0).to(target.dtype.element_ty), mask=inside)


@triton.jit
def _kernel(
    rows, table, shift, mean, out, length, size, before, height, width,
    step_n, step_q, step_i, step_j, divisor,
    crop: tl.constexpr, stride: tl.constexpr, columns: tl.constexpr, values: tl.constexpr,
    halved: tl.constexpr,
):  # fmt: skip
    """Write one row of one image's input, `columns` places of it with all their pixels."""
    batch, i = tl.program_id(0) // height, tl.program_id(0) % height
    j = (tl.program_id(1) * columns + tl.arange(0, columns))[:, None]
    q = tl.arange(0, values)[None, :]
    y = i * stride + q // stride - before
    x = j * stride + q % stride - before
    inside = (j < width) & (q < stride * stride)
    live = inside & (y >= 0) & (y < crop) & (x >= 0) & (x < crop)
    number = tl.load(table + batch * 4)
    down = tl.load(table + batch * 4 + 1) + y
    mirrored = tl.load(table + batch * 4 + 3)
    across = tl.load(table + batch * 4 + 2) + x + mirrored * (crop - 1 - 2 * x)
    source = rows + number.to(tl.int64) * length
    place = down * size + across
    if halved:
        luma = tl.load(source + place, mask=live, other=0).to(tl.int32)
        half = size // 2
        blue = _chroma(source + size * size, down, across, half, live)
        red = _chroma(source + size * size + half * half, down, across, half, live)
        first = _level(luma, RED_IN_RED * red)
        second = luma - ((BLUE_IN_GREEN * blue + RED_IN_GREEN * red + (1 << 19)) >> 20)
        second = tl.minimum(tl.maximum(second, 0), 255)
        third = _level(luma, BLUE_IN_BLUE * blue)
    else:
        first = tl.load(source + place * 3, mask=live, other=0)
        second = tl.load(source + place * 3 + 1, mask=live, other=0)
        third = tl.load(source + place * 3 + 2, mask=live, other=0)
    target = out + batch.to(tl.int64) * step_n + i * step_i + j * step_j + q * step_q
    own = shift + batch * 3
    _store(target, first, mean, own, 0, y, x, live, inside, divisor, step_q, crop, stride)
    _store(target, second, mean, own, 1, y, x, live, inside, divisor, step_q, crop, stride)
    _store(target, third, mean, own, 2, y, x, live, inside, divisor, step_q, crop, stride)
