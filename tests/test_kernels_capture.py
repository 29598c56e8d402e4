"""Whole training steps as a GPU makes them: captured once, then replayed.

Without a GPU a step runs without a graph, its kernels in Triton's interpreter. A substitute for the
graph tests how a capture is made and checked.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_makers import Recorder
from test_kernels_cuda import CROP, DEVICE, INDICES, PREPROCESSING, images  # before Triton
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet import train
from alexnet.config import Override, Settings
from alexnet.errors import DivergedError, Interrupted
from alexnet.kernels.accelerated import AcceleratedNetwork
from alexnet.kernels.convolutions import cpu_algorithm
from alexnet.kernels.cuda import blocks as cuda_blocks
from alexnet.kernels.cuda import fused, pixels
from alexnet.kernels.cuda.capture import CapturedStep, capture, obstacle
from alexnet.networks import registry
from alexnet.networks.layers import Input, LocalResponseNorm
from alexnet.optim import PaperSGD, make_optimizer, set_learning_rates
from alexnet.storage import checkpoint_store
from alexnet.train.image_cache import CacheLocation, CachePlan, Images
from alexnet.train.processes import Processes
from alexnet.train.state import DeviceBatch, Indices, PixelFormat, Step, TrainState
from alexnet.transforms import AugmentParams, augment, sample_augment

# Whole steps.

SETTINGS = Settings(
    optimizer="paper",
    batch_size=4,
    lr=0.001,
    weight_decay=0.01,
    min_crop_scale=0.0,
    seed=1,
    dropout=0.5,
)


def network(*, frozen: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers = OrderedDict(
        input=Input(3, CROP, CROP),
        conv1=nn.Conv2d(3, 8, 5, stride=2),
        relu1=nn.ReLU(),
        norm1=LocalResponseNorm(),
        pool1=nn.MaxPool2d(2, stride=2),
        flatten=nn.Flatten(),
        drop=nn.Dropout(0.5),
        fc2=nn.Linear(32, 3),
    )
    layers["conv1"].requires_grad_(not frozen)
    return nn.Sequential(layers).to(DEVICE)


def reference_steps(settings: Settings, batches: list[list[int]], *, frozen: bool) -> nn.Sequential:
    """Train as the training loop does."""
    model = network(frozen=frozen)
    optimizer = make_optimizer(model, settings)
    for seed, batch in enumerate(batches):
        indices = np.array(batch)
        set_learning_rates(optimizer, settings.lr / (1 + seed), settings)
        params = sample_augment(settings, PREPROCESSING, 1, indices)
        inputs = augment(images()[torch.from_numpy(indices)], params, PREPROCESSING, settings)
        torch.manual_seed(seed)
        loss = F.cross_entropy(model(inputs), torch.from_numpy(indices % 3).to(DEVICE))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
    return model


def captured(model: nn.Sequential, settings: Settings) -> tuple[CapturedStep, PaperSGD]:
    optimizer = make_optimizer(model, settings)
    assert isinstance(optimizer, PaperSGD)
    step = CapturedStep(
        model, optimizer, PREPROCESSING, settings, images().flatten(1), dtype=torch.float32
    )
    return step, optimizer


@pytest.mark.parametrize(("clip_norm", "frozen"), [(0.0, False), (0.5, False), (0.0, True)])
def test_steps_are_those_of_the_training_loop(clip_norm: float, frozen: bool) -> None:
    settings = replace(SETTINGS, clip_norm=clip_norm)
    batches = [[4, 1, 3, 0], [2, 0, 1, 4], [3, 2]]  # the last one is smaller
    model = network(frozen=frozen)
    step, optimizer = captured(model, settings)
    for seed, batch in enumerate(batches):
        indices = np.array(batch)
        set_learning_rates(optimizer, settings.lr / (1 + seed), settings)
        loss, norm = step(
            indices, sample_augment(settings, PREPROCESSING, 1, indices), indices % 3, seed
        )
        assert loss.isfinite()
        assert norm > 0
    reference = reference_steps(settings, batches, frozen=frozen)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_step_that_is_not_finite_leaves_the_weights() -> None:
    model = network()
    step, _ = captured(model, SETTINGS)
    before = copy.deepcopy(model.state_dict())
    params = sample_augment(SETTINGS, PREPROCESSING, 1, INDICES)
    bad = AugmentParams(
        params.top, params.left, params.flip, params.zoom, np.full_like(params.shift, np.nan)
    )
    with np.errstate(invalid="ignore"):
        loss, _ = step(INDICES, bad, INDICES % 3, seed=0)
    assert not loss.isfinite()
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    loss, _ = step(INDICES, params, INDICES % 3, seed=0)
    assert loss.isfinite()
    assert not torch.equal(model.state_dict()["fc2.weight"], before["fc2.weight"])


def test_a_copy_computes_and_has_the_new_weights() -> None:
    model = network()
    optimizer = make_optimizer(model, SETTINGS)
    assert isinstance(optimizer, PaperSGD)
    step = CapturedStep(
        model, optimizer, PREPROCESSING, SETTINGS, images().flatten(1), dtype=torch.float16
    )
    loss, _ = step(
        INDICES, sample_augment(SETTINGS, PREPROCESSING, 1, INDICES), INDICES % 3, seed=0
    )
    assert loss.isfinite()
    own, other = (m.get_parameter("conv1.weight") for m in (model, step.copy))
    assert own.dtype == torch.float32
    assert torch.equal(other, own.half())


def test_what_cannot_be_captured() -> None:
    model = network()
    paper = make_optimizer(model, SETTINGS)
    assert obstacle(model, paper, SETTINGS) is None
    adam = make_optimizer(model, replace(SETTINGS, optimizer="adamw"))
    assert "adamw" in str(obstacle(model, adam, replace(SETTINGS, optimizer="adamw")))
    assert "min_crop_scale" in str(obstacle(model, paper, replace(SETTINGS, min_crop_scale=0.5)))
    model.append(nn.BatchNorm1d(3))
    assert "batch normalisation" in str(obstacle(model, paper, SETTINGS))


# The graph.


class Replay:
    """A substitute for a CUDA graph: a replay runs the step itself, and then `after`."""

    def __init__(self, step: CapturedStep, after: Callable[[], object]) -> None:
        self.step, self.after, self.count = step, after, 0

    def replay(self) -> None:
        self.count += 1
        self.step._compute(len(self.step.buffers.labels))
        self.after()


def with_graph(after: Callable[[CapturedStep], object]) -> tuple[CapturedStep, list[str], Replay]:
    """Make a step that uses a graph as on a GPU; return it, its warnings and the substitute."""
    step, _ = captured(network(), SETTINGS)
    warnings: list[str] = []
    graph = Replay(step, partial(after, step))
    step.uses_graph, step.warn = True, warnings.append
    step._capture = lambda: graph  # type: ignore[assignment,method-assign,return-value]
    return step, warnings, graph


def run_once(step: CapturedStep, seed: int = 0) -> Tensor:
    params = sample_augment(SETTINGS, PREPROCESSING, 1, INDICES)
    return step(INDICES, params, INDICES % 3, seed)[0].clone()


def test_a_graph_that_computes_the_step_is_replayed() -> None:
    step, warnings, graph = with_graph(lambda _: None)
    reference, _ = captured(network(), SETTINGS)
    for seed in (0, 1):
        assert torch.equal(run_once(step, seed), run_once(reference, seed))
    assert graph.count == 3, "one to compare, and one for each step"
    assert not warnings
    ours, others = (made.network.state_dict() for made in (step, reference))
    assert all(torch.equal(ours[name], others[name]) for name in ours)


@pytest.mark.fault(35)
def test_a_graph_that_computes_something_else_is_not_used() -> None:
    step, warnings, graph = with_graph(lambda step: step.buffers.gradient_norm.mul_(1.01))
    reference, _ = captured(network(), SETTINGS)
    for seed in (0, 1):
        assert torch.equal(run_once(step, seed), run_once(reference, seed))
    assert graph.count == 1
    assert len(warnings) == 1
    assert warnings[0].startswith(
        "steps are not replayed from a CUDA graph: loss and gradient norm are "
    )


def test_a_graph_that_does_not_read_the_buffers_is_not_used() -> None:
    """A graph with the addresses of other tensors always replays the same results."""
    step, warnings, graph = with_graph(lambda _: None)
    first: list[Tensor] = []

    def stale(step: CapturedStep) -> None:
        first[:] = first or [torch.tensor(1.0)]
        step.buffers.loss.copy_(first[0])

    graph.after = partial(stale, step)
    run_once(step)
    assert not step.uses_graph
    assert len(warnings) == 1


def test_a_step_that_cannot_be_captured_runs_its_operations() -> None:
    step, warnings, _ = with_graph(lambda _: None)

    def refuse() -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    step._capture = refuse  # type: ignore[method-assign]
    reference, _ = captured(network(), SETTINGS)
    assert torch.equal(run_once(step), run_once(reference))
    assert len(warnings) == 1
    assert warnings[0].endswith("CUDA graph: operation not permitted when stream is capturing")


def test_a_graph_that_cannot_be_replayed_leaves_the_batch_unchanged() -> None:
    def refuse(_: CapturedStep) -> None:
        raise RuntimeError("an illegal instruction")

    step, warnings, _ = with_graph(refuse)
    reference, _ = captured(network(), SETTINGS)
    assert torch.equal(run_once(step), run_once(reference))
    assert warnings[0].endswith("an illegal instruction")


def test_comparing_a_graph_changes_no_weight() -> None:
    step, _, graph = with_graph(lambda _: None)
    before = copy.deepcopy(step.network.state_dict())
    step.update.set_rates()
    assert step._checked_graph() is not None
    assert graph.count == 1
    assert all(torch.equal(now, before[name]) for name, now in step.network.state_dict().items())


@pytest.mark.slow
def test_other_settings_are_captured_again() -> None:
    step, _, graph = with_graph(lambda _: None)
    run_once(step)
    step.use_settings(SETTINGS)
    run_once(step)
    assert graph.count == 3
    step.use_settings(replace(SETTINGS, label_smoothing=0.1))
    run_once(step)
    assert graph.count == 5, "compared again"


# A whole training on this path.

TRAINING = Settings(
    model="tiny", optimizer="paper", epochs=2, batch_size=13, lr=0.002, weight_decay=0.01,
    schedule="cosine", init="he", dropout=0.3, precision="float32", log_steps=2,
    overrides=(Override(2, "label_smoothing", 0.1),),
)  # fmt: skip


def tiny(classes: int) -> nn.Sequential:
    """Build a network whose first convolution takes rearranged images, with blocks after it."""
    return nn.Sequential(
        OrderedDict(
            input=Input(3, 24, 24),
            pad1=nn.ZeroPad2d((0, 1, 0, 1)),
            conv1=nn.Conv2d(3, 8, 5, stride=4),
            relu1=nn.ReLU(),
            norm1=LocalResponseNorm(),
            pool1=nn.MaxPool2d(3, stride=2),
            conv2=nn.Conv2d(8, 8, 3, padding=1, groups=2),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            drop2=nn.Dropout(0.5),
            fc3=nn.Linear(32, classes),
        )
    )


class GpuNetwork(AcceleratedNetwork):
    """The accelerated network for a GPU, on any device."""

    def capture(self, state: TrainState) -> Step | None:
        return capture(state, accelerate_for_gpu)


def accelerate_for_gpu(model: nn.Sequential) -> GpuNetwork:
    rows = OrderedDict(model.named_children())
    return GpuNetwork(rows, cuda_blocks, DEVICE.type, cpu_algorithm)


@pytest.fixture
def fit(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setitem(registry.MODELS, "tiny", tiny)
    if DEVICE.type == "cpu":  # the interpreter's time is per program, not per pixel
        monkeypatch.setattr(fused, "PLACES", 1024)
        monkeypatch.setattr(pixels, "PIXELS", 1024)
    return partial(train.train_model, tiny_data, device=str(DEVICE))


def cache_images(
    location: CacheLocation, pixel_format: PixelFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(split: Any, device: torch.device, *_: object, **__: object) -> Images:
        return Images(split, device, CachePlan(location, pixel_format, 0))

    monkeypatch.setattr("alexnet.train.opening.open_images", opened)


def change_steps(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[TrainState, Step], Step]
) -> None:
    """Let trainings use what `change` returns in place of their step."""
    original = train.make_step

    def make_step(state: TrainState, processes: Processes) -> Step:
        return change(state, original(state, processes))

    monkeypatch.setattr(train, "make_step", make_step)


def weights(run: Path) -> dict[str, Tensor]:
    return checkpoint_store.load(run, "last").tensors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("location", "pixel_format"),
    [("device", "rgb"), ("device", "yuv420"), ("host", "rgb"), ("none", "rgb")],
)
def test_a_training_ends_as_the_reference_one(
    fit: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    location: Any,
    pixel_format: Any,
) -> None:
    """Wherever images are cached: same order, crops, colours, dropout, rates, velocities."""
    cache_images(location, pixel_format, monkeypatch)
    made: list[str] = []

    def note(_: TrainState, step: Step) -> Step:
        made.append(type(step).__name__)
        return step

    change_steps(monkeypatch, note)
    reference = fit(tmp_path / "reference", TRAINING)
    ours = fit(tmp_path / "ours", TRAINING, accelerate=accelerate_for_gpu)
    assert made == ["partial", "TrainingStep"]
    assert ours.train_loss == pytest.approx(reference.train_loss, rel=1e-5)
    assert ours.val_loss == pytest.approx(reference.val_loss, rel=1e-4)
    one, other = weights(tmp_path / "reference"), weights(tmp_path / "ours")
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_stopped_training_continues_to_the_same_bits(
    fit: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tmp_path / "whole", TRAINING, accelerate=accelerate_for_gpu)

    def stop(state: TrainState, step: Step) -> Step:
        def stopping(indices: Indices, images: DeviceBatch) -> tuple[Tensor, Tensor]:
            results = step(indices, images)
            if state.position.step == 3:
                raise KeyboardInterrupt
            return results

        return stopping

    with monkeypatch.context() as patch:
        change_steps(patch, stop)
        settings = replace(TRAINING, checkpoint_steps=2)
        with pytest.raises((KeyboardInterrupt, Interrupted)):
            fit(tmp_path / "stopped", settings, accelerate=accelerate_for_gpu)
    fit(tmp_path / "stopped", resume=True, accelerate=accelerate_for_gpu)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_training(
    fit: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(DivergedError, match="in step"), np.errstate(all="ignore"):
        fit(
            tmp_path / "run",
            replace(TRAINING, lr=1e30, init="model"),
            accelerate=accelerate_for_gpu,
        )


def test_what_cannot_be_captured_is_trained_without_a_graph(
    fit: Callable[..., Any], tmp_path: Path
) -> None:
    recorder = Recorder()
    settings = replace(TRAINING, optimizer="adamw", epochs=1)
    fit(tmp_path / "run", settings, accelerate=accelerate_for_gpu, progress=recorder)
    message = "steps are not captured as a CUDA graph: the optimizer adamw has no kernel"
    assert message in recorder.notes
