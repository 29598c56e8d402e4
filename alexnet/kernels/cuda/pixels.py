"""Tiles of pixels and channels, for kernels in which channels are independent."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS, CHANNELS = 32, 32
"""Pixels, and at most so many channels, of one tile."""


def tiling(x: Tensor) -> dict[str, Any]:
    """Return the constants that a kernel over channels and pixels of `x` is compiled with."""
    return {
        "channels": x.shape[1],
        "pixels": PIXELS,
        "block": min(CHANNELS, triton.next_power_of_2(x.shape[1])),
        "wide": tl.float64 if x.dtype == torch.float64 else tl.float32,
    }


def grid(pixels: int, channels: int) -> tuple[int]:
    """Return the number of programs for so many pixels of all images, one tile in each."""
    blocks = triton.cdiv(channels, min(CHANNELS, triton.next_power_of_2(channels)))
    return (triton.cdiv(pixels, PIXELS) * blocks,)


@triton.jit
def pixels_and_channels(channels: tl.constexpr, pixels: tl.constexpr, block: tl.constexpr):
    """Return this program's pixels (n, 1), counted through all images, and channels (1, n)."""
    blocks = tl.cdiv(channels, block)
    pixel = (tl.program_id(0) // blocks) * pixels + tl.arange(0, pixels)
    channel = (tl.program_id(0) % blocks) * block + tl.arange(0, block)
    return pixel[:, None], channel[None, :]
