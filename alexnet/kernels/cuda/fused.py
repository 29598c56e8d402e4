"""What one block kernel computes: its operations, and the constants it is compiled with."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.blocks import IDENTITY_NORM, IDENTITY_POOL, ChannelNorm, MaxPool

GROUPS = 8, 4
"""Channels of a thread: the first of these that divides a tower. 8 of 16 bits are one load."""
POSITIONS, CHANNELS = 32, 32
"""Positions on the map, and at most so many channels, of one program."""
PROGRAMS = 2048
"""Programs that keep a large GPU busy: with fewer, each does less."""


class Fused(NamedTuple):
    """The operations of one kernel, in the order of the fields, after a bias."""

    relu: bool = False
    norm: ChannelNorm | None = None
    pool: MaxPool | None = None
    relu_after: bool = False
    """Only after a pool."""


def constants(x: Tensor, fused: Fused) -> dict[str, Any]:
    """Return the constants that the forward and the backward kernel are compiled with."""
    pool, norm = fused.pool or IDENTITY_POOL, fused.norm or IDENTITY_NORM
    tower = x.shape[1] // norm.towers
    group = next(size for size in GROUPS if tower % size == 0)
    return {
        "channels": x.shape[1],
        "tower": tower,
        "pool": pool.size,
        "stride": pool.stride,
        "relu": fused.relu,
        "norm": fused.norm is not None,
        "alpha": norm.alpha,
        "beta": norm.beta,
        "k": norm.k,
        "positions": POSITIONS,
        "groups": min(CHANNELS, triton.next_power_of_2(x.shape[1])) // group,
        "group": group,
        "wide": tl.float64 if x.dtype == torch.float64 else tl.float32,
    }


def programs(positions: int, sizes: dict[str, Any]) -> tuple[int, int]:
    """Return the numbers of programs along the map and of blocks of channels.

    `sizes` are `constants`.
    """
    blocks = triton.cdiv(sizes["channels"], sizes["groups"] * sizes["group"])
    return triton.cdiv(positions, sizes["positions"]), blocks


def rows_of_a_program(height: int, columns: int, sizes: dict[str, Any], most: int) -> int:
    """Return how many of `height` rows a thread goes down, at most `most`.

    `columns` of all images are computed side by side. Where they are few, threads share the rows.
    """
    along, blocks = programs(columns, sizes)
    parts = max(triton.cdiv(height, most), min(height, PROGRAMS // max(1, along * blocks)))
    return int(triton.cdiv(height, parts))
