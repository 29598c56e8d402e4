"""Bias, ReLU, response normalisation and max-pool in one kernel each way, for CUDA devices.

    (n, h, w, c) in memory --> + bias? --> ReLU? --> LocalResponseNorm? --> MaxPool2d? --> ReLU?

Each of the five may be missing. The forward pass (`block_forward`) writes the pooled values and, if
a gradient is needed, one byte for each: the maximum's position in its window. The backward pass
(`block_backward`) computes the normalisation again from the input and gathers, so it needs no
atomic additions and gives the same bits each time. Sums are float32 (float64 for float64 inputs).
Values are rounded to the input's type where the reference layers round them, since that decides
which of two nearly equal values is the maximum.

The time of these kernels is that of their instructions, not of their bytes. So each value is
computed as seldom as possible: a thread has eight channels of a pixel, the most that one load
takes, and the two or four on each side that the windows of channels reach.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alexnet.kernels.cuda.block_backward import run_backward
from alexnet.kernels.cuda.block_forward import run_forward
from alexnet.kernels.cuda.fused import Fused


def run_fused(x: Tensor, bias: Tensor | None, fused: Fused) -> Tensor:
    """Apply `fused` to `x` (N, C, H, W) + `bias` (C,), differentiably.

    C must divide into towers of whole groups of four channels. The result is channels-last.
    """
    result: Tensor = _FusedFunction.apply(x, bias, fused)
    return result


class _FusedFunction(torch.autograd.Function):
    """The two kernels as one differentiable function.

    Without a normalisation the backward pass needs the codes only: `x` is not kept.
    """

    @staticmethod
    def forward(ctx, x, bias, fused):
        ctx.fused, ctx.shape = fused, x.shape
        x = x.detach().contiguous(memory_format=torch.channels_last)
        bias = bias.detach().contiguous() if bias is not None else None
        y, codes = run_forward(x, bias, fused, save_codes=any(ctx.needs_input_grad))
        ctx.save_for_backward(*((x, bias) if fused.norm else (None, None)), codes)
        ctx.bias_type = bias.dtype if bias is not None else x.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, bias, codes = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        out, bias_gradient = run_backward(
            x, bias, gradient, codes, ctx.fused, ctx.shape, sum_bias=ctx.needs_input_grad[1]
        )
        if bias_gradient is not None:
            bias_gradient = bias_gradient.to(ctx.bias_type)
        return out, bias_gradient, None
