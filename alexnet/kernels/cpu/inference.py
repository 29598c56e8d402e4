"""A layer with weights without a gradient: weights of the fastest type and order are kept."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from alexnet.kernels.cpu import onednn
from alexnet.kernels.cpu.tuning import describe_conv, fastest
from alexnet.kernels.tuning_cache import rounded

PACKED_BATCH = 32
"""Larger batches are not faster with rearranged weights, which need memory for a second copy."""


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


@dataclass
class Copies:
    """Copies of a layer's weight in other types and orders, as long as that does not change.

    Changes by optimisers and by PyTorch's operations are detected, changes through `.data` are not.
    """

    last: tuple[Tensor, tuple[int, ...]] | None = None
    """The weight of the last call, and its version."""
    kept: dict[object, Tensor] = field(default_factory=dict)

    def are_of(self, weight: Tensor) -> bool:
        """Tell whether `weight` is that of the last call; if not, drop the copies."""
        last, self.last = self.last, None
        if not weight.is_inference():  # inference tensors have no version
            version = weight._version, weight.data_ptr(), optimizer_steps().count
            self.last = weight, version
            if last and last[0] is weight and last[1] == version:
                return True
        self.kept.clear()
        return False

    def get(self, key: object, make: Callable[[], Tensor]) -> Tensor:
        """Return the copy under `key`, made when it is first asked for."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]


@dataclass
class Inference:
    """Runs `layer`, and a ReLU after it if `relu`, without a gradient.

    Copies of the weight are kept from the second call with it: for a single call, as for one image
    on the command line, this would not pay.
    """

    layer: onednn.WeightedLayer
    relu: bool
    copies: Copies = field(default_factory=Copies)
    choices: dict[object, str] = field(default_factory=dict)
    """The fastest form, by shape and type of the input."""

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Map `x` as the layer and the ReLU do, computed in `dtype`; the result has that type."""
        x = x.to(dtype)
        if not self.copies.are_of(self.layer.weight):
            return self.plain(x, self.layer.weight.to(dtype))
        if len(x) > PACKED_BATCH:
            return self.plain(x, self.weight(dtype))
        kind, forms = (x.shape, x.dtype), self.forms(x)
        if kind not in self.choices:
            self.choices[kind] = fastest(self.describe(x), forms)
            self.copies.kept.clear()  # those of the slower forms too
        return forms[self.choices[kind]]()

    def forms(self, x: Tensor) -> dict[str, Callable[[], Tensor]]:
        """Return the ways of running the layer on `x`, the usual one first."""
        forms: dict[str, Callable[[], Tensor]] = {
            "packed": lambda: self.plain(x, self.packed(x)),
            "plain": lambda: self.plain(x, self.weight(x.dtype)),
        }
        if isinstance(self.layer, nn.Linear) and x.dtype == torch.float32:
            forms["PyTorch"] = lambda: self.activate(
                F.linear(x, self.layer.weight, self.layer.bias)
            )
            if onednn.has_packed_mkl():
                forms["MKL, packed"] = lambda: self.packed_mkl(x)
        return forms

    def plain(self, x: Tensor, weight: Tensor) -> Tensor:
        """Run the layer and the ReLU by oneDNN with `weight` in any order."""
        bias = None if self.layer.bias is None else self.layer.bias.to(x.dtype)
        return onednn.run(self.layer, x, weight, bias, "relu" if self.relu else "none")

    def weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight in another type, a copy, or itself."""
        weight = self.layer.weight.detach()
        return weight if dtype == weight.dtype else self.copies.get(dtype, lambda: weight.to(dtype))

    def packed(self, x: Tensor) -> Tensor:
        """Return the weight in oneDNN's own order for such inputs."""
        key = x.dtype, x.shape[1:]
        return self.copies.get(key, lambda: onednn.pack(self.layer, x))

    def packed_mkl(self, x: Tensor) -> Tensor:
        """Run a linear layer with the weight in MKL's own order for so many images."""
        weight = self.layer.weight.detach()
        packed = self.copies.get(("MKL", len(x)), lambda: onednn.pack_mkl(weight, len(x)))
        return self.activate(onednn.run_mkl(x, packed, weight, self.layer.bias))

    def activate(self, result: Tensor) -> Tensor:
        """Apply the ReLU, if there is one, in place."""
        return F.relu_(result) if self.relu else result

    def describe(self, x: Tensor) -> str:
        """Name what affects the speed; the batch size is rounded."""
        if isinstance(self.layer, nn.Conv2d):
            return f"inference {describe_conv(x, self.layer)}"
        outputs, inputs = self.layer.weight.shape
        return f"inference {rounded(len(x))} x {inputs} to {outputs}, {x.dtype}"
