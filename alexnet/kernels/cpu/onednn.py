"""Layers on a CPU through oneDNN's own operations, which PyTorch uses in compiled networks only.

PyTorch multiplies matrices on a CPU with MKL, which on processors that are not Intel's runs at less
than half of the rate that oneDNN reaches there. For inference, weights are also rearranged once
rather than at every call, and ReLU is part of the layer before it.
"""

import platform
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim.optimizer import register_optimizer_step_post_hook

Weighted = nn.Conv2d | nn.Linear


def is_available() -> bool:
    """Tell whether this build of PyTorch has the operations, on a processor they were tried on."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and platform.machine().lower() in ("x86_64", "amd64")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a @ b.T + bias, for float32 or bfloat16 matrices of any strides."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return result


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute what torch.nn.functional.linear does: x (N, inputs), weight (outputs, inputs)."""
    result: Tensor = Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


class Linear(torch.autograd.Function):
    """Three products: one forward, two backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map x (N, inputs) with weight (outputs, inputs) and bias (outputs)."""
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by x, weight and bias, each if it is asked for."""
        (g,), (x, weight) = gradients, ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        return (
            product(g, weight.t()) if by_x else None,
            product(g.t(), x.t()) if by_weight else None,
            g.sum(0) if by_bias else None,
        )


def runs_here(x: Tensor, weight: Tensor) -> bool:
    """Tell whether the operations take these: float32 on a CPU, outside of mixed precision."""
    on_cpu = x.device.type == weight.device.type == "cpu"
    float32 = x.dtype == weight.dtype == torch.float32
    return on_cpu and float32 and not torch.is_autocast_enabled("cpu")


@dataclass
class Steps:
    """Counts the steps of all optimisers."""

    taken: int = 0

    def __call__(self, *_: object) -> None:
        """Count one."""
        self.taken += 1


@cache
def optimizer_steps() -> Steps:
    """Begin to count the steps that optimisers take.

    PyTorch's fused optimisers change weights without raising their version, as all else does.
    """
    steps = Steps()
    register_optimizer_step_post_hook(steps)
    return steps


PACKED_BATCH = 32
"""Larger batches do not gain by rearranged weights, which take their memory twice."""


@dataclass
class Inference:
    """Runs `layer`, and a ReLU after it if `relu`, where no gradient is asked for.

    From the second call with the same weights on, they are rearranged as oneDNN likes them best: a
    first call alone, as for one picture on the command line, does not pay for that. Changes by
    optimisers and by PyTorch's operations are noticed, those made behind its back (`.data`) not.
    `dtype` bfloat16 rounds the weights and inputs of linear layers, so that half as much is read.
    """

    layer: Weighted
    relu: bool
    dtype: torch.dtype = torch.float32
    seen: tuple[Tensor, tuple[int, ...]] | None = None
    """The weights of the last call: the parameter, and what tells whether it has changed."""
    packed: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Map `x` as the layer and the ReLU do."""
        result: Tensor
        layer, after = self.layer, "relu" if self.relu else "none"
        weight = self.weight(len(x))
        if isinstance(layer, nn.Conv2d):
            x = x.contiguous(memory_format=torch.channels_last)
            sizes = layer.padding, layer.stride, layer.dilation, layer.groups
            result = torch.ops.mkldnn._convolution_pointwise(
                x, weight, layer.bias, *sizes, after, [], ""
            )
            return result
        bias = None if layer.bias is None else layer.bias.to(weight.dtype)
        narrow = x.to(weight.dtype)
        result = torch.ops.mkldnn._linear_pointwise(narrow, weight, bias, after, [], "")
        result = result.to(x.dtype)
        return result

    def weight(self, batch: int) -> Tensor:
        """Return the layer's weight, rearranged if that is worth it."""
        weight = self.layer.weight
        if batch > PACKED_BATCH or weight.is_inference():  # those count no versions
            self.seen = self.packed = None
            return weight.to(self.dtype)
        state = weight._version, weight.data_ptr(), optimizer_steps().taken
        if self.seen is None or self.seen[0] is not weight or self.seen[1] != state:
            self.seen, self.packed = (weight, state), None
            return weight.to(self.dtype)
        if self.packed is None:
            self.packed = pack(self.layer, weight.to(self.dtype))
        return self.packed


def pack(layer: Weighted, weight: Tensor) -> Tensor:
    """Rearrange `weight`, which is that of `layer`."""
    packed: Tensor
    if isinstance(layer, nn.Conv2d):
        sizes = layer.padding, layer.stride, layer.dilation, layer.groups
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *sizes, None)
    else:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed
