"""The paper's update rule (`alexnet.optim.PaperSGD`) in one Triton kernel for each parameter.

It reads weight, velocity and gradient once, and writes weight and velocity once, and a copy of the
weight in the type of the forward pass. The learning rates, and whether to update at all, are read
from device memory, so that a captured step (a CUDA graph) can change both.
"""

# Kernels take their tensors, sizes and constants one by one.
# ruff: noqa: PLR0913, PLR0917

from collections.abc import Mapping, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.optim import PaperSGD

BLOCK = 1024
"""Weights updated by one program."""


class FusedUpdate:
    """The updates of `optimizer`, with its own groups and velocities.

    `copies` maps parameters to tensors of another type that each update sets to the new weights.
    Create this after a checkpoint was loaded, since it refers to the velocities of that moment.
    Raises `ValueError` for parameters with gaps in memory, and for copies with other strides.
    """

    def __init__(self, optimizer: PaperSGD, copies: Mapping[Tensor, Tensor] | None = None) -> None:
        self.optimizer, self.copies = optimizer, dict(copies or {})
        self.updates = [
            (index, group, parameter)
            for index, group in enumerate(optimizer.param_groups)
            for parameter in group["params"]
        ]
        for _, _, parameter in self.updates:
            if not torch.ops.aten.is_non_overlapping_and_dense(parameter):
                raise ValueError(f"a parameter of shape {tuple(parameter.shape)} is not dense")
            if self.copies.get(parameter, parameter).stride() != parameter.stride():
                raise ValueError(f"the copy of shape {tuple(parameter.shape)} has other strides")
            state = optimizer.state[parameter]
            velocity = state.get("velocity", torch.zeros_like(parameter))
            state["velocity"] = _match_strides(velocity, parameter)
        device = self.updates[0][2].device
        self.rates = torch.zeros(len(optimizer.param_groups), 2, device=device)
        """(groups, 2): -weight_decay * lr and -lr, written by `set_rates`."""
        self.enabled = torch.ones((), dtype=torch.int32, device=device)
        """0: `update` changes nothing. A step sets it on the device, from its loss."""

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters in the order in which `update` takes their gradients."""
        return [parameter for _, _, parameter in self.updates]

    def set_rates(self) -> None:
        """Copy the groups' learning rates and weight decays to the device."""
        rates = [(-g["weight_decay"] * g["lr"], -g["lr"]) for g in self.optimizer.param_groups]
        self.rates.copy_(torch.tensor(rates), non_blocking=True)

    def clear_rates(self) -> None:
        """Set all rates to 0: `update` then changes nothing."""
        self.rates.zero_()

    def update(self, gradients: Sequence[Tensor]) -> None:
        """Update every parameter by its gradient, in any float type."""
        for (index, group, parameter), gradient in zip(self.updates, gradients, strict=True):
            velocity = self.optimizer.state[parameter]["velocity"]
            copy = self.copies.get(parameter)
            _kernel[(triton.cdiv(parameter.numel(), BLOCK),)](
                parameter.detach(), velocity, _match_strides(gradient, parameter), copy,
                self.rates[index], self.enabled, group["momentum"], parameter.numel(),
                has_copy=copy is not None, block=BLOCK,
            )  # fmt: skip


@torch.no_grad()
def _match_strides(x: Tensor, parameter: Tensor) -> Tensor:
    """Return `x` with the strides of the parameter."""
    if x.stride() == parameter.stride():
        return x
    return torch.empty_like(parameter, dtype=x.dtype).copy_(x)


@triton.jit
def _kernel(
    weight, velocity, gradient, copy, rates, enabled, momentum, count,
    has_copy: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Update `block` weights; nothing where the rate is 0 (2012 code, weights.cu:148)."""
    minus_decay, minus_rate = tl.load(rates), tl.load(rates + 1)
    end = tl.where((minus_rate != 0) & (tl.load(enabled) != 0), count, 0)
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    live = at < end
    w = tl.load(weight + at, mask=live, other=0)
    g = tl.load(gradient + at, mask=live, other=0).to(tl.float32)
    # Rounded as PaperSGD's operations on a GPU: one product, then two fused additions.
    v = tl.load(velocity + at, mask=live, other=0) * momentum
    v = tl.fma(g, minus_rate, tl.fma(w, minus_decay, v))
    w += v
    tl.store(velocity + at, v, mask=live)
    tl.store(weight + at, w, mask=live)
    if has_copy:
        tl.store(copy + at, w.to(copy.dtype.element_ty), mask=live)
