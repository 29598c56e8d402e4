"""Blocks on CUDA devices.

A block is divided into as few kernels as possible: `Fused` operations (`block_kernels`), or a
normalisation within maps (`spatial_norm`). Between two kernels the values are stored. This happens
in two of the networks' blocks only: after the pool of caffenet, a quarter of the values, and
between the two normalisations of 2012.
"""

from collections.abc import Sequence

from torch import Tensor

from alexnet.kernels.blocks import (
    ChannelNorm,
    MaxPool,
    Operation,
    Relu,
    SpatialNorm,
    add_bias,
    reference_block,
)
from alexnet.kernels.cuda.bias_relu import run_bias_relu
from alexnet.kernels.cuda.block_kernels import run_fused
from alexnet.kernels.cuda.channels import WINDOW
from alexnet.kernels.cuda.fused import GROUPS, Fused
from alexnet.kernels.cuda.spatial_norm import run_spatial_norm

ADDS_BIAS = True
"""Whether a convolution before a block runs without its bias, which `run_block` then adds."""
LARGEST_POOL = 4
"""Side of the largest pool, and its largest stride: their pixels are unrolled in the kernels."""


def supports(block: Sequence[Operation]) -> bool:
    """Tell whether every operation of `block` has a kernel here; a ReLU alone needs none."""
    only_relu = all(isinstance(operation, Relu) for operation in block)
    return not only_relu and all(_has_kernel(operation) for operation in block)


def run_block(x: Tensor, block: Sequence[Operation], bias: Tensor | None = None) -> Tensor:
    """Apply `block` to `x` (N, C, H, W) + `bias` (C,), differentiably, in the memory format of `x`.

    The sum with the bias is rounded to the type of `x`. The reference layers run if the channels do
    not divide into towers of whole groups of four.
    """
    towers = [op.towers for op in block if isinstance(op, ChannelNorm)] or [1]
    if any(x.shape[1] % (count * GROUPS[-1]) for count in towers):
        return reference_block(add_bias(x, bias), block)
    y = x
    for part in fuse(block):
        if isinstance(part, SpatialNorm):
            y = run_spatial_norm(add_bias(y, bias), part)
        elif part == Fused(relu=True):
            y = run_bias_relu(y, bias)
        else:
            y = run_fused(y, bias, part)
        bias = None
    return y.contiguous() if x.is_contiguous() else y


def fuse(block: Sequence[Operation]) -> list[Fused | SpatialNorm]:
    """Divide `block` into the operations of the fewest kernels."""
    parts: list[Fused | SpatialNorm] = []
    for operation in block:
        if isinstance(operation, SpatialNorm):
            parts.append(operation)
            continue
        last = parts[-1] if parts else None
        longer = _append(last, operation) if isinstance(last, Fused) else None
        if longer:
            parts[-1] = longer
        else:
            parts.append(_start(operation))
    return parts


def _start(operation: Relu | ChannelNorm | MaxPool) -> Fused:
    if isinstance(operation, Relu):
        return Fused(relu=True)
    return Fused(norm=operation) if isinstance(operation, ChannelNorm) else Fused(pool=operation)


def _append(fused: Fused, operation: Relu | ChannelNorm | MaxPool) -> Fused | None:
    """Add `operation` at the end of `fused`; None if one kernel cannot run them in this order."""
    if isinstance(operation, ChannelNorm) and not (fused.norm or fused.pool):
        return fused._replace(norm=operation)
    if isinstance(operation, MaxPool) and not fused.pool:
        return fused._replace(pool=operation)
    if isinstance(operation, Relu) and fused.pool and not fused.relu_after:
        return fused._replace(relu_after=True)
    return None


def _has_kernel(operation: Operation) -> bool:
    if isinstance(operation, ChannelNorm):
        return operation.size == WINDOW
    if isinstance(operation, MaxPool):
        return max(operation.size, operation.stride) <= LARGEST_POOL
    return True
