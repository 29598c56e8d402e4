"""Layers on a CPU by oneDNN's own operations, which PyTorch uses in compiled networks only.

PyTorch multiplies matrices on a CPU with MKL. On processors that are not Intel's, this is less than
half as fast as oneDNN. For inference, weights are also rearranged once instead of at every call,
and ReLU is part of the layer before it.
"""

import platform
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim.optimizer import register_optimizer_step_post_hook

WeightedLayer = nn.Conv2d | nn.Linear
OPERATIONS = (
    "_linear_pointwise",
    "_convolution_pointwise",
    "_reorder_linear_weight",
    "_reorder_convolution_weight",
)
"""PyTorch has no public names for them; where one is missing its own layers run."""


def is_available() -> bool:
    """Tell whether this PyTorch has the operations, on a kind of processor they were tested on."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and platform.machine().lower() in ("x86_64", "amd64")
        and all(hasattr(torch.ops.mkldnn, name) for name in OPERATIONS)
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
        """Return the gradients by x, weight and bias; None for those that are not needed."""
        (g,), (x, weight) = gradients, ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            product(g, weight.t()) if needs_x else None,
            product(g.t(), x.t()) if needs_weight else None,
            g.sum(0) if needs_bias else None,
        )


def accepts(x: Tensor, weight: Tensor) -> bool:
    """Tell whether the operations accept these: float32 on a CPU, outside of mixed precision."""
    on_cpu = x.device.type == weight.device.type == "cpu"
    float32 = x.dtype == weight.dtype == torch.float32
    return on_cpu and float32 and not torch.is_autocast_enabled("cpu")


@dataclass
class StepCounter:
    """Counts the steps of all optimisers."""

    count: int = 0

    def __call__(self, *_: object) -> None:
        """Count one."""
        self.count += 1


@cache
def optimizer_steps() -> StepCounter:
    """Return the counter of optimiser steps, which starts at the first call.

    PyTorch's fused optimisers change weights without increasing their version.
    """
    counter = StepCounter()
    register_optimizer_step_post_hook(counter)
    return counter


PACKED_BATCH = 32
"""Larger batches are not faster with rearranged weights, which need memory for a second copy."""


@dataclass
class Inference:
    """Runs `layer`, and a ReLU after it if `relu`, without a gradient.

    The second call with the same weights rearranges them for oneDNN; for a single call, as for one
    image on the command line, this would not pay. Changes of the weights by optimisers and by
    PyTorch's operations are detected, changes through `.data` are not. `dtype` bfloat16 rounds the
    weights and inputs of linear layers, which halves the memory to be read.
    """

    layer: WeightedLayer
    relu: bool
    dtype: torch.dtype = torch.float32
    last: tuple[Tensor, tuple[int, ...]] | None = None
    """The weight of the last call, and its version."""
    packed: Tensor | None = None
    """The same weight, rearranged."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map `x` as the layer and the ReLU do."""
        result: Tensor
        layer, activation = self.layer, "relu" if self.relu else "none"
        weight = self.weight(len(x))
        if isinstance(layer, nn.Conv2d):
            x = x.contiguous(memory_format=torch.channels_last)
            sizes = layer.padding, layer.stride, layer.dilation, layer.groups
            result = torch.ops.mkldnn._convolution_pointwise(
                x, weight, layer.bias, *sizes, activation, [], ""
            )
            return result
        bias = None if layer.bias is None else layer.bias.to(weight.dtype)
        inputs = x.to(weight.dtype)
        result = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, activation, [], "")
        return result.to(x.dtype)

    def weight(self, batch: int) -> Tensor:
        """Return the layer's weight for so many images, rearranged if that is faster."""
        weight = self.layer.weight
        if batch > PACKED_BATCH or weight.is_inference():  # inference tensors have no version
            self.last = self.packed = None
            return weight.to(self.dtype)
        version = weight._version, weight.data_ptr(), optimizer_steps().count
        if self.last is None or self.last[0] is not weight or self.last[1] != version:
            self.last, self.packed = (weight, version), None
            return weight.to(self.dtype)
        if self.packed is None:
            self.packed = pack(self.layer, weight.to(self.dtype))
        return self.packed


def pack(layer: WeightedLayer, weight: Tensor) -> Tensor:
    """Rearrange `weight` for `layer`."""
    packed: Tensor
    if isinstance(layer, nn.Conv2d):
        sizes = layer.padding, layer.stride, layer.dilation, layer.groups
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *sizes, None)
    else:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed
