"""The accelerated network, made from the rows of a table.

Rows between two layers with weights become blocks, which one kernel runs. Convolutions and linear
layers use the algorithm that is fastest on the device. All other rows are unchanged.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import dropwhile
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.evaluate import Batches
from alexnet.kernels.blocks import Block, Relu, operation_of
from alexnet.kernels.convolutions import ChooseAlgorithm, convolve, input_layout, is_supported
from alexnet.kernels.cpu import onednn
from alexnet.kernels.cpu.inference import Inference
from alexnet.kernels.cpu.precision import fastest_precision
from alexnet.networks.layers import Input
from alexnet.train.state import Step, TrainState

if TYPE_CHECKING:
    from alexnet.kernels.cuda.captured import CapturedAnswers

Stage = Callable[[Tensor], Tensor]
"""One or several rows that run as one."""


class Engine(Protocol):
    """Runs blocks on one kind of device: `alexnet.kernels.cpu.blocks` or `...cuda.blocks`."""

    ADDS_BIAS: bool
    """Whether a convolution leaves its bias to the block or ReLU after it."""

    def supports(self, block: Block) -> bool:
        """Tell whether `run_block` can run `block`."""

    def run_block(self, x: Tensor, block: Block, bias: Tensor | None = None) -> Tensor:
        """Run `block` on `x` (N, C, H, W) + `bias` (C,)."""


class AcceleratedNetwork(nn.Sequential):
    """A faster network of the same rows, with the same parameters and names.

    Hooks of rows that run together with others are not called. On another kind of device than
    `device_type` it runs row by row.
    """

    def __init__(
        self,
        rows: "OrderedDict[str, nn.Module]",
        engine: Engine,
        device_type: str,
        choose_algorithm: ChooseAlgorithm,
        weights: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(rows)
        self.device_type = device_type
        self.same_kind = partial(
            AcceleratedNetwork,
            engine=engine,
            device_type=device_type,
            choose_algorithm=choose_algorithm,
        )
        """Accelerates other rows in the same way."""
        self.stages = StageBuilder(engine, choose_algorithm, weights).stages(list(rows.values()))
        self.input_layout = input_layout(rows.values())
        """A second layout in which `forward` takes images; None if there is none."""
        self.image_shape = next(
            (row.shape for row in rows.values() if isinstance(row, Input)), None
        )
        """Channels, rows and columns of an image, where the rows say so."""
        self.captured: CapturedAnswers | None = None
        """What `capture_answers` returned last."""

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W), or images in `input_layout`, to logits (N, classes)."""
        stages: Iterable[Stage] = self.stages
        if images.device.type != self.device_type:
            stages = self.children()
        elif self.input_layout and images.shape[1:] == self.input_layout.shape:
            weighted = WeightedStage | ConvBlockStage
            stages = dropwhile(lambda stage: not isinstance(stage, weighted), stages)
        x = images
        for stage in stages:
            x = stage(x)
        return x

    def training_precision(self, batch: int) -> str:
        """Return the precision in which a step of so many images is faster; on a GPU "auto"."""
        if self.device_type != "cpu" or self.image_shape is None:
            return "auto"
        return fastest_precision(self, self.image_shape, batch)

    def capture(self, state: TrainState) -> Step | None:
        """Return a training step that is captured as a CUDA graph; None on other devices."""
        if state.device.type != "cuda":
            return None
        from alexnet.kernels.cuda.capture import capture  # needs Triton
        from alexnet.kernels.cuda.first_use import check_training

        check_training(self, state)
        return capture(state, lambda copy: self.same_kind(OrderedDict(copy.named_children())))

    def capture_answers(
        self, compute: Callable[..., Tensor], note: Callable[[str], None], **options: Any
    ) -> Callable[[Batches], Iterator[Tensor]] | None:
        """Return answers that are captured as CUDA graphs; None on other devices."""
        if next(self.parameters()).device.type != "cuda":
            return None
        from alexnet.kernels.cuda.captured import CapturedAnswers

        if self.captured is None or not self.captured.is_of(compute, options):
            self.captured = CapturedAnswers(self, compute, options, note)
        self.captured.copy_weights()
        return self.captured


