"""Dropout whose random numbers depend on a seed in device memory and on nothing else.

PyTorch's generator is set once per replay of a CUDA graph, so several steps in one graph would draw
other numbers than one by one. Here each step reads its own seed. The numbers are Philox's (Salmon
et al. 2011): key the seed; counter the position of four values, and which of the layers it is.
"""

# Kernels take their tensors, sizes and constants one by one.

from collections import OrderedDict
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from alexnet.networks.layers_2012 import PaperDropout

BLOCK = 512
"""Counters of one program; each gives four random numbers."""


class SeededDropout(nn.Module):
    """Sets values to zero with probability `p` and multiplies the others by `scale`, in training.

    `layer` tells the layers of a network apart. Set `seed` (1,) int64, on the device, before each
    forward pass; the backward pass reads it again, so it must not change in between.
    """

    seed: Tensor

    def __init__(self, p: float, scale: float, layer: int) -> None:
        super().__init__()
        self.p, self.scale, self.layer = p, scale, layer

    def forward(self, x: Tensor) -> Tensor:
        """Drop values of `x`, of any shape and float type."""
        result: Tensor = _Dropout.apply(x, self.seed, self.layer, self.p, self.scale)
        return result


def with_seeds(model: nn.Sequential) -> tuple[nn.Sequential, list[SeededDropout]]:
    """Return a network of the same rows in which dropout reads seeds, and these layers."""
    rows, seeded = OrderedDict[str, nn.Module](), list[SeededDropout]()
    for name, row in model.named_children():
        rows[name] = row
        if isinstance(row, nn.Dropout | PaperDropout):
            # The paper's dropout does not scale in training.
            scale = 1 / (1 - row.p) if isinstance(row, nn.Dropout) else 1.0
            seeded.append(SeededDropout(row.p, scale, len(seeded)))
            rows[name] = seeded[-1]
    return nn.Sequential(rows), seeded


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, seed: Tensor, layer: int, p: float, scale: float) -> Tensor:
        ctx.save_for_backward(seed)
        ctx.constants = layer, p, scale
        return _dropped(x, seed, layer, p, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (seed,) = ctx.saved_tensors
        return _dropped(gradients[0], seed, *ctx.constants), None, None, None, None


def _dropped(x: Tensor, seed: Tensor, layer: int, p: float, scale: float) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    if len(x):
        grid = (triton.cdiv(x.numel(), 4 * BLOCK),)
        _kernel[grid](x, seed, out, layer, p, scale, x.numel(), block=BLOCK)
    return out


@triton.jit
def _kernel(x, seed, out, layer, p, scale, count, block: tl.constexpr):
    """Write 4 * block values: counter n decides on those at n, n + block, ... of the program."""
    start = tl.program_id(0) * (4 * block)
    counter = tl.program_id(0) * block + tl.arange(0, block)
    zero = counter * 0
    numbers = tl.philox(tl.load(seed), counter.to(tl.uint32), (zero + layer).to(tl.uint32),
                        zero.to(tl.uint32), zero.to(tl.uint32))  # fmt: skip
    for part in tl.static_range(4):
        at = start + part * block + tl.arange(0, block)
        kept = tl.uint_to_uniform_float(numbers[part]) >= p
        value = tl.load(x + at, mask=at < count, other=0).to(tl.float32) * scale
        value = tl.where(kept, value, 0).to(out.dtype.element_ty)
        tl.store(out + at, value, mask=at < count)
