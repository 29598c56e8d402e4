"""What a GPU has to be checked for before a network runs on it for the first time.

Only the blocks and convolutions of this network are checked, in its type and on its maps, and their
gradients only where they are needed. A check compiles the kernels that the network uses later. Each
result is kept by GPU and software, so a second network is checked for what is new in it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from alexnet.config import Settings
from alexnet.device import dtype_of
from alexnet.kernels.blocks import Block, reference_block
from alexnet.kernels.conv_forms import ConvAlgorithm
from alexnet.kernels.convolutions import squares_along
from alexnet.kernels.cuda import autotune, blocks
from alexnet.kernels.cuda.self_check import (
    BlockCheck,
    Check,
    ConvolutionCheck,
    Shape,
    device_name,
    run_check,
    shape_of,
)
from alexnet.kernels.cuda.step_checks import BatchCheck, DropoutCheck, LossCheck, UpdateCheck
from alexnet.kernels.tuning_cache import computed_type
from alexnet.networks.layers_2012 import PaperDropout
from alexnet.train.state import TrainState

Network = Any
"""An `alexnet.kernels.accelerated.AcceleratedNetwork`, whose module imports this one."""
Note = Callable[[str], None]
META = torch.device("meta")
SECONDS = 2
"""Of a check, about: 17 took 30 s on an H200, the start of CUDA and of its libraries included."""


class FirstUse:
    """Runs the checks of a network before its first pass in a type, with or without gradients.

    To be registered as a hook before the network's `forward`. `note` receives a line before work
    that takes seconds.
    """

    def __init__(self, device: torch.device, note: Note) -> None:
        self.device, self.note = device, note
        self.checked: set[tuple[torch.dtype, bool]] = set()

    def __call__(self, network: Network, inputs: tuple[Tensor, ...]) -> None:
        """Check what `network` does with these images, unless it was checked before."""
        (images,) = inputs
        if images.device.type != network.device_type:
            return  # it runs row by row, without our kernels
        if images.is_cuda and torch.cuda.is_current_stream_capturing():
            return  # nothing can be compared; whoever captures runs the network before
        dtype = computed_type(images)
        use = dtype, torch.is_grad_enabled()
        if use not in self.checked:
            check(network_checks(network, images, dtype), self.device, self.note)
            self.checked.add(use)


def check_training(network: Network, state: TrainState) -> None:
    """Check everything that a captured step of `state` needs, before the training begins."""
    crop = state.preprocessing.crop
    shape = network.input_layout.shape if network.input_layout else (3, crop, crop)
    dtype = dtype_of(state.device, state.settings.precision)
    checks = training_checks(network, shape, dtype, state.settings)
    check(checks, state.device, state.progress.note)


def training_checks(
    network: Network, shape: Shape, dtype: torch.dtype, settings: Settings
) -> list[Check]:
    """List the checks for a captured training of a network whose images have this shape."""
    with torch.enable_grad():
        found = network_checks(network, torch.empty(1, *shape, device=META), dtype)
    rows = list(network.children())
    if any(isinstance(row, nn.Dropout | PaperDropout) for row in rows):
        found.append(DropoutCheck(dtype))
    if isinstance(rows[-1], nn.Linear):
        found.append(LossCheck(rows[-1].out_features, dtype))
    if settings.optimizer != "lars":  # it has no kernel
        found.append(UpdateCheck(settings.optimizer))
    scaled = settings.min_crop_scale > 0
    return [*found, BatchCheck("rgb", scaled), BatchCheck("yuv420", scaled)]


def check(checks: Iterable[Check], device: torch.device, note: Note) -> None:
    """Run the checks that this GPU has not passed with this software; raise `WorkerError`."""
    passed, software = autotune.gpu_cache(), autotune.identify(device)
    names = {f"{software}: computes {each!r}": each for each in checks}
    new = {name: each for name, each in names.items() if passed.get(name) is not True}
    if new:
        note(
            f"first use of {device_name(device)}: compiling and checking {len(new)} "
            f"kernel{'s' if len(new) > 1 else ''}, about {SECONDS * len(new)} s"
        )
    for name, each in new.items():
        run_check(each, device)
        passed.put(name, True)


# What a network computes.


def network_checks(network: Network, images: Tensor, dtype: torch.dtype) -> list[Check]:
    """List the checks of what `network` does with `images` in a type, with the current grad mode.

    The network runs on the device "meta", which computes shapes only.
    """
    recorder = Recorder(dtype)
    shadow = network.same_kind(
        OrderedDict(network.named_children()),
        engine=recorder,
        device_type=META.type,
        choose_algorithm=recorder.convolution,
    )
    tensors = {
        name: _on_meta(tensor)
        for name, tensor in [*shadow.named_parameters(), *shadow.named_buffers()]
    }
    with torch.random.fork_rng(devices=[]):  # dropout may draw
        functional_call(shadow, tensors, (_on_meta(images),))
    return list(dict.fromkeys(recorder.checks))


def _on_meta(tensor: Tensor) -> Tensor:
    """Return a tensor without values; all are float32, since types are mixed under autocast."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(META, dtype).requires_grad_(tensor.requires_grad)


class Recorder:
    """An engine that lists the checks of what it is asked for, and computes shapes."""

    ADDS_BIAS = blocks.ADDS_BIAS

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.checks: list[Check] = []

    def supports(self, block: Block) -> bool:
        """Tell whether a GPU's engine can run `block`."""
        return blocks.supports(block)

    def run_block(self, x: Tensor, block: Block, bias: Tensor | None = None) -> Tensor:
        """List a block."""
        wants = torch.is_grad_enabled()
        bias_learns = None if bias is None else wants and bias.requires_grad
        self.checks.append(
            BlockCheck(block, shape_of(x), self.dtype, x.requires_grad, bias_learns=bias_learns)
        )
        return reference_block(x, block)

    def convolution(self, x: Tensor, conv: nn.Conv2d) -> ConvAlgorithm:
        """List a convolution as it is and, if it has a stride, as one without (space to depth)."""
        wants = torch.is_grad_enabled()
        backward = wants and x.requires_grad, wants and conv.weight.requires_grad
        outputs, inputs, *kernel = conv.weight.shape
        stride, padding = conv.stride[0], (int(conv.padding[0]), int(conv.padding[1]))
        channels, *sides = shape_of(x)
        if channels == conv.in_channels:
            weight = outputs, inputs, kernel[0], kernel[1]
            self.checks.append(
                ConvolutionCheck(
                    weight, shape_of(x), stride, padding, conv.groups, self.dtype, backward
                )
            )
            sizes = zip(sides, padding, kernel, strict=True)
            sides = [squares_along(side + 2 * zeros, k, stride) for side, zeros, k in sizes]
        if stride > 1 and conv.groups == 1:
            values = inputs * stride**2
            weight = outputs, values, -(-kernel[0] // stride), -(-kernel[1] // stride)
            shape = values, sides[0], sides[1]
            self.checks.append(ConvolutionCheck(weight, shape, 1, (0, 0), 1, self.dtype, backward))
        return ConvAlgorithm()
