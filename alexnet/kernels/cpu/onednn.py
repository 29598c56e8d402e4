"""Layers on a CPU by oneDNN's own operations, which PyTorch uses in compiled networks only.

PyTorch multiplies matrices on a CPU with MKL. On processors that are not Intel's, this is less than
half as fast as oneDNN; `tuning` chooses by measuring. For inference, weights are also rearranged
once instead of at every call, and ReLU is part of the layer before it.
"""

import platform
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from alexnet.kernels.cpu.tuning import fastest
from alexnet.kernels.tuning_cache import rounded

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


def compute_type(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """Return the type in which the operations compute a layer; None if they cannot.

    They accept float32 on a CPU, and bfloat16 there under `torch.autocast`.
    """
    if not (x.device.type == weight.device.type == "cpu" and weight.dtype == torch.float32):
        return None
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32 if x.dtype == torch.float32 else None
    is_narrow = torch.get_autocast_dtype("cpu") == torch.bfloat16
    return torch.bfloat16 if is_narrow and x.dtype in (torch.float32, torch.bfloat16) else None


# Matrix products.


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a @ b.T + bias, for float32 matrices of any strides, by the faster library."""
    forms = {
        "oneDNN": lambda: linear_pointwise(a, b, bias),
        "PyTorch": lambda: F.linear(a, b, bias),
    }
    return forms[fastest(describe_product(a, b), forms)]()


def describe_product(a: Tensor, b: Tensor) -> str:
    """Name what affects the speed of `product`; sizes are rounded."""
    sides = " x ".join(str(rounded(side)) for side in (*a.shape, len(b)))
    orders = ["rows" if matrix.stride(-1) == 1 else "columns" for matrix in (a, b)]
    return f"product {sides}, by {orders[0]} and {orders[1]}"


def linear_pointwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none"
) -> Tensor:
    """Run oneDNN's linear layer with a "relu" or "none" after it."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")
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


# Rearranged weights.


def run(
    layer: WeightedLayer, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> Tensor:
    """Run `layer` and a "relu" or "none" with a weight in either order, all of one type."""
    if isinstance(layer, nn.Linear):
        return linear_pointwise(x, weight, bias, activation)
    x = x.contiguous(memory_format=torch.channels_last)
    sizes = layer.padding, layer.stride, layer.dilation, layer.groups
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, *sizes, activation, [], ""
    )
    return result


def pack(layer: WeightedLayer, x: Tensor) -> Tensor:
    """Return the weight of `layer` in oneDNN's order for inputs like `x`, and in their type."""
    packed: Tensor
    weight = layer.weight.detach().to(x.dtype)
    if isinstance(layer, nn.Conv2d):
        sizes = layer.padding, layer.stride, layer.dilation, layer.groups
        # Without the inputs' size oneDNN chooses an order that can be fifty times slower.
        shape = [1, *x.shape[1:]]
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *sizes, shape)
    else:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


def has_packed_mkl() -> bool:
    """Tell whether this PyTorch has MKL's product with a rearranged weight."""
    has_mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    names = ("_mkl_linear", "_mkl_reorder_linear_weight")
    return has_mkl and all(hasattr(torch.ops.mkl, name) for name in names)


def pack_mkl(weight: Tensor, batch: int) -> Tensor:
    """Return a linear layer's weight in MKL's order for so many images."""
    packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight, batch)
    return packed


def run_mkl(x: Tensor, packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Run a linear layer with a weight from `pack_mkl` for such a batch, and the weight itself."""
    result: Tensor = torch.ops.mkl._mkl_linear(x, packed, weight, bias, len(x))
    return result
