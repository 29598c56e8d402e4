"""Whole training steps as a GPU makes them: captured once, then replayed.

Without a GPU a step runs without a graph, its kernels in Triton's interpreter. A substitute for the
graph tests how a capture is made and checked.
"""

import copy
import os
import signal
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from data_makers import Recorder
from dropout_makers import with_reference_dropout
from step_makers import after_step
from test_kernels_cuda import CROP, DEVICE, INDICES, PREPROCESSING, images  # before Triton
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from alexnet import randomness, train
from alexnet.config import Override, Settings
from alexnet.dataset import Dataset
from alexnet.errors import DivergedError, Interrupted
from alexnet.kernels.accelerated import AcceleratedNetwork
from alexnet.kernels.conv_forms import ConvAlgorithm
from alexnet.kernels.cuda import blocks as cuda_blocks
from alexnet.kernels.cuda import capture as capture_module
from alexnet.kernels.cuda import fused, inputs, pixels, step_queue
from alexnet.kernels.cuda.capture import CapturedStep, TrainingStep, capture, obstacle
from alexnet.kernels.cuda.inputs import RowLayout, draw_ahead, drawn_step
from alexnet.kernels.cuda.step_queue import Event, Launch, QueuedStep, StepQueue
from alexnet.kernels.cuda.update import FACTORS
from alexnet.networks import registry
from alexnet.networks.layers import Input, LocalResponseNorm
from alexnet.optim import make_optimizer, set_learning_rates
from alexnet.recipes import recipe
from alexnet.storage import checkpoint_store
from alexnet.storage.checkpoint_format import Position
from alexnet.storage.run import Run
from alexnet.train.image_cache import CacheLocation, CachePlan, Images
from alexnet.train.lars import make_lars
from alexnet.train.losses import StepResult
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
    model = with_reference_dropout(network(frozen=frozen))
    optimizer = make_optimizer(model, settings)
    for seed, batch in enumerate(batches):
        indices = np.array(batch)
        set_learning_rates(optimizer, settings.lr / (1 + seed), settings)
        params = sample_augment(settings, PREPROCESSING, 1, indices)
        inputs = augment(images()[torch.from_numpy(indices)], params, PREPROCESSING, settings)
        torch.manual_seed(seed)
        labels = torch.from_numpy(indices % 3).to(DEVICE)
        loss = F.cross_entropy(model(inputs), labels, label_smoothing=settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
    return model


def captured(
    model: nn.Sequential, settings: Settings, *, most_together: int = 1
) -> tuple[CapturedStep, Optimizer]:
    optimizer = make_optimizer(model, settings)
    step = CapturedStep(
        model,
        optimizer,
        PREPROCESSING,
        settings,
        images().flatten(1),
        dtype=torch.float32,
        most_together=most_together,
    )
    return step, optimizer


@pytest.mark.parametrize("optimizer", ["paper", "sgd", "adamw"])
@pytest.mark.parametrize(
    ("changes", "frozen"),
    [
        ({}, False),
        ({"clip_norm": 0.5}, False),
        ({}, True),
        ({"min_crop_scale": 0.6, "label_smoothing": 0.1}, False),
    ],
)
def test_steps_are_those_of_the_training_loop(
    optimizer: Any, changes: dict[str, Any], frozen: bool
) -> None:
    settings = replace(SETTINGS, optimizer=optimizer, **changes)
    batches = [[4, 1, 3, 0], [2, 0, 1, 4], [3, 2]]  # the last one is smaller
    model = network(frozen=frozen)
    step, updates = captured(model, settings)
    for seed, batch in enumerate(batches):
        indices = np.array(batch)
        set_learning_rates(updates, settings.lr / (1 + seed), settings)
        loss, norm = step(
            indices, sample_augment(settings, PREPROCESSING, 1, indices), indices % 3, seed
        ).read()
        assert np.isfinite(loss)
        assert norm > 0
    reference = reference_steps(settings, batches, frozen=frozen)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


def test_a_step_that_is_not_finite_leaves_the_weights() -> None:
    model = network()
    step, _ = captured(model, SETTINGS)
    before = copy.deepcopy(model.state_dict())
    params = sample_augment(SETTINGS, PREPROCESSING, 1, INDICES)
    bad = AugmentParams(
        params.top, params.left, params.flip, params.zoom, np.full_like(params.shift, np.nan)
    )
    with np.errstate(invalid="ignore"):
        loss, _ = step(INDICES, bad, INDICES % 3, seed=0).read()
    assert not np.isfinite(loss)
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    loss, _ = step(INDICES, params, INDICES % 3, seed=0).read()
    assert np.isfinite(loss)
    assert not torch.equal(model.state_dict()["fc2.weight"], before["fc2.weight"])


def test_a_copy_computes_and_has_the_new_weights() -> None:
    model = network()
    optimizer = make_optimizer(model, SETTINGS)
    step = CapturedStep(
        model, optimizer, PREPROCESSING, SETTINGS, images().flatten(1), dtype=torch.float16
    )
    loss, _ = step(
        INDICES, sample_augment(SETTINGS, PREPROCESSING, 1, INDICES), INDICES % 3, seed=0
    ).read()
    assert np.isfinite(loss)
    own, other = (m.get_parameter("conv1.weight") for m in (model, step.copy))
    assert own.dtype == torch.float32
    assert torch.equal(other, own.half())


def test_what_cannot_be_captured() -> None:
    model = network()
    for name in ("paper", "sgd", "adamw"):
        settings = replace(SETTINGS, optimizer=name, min_crop_scale=0.5)
        assert obstacle(model, make_optimizer(model, settings), settings) is None
    settings = replace(SETTINGS, optimizer="lars")
    assert "lars has no kernel" in str(obstacle(model, make_lars(model, settings), settings))
    settings = replace(SETTINGS, optimizer="sgd", momentum=0.0)
    assert "no kernel" in str(obstacle(model, make_optimizer(model, settings), settings))
    model.append(nn.BatchNorm1d(3))
    paper = make_optimizer(network(), SETTINGS)
    assert "batch normalisation" in str(obstacle(model, paper, SETTINGS))


# The graph.


class Replay:
    """A substitute for a CUDA graph: a replay runs its steps, and then `after`."""

    def __init__(self, step: CapturedStep, steps: int, after: Callable[[], object]) -> None:
        self.step, self.steps, self.after, self.count = step, steps, after, 0

    def replay(self) -> None:
        self.count += 1
        self.step._compute_steps(self.steps)
        self.after()


Made = dict[int, Replay]


def with_graph(
    after: Callable[[CapturedStep], object] = lambda _: None, *, together: int = 1
) -> tuple[CapturedStep, list[str], Made]:
    """Make a step that uses graphs as on a GPU; return it, its warnings and the substitutes.

    A replay takes so long that so many steps are captured `together`.
    """
    step, _ = captured(network(), SETTINGS, most_together=together)
    warnings: list[str] = []
    made: Made = {}

    def make(steps: int) -> Any:
        made[steps] = Replay(step, steps, partial(after, step))
        return made[steps]

    step.uses_graph, step.warn = True, warnings.append
    step._capture = make  # type: ignore[method-assign]
    seconds = capture_module.LAUNCH_SECONDS / (together + 0.5)
    step._seconds = lambda graph: seconds  # type: ignore[method-assign]
    return step, warnings, made


def run_once(step: CapturedStep, seed: int = 0) -> tuple[float, float]:
    return enqueue(step, seed).read()


def enqueue(step: CapturedStep, seed: int, indices: Indices = INDICES) -> QueuedStep:
    params = sample_augment(SETTINGS, PREPROCESSING, 1 + seed, indices)
    return step(indices, params, indices % 3, seed)


def test_a_graph_that_computes_the_step_is_replayed() -> None:
    step, warnings, made = with_graph()
    reference, _ = captured(network(), SETTINGS)
    for seed in (0, 1):
        assert run_once(step, seed) == run_once(reference, seed)
    assert made[1].count == 3, "one to compare, and one for each step"
    assert not warnings
    ours, others = (made.network.state_dict() for made in (step, reference))
    assert all(torch.equal(ours[name], others[name]) for name in ours)


@pytest.mark.fault(35)
def test_a_graph_that_computes_something_else_is_not_used() -> None:
    step, warnings, made = with_graph(lambda step: step.results[0, 1].mul_(1.01))
    reference, _ = captured(network(), SETTINGS)
    for seed in (0, 1):
        assert run_once(step, seed) == run_once(reference, seed)
    assert made[1].count == 1
    assert len(warnings) == 1
    assert warnings[0].startswith(
        "steps are not replayed from a CUDA graph: loss and gradient norm are "
    )


def test_a_graph_that_does_not_read_the_buffers_is_not_used() -> None:
    """A graph with the addresses of other tensors always replays the same results."""
    step, warnings, _ = with_graph(lambda step: step.results.fill_(1.0))
    run_once(step)
    assert not step.uses_graph
    assert len(warnings) == 1


def test_a_step_that_cannot_be_captured_runs_its_operations() -> None:
    step, warnings, _ = with_graph()

    def refuse(steps: int) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    step._capture = refuse  # type: ignore[method-assign]
    reference, _ = captured(network(), SETTINGS)
    assert run_once(step) == run_once(reference)
    assert len(warnings) == 1
    assert warnings[0].endswith("CUDA graph: operation not permitted when stream is capturing")


def test_a_graph_that_cannot_be_replayed_leaves_the_batch_unchanged() -> None:
    def refuse(_: CapturedStep) -> None:
        raise RuntimeError("an illegal instruction")

    step, warnings, _ = with_graph(refuse)
    reference, _ = captured(network(), SETTINGS)
    assert run_once(step) == run_once(reference)
    assert warnings[0].endswith("an illegal instruction")


@pytest.mark.parametrize("optimizer", ["paper", "adamw"])
def test_comparing_graphs_changes_no_weight_and_no_state(optimizer: Any) -> None:
    settings = replace(SETTINGS, optimizer=optimizer)
    step, updates = captured(network(), settings, most_together=3)
    step._capture = lambda steps: Replay(step, steps, lambda: None)  # type: ignore[assignment,method-assign,return-value]
    step._seconds = lambda graph: 1e-6  # type: ignore[method-assign]
    before = copy.deepcopy((step.network.state_dict(), updates.state_dict()["state"]))
    params = sample_augment(SETTINGS, PREPROCESSING, 1, INDICES)
    drawn = drawn_step(params, INDICES, INDICES % 3, 0, PREPROCESSING.size, CROP)
    step._capture_graphs(drawn, step.update.next_rates())
    assert step.queue.together == 3
    assert all(torch.equal(now, before[0][name]) for name, now in step.network.state_dict().items())
    for number, state in updates.state_dict()["state"].items():
        for key, value in state.items():
            assert torch.equal(value, before[1][number][key])


@pytest.mark.slow
def test_other_settings_are_captured_again() -> None:
    step, _, made = with_graph()
    run_once(step)
    step.use_settings(replace(SETTINGS))
    run_once(step)
    assert made[1].count == 3
    step.use_settings(replace(SETTINGS, label_smoothing=0.1))
    run_once(step)
    assert made[1].count == 2, "captured and compared again"


# Several steps in one graph, and a GPU that is slower than the host.

BATCHES = [np.array(batch) for batch in ([4, 1, 3, 0], [2, 0, 1, 4], [0, 3, 2, 1], [1, 2, 4, 3])]


def run_all(step: CapturedStep, count: int, small: int | None = None) -> list[tuple[float, float]]:
    """Make steps and read their results at the end; that of number `small` has two images."""
    results = []
    for number in range(count):
        indices = BATCHES[number % len(BATCHES)]
        results.append(enqueue(step, number, indices[: 2 if number == small else None]))
    step.queue.flush()
    return [result.read() for result in results]


def assert_same_weights(one: CapturedStep, other: CapturedStep) -> None:
    ours, others = (made.network.state_dict() for made in (one, other))
    assert all(torch.equal(ours[name], others[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "small"), [(5, None), (5, 1), (4, 3)])
def test_several_steps_in_one_graph_are_the_same_steps(count: int, small: int | None) -> None:
    """A rest that fills no graph, and smaller batches, are made one by one."""
    step, warnings, made = with_graph(together=2)
    reference, _ = captured(network(), SETTINGS)
    assert run_all(step, count, small) == run_all(reference, count, small)
    assert_same_weights(step, reference)
    assert not warnings
    assert made[2].count == 1 + {(5, None): 2, (5, 1): 1, (4, 3): 1}[count, small]


def test_only_short_steps_are_put_together() -> None:
    step, _, made = with_graph(together=4)
    step._seconds = lambda graph: capture_module.LAUNCH_SECONDS  # type: ignore[method-assign]
    run_once(step)
    assert set(made) == {1}
    assert step.queue.together == 1


def test_several_steps_that_cannot_be_captured_are_made_one_by_one() -> None:
    step, warnings, made = with_graph(lambda step: step.results[1].mul_(2), together=2)
    reference, _ = captured(network(), SETTINGS)
    assert run_all(step, 2) == run_all(reference, 2)
    assert made[1].count == 1 + 2
    assert warnings[0].startswith("several steps are not replayed from a CUDA graph: ")


class SlowGpu:
    """Does nothing until it is waited for: then all that was begun before the event."""

    def __init__(self) -> None:
        self.begun: list[Callable[[], object]] = []
        self.waits = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def launch(step: CapturedStep, launch: Launch) -> Event:
            return self.launch(step, launch)

        monkeypatch.setattr(CapturedStep, "_launch", launch)

    def launch(self, step: CapturedStep, launch: Launch) -> Event:
        self.begun.append(partial(LAUNCH, step, launch))
        return SlowEvent(self, len(self.begun))


@dataclass
class SlowEvent:
    """The end of the first `earlier` launches."""

    gpu: SlowGpu
    earlier: int
    over: bool = False

    def query(self) -> bool:
        return self.over

    def synchronize(self) -> None:
        self.gpu.waits += 1
        for number in range(self.earlier):
            work, self.gpu.begun[number] = self.gpu.begun[number], lambda: None
            work()
        self.over = True


LAUNCH = CapturedStep._launch


@pytest.mark.slow
@pytest.mark.parametrize(("together", "count"), [(1, 5), (2, 9)])
def test_a_slow_gpu_never_sees_the_inputs_of_another_step(
    together: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, _ = captured(network(), SETTINGS)
    expected = run_all(reference, count)
    gpu = SlowGpu()
    gpu.install(monkeypatch)
    step, _, _ = with_graph(together=together)
    assert run_all(step, count) == expected
    assert_same_weights(step, reference)
    assert len(gpu.begun) == -(-count // together)


def test_a_buffer_that_is_not_waited_for_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above fails for a queue with one buffer that is overwritten at once."""
    reference, _ = captured(network(), SETTINGS)
    expected = run_all(reference, 3)
    gpu = SlowGpu()
    gpu.install(monkeypatch)
    monkeypatch.setattr(step_queue, "LANES", 1)
    step, _, _ = with_graph()
    add = StepQueue.add

    def overwrite(queue: StepQueue, *arguments: Any) -> QueuedStep:
        queue._launches = [None]
        return add(queue, *arguments)

    monkeypatch.setattr(StepQueue, "add", overwrite)
    assert run_all(step, 3) != expected


def test_the_host_waits_only_when_all_buffers_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SlowGpu()
    gpu.install(monkeypatch)
    step, _, _ = with_graph(together=2)
    results = [enqueue(step, number) for number in range(2 * step_queue.LANES)]
    assert gpu.waits == 0
    assert not any(result.is_ready() for result in results)
    results.append(enqueue(step, 7))
    assert gpu.waits == 1
    assert [result.is_ready() for result in results] == [True] * 2 + [False] * 5
    results[-1].read()
    assert len(gpu.begun) == 1 + step_queue.LANES, "a result that is read is computed"


def test_a_row_holds_what_a_step_takes() -> None:
    layout = RowLayout(images=3, parameters=2)
    row = torch.zeros(layout.bytes, dtype=torch.uint8)
    parts = layout.views(row)
    assert all(part.data_ptr() % 16 == row.data_ptr() % 16 for part in parts)
    params = sample_augment(SETTINGS, PREPROCESSING, 1, INDICES[:2])
    drawn = drawn_step(params, INDICES[:2], np.array([7, 2**40]), 2**62, PREPROCESSING.size, CROP)
    rates = np.arange(2 * FACTORS, dtype=np.float32).reshape(2, FACTORS)
    parts.write(drawn, rates)
    for part, expected in zip(
        layout.views(row.clone()), (*drawn[:4], 2**62, rates, 1), strict=True
    ):
        count = 2 if len(part) == 3 else len(part)
        np.testing.assert_array_equal(part[:count].numpy(), expected)


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
    algorithm = ConvAlgorithm()
    return GpuNetwork(rows, cuda_blocks, DEVICE.type, lambda _x, _conv: algorithm)


@pytest.fixture
def fit(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setitem(registry.MODELS, "tiny", tiny)
    if DEVICE.type == "cpu":  # the interpreter's time is per program, not per pixel
        monkeypatch.setattr(fused, "POSITIONS", 1024)
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


def read_losses(run: Path) -> list[float]:
    """Return the loss of each step, which log_steps=1 writes."""
    return [row["train_loss"] for row in Run.open(run).metrics() if row.get("kind") != "epoch"]


def replay_several(monkeypatch: pytest.MonkeyPatch, together: int) -> list[Replay]:
    """Let captured steps use substitutes for graphs, of so many steps; list those."""
    made: list[Replay] = []

    def make(step: CapturedStep, steps: int) -> Any:
        made.append(Replay(step, steps, lambda: None))
        return made[-1]

    prepare = TrainingStep._prepare

    def prepare_with_graphs(step: TrainingStep, images: DeviceBatch) -> CapturedStep:
        prepared = prepare(step, images)
        prepared.uses_graph = True
        return prepared

    seconds = capture_module.LAUNCH_SECONDS / (together + 0.5)
    monkeypatch.setattr(CapturedStep, "_capture", make)
    monkeypatch.setattr(CapturedStep, "_seconds", lambda step, graph: seconds)
    monkeypatch.setattr(TrainingStep, "_prepare", prepare_with_graphs)
    return made


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
    reference = fit(tmp_path / "reference", TRAINING, accelerate=with_reference_dropout)
    ours = fit(tmp_path / "ours", TRAINING, accelerate=accelerate_for_gpu)
    assert made == ["partial", "TrainingStep"]
    assert ours.train_loss == pytest.approx(reference.train_loss, rel=1e-5)
    assert ours.val_loss == pytest.approx(reference.val_loss, rel=1e-4)
    one, other = weights(tmp_path / "reference"), weights(tmp_path / "ours")
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", "2012", "small", "cifar10"])
def test_recipes_make_the_losses_of_the_reference(
    fit: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each with its optimiser, crops, colours and smoothing; two steps in a graph."""
    cache_images("device", "rgb", monkeypatch)
    settings = replace(
        recipe(name), model="tiny", epochs=1, batch_size=7, precision="float32", log_steps=1,
        init="he", layer_decay={}, layer_lr={}, overrides=(), drop_epochs=(), lr=0.002,
    )  # fmt: skip
    fit(tmp_path / "reference", settings, accelerate=with_reference_dropout)
    made = replay_several(monkeypatch, 2)
    fit(tmp_path / "ours", settings, accelerate=accelerate_for_gpu)
    assert [each.steps for each in made] == [1, 2]
    ours = read_losses(tmp_path / "ours")
    assert len(ours) == 6
    assert ours == pytest.approx(read_losses(tmp_path / "reference"), rel=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("together", [2, 3])
def test_a_training_does_not_depend_on_how_many_steps_a_graph_has(
    fit: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """A stop in the middle of a graph's steps, a checkpoint and lines of metrics included."""
    cache_images("device", "rgb", monkeypatch)
    settings = replace(TRAINING, epochs=2, batch_size=7, log_steps=1, checkpoint_steps=3)
    fit(tmp_path / "whole", settings, accelerate=accelerate_for_gpu)
    made = replay_several(monkeypatch, together)
    with monkeypatch.context() as patch:
        patch.setattr(train, "make_step", after_step(stop_in(5)))
        with pytest.raises(Interrupted):
            fit(tmp_path / "stopped", settings, accelerate=accelerate_for_gpu)
    assert checkpoint_store.load(tmp_path / "stopped", "last").position.step == 5
    fit(tmp_path / "stopped", resume=True, accelerate=accelerate_for_gpu)
    assert {each.steps for each in made} == {1, together}
    assert sum(each.count for each in made if each.steps == together) > 2
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert read_losses(tmp_path / "whole") == read_losses(tmp_path / "stopped")


def stop_in(number: int) -> Callable[[TrainState, int, Indices], None]:
    """Send SIGINT to this process in a step, as Ctrl-C does."""

    def stop(state: TrainState, step: int, indices: Indices) -> None:
        if step == number:
            os.kill(os.getpid(), signal.SIGINT)

    return stop


def test_steps_are_drawn_ahead_as_one_by_one(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the middle of an epoch, in several draws, with crops that blocks of images share."""
    monkeypatch.setattr(inputs, "DRAWN_IMAGES", 10)
    settings = replace(SETTINGS, crop_block=4, min_crop_scale=0.5, batch_size=5)
    split = Dataset(tiny_data).split("train")
    order = randomness.order(settings.seed, 3, len(split))
    batches = [order[start : start + 5] for start in range(10, len(split), 5)]
    state = SimpleNamespace(
        settings=settings, epoch_settings=settings, preprocessing=PREPROCESSING, train=split,
        epoch_batches=batches, position=Position(epoch=3, step=17, images=10),
    )  # fmt: skip
    drawn = list(draw_ahead(state, all_stored=True))  # type: ignore[arg-type]
    assert len(drawn) == len(batches)
    for number, (batch, ours) in enumerate(zip(batches, drawn, strict=True)):
        params = sample_augment(settings, PREPROCESSING, 3, batch, 10 + 5 * number)
        seed = randomness.step_seed(settings.seed, 18 + number)
        labels = split.labels[batch]
        expected = drawn_step(params, batch, labels, seed, PREPROCESSING.size, CROP)
        for part, values in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(part, values)
    alone = list(draw_ahead(state, all_stored=False))  # type: ignore[arg-type]
    assert [step.crops[:, 0].tolist() for step in alone] == [[*range(len(b))] for b in batches]


@pytest.mark.slow
def test_a_stopped_training_continues_to_the_same_bits(
    fit: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tmp_path / "whole", TRAINING, accelerate=accelerate_for_gpu)

    def stop(state: TrainState, step: Step) -> Step:
        def stopping(indices: Indices, images: DeviceBatch) -> tuple[Tensor, Tensor] | StepResult:
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
    settings = replace(TRAINING, optimizer="lars", epochs=1)
    fit(tmp_path / "run", settings, accelerate=accelerate_for_gpu, progress=recorder)
    message = "steps are not captured as a CUDA graph: the optimizer lars has no kernel"
    assert message in recorder.notes
