"""The three passes of a convolution, each in a form of its own (`conv_forms.Form`).

Tensors: x (N, C, H, W); weight (outputs, C / groups, height, width); gradient, by the result.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from alexnet.kernels.conv_forms import ConvAlgorithm, Form, Geometry, Tile
from alexnet.networks.groups import empty_joined, join_groups, separate_groups


def convolve_by_passes(
    x: Tensor, weight: Tensor, geometry: Geometry, algorithm: ConvAlgorithm
) -> Tensor:
    """Convolve `x` with `weight`; the result can be differentiated once.

    Under autocast both are converted to its type, as torch.nn.functional.conv2d does.
    """
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    result: Tensor = _Convolution.apply(x, weight, geometry, algorithm)  # type: ignore[no-untyped-call]
    return result


class _Convolution(torch.autograd.Function):
    """The passes as one differentiable function."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, geometry: Geometry, algorithm: ConvAlgorithm
    ) -> Tensor:
        ctx.geometry, ctx.algorithm = geometry, algorithm
        ctx.groups = x.shape[1] // weight.shape[1]
        arranged = arrange(weight, ctx.groups, algorithm.forward)
        # The gradient of the input reads the weights in the same arrangement, if it can.
        ctx.save_for_backward(x, weight, arranged)
        return forward(x, arranged, geometry, algorithm.forward)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight, arranged) = gradients, ctx.saved_tensors
        algorithm: ConvAlgorithm = ctx.algorithm
        if algorithm.channels_last:
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        by_x = by_weight = None
        if ctx.needs_input_grad[0]:
            form = algorithm.input_gradient
            if (form == "filled") != (algorithm.forward == "filled"):
                arranged = arrange(weight, ctx.groups, form)
            by_x = input_gradient(gradient, x, arranged, ctx.geometry, form)
        if ctx.needs_input_grad[1]:
            form = algorithm.weight_gradient
            by_weight = weight_gradient(gradient, x, weight, ctx.geometry, form)
        return by_x, by_weight, None, None


def arrange(weight: Tensor, groups: int, form: Form) -> Tensor:
    """Return `weight` as `forward` and `input_gradient` take it; filled: 0 between groups."""
    return join_groups(weight, groups) if form == "filled" else weight


def forward(x: Tensor, weight: Tensor, geometry: Geometry, form: Form) -> Tensor:
    """Return the convolution of `x` with an arranged weight."""
    groups = x.shape[1] // weight.shape[1]
    if isinstance(form, Tile):
        from alexnet.kernels.cuda import implicit_gemm  # needs Triton

        return implicit_gemm.convolve(x, weight, geometry.padding, form)
    if form == "split":
        pairs = zip(x.chunk(groups, 1), weight.chunk(groups), strict=True)
        return torch.cat([F.conv2d(part, own, None, *geometry) for part, own in pairs], 1)
    return F.conv2d(x, weight, None, *geometry, 1, groups)


def input_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, form: Form
) -> Tensor:
    """Return the gradient by `x`, of which only the shape matters, with an arranged weight."""
    if isinstance(form, Tile):
        from alexnet.kernels.cuda import implicit_gemm  # needs Triton

        return implicit_gemm.input_gradient(gradient, weight, x.shape, geometry.padding, form)
    parts = _parts(gradient, x, weight, form)
    return _join([_torch_gradients(*part, geometry, by_x=True)[0] for part in parts], 1)


def weight_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, form: Form
) -> Tensor:
    """Return the gradient by `weight`, which is not arranged; only its shape matters."""
    if isinstance(form, Tile):
        from alexnet.kernels.cuda import implicit_gemm  # needs Triton

        return implicit_gemm.weight_gradient(gradient, x, weight.shape, geometry.padding, form)
    groups = x.shape[1] // weight.shape[1]
    if form == "filled":
        weight = empty_joined(weight, groups)
    parts = _parts(gradient, x, weight, form)
    by_weight = _join([_torch_gradients(*part, geometry, by_x=False)[1] for part in parts], 0)
    return separate_groups(by_weight, groups) if form == "filled" else by_weight


def _parts(
    gradient: Tensor, x: Tensor, weight: Tensor, form: Form
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the tensors of each convolution to be computed."""
    if form != "split":
        return [(gradient, x, weight)]
    groups = x.shape[1] // weight.shape[1]
    each = gradient.chunk(groups, 1), x.chunk(groups, 1), weight.chunk(groups)
    return list(zip(*each, strict=True))


def _join(parts: list[Tensor], dim: int) -> Tensor:
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


def _torch_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, *, by_x: bool
) -> tuple[Tensor, Tensor]:
    """Return PyTorch's gradient by `x`, or that by `weight`; the other one is undefined."""
    stride, padding = geometry
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [stride, stride], padding, [1, 1], False, [0, 0],
        x.shape[1] // weight.shape[1], [by_x, not by_x, False],
    )  # fmt: skip
    return gradients[0], gradients[1]
