"""A training step on a GPU, captured once as a CUDA graph and then replayed.

The graph contains batch preparation, forward pass, loss, backward pass and update, so a step is a
single launch. What differs between steps is copied into static buffers first: images, crops,
colours, labels, learning rates. Dropout uses torch's generator, whose seed a replay reads. The
weights do not change in a step whose loss or gradient is not finite.
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

from alexnet import randomness
from alexnet.config import Settings
from alexnet.device import dtype_of
from alexnet.evaluate import Accelerate
from alexnet.kernels.convolutions import SpaceToDepth
from alexnet.kernels.cuda.batch import crop_table, prepare_batch
from alexnet.kernels.cuda.sgd import FusedUpdate
from alexnet.optim import PaperSGD
from alexnet.train.state import DeviceBatch, Indices, PixelFormat, Step, TrainState
from alexnet.transforms import AugmentParams, Preprocessing, sample_augment

LOG = logging.getLogger(__name__)
WARM_UP = 3
"""Steps before the capture, in which libraries choose algorithms and allocate workspace."""
TOLERANCE = 1e-3
"""Largest relative difference of loss and gradient norm between a replay and the step itself."""


def capture(state: TrainState, accelerate: Accelerate) -> Step | None:
    """Return the step of a training; None, and a note, if it cannot be captured.

    `accelerate` makes the accelerated form of the copy of the network that computes.
    """
    reason = obstacle(state.model, state.optimizer, state.settings)
    if reason:
        state.progress.note(f"steps are not captured as a CUDA graph: {reason}")
        return None
    return TrainingStep(state, accelerate)


def obstacle(model: nn.Sequential, optimizer: Optimizer, settings: Settings) -> str | None:
    """Return why such a training cannot be captured; None if it can."""
    if not isinstance(optimizer, PaperSGD):
        return f"the optimizer {settings.optimizer} has no kernel"
    if settings.min_crop_scale:
        return "crops of any size (min_crop_scale) have no kernel"
    if next(model.buffers(), None) is not None:
        return "the network has state besides its weights (batch normalisation)"
    return None


class TrainingStep:
    """The step of a training: captures the first one and replays it."""

    def __init__(self, state: TrainState, accelerate: Accelerate) -> None:
        self.state, self.accelerate = state, accelerate
        self.captured: CapturedStep | None = None

    def __call__(self, indices: Indices, images: DeviceBatch) -> tuple[Tensor, Tensor]:
        """Make the whole step, the update included; see `alexnet.train.state.Step`."""
        state, settings = self.state, self.state.epoch_settings
        step = self.captured = self.captured or self._prepare(images)
        step.use_settings(settings)
        rows = images.at
        if rows is None:
            step.buffers.store[: len(indices)].copy_(images.rows)
            rows = np.arange(len(indices))
        epoch, images_done = state.position.epoch, state.position.images
        params = sample_augment(settings, state.preprocessing, epoch, indices, images_done)
        seed = randomness.step_seed(settings.seed, state.position.step + 1)
        return step(rows, params, state.train.labels[indices], seed)

    def _prepare(self, images: DeviceBatch) -> "CapturedStep":
        """Make the step to be captured, for batches like `images`."""
        state = self.state
        assert isinstance(state.optimizer, PaperSGD)  # noqa: S101 - `obstacle` checks it
        for parameter in state.model.parameters():
            if parameter.ndim == 4:  # the memory format in which GPUs run convolutions
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        store = images.rows
        if images.at is None:  # rows of one batch, which each step copies to the same address
            store = store.new_zeros(state.settings.batch_size, store.shape[1])
        return CapturedStep(
            state.model,
            state.optimizer,
            state.preprocessing,
            state.epoch_settings,
            store,
            pixel_format=images.pixel_format,
            accelerate=self.accelerate,
            dtype=dtype_of(state.device, state.settings.precision),
            warn=state.progress.note,
        )


class StaticBuffers(NamedTuple):
    """The inputs and results of a step, at the same addresses in each step."""

    store: Tensor
    """(M, bytes of an image) uint8: all images, or those of the current batch."""
    crops: Tensor
    """(N, 4) int32, see `alexnet.kernels.cuda.batch.crop_table`."""
    shift: Tensor
    """(N, 3) float32: what to add to red, green and blue."""
    labels: Tensor
    """(N,) int64."""
    input: Tensor
    """(N, 3, crop, crop) in the type of the forward pass, channels-last, or in the network's
    `input_layout`."""
    loss: Tensor
    """() float32: the last step's."""
    gradient_norm: Tensor
    """() float32: the last step's."""