@dataclass
class StageBuilder:
    """Turns rows into stages, for one kind of device."""

    engine: Engine
    choose_algorithm: ChooseAlgorithm
    weights: torch.dtype

    def stages(self, rows: Sequence[nn.Module]) -> list[Stage]:
        """List the stages of `rows` in order."""
        stages: list[Stage] = []
        while rows:
            stage, count = self.next_stage(rows)
            stages.append(stage)
            rows = rows[count:]
        return stages

    def next_stage(self, rows: Sequence[nn.Module]) -> tuple[Stage, int]:
        """Return a stage for the first of `rows`, and how many of them it runs."""
        block = self.longest_block(rows)
        if block:
            return partial(self.engine.run_block, block=block), len(block)
        row = rows[0]
        # The exact types: subclasses may compute something else.
        if type(row) is not nn.Linear and not (type(row) is nn.Conv2d and is_supported(row)):
            return row, 1
        assert isinstance(row, nn.Conv2d | nn.Linear)  # noqa: S101 - for the type checker
        if isinstance(row, nn.Conv2d) and (after := self.block_with_bias(rows[1:])):
            return ConvBlockStage(row, after, self.engine, self.choose_algorithm), 1 + len(after)
        relu = len(rows) > 1 and type(rows[1]) is nn.ReLU and not self.longest_block(rows[1:])
        return WeightedStage(row, relu, self.choose_algorithm, self.weights), 1 + relu

    def block_with_bias(self, rows: Sequence[nn.Module]) -> Block:
        """Return the block or ReLU at the start of `rows` that can add a bias, or ()."""
        if not self.engine.ADDS_BIAS:
            return ()
        relu: Block = (Relu(),) if rows and type(rows[0]) is nn.ReLU else ()
        return self.longest_block(rows) or relu

    def longest_block(self, rows: Sequence[nn.Module]) -> Block:
        """Return the longest block at the start of `rows` that the engine supports, or ()."""
        block: Block = ()
        longest: Block = ()
        for row in rows:
            operation = operation_of(row)
            if operation is None:
                break
            block = (*block, operation)
            longest = block if self.engine.supports(block) else longest
        return longest


@dataclass
class ConvBlockStage:
    """Runs a convolution without its bias, and the block after it, which adds the bias."""

    conv: nn.Conv2d
    block: Block
    engine: Engine
    choose_algorithm: ChooseAlgorithm

    def __call__(self, x: Tensor) -> Tensor:
        """Map `x` as the rows do."""
        algorithm = self.choose_algorithm(x, self.conv)
        result = convolve(x, self.conv, algorithm, with_bias=False)
        return self.engine.run_block(result, self.block, self.conv.bias)


@dataclass
class WeightedStage:
    """Runs a layer with weights, and a ReLU after it if `relu`."""

    layer: onednn.WeightedLayer
    relu: bool
    choose_algorithm: ChooseAlgorithm
    weights: torch.dtype
    inference: Inference = field(init=False)

    def __post_init__(self) -> None:
        self.inference = Inference(self.layer, self.relu)

    def __call__(self, x: Tensor) -> Tensor:
        """Map `x` as the rows do."""
        dtype = onednn.compute_type(x, self.layer.weight) if onednn.is_available() else None
        if dtype and len(x) and not torch.is_grad_enabled():
            return self.infer(x, dtype)
        if isinstance(self.layer, nn.Conv2d):
            result = convolve(x, self.layer, self.choose_algorithm(x, self.layer))
        elif dtype == torch.float32 and len(x):
            result = onednn.linear(x, self.layer.weight, self.layer.bias)
        else:
            result = self.layer(x)
        # In place: nothing else reads the layer's result, its own gradient included.
        return F.relu(result, inplace=True) if self.relu else result

    def infer(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Map `x` without a gradient, computed in `dtype`, linear layers in `weights` if that."""
        if dtype == torch.float32 and isinstance(self.layer, nn.Linear):
            return self.inference(x, self.weights).to(dtype)
        return self.inference(x, dtype)
