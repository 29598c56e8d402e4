"""A whole training step, recorded once as a CUDA graph and then replayed.

Batch preparation, forward pass, loss, backward pass and update lie in the graph, so a step costs
one launch. What changes from step to step is copied into fixed buffers before: which images and
windows, colours, labels, learning rates. Dropout follows torch's generator, whose seed a replay
reads. An update whose loss or gradients are not finite is not made.
"""

import copy
import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from alexnet.config import Settings
from alexnet.kernels.convolutions import SpaceToDepth
from alexnet.kernels.cuda.batch import prepare_batch, windows
from alexnet.kernels.cuda.sgd import FusedUpdate
from alexnet.optim import PaperSGD
from alexnet.train.image_cache import PixelFormat
from alexnet.train.processes import Accelerate
from alexnet.transforms import AugmentParams, Preprocessing

LOG = logging.getLogger(__name__)
WARM_UP = 3
"""Steps before the recording: libraries choose their algorithms and take their workspace then."""
SAME = 1e-3
"""Largest share by which loss and gradient of a recorded step may differ from the step itself."""


def obstacle(model: nn.Sequential, optimizer: Optimizer, settings: Settings) -> str | None:
    """Say why such a training cannot be recorded; None if it can."""
    if not isinstance(optimizer, PaperSGD):
        return f"the update rule {settings.optimizer} has no kernel of its own"
    if settings.min_crop_scale:
        return "windows of any size (min_crop_scale) are cut by torch"
    if next(model.buffers(), None) is not None:
        return "the network has a state besides its weights (batch normalisation)"
    return None


class StaticBuffers(NamedTuple):
    """Where a step finds what it works on, always at the same address."""

    store: Tensor
    """(M, bytes of an image) uint8: all images, or those of the batch at hand."""
    table: Tensor
    """(N, 4) int32, see `alexnet.kernels.cuda.batch.windows`."""
    shift: Tensor
    """(N, 3) float32: what to add to red, green and blue."""
    labels: Tensor
    """(N,) int64."""
    input: Tensor
    """(N, 3, crop, crop) in the type of the forward pass, channels-last, or rearranged as the fast
    network's `cells` say."""
    loss: Tensor
    """() float32: the last step's."""
    norm: Tensor
    """() float32: length of the last step's gradient."""


