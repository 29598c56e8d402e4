"""The fast form of a network, made from its table.

Rows between two layers with weights become blocks, which one kernel runs; convolutions and linear
layers take the form that is fastest on the device; all other rows stay what they are.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import dropwhile
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.kernels.blocks import Block, step_of
from alexnet.kernels.convolutions import Choose, convolve, first_cells, is_known
from alexnet.kernels.cpu import onednn
from alexnet.train.state import Job, Steps

Stage = Callable[[Tensor], Tensor]


class Engine(Protocol):
    """What runs blocks on one kind of device: the modules `cpu_blocks` and `cuda_blocks`."""

    def supports(self, block: Block) -> bool:
        """Tell whether `run_block` can run `block`."""

    def run_block(self, x: Tensor, block: Block) -> Tensor:
        """Run `block` on `x` (N, C, H, W)."""


class AcceleratedNetwork(nn.Sequential):
    """A network of the same rows, with the same parameters and names, that runs faster.

    Hooks of rows are not called where several rows run as one. On another kind of device than
    `device_type` it runs row by row.
    """

    def __init__(
        self,
        rows: "OrderedDict[str, nn.Module]",
        engine: Engine,
        device_type: str,
        choose: Choose,
        weights: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(rows)
        self.device_type = device_type
        self.again = partial(
            AcceleratedNetwork, engine=engine, device_type=device_type, choose=choose
        )
        self.stages = Builder(engine, choose, weights).stages(list(rows.values()))
        self.cells = first_cells(rows.values())
        """The form in which images may be given, too; None if there is none."""

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W), or rearranged as `cells` says, to logits (N, classes)."""
        stages: Iterable[Stage] = self.stages
        if images.device.type != self.device_type:
            stages = self.children()
        elif self.cells and images.shape[1:] == self.cells.shape:
            stages = dropwhile(lambda stage: not isinstance(stage, Weighted), stages)
        x = images
        for stage in stages:
            x = stage(x)
        return x

    def record(self, job: Job) -> Steps | None:
        """Return what makes whole steps of a training on a GPU; None elsewhere."""
        if job.device.type != "cuda":
            return None
        from alexnet.kernels.cuda.capture import record  # needs Triton

        return record(job, lambda copy: self.again(OrderedDict(copy.named_children())))


@dataclass
class Builder:
    """Turns rows into stages, for one kind of device."""

    engine: Engine
    choose: Choose
    weights: torch.dtype

    def stages(self, rows: Sequence[nn.Module]) -> list[Stage]:
        """List what is to be run for `rows`, one after the other."""
        stages: list[Stage] = []
        while rows:
            stage, count = self.next_stage(rows)
            stages.append(stage)
            rows = rows[count:]
        return stages

    def next_stage(self, rows: Sequence[nn.Module]) -> tuple[Stage, int]:
        """Return a stage for the first of `rows`, and how many of them it stands for."""
        block = self.longest_block(rows)
        if block:
            return partial(self.engine.run_block, block=block), len(block)
        row = rows[0]
        known = type(row) is nn.Linear or (type(row) is nn.Conv2d and is_known(row))
        if not known:
            return row, 1
        assert isinstance(row, nn.Conv2d | nn.Linear)  # noqa: S101 - just looked at
        relu = len(rows) > 1 and type(rows[1]) is nn.ReLU and not self.longest_block(rows[1:])
        return Weighted(row, relu, self.choose, self.weights), 1 + relu

    def longest_block(self, rows: Sequence[nn.Module]) -> Block:
        """Return the longest block that `rows` begin with and that the engine runs; () if none."""
        steps: Block = ()
        longest: Block = ()
        for row in rows:
            step = step_of(row)
            if step is None:
                break
            steps = (*steps, step)
            longest = steps if self.engine.supports(steps) else longest
        return longest


@dataclass
class Weighted:
    """Runs a layer with weights, and a ReLU after it if `relu`."""

    layer: nn.Conv2d | nn.Linear
    relu: bool
    choose: Choose
    weights: torch.dtype
    inference: onednn.Inference = field(init=False)

    def __post_init__(self) -> None:
        narrow = isinstance(self.layer, nn.Linear)
        self.inference = onednn.Inference(
            self.layer, self.relu, self.weights if narrow else torch.float32
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Map `x` as the rows do."""
        fast = onednn.is_available() and onednn.runs_here(x, self.layer.weight) and len(x) > 0
        if fast and not torch.is_grad_enabled():
            return self.inference(x)
        if isinstance(self.layer, nn.Conv2d):
            result = convolve(x, self.layer, self.choose(x, self.layer))
        elif fast:
            result = onednn.linear(x, self.layer.weight, self.layer.bias)
        else:
            result = self.layer(x)
        # In place: nothing else needs what the layer gave, not even the layer's own gradient.
        return F.relu(result, inplace=True) if self.relu else result
