"""Training steps on a GPU, captured once as CUDA graphs and then replayed.

A graph contains batch preparation, forward pass, loss, backward pass and update, so a step is a
single launch; short steps are several in one graph, which computes the same. What differs between
steps is read from a buffer (`alexnet.kernels.cuda.inputs`). The weights do not change in a step
whose loss or gradient is not finite.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from alexnet.config import Settings
from alexnet.device import dtype_of
from alexnet.evaluate import Accelerate
from alexnet.kernels.convolutions import SpaceToDepth
from alexnet.kernels.cuda.batch import prepare_batch
from alexnet.kernels.cuda.dropout import with_seeds
from alexnet.kernels.cuda.graphs import capture_graph
from alexnet.kernels.cuda.inputs import DrawnStep, RowLayout, draw_ahead, drawn_step
from alexnet.kernels.cuda.loss import cross_entropy
from alexnet.kernels.cuda.step_queue import Event, Launch, Past, QueuedStep, StepQueue
from alexnet.kernels.cuda.update import FusedUpdate, rule_of
from alexnet.train.state import DeviceBatch, Indices, PixelFormat, Step, TrainState
from alexnet.transforms import AugmentParams, Preprocessing

LOG = logging.getLogger(__name__)
WARM_UP = 3
"""Steps before the capture, in which libraries choose algorithms and allocate workspace."""
TIMED = 10
"""Replays that are timed."""
TOLERANCE = 1e-3
"""Largest relative difference of loss and gradient norm between a replay and the step itself."""
LAUNCH_SECONDS = 0.002
"""How long a launch should keep the GPU busy: longer than the host needs for the next one."""
MOST_TOGETHER = 8
"""Steps in one graph, at most: capturing takes time, too."""


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
    if rule_of(optimizer) is None:
        return f"the optimizer {settings.optimizer} has no kernel"
    if next(model.buffers(), None) is not None:
        return "the network has state besides its weights (batch normalisation)"
    return None


class TrainingStep:
    """The step of a training: captures the first one and replays it."""

    def __init__(self, state: TrainState, accelerate: Accelerate) -> None:
        self.state, self.accelerate = state, accelerate
        self.captured: CapturedStep | None = None
        self.batches = state.epoch_batches
        self.drawn: Iterator[DrawnStep] = iter(())

    def __call__(self, indices: Indices, images: DeviceBatch) -> QueuedStep:
        """Make the whole step, the update included; see `alexnet.train.state.Step`."""
        state = self.state
        step = self.captured = self.captured or self._prepare(images)
        step.use_settings(state.epoch_settings)
        if self.batches is not state.epoch_batches:  # a new epoch
            self.batches = state.epoch_batches
            self.drawn = draw_ahead(state, all_stored=images.at is not None)
        if images.at is None:
            step.store[: len(indices)].copy_(images.rows)
        return step.add(next(self.drawn))

    def _prepare(self, images: DeviceBatch) -> "CapturedStep":
        """Make the step to be captured, for batches like `images`."""
        state = self.state
        for parameter in state.model.parameters():
            if parameter.ndim == 4:  # the memory format in which GPUs run convolutions
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        store, most_together = images.rows, MOST_TOGETHER
        if images.at is None:  # rows of one batch, which each step copies to the same address
            store = store.new_zeros(state.settings.batch_size, store.shape[1])
            most_together = 1
        return CapturedStep(
            state.model,
            state.optimizer,
            state.preprocessing,
            state.epoch_settings,
            store,
            pixel_format=images.pixel_format,
            accelerate=self.accelerate,
            dtype=dtype_of(state.device, state.settings.precision),
            most_together=most_together,
            warn=state.progress.note,
        )


class CapturedStep:
    """A training step on images that are stored on the device, captured on a CUDA device.

    `obstacle` must return None. The weights stay float32 in `model` and `optimizer`. With `dtype`
    bfloat16 a copy of that type computes. Each update writes the copy as well, so weights are never
    converted in between. Nothing else may change the weights of `model` meanwhile.

    `store` (M, bytes of an image) uint8 holds the images in `pixel_format`: the whole data set, or
    a buffer for a batch that the caller fills before each step; `most_together` is then 1. Up to
    `most_together` steps are replayed from one graph. If a capture fails, or a replay does not
    compute what the steps compute, `warn` is called and each step runs its operations.
    """

    def __init__(  # noqa: PLR0913 - all that a step depends on
        self,
        model: nn.Sequential,
        optimizer: Optimizer,
        preprocessing: Preprocessing,
        settings: Settings,
        store: Tensor,
        *,
        pixel_format: PixelFormat = "rgb",
        accelerate: Accelerate | None = None,
        dtype: torch.dtype = torch.bfloat16,
        most_together: int = 1,
        warn: Callable[[str], None] = LOG.warning,
    ) -> None:
        self.settings, self.store, self.pixel_format = settings, store, pixel_format
        self.size, self.mean = preprocessing.size, preprocessing.mean.contiguous()
        self.most_together, self.warn = most_together, warn
        self.copy = _copy(model, dtype)
        rows, self.dropouts = with_seeds(self.copy)
        self.network = (accelerate(rows) if accelerate else rows).train()
        pairs = zip(model.parameters(), self.copy.parameters(), strict=True)
        copies: dict[Tensor, Tensor] = {own: x for own, x in pairs if own is not x}
        detached = {own: x.detach() for own, x in copies.items() if own.requires_grad}
        # Captured updates: a single step's, and those of the steps of one graph.
        self.update = FusedUpdate(optimizer, detached, slots=1 + most_together)
        self.parameters = [copies.get(own, own) for own in self.update.parameters]
        crop, batch = preprocessing.crop, settings.batch_size
        rgb = SpaceToDepth(1, 0, (3, crop, crop))
        self.layout: SpaceToDepth = getattr(self.network, "input_layout", None) or rgb
        images = torch.empty(batch, *self.layout.shape, dtype=dtype, device=store.device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.batch, self.row_layout = batch, RowLayout(batch, len(self.parameters))
        rows_shape = (most_together, self.row_layout.bytes)
        self.rows = torch.zeros(rows_shape, dtype=torch.uint8, device=store.device)
        self.inputs = [self.row_layout.views(row) for row in self.rows]
        self.results = torch.zeros(most_together, 2, device=store.device)
        """Loss and gradient norm of the last launch's steps."""
        self.queue = self._new_queue(1)
        self.single: torch.cuda.CUDAGraph | None = None
        self.several: torch.cuda.CUDAGraph | None = None
        self.uses_graph = store.is_cuda

    def use_settings(self, settings: Settings) -> None:
        """Use these settings from the next step on, which is captured again if they differ."""
        if settings is not self.settings and settings != self.settings:
            self.queue.flush()
            self.settings, self.single, self.several = settings, None, None

    def __call__(
        self, rows: Indices, params: AugmentParams, labels: NDArray[np.int64], seed: int
    ) -> QueuedStep:
        """Make one step on these rows of the store, as `add` does."""
        return self.add(drawn_step(params, rows, labels, seed, self.size, self.mean.shape[1]))

    def add(self, step: DrawnStep) -> QueuedStep:
        """Make one step, now or together with later ones; return its results.

        Learning rates are the current ones of the optimiser. A batch smaller than the settings'
        runs without the graph.
        """
        whole_batch = len(step.labels) == self.batch
        rates = self.update.next_rates()
        if self.uses_graph and whole_batch and self.single is None:
            self._capture_graphs(step, rates)
        result = self.queue.add(step, rates)
        if not whole_batch:
            self.queue.flush()
        return result

    def _new_queue(self, together: int) -> StepQueue:
        return StepQueue(self._launch, self.row_layout, together, pinned=self.store.is_cuda)

    def _launch(self, launch: Launch) -> Event:
        """Start the work of some steps: copy their inputs, compute, copy their results back."""
        count = len(launch.images)
        if self.several is not None and launch.images == [self.batch] * self.queue.together:
            self.rows[:count].copy_(launch.inputs, non_blocking=True)
            self.several.replay()
            launch.results.copy_(self.results[:count], non_blocking=True)
        else:
            for step, images in enumerate(launch.images):
                self.rows[0].copy_(launch.inputs[step], non_blocking=True)
                if self.single is not None and images == self.batch:
                    self.single.replay()
                else:
                    self._compute(0, images)
                launch.results[step].copy_(self.results[0], non_blocking=True)
        return self._record_event()

    def _record_event(self) -> Event:
        if not self.store.is_cuda:
            return Past()
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _capture_graphs(self, step: DrawnStep, rates: NDArray[np.float32]) -> None:
        """Capture a step like this one, and several in one graph if one is short."""
        self.queue.flush()
        row = torch.zeros(self.row_layout.bytes, dtype=torch.uint8)
        self.row_layout.views(row).write(step, rates)
        self.rows.copy_(row)
        for inputs in self.inputs:
            inputs.active.zero_()  # so that no weight changes
        self.single = self._checked_graph(1)
        self.uses_graph = self.single is not None
        together = 1
        if self.single is not None and self.most_together > 1:
            wanted = int(LAUNCH_SECONDS / self._seconds(self.single))
            together = min(self.most_together, max(1, wanted))
        self.several = self._checked_graph(together) if together > 1 else None
        self.queue = self._new_queue(together if self.several is not None else 1)

    def _checked_graph(self, steps: int) -> torch.cuda.CUDAGraph | None:
        """Capture steps and compare a replay with the steps; None if it cannot be used."""
        try:
            graph = self._capture(steps)
            problem = self._difference(graph, steps)
        except RuntimeError as error:  # raised by CUDA, or by a library in the step
            problem = str(error).partition("\n")[0]
        if not problem:
            return graph
        what = "steps are" if steps == 1 else "several steps are"
        self.warn(f"{what} not replayed from a CUDA graph: {problem}")
        return None

    def _difference(self, graph: torch.cuda.CUDAGraph, steps: int) -> str:
        """Describe how a replay differs from the steps; "" if it does not.

        The images, labels and seeds are not those of the capture, and differ between the steps.
        """
        for number, inputs in enumerate(self.inputs[:steps], 1):
            inputs.crops.copy_(inputs.crops.flip(0))
            inputs.labels.copy_(inputs.labels.roll(number))
            inputs.seed.add_(number)
        results = []
        for run in (partial(self._compute_steps, steps), graph.replay):
            self.results.zero_()
            run()
            results.append(self.results[:steps].tolist())
        computed, replayed = results
        if np.allclose(computed, replayed, rtol=TOLERANCE, atol=0, equal_nan=True):
            return ""
        return f"loss and gradient norm are {replayed} instead of {computed}"

    def _seconds(self, graph: torch.cuda.CUDAGraph) -> float:
        """Return how long a replay takes."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        for _ in range(TIMED):
            graph.replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000 / TIMED

    def _capture(self, steps: int) -> torch.cuda.CUDAGraph:
        def warm_up() -> None:
            for _ in range(WARM_UP if steps == 1 else 0):
                self._compute(0, self.batch)

        work = partial(self._compute_steps, steps, first_slot=0 if steps == 1 else 1)
        pool = self.single.pool() if self.single is not None else None
        graph, _ = capture_graph(work, warm_up, pool=pool)
        self.update.end_capture()
        return graph

    def _compute_steps(self, steps: int, first_slot: int | None = None) -> None:
        """Run the operations of some steps; in a capture, their updates take slots in a row."""
        for step in range(steps):
            slot = None if first_slot is None else first_slot + step
            self._compute(step, self.batch, slot)

    def _compute(self, step: int, count: int, slot: int | None = None) -> None:
        """Run a step's operations on the device, on the first `count` images of its row."""
        inputs, settings = self.inputs[step], self.settings
        divisor = 1 + settings.lighting if settings.lighting_rescale else 1.0
        images = prepare_batch(
            self.store, inputs.crops[:count], inputs.shift[:count], self.mean,
            self.images[:count], size=self.size, pixel_format=self.pixel_format,
            before=self.layout.before, divisor=divisor,
            matrices=inputs.matrices[:count] if settings.min_crop_scale else None,
        )  # fmt: skip
        for layer in self.dropouts:
            layer.seed = inputs.seed
        logits = self.network(images)
        losses, slope = cross_entropy(
            logits, inputs.labels[:count], label_smoothing=settings.label_smoothing
        )
        self.update.step(
            torch.autograd.grad(logits, self.parameters, slope),
            losses,
            self.results[step],
            rates=inputs.rates,
            active=inputs.active,
            clip_norm=settings.clip_norm,
            slot=slot,
        )


def _copy(model: nn.Sequential, dtype: torch.dtype) -> nn.Sequential:
    """Return a copy of `model` of that type; `model` itself if it has it already."""
    if next(model.parameters()).dtype == dtype:
        return model
    return copy.deepcopy(model).to(dtype)