class CapturedStep:
    """A training step on images that are stored on the device, captured on a CUDA device.

    `obstacle` must return None. The weights stay float32 in `model` and `optimizer`. With `dtype`
    bfloat16 a copy of that type computes. Each update writes the copy as well, so weights are never
    converted in between. Nothing else may change the weights of `model` meanwhile.

    `store` (M, bytes of an image) uint8 holds the images in `pixel_format`: the whole data set, or
    a buffer for a batch that the caller fills before each step. If the capture fails, or a replay
    does not compute what the step computes, `warn` is called and each step runs its operations.
    """

    def __init__(  # noqa: PLR0913 - all that a step depends on
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
        warn: Callable[[str], None] = LOG.warning,
    ) -> None:
        self.settings, self.size, self.pixel_format = settings, preprocessing.size, pixel_format
        self.warn = warn
        self.mean = preprocessing.mean.contiguous()
        self.copy = _copy(model, dtype)
        self.network = accelerate(self.copy) if accelerate else self.copy
        self.network.train()
        pairs = zip(model.parameters(), self.copy.parameters(), strict=True)
        self.copies: dict[Tensor, Tensor] = {own: x for own, x in pairs if own is not x}
        self.update = FusedUpdate(optimizer, {own: x.detach() for own, x in self.copies.items()})
        self.parameters = [self.copies.get(own, own) for own in self.update.parameters]
        rgb = SpaceToDepth(1, 0, (3, preprocessing.crop, preprocessing.crop))
        self.layout: SpaceToDepth = getattr(self.network, "input_layout", None) or rgb
        self.buffers = _buffers(store, settings.batch_size, self.layout.shape, dtype)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.uses_graph = store.is_cuda

    def use_settings(self, settings: Settings) -> None:
        """Use these settings from the next step on, which is captured again if they differ."""
        if settings != self.settings:
            self.settings, self.graph = settings, None

    def __call__(
        self, rows: Indices, params: AugmentParams, labels: NDArray[np.int64], seed: int
    ) -> tuple[Tensor, Tensor]:
        """Make one step on these rows of the store; return its loss and its gradient norm.

        Learning rates are the current ones of the optimiser. Both results are on the device, and
        the next step overwrites them. Where one is not finite, the weights do not change. A batch
        smaller than the settings' runs without the graph.
        """
        count, buffers = len(rows), self.buffers
        table = crop_table(params, rows, self.size, self.mean.shape[1])
        buffers.crops[:count].copy_(table, non_blocking=True)
        buffers.shift[:count].copy_(torch.from_numpy(params.shift), non_blocking=True)
        buffers.labels[:count].copy_(torch.from_numpy(labels), non_blocking=True)
        whole_batch = count == len(buffers.labels)
        if self.uses_graph and whole_batch and self.graph is None:
            self.graph = self._checked_graph()
        self.update.set_rates()
        torch.manual_seed(seed)
        if whole_batch and self.graph is not None:
            self.graph.replay()
        else:
            self._compute(count)
        return buffers.loss, buffers.gradient_norm

    def _checked_graph(self) -> torch.cuda.CUDAGraph | None:
        """Capture a step and compare a replay with the step itself; None if it cannot be used."""
        self.update.clear_rates()  # so that no weight changes
        try:
            graph = self._capture()
            problem = self._difference(graph)
        except RuntimeError as error:  # raised by CUDA, or by a library in the step
            problem = str(error).partition("\n")[0]
        if not problem:
            return graph
        self.warn(f"steps are not replayed from a CUDA graph: {problem}")
        self.uses_graph = False
        return None

    def _difference(self, graph: torch.cuda.CUDAGraph) -> str:
        """Describe how a replay differs from the step; "" if it does not.

        The images and labels are not those of the capture.
        """
        buffers, count = self.buffers, len(self.buffers.labels)
        crops, labels = buffers.crops.clone(), buffers.labels.clone()
        buffers.crops.copy_(crops.flip(0))
        buffers.labels.copy_(labels.roll(1))
        results = []
        try:
            for run in (partial(self._compute, count), graph.replay):
                torch.manual_seed(count)
                run()
                results.append(torch.stack([buffers.loss, buffers.gradient_norm]).tolist())
        finally:
            buffers.crops.copy_(crops)
            buffers.labels.copy_(labels)
        computed, replayed = results
        if np.allclose(computed, replayed, rtol=TOLERANCE, atol=0, equal_nan=True):
            return ""
        return f"loss and gradient norm are {replayed} instead of {computed}"

    def _capture(self) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._compute(len(self.buffers.labels))
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads, which read images, may allocate pinned memory during the capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._compute(len(self.buffers.labels))
        return graph

    def _compute(self, count: int) -> None:
        """Run the step's operations on the device, on the first `count` entries of the buffers."""
        buffers, settings = self.buffers, self.settings
        divisor = 1 + settings.lighting if settings.lighting_rescale else 1.0
        images = prepare_batch(
            buffers.store, buffers.crops[:count], buffers.shift[:count], self.mean,
            buffers.input[:count], size=self.size, pixel_format=self.pixel_format,
            before=self.layout.before, divisor=divisor,
        )  # fmt: skip
        logits = self.network(images).float()
        smoothing = settings.label_smoothing
        loss = F.cross_entropy(logits, buffers.labels[:count], label_smoothing=smoothing)
        gradients = torch.autograd.grad(loss, self.parameters)
        buffers.loss.copy_(loss.detach())
        buffers.gradient_norm.copy_(self._clip(gradients))
        finite = torch.isfinite(buffers.loss) & torch.isfinite(buffers.gradient_norm)
        self.update.enabled.copy_(finite)
        self.update.update(gradients)

    def _clip(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Scale gradients to `clip_norm` if that is set; return the norm before that."""
        norms = torch._foreach_norm(gradients, 2, dtype=torch.float32)
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        if self.settings.clip_norm:
            factor = (self.settings.clip_norm / (norm + 1e-6)).clamp(max=1)
            torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))
        return norm


def _copy(model: nn.Sequential, dtype: torch.dtype) -> nn.Sequential:
    """Return a copy of `model` of that type; `model` itself if it has it already."""
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
        crops=torch.zeros(batch, 4, dtype=torch.int32, device=device),
        shift=torch.zeros(batch, 3, device=device),
        labels=torch.zeros(batch, dtype=torch.int64, device=device),
        input=images.contiguous(memory_format=torch.channels_last),
        loss=torch.zeros((), device=device),
        gradient_norm=torch.zeros((), device=device),
    )
