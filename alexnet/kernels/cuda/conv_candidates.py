"""What the autotuner chooses from: the forms of each pass of a convolution, as work to be timed."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from alexnet.kernels.conv_forms import TILES, ConvAlgorithm, Form, Geometry
from alexnet.kernels.conv_passes import arrange, forward, input_gradient, weight_gradient
from alexnet.kernels.convolutions import (
    can_rearrange,
    equivalent,
    is_rearranged,
    rearrange,
    run_step,
)
from alexnet.kernels.tuning_cache import computed_type, rounded

PassName = Literal["forward", "input_gradient", "weight_gradient"]
PASSES: tuple[PassName, ...] = ("forward", "input_gradient", "weight_gradient")
Layout = Literal["as it is", "space to depth"]
"""Of the images of a convolution with a stride."""
Results = tuple[Tensor, ...]

LIMITS = {torch.bfloat16: 2e-2}
"""Largest relative difference of two forms, which round differently."""
OTHER_LIMIT = 5e-3
"""The same for other types: libraries may round float32 to TF32."""
FULL = 128
"""Multiples of so many channels fill the tiles of NVIDIA's kernels: ours has nothing to win."""
LOADED = 16
"""Our kernel loads so many channels without gaps."""
TRIED, ALMOST = 2, 0.8
"""So many tiles are tried, whose used share is at least so much of the best one's."""


def describe(x: Tensor, conv: nn.Conv2d) -> str:
    """Name everything that affects the speed; the batch size is rounded up to a power of two."""
    deterministic = ", deterministic" if torch.backends.cudnn.deterministic else ""
    sizes = f"{tuple(x.shape[1:])} by {tuple(conv.weight.shape)}, stride {conv.stride[0]}"
    return f"{rounded(len(x))} x {sizes}, {conv.groups} groups, {computed_type(x)}{deterministic}"


def needed_passes(x: Tensor, conv: nn.Conv2d) -> list[PassName]:
    """List the passes of a step: frozen weights and the first layer's input need no gradient."""
    needed: list[PassName] = ["forward"]
    if torch.is_grad_enabled():
        needed += ["input_gradient"] if x.requires_grad else []
        needed += ["weight_gradient"] if conv.weight.requires_grad else []
    return needed


def layouts(x: Tensor, conv: nn.Conv2d) -> Sequence[Layout]:
    """List the layouts in which `x` may be convolved."""
    return ["as it is", "space to depth"] if can_rearrange(x, conv) else ["as it is"]


def run_layout(x: Tensor, conv: nn.Conv2d, layout: Layout) -> Results:
    """Do what a step does with this convolution, by PyTorch; return all results."""
    return run_step(x, conv, ConvAlgorithm(space_to_depth=layout == "space to depth"))


class Passes:
    """The passes of a convolution of `x` (N, C, H, W), each by itself."""

    def __init__(self, x: Tensor, conv: nn.Conv2d, layout: Layout) -> None:
        self.x, self.conv, self.layout = x, conv, layout
        self.type = computed_type(x)
        rearranged = layout == "space to depth" or is_rearranged(x, conv)
        square = conv.stride[0] if rearranged else 1
        self.stride = 1 if rearranged else conv.stride[0]
        self.outputs = conv.out_channels // conv.groups
        self.inputs = conv.weight.shape[1] * square**2
        self.taps = math.prod(-(-side // square) for side in conv.weight.shape[2:])

    def forms(self, name: PassName) -> Sequence[Form]:
        """List the forms of a pass, PyTorch's own first."""
        forms: list[Form] = ["grouped"]
        if self.conv.groups > 1:
            forms += ["split", "filled"]
        if not self._suits_our_kernel():
            return forms
        channels = self.inputs if name == "input_gradient" else self.outputs
        pixels = len(self.x) * self.x.shape[2] * self.x.shape[3]
        columns = self.taps * self.inputs if name == "weight_gradient" else pixels
        used = {tile: tile.used_share(channels, columns) for tile in TILES}
        enough = ALMOST * max(used.values())
        best = sorted(TILES, key=lambda tile: -used[tile])  # of equals the first
        return [*forms, *(tile for tile in best[:TRIED] if used[tile] >= enough)]

    def _suits_our_kernel(self) -> bool:
        """Tell whether our kernel can be fast, and can win anything."""
        loadable = self.inputs % LOADED == 0 and self.outputs % LOADED == 0
        half = self.type in {torch.bfloat16, torch.float16}
        idle = self.conv.groups > 1 or self.inputs % FULL > 0 or self.outputs % FULL > 0
        return half and loadable and idle and self.stride == 1

    @torch.no_grad()
    def run(self, name: PassName, form: Form) -> Results:
        """Compute a pass; return its result."""
        x, weight, geometry = self._tensors
        groups = self.conv.groups
        if name == "forward":
            return (forward(x, arrange(weight, groups, form), geometry, form),)
        if name == "weight_gradient":
            return (weight_gradient(self._gradient, x, weight, geometry, form),)
        arranged = arrange(weight, groups, form)
        return (input_gradient(self._gradient, x, arranged, geometry, form),)

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor, Geometry]:
        """Images, weights and geometry, as the passes take them."""
        x = rearrange(self.x, self.conv) if self.layout == "space to depth" else self.x
        weight, geometry = equivalent(x, self.conv)
        x = x.detach().to(self.type).contiguous(memory_format=torch.channels_last)
        return x, weight.detach().to(self.type), geometry

    @cached_property
    def _gradient(self) -> Tensor:
        """Random numbers, the same ones each time, in place of the gradient by the result."""
        x, weight, (stride, padding) = self._tensors
        kernel = weight.shape[2:]
        height, width = (
            (side + 2 * zeros - window) // stride + 1
            for side, zeros, window in zip(x.shape[2:], padding, kernel, strict=True)
        )
        generator = torch.Generator(x.device).manual_seed(0)
        shape = len(x), len(weight), height, width
        gradient = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
        return gradient.contiguous(memory_format=torch.channels_last)


def agree(found: Results, expected: Results) -> bool:
    """Tell whether two forms compute the same but for rounding."""
    for ours, reference in zip(found, expected, strict=True):
        wide = torch.promote_types(reference.dtype, torch.float32)
        error = torch.linalg.vector_norm(ours - reference, dtype=wide)
        limit = LIMITS.get(reference.dtype, OTHER_LIMIT)
        if not error <= limit * torch.linalg.vector_norm(reference, dtype=wide):
            return False
    return True