class CapturedStep:
    """The steps of a training on `device`, recorded where that is a CUDA device.

    Ask `obstacle` first. The weights stay float32 in `model` and `optimizer`; with `dtype` bfloat16
    a copy of that type computes, which each update writes as well, so nothing is converted in
    between. Nothing else may change the weights of `model` meanwhile.

    `store` (M, bytes of an image) uint8 holds the images on the device, in a `form` of
    `alexnet.train.image_cache`: the whole data set, or a buffer for a batch that the caller fills
    before each step. A recording that fails, or does not compute what the step computes, is not used, and
    `tell` is told.
    """

    def __init__(  # noqa: PLR0913 - all that a step works with
        self,
        model: nn.Sequential,
        optimizer: PaperSGD,
        preprocessing: Preprocessing,
        settings: Settings,
        store: Tensor,
        *,
        pixel_format: PixelFormat = "rgb",
        accelerate: Accelerate | None = None,
        dtype: torch.dtype = torch.bfloat16,
        tell: Callable[[str], None] = LOG.warning,
    ) -> None:
        self.settings, self.size, self.pixel_format, self.tell = (
            settings,
            preprocessing.size,
            pixel_format,
            tell,
        )
        self.mean = preprocessing.mean.contiguous()
        self.copy = _copy(model, dtype)
        self.network = accelerate(self.copy) if accelerate else self.copy
        self.network.train()
        pairs = zip(model.parameters(), self.copy.parameters(), strict=True)
        self.copies: dict[Tensor, Tensor] = {own: x for own, x in pairs if own is not x}
        self.update = FusedUpdate(optimizer, {own: x.detach() for own, x in self.copies.items()})
        self.leaves = [self.copies.get(own, own) for own in self.update.parameters]
        plain = SpaceToDepth(1, 0, (3, preprocessing.crop, preprocessing.crop))
        self.cells: SpaceToDepth = getattr(self.network, "cells", None) or plain
        self.buffers = _buffers(store, settings.batch_size, self.cells.shape, dtype)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.records = store.is_cuda

    def change(self, settings: Settings) -> None:
        """Go on with other settings, where an epoch has its own; the next step is recorded anew."""
        if settings != self.settings:
            self.settings, self.graph = settings, None

    def __call__(
        self, numbers: NDArray[np.int64], draws: AugmentParams, labels: NDArray[np.int64], seed: int
    ) -> tuple[Tensor, Tensor]:
        """Make one step on the images `numbers` of the store; return its loss and gradient's norm.

        Rates are those of the optimiser's groups now. Both figures are on the device, and the next
        step overwrites them; where one is not finite, the weights are as they were. A batch smaller
        than the settings' is computed without the recording.
        """
        count, buffers = len(numbers), self.buffers
        table = windows(draws, numbers, self.size, self.mean.shape[1])
        buffers.table[:count].copy_(table, non_blocking=True)
        buffers.shift[:count].copy_(torch.from_numpy(draws.shift), non_blocking=True)
        buffers.labels[:count].copy_(torch.from_numpy(labels), non_blocking=True)
        recorded = self.records and count == len(buffers.labels)
        if recorded and self.graph is None:
            self.graph = self._recording()
        self.update.set_rates()
        torch.manual_seed(seed)
        if recorded and self.graph is not None:
            self.graph.replay()
        else:
            self._work(count)
        return buffers.loss, buffers.norm

    def _recording(self) -> torch.cuda.CUDAGraph | None:
        """Record a step and compare it with the step itself; None if it cannot be used."""
        self.update.stand_still()  # so no weight changes meanwhile
        try:
            graph = self._record()
            problem = self._difference(graph)
        except RuntimeError as error:  # CUDA refuses, or a library in the step does
            problem = str(error).partition("\n")[0]
        if not problem:
            return graph
        self.tell(f"steps are not replayed from a recording, but made anew: {problem}")
        self.records = False
        return None

    def _difference(self, graph: torch.cuda.CUDAGraph) -> str:
        """Say how a replay differs from the step, both on other images than were recorded."""
        buffers, count = self.buffers, len(self.buffers.labels)
        table, labels = buffers.table.clone(), buffers.labels.clone()
        buffers.table.copy_(table.flip(0))
        buffers.labels.copy_(labels.roll(1))
        figures = []
        try:
            for work in (partial(self._work, count), graph.replay):
                torch.manual_seed(count)
                work()
                figures.append(torch.stack([buffers.loss, buffers.norm]).tolist())
        finally:
            buffers.table.copy_(table)
            buffers.labels.copy_(labels)
        made, replayed = figures
        if np.allclose(made, replayed, rtol=SAME, atol=0, equal_nan=True):
            return ""
        return f"loss and gradient are {replayed} in place of {made}"

    def _record(self) -> torch.cuda.CUDAGraph:
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                self._work(len(self.buffers.labels))
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # Threads that read images take pinned memory meanwhile: that is no part of the recording.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._work(len(self.buffers.labels))
        return graph

    def _work(self, count: int) -> None:
        """Do all that a step does on the device, for the first `count` buffers."""
        buffers, settings = self.buffers, self.settings
        divisor = 1 + settings.lighting if settings.lighting_rescale else 1.0
        images = prepare_batch(
            buffers.store, buffers.table[:count], buffers.shift[:count], self.mean,
            buffers.input[:count], size=self.size, pixel_format=self.pixel_format, before=self.cells.before,
            divisor=divisor,
        )  # fmt: skip
        logits = self.network(images).float()
        smoothing = settings.label_smoothing
        loss = F.cross_entropy(logits, buffers.labels[:count], label_smoothing=smoothing)
        gradients = torch.autograd.grad(loss, self.leaves)
        buffers.loss.copy_(loss.detach())
        buffers.norm.copy_(self._clip(gradients))
        self.update.apply_it.copy_(torch.isfinite(buffers.loss) & torch.isfinite(buffers.norm))
        self.update.update(gradients)

    def _clip(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Scale gradients to `clip_norm` where that is set; return the norm before that."""
        norms = torch._foreach_norm(gradients, 2, dtype=torch.float32)
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        if self.settings.clip_norm:
            factor = (self.settings.clip_norm / (norm + 1e-6)).clamp(max=1)
            torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))
        return norm


def _copy(model: nn.Sequential, dtype: torch.dtype) -> nn.Sequential:
    """Return `model` itself if its weights have that type, else a copy of it."""
    if next(model.parameters()).dtype == dtype:
        return model
    return copy.deepcopy(model).to(dtype)


def _buffers(
    store: Tensor, batch: int, shape: tuple[int, int, int], dtype: torch.dtype
) -> StaticBuffers:
    device = store.device
    images = torch.empty(batch, *shape, dtype=dtype, device=device)
    return StaticBuffers(
        store=store,
        table=torch.zeros(batch, 4, dtype=torch.int32, device=device),
        shift=torch.zeros(batch, 3, device=device),
        labels=torch.zeros(batch, dtype=torch.int64, device=device),
        input=images.contiguous(memory_format=torch.channels_last),
        loss=torch.zeros((), device=device),
        norm=torch.zeros((), device=device),
    )
