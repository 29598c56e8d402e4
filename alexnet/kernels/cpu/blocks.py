"""Blocks on a CPU: the numba kernels as differentiable functions of PyTorch.

PyTorch's threads compute the images of a batch (`threads`). numba's threads are not used: one kind
crashes when two threads call it, another when a process forks, and parallel kernels take seconds
longer to compile.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from alexnet.kernels.blocks import (
    IDENTITY_NORM,
    IDENTITY_POOL,
    Block,
    ChannelNorm,
    MaxPool,
    Relu,
    SpatialNorm,
    add_bias,
)
from alexnet.kernels.cpu import block_kernels, spatial_norm
from alexnet.kernels.cpu.block_kernels import AFTER_POOL, BEFORE_POOL, NO_NORM, SIZE, BlockSpec
from alexnet.kernels.cpu.threads import run_in_threads
from alexnet.networks.layers import at_least_float32

ADDS_BIAS = False
"""oneDNN adds the bias of a convolution for nothing."""
POWER = 0.75
ORDERS: dict[tuple[type, ...], int] = {
    (ChannelNorm,): BEFORE_POOL,
    (MaxPool,): NO_NORM,
    (ChannelNorm, MaxPool): BEFORE_POOL,
    (MaxPool, ChannelNorm): AFTER_POOL,
}
"""`BlockSpec.norm` for the operations between two ReLUs."""

Spec = BlockSpec | float
"""What a kernel computes: for the kernels of `spatial_norm` this is alpha."""


def supports(block: Block) -> bool:
    """Tell whether `run_block` can run `block`."""
    return spec_of(block) is not None


def spec_of(block: Block) -> Spec | None:
    """Return what the kernels are to compute for `block`; None if they cannot.

    They run [ReLU] [normalisation across channels] [pool] [ReLU], the middle two in either order;
    or one normalisation within maps. Sums are of 5 channels or 5 x 5 pixels, the power is 0.75.
    """
    if len(block) == 1 and isinstance(block[0], SpatialNorm):
        spatial = block[0]
        return float(spatial.alpha) if (spatial.size, spatial.beta) == (SIZE, POWER) else None
    relu_first, relu_last = block[:1] == (Relu(),), len(block) > 1 and block[-1:] == (Relu(),)
    middle = block[relu_first : len(block) - relu_last]
    kinds = tuple(type(operation) for operation in middle)
    if kinds not in ORDERS:
        return None
    norms = (operation for operation in middle if isinstance(operation, ChannelNorm))
    norm, pool = next(norms, IDENTITY_NORM), pool_of(block)
    if (norm.size, norm.beta) != (SIZE, POWER) or pool.stride > pool.size:
        return None
    k, alpha = float(norm.k), float(norm.alpha)  # for another type numba would compile again
    order = ORDERS[kinds]
    return BlockSpec(relu_first, relu_last, order, norm.towers, k, alpha, pool.size, pool.stride)


def pool_of(block: Block) -> MaxPool:
    """Return the pool in `block`, or one that changes nothing."""
    return next((op for op in block if isinstance(op, MaxPool)), IDENTITY_POOL)


def run_block(x: Tensor, block: Block, bias: Tensor | None = None) -> Tensor:
    """Run `block` on `x` (N, C, H, W) + `bias` (C,), of any float type and memory format.

    The result has the type and the memory format of `x`; half precision is computed in float32.
    Only `x` is saved for the backward pass.
    """
    spec = spec_of(block)
    assert spec is not None  # noqa: S101 - the caller checks `supports`
    x = add_bias(x, bias)
    pool = pool_of(block)
    size = pool.output_side(x.shape[2]), pool.output_side(x.shape[3])
    reads_bfloat16 = isinstance(spec, BlockSpec) and x.dtype == torch.bfloat16
    inputs = x if reads_bfloat16 else at_least_float32(x)
    result: Tensor = CpuBlock.apply(inputs, spec, size)  # type: ignore[no-untyped-call]
    memory_format = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    return result.to(x.dtype).contiguous(memory_format=memory_format)


class CpuBlock(torch.autograd.Function):
    """The kernels, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, spec: Spec, size: tuple[int, int]) -> Tensor:
        """Return the block's result, (N, C, *size) in channels-last format."""
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x)
        ctx.spec = spec
        result = torch.empty(
            (*x.shape[:2], *size), dtype=x.dtype, memory_format=torch.channels_last
        )
        run_kernel(kernels_for(spec).forward, spec, x, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient by x."""
        (x,) = ctx.saved_tensors
        g_result = gradients[0].contiguous(memory_format=torch.channels_last)
        g_x = torch.empty_like(x)
        run_kernel(kernels_for(ctx.spec).backward, ctx.spec, x, g_result, g_x)
        return g_x, None, None


def kernels_for(spec: Spec) -> ModuleType:
    """Return the module whose kernels take such a specification."""
    return block_kernels if isinstance(spec, BlockSpec) else spatial_norm


def run_kernel(kernel: Callable[..., None], spec: Spec, *tensors: Tensor) -> None:
    """Run `kernel` on channels-last tensors, each thread on its share of the images."""
    arrays = [as_array(tensor.detach().permute(0, 2, 3, 1)) for tensor in tensors]
    run_in_threads(lambda first, last: kernel(*arrays, first, last, spec), len(arrays[0]))


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return the memory of a tensor as an array; bfloat16 as 16-bit whole numbers."""
    array: NDArray[Any]
    array = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array
