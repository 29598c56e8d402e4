"""Blocks on a CPU: the numba kernels as operations of PyTorch.

The images of a batch are divided among threads of our own, as many as PyTorch computes with
(`torch.set_num_threads`). numba's own threads are not used: one kind of them dies when two threads
call it, another when a process forks, and a compiler for them takes seconds longer.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numba
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alexnet.kernels.blocks import Block, ChannelNorm, MapNorm, MaxPool, Relu
from alexnet.kernels.cpu import block_kernels as cpu_kernels
from alexnet.kernels.cpu import spatial_norm as cpu_map_norm
from alexnet.kernels.cpu.block_kernels import AFTER, BEFORE, SIZE, BlockPlan
from alexnet.kernels.tuning_cache import cache_folder
from alexnet.networks.layers import at_least_float32

POWER = 0.75
NO_NORM = ChannelNorm(SIZE, 0.0, POWER, 1.0, 1)
NO_POOL = MaxPool(1, 1, ceil_mode=False)
ORDERS: dict[tuple[type, ...], int] = {
    (ChannelNorm,): BEFORE,
    (MaxPool,): 0,
    (ChannelNorm, MaxPool): BEFORE,
    (MaxPool, ChannelNorm): AFTER,
}
"""The steps between two ReLUs, and where the normalisation is."""


def supports(block: Block) -> bool:
    """Tell whether `run_block` can run `block`."""
    return plan_of(block) is not None


def plan_of(block: Block) -> BlockPlan | float | None:
    """Return what the kernels have to do for `block`; None where they cannot.

    They normalise across channels before or after one pool, each of both may be missing, and there
    may be a ReLU at either end; or they normalise within maps, and nothing else: then this is its
    alpha. Sums are of 5 channels or 5 x 5 pixels, powers 0.75.
    """
    if len(block) == 1 and isinstance(block[0], MapNorm):
        alone = block[0]
        return float(alone.alpha) if (alone.size, alone.beta) == (SIZE, POWER) else None
    first, last = block[:1] == (Relu(),), len(block) > 1 and block[-1:] == (Relu(),)
    middle = block[first : len(block) - last]
    kinds = tuple(type(step) for step in middle)
    if kinds not in ORDERS:
        return None
    norm = next((step for step in middle if isinstance(step, ChannelNorm)), NO_NORM)
    pool = pool_of(block)
    if (norm.size, norm.beta) != (SIZE, POWER) or pool.stride > pool.size:
        return None
    place = ORDERS[kinds]
    # A number of another type would be another kernel, to be compiled again.
    k, alpha = float(norm.k), float(norm.alpha)
    return BlockPlan(first, last, place, norm.towers, k, alpha, pool.size, pool.stride)


def pool_of(block: Block) -> MaxPool:
    """Return the pool in `block`; without one, that which changes nothing."""
    return next((step for step in block if isinstance(step, MaxPool)), NO_POOL)


def run_block(x: Tensor, block: Block) -> Tensor:
    """Run `block` on `x` (N, C, H, W), float16, bfloat16, float32 or float64, in any memory format.

    The result has the type and the memory format of `x`; half precision is computed in float32.
    Nothing but `x` is kept for the gradient.
    """
    plan = plan_of(block)
    assert plan is not None  # noqa: S101 - the caller has asked `supports`
    pool = pool_of(block)
    size = pool.output(x.shape[2]), pool.output(x.shape[3])
    result: Tensor = CpuBlock.apply(at_least_float32(x), plan, size)  # type: ignore[no-untyped-call]
    like_x = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    return result.to(x.dtype).contiguous(memory_format=like_x)


class CpuBlock(torch.autograd.Function):
    """The kernels, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: BlockPlan | float, size: tuple[int, int]) -> Tensor:
        """Return the block's result, (N, C, *size) in channels-last format."""
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x)
        ctx.plan = plan
        result = torch.empty(
            (*x.shape[:2], *size), dtype=x.dtype, memory_format=torch.channels_last
        )
        share_out(kernels_for(plan).forward, plan, x, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient by x."""
        (x,) = ctx.saved_tensors
        by_result = gradients[0].contiguous(memory_format=torch.channels_last)
        by_x = torch.empty_like(x)
        share_out(kernels_for(ctx.plan).backward, ctx.plan, x, by_result, by_x)
        return by_x, None, None


Kernel = Callable[..., None]


def share_out(kernel: Kernel, plan: BlockPlan | float, *tensors: Tensor) -> None:
    """Run `kernel` on channels-last tensors, each thread on its part of the images."""
    arrays = [tensor.detach().permute(0, 2, 3, 1).numpy() for tensor in tensors]
    count = len(arrays[0])
    threads = max(1, min(torch.get_num_threads(), count))
    edges = [count * thread // threads for thread in range(threads + 1)]
    (_, own), *others = pairwise(edges)
    waiting = [workers(os.getpid()).submit(kernel, *arrays, *images, plan) for images in others]
    kernel(*arrays, 0, own, plan)
    for task in waiting:
        task.result()


@cache
def workers(_process: int) -> ThreadPoolExecutor:
    """Return the threads of this process; after a fork the child gets its own."""
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="alexnet-kernels")


class Kernels(NamedTuple):
    """Compiled kernels."""

    forward: Kernel
    backward: Kernel


def kernels_for(plan: BlockPlan | float) -> Kernels:
    """Return the kernels that take such a plan."""
    return block_kernels() if isinstance(plan, BlockPlan) else map_norm_kernels()


@cache
def block_kernels() -> Kernels:
    """Make the kernels of `cpu_kernels` ready."""
    return Kernels(compiled(cpu_kernels.forward), compiled(cpu_kernels.backward))


@cache
def map_norm_kernels() -> Kernels:
    """Make the kernels of `cpu_map_norm` ready."""
    return Kernels(compiled(cpu_map_norm.forward), compiled(cpu_map_norm.backward))


def compiled(function: Kernel) -> Kernel:
    """Let numba compile `function` at its first use for each type of numbers.

    What is compiled is kept, in the person's own cache or what NUMBA_CACHE_DIR names, and read from
    there later.
    """
    config: Any = numba.config
    before = config.CACHE_DIR
    try:
        config.CACHE_DIR = before or str(cache_folder())
        return cpu_kernels.compile_lazily(function, cache=True)
    except RuntimeError:  # no folder can be written: compile anew in each process
        return cpu_kernels.compile_lazily(function)
    finally:
        config.CACHE_DIR = before
