"""Whole training steps as a GPU makes them: recorded once, then replayed.

Without a GPU a step runs unrecorded, its kernels in Triton's interpreter; what records it and looks
at the recording is tried with a stand-in.
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
from test_kernels_cuda import CROP, DEVICE, NUMBERS, PREPROCESSING, images  # before Triton
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet import train
from alexnet.config import Settings
from alexnet.errors import DivergedError, Interrupted
from alexnet.kernels.accelerated import AcceleratedNetwork
from alexnet.kernels.convolutions import cpu_forms
from alexnet.kernels.cuda import blocks as cuda_blocks
from alexnet.kernels.cuda import norm_kernels as cuda_norm
from alexnet.kernels.cuda.capture import record
from alexnet.kernels.cuda.captured_step import CapturedStep, obstacle
from alexnet.networks import registry as model
from alexnet.networks.layers import Input, LocalResponseNorm
from alexnet.optim import PaperSGD, make_optimizer, set_learning_rates
from alexnet.storage import checkpoint
from alexnet.train.image_cache import CacheLocation, CachePlan, Images, PixelFormat
from alexnet.train.state import Job, Steps
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


def network() -> nn.Sequential:
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
    return nn.Sequential(layers).to(DEVICE)


def plain_steps(settings: Settings, batches: list[list[int]]) -> nn.Sequential:
    """Train as the plain loop does."""
    model = network()
    optimizer = make_optimizer(model, settings)
    for seed, batch in enumerate(batches):
        numbers = np.array(batch)
        set_learning_rates(optimizer, settings.lr / (1 + seed), settings)
        draws = sample_augment(settings, PREPROCESSING, 1, numbers)
        inputs = augment(images()[torch.from_numpy(numbers)], draws, PREPROCESSING, settings)
        torch.manual_seed(seed)
        loss = F.cross_entropy(model(inputs), torch.from_numpy(numbers % 3).to(DEVICE))
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


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_steps_are_those_of_the_plain_loop(clip_norm: float) -> None:
    settings = replace(SETTINGS, clip_norm=clip_norm)
    batches = [[4, 1, 3, 0], [2, 0, 1, 4], [3, 2]]  # the last one is smaller
    model = network()
    step, optimizer = captured(model, settings)
    for seed, batch in enumerate(batches):
        numbers = np.array(batch)
        set_learning_rates(optimizer, settings.lr / (1 + seed), settings)
        loss, norm = step(
            numbers, sample_augment(settings, PREPROCESSING, 1, numbers), numbers % 3, seed
        )
        assert loss.isfinite()
        assert norm > 0
    for ours, plain in zip(
        model.parameters(), plain_steps(settings, batches).parameters(), strict=True
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def test_a_step_that_is_not_finite_leaves_the_weights() -> None:
    model = network()
    step, _ = captured(model, SETTINGS)
    before = copy.deepcopy(model.state_dict())
    draws = sample_augment(SETTINGS, PREPROCESSING, 1, NUMBERS)
    bad = AugmentParams(
        draws.top, draws.left, draws.flip, draws.zoom, np.full_like(draws.shift, np.nan)
    )
    with np.errstate(invalid="ignore"):
        loss, _ = step(NUMBERS, bad, NUMBERS % 3, seed=0)
    assert not loss.isfinite()
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    loss, _ = step(NUMBERS, draws, NUMBERS % 3, seed=0)
    assert loss.isfinite()
    assert not torch.equal(model.state_dict()["fc2.weight"], before["fc2.weight"])


def test_a_copy_computes_and_follows_the_weights() -> None:
    model = network()
    optimizer = make_optimizer(model, SETTINGS)
    assert isinstance(optimizer, PaperSGD)
    step = CapturedStep(
        model, optimizer, PREPROCESSING, SETTINGS, images().flatten(1), dtype=torch.float16
    )
    loss, _ = step(
        NUMBERS, sample_augment(SETTINGS, PREPROCESSING, 1, NUMBERS), NUMBERS % 3, seed=0
    )
    assert loss.isfinite()
    own, other = (m.get_parameter("conv1.weight") for m in (model, step.copy))
    assert own.dtype == torch.float32
    assert torch.equal(other, own.half())


def test_what_cannot_be_recorded() -> None:
    model = network()
    paper = make_optimizer(model, SETTINGS)
    assert obstacle(model, paper, SETTINGS) is None
    adam = make_optimizer(model, replace(SETTINGS, optimizer="adamw"))
    assert "adamw" in str(obstacle(model, adam, replace(SETTINGS, optimizer="adamw")))
    assert "min_crop_scale" in str(obstacle(model, paper, replace(SETTINGS, min_crop_scale=0.5)))
    model.append(nn.BatchNorm1d(3))
    assert "batch normalisation" in str(obstacle(model, paper, SETTINGS))


# The recording.


class Replay:
    """Stands in for a CUDA graph: replays the step itself, and then does what is asked for."""

    def __init__(self, step: CapturedStep, after: Callable[[], object]) -> None:
        self.step, self.after, self.count = step, after, 0

    def replay(self) -> None:
        self.count += 1
        self.step._work(len(self.step.buffers.labels))
        self.after()


def recording(after: Callable[[CapturedStep], object]) -> tuple[CapturedStep, list[str], Replay]:
    """Make a step that believes to be on a GPU, its notes, and what stands for the recording."""
    step, _ = captured(network(), SETTINGS)
    notes: list[str] = []
    replay = Replay(step, partial(after, step))
    step.records, step.tell = True, notes.append
    step._record = lambda: replay  # type: ignore[assignment,method-assign,return-value]
    return step, notes, replay


def run_once(step: CapturedStep, seed: int = 0) -> Tensor:
    draws = sample_augment(SETTINGS, PREPROCESSING, 1, NUMBERS)
    return step(NUMBERS, draws, NUMBERS % 3, seed)[0].clone()


def test_a_recording_that_computes_the_step_is_replayed() -> None:
    step, notes, replay = recording(lambda _: None)
    plain, _ = captured(network(), SETTINGS)
    for seed in (0, 1):
        assert torch.equal(run_once(step, seed), run_once(plain, seed))
    assert replay.count == 3, "one to compare, and one for each step"
    assert not notes
    ours, others = (made.network.state_dict() for made in (step, plain))
    assert all(torch.equal(ours[name], others[name]) for name in ours)


@pytest.mark.fault(35)
def test_a_recording_that_computes_something_else_is_not_used() -> None:
    step, notes, replay = recording(lambda step: step.buffers.norm.mul_(1.01))
    plain, _ = captured(network(), SETTINGS)
    for seed in (0, 1):
        assert torch.equal(run_once(step, seed), run_once(plain, seed))
    assert replay.count == 1
    assert len(notes) == 1
    assert notes[0].startswith("steps are not replayed from a recording, but made anew: loss and ")


def test_a_recording_that_sees_only_what_it_was_made_with_is_not_used() -> None:
    """A graph that holds addresses of other tensors replays the same figures for ever."""
    step, notes, replay = recording(lambda _: None)
    first: list[Tensor] = []

    def stale(step: CapturedStep) -> None:
        first[:] = first or [torch.tensor(1.0)]
        step.buffers.loss.copy_(first[0])

    replay.after = partial(stale, step)
    run_once(step)
    assert not step.records
    assert len(notes) == 1


def test_a_step_that_cannot_be_recorded_is_made_anew() -> None:
    step, notes, _ = recording(lambda _: None)

    def refuse() -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    step._record = refuse  # type: ignore[method-assign]
    plain, _ = captured(network(), SETTINGS)
    assert torch.equal(run_once(step), run_once(plain))
    assert len(notes) == 1
    assert notes[0].endswith("made anew: operation not permitted when stream is capturing")


def test_a_recording_that_cannot_be_replayed_leaves_the_batch_as_it_was() -> None:
    def refuse(_: CapturedStep) -> None:
        raise RuntimeError("an illegal instruction")

    step, notes, _ = recording(refuse)
    plain, _ = captured(network(), SETTINGS)
    assert torch.equal(run_once(step), run_once(plain))
    assert notes[0].endswith("an illegal instruction")


def test_comparing_a_recording_changes_no_weight() -> None:
    step, _, replay = recording(lambda _: None)
    before = copy.deepcopy(step.network.state_dict())
    step.update.set_rates()
    assert step._recording() is not None
    assert replay.count == 1
    assert all(torch.equal(now, before[name]) for name, now in step.network.state_dict().items())


def test_other_settings_are_recorded_anew() -> None:
    step, _, replay = recording(lambda _: None)
    run_once(step)
    step.change(SETTINGS)
    run_once(step)
    assert replay.count == 3
    step.change(replace(SETTINGS, label_smoothing=0.1))
    run_once(step)
    assert replay.count == 5, "compared again"


# A whole training on this path.

TRAINING = Settings(
    model="tiny", optimizer="paper", epochs=2, batch_size=13, lr=0.002, weight_decay=0.01,
    schedule="cosine", init="he", dropout=0.3, precision="float32", log_steps=2,
    later=("2:label_smoothing=0.1",),
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
    """The fast form for a GPU, on whatever device it is."""

    def record(self, job: Job) -> Steps | None:
        return record(job, gpu_form)


def gpu_form(net: nn.Sequential) -> GpuNetwork:
    rows = OrderedDict(net.named_children())
    return GpuNetwork(rows, cuda_blocks, DEVICE.type, cpu_forms)


@pytest.fixture
def fit(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setitem(model.MODELS, "tiny", tiny)
    if DEVICE.type == "cpu":  # the interpreter takes long for each program, not for each pixel
        monkeypatch.setattr(cuda_norm, "PIXELS", 1024)
    return partial(train.train_model, tiny_data, device=str(DEVICE))


def keep_images(
    place: CacheLocation, pixel_format: PixelFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(split: Any, device: torch.device, *_: object, **__: object) -> Images:
        return Images(split, device, CachePlan(place, pixel_format, 0))

    monkeypatch.setattr("alexnet.train.state.open_images", opened)


def weights(run: Path) -> dict[str, Tensor]:
    return checkpoint.load(run, "last").tensors


@pytest.mark.parametrize(
    ("place", "form"), [("device", "rgb"), ("device", "yuv420"), ("host", "rgb"), ("none", "rgb")]
)
def test_a_training_ends_as_the_plain_one(
    fit: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Any,
    pixel_format: Any,
) -> None:
    """Wherever images are kept: same order, windows, colours, dropout, rates, velocities."""
    keep_images(place, pixel_format, monkeypatch)
    made: list[type] = []
    original = train._go_to_start

    def going(job: Job) -> None:
        original(job)
        made.append(type(job.steps))

    monkeypatch.setattr(train, "_go_to_start", going)
    plain = fit(tmp_path / "plain", TRAINING)
    ours = fit(tmp_path / "ours", TRAINING, accelerate=gpu_form)
    assert [kind.__name__ for kind in made] == ["PlainSteps", "RecordedSteps"]
    assert ours.train_loss == pytest.approx(plain.train_loss, rel=1e-5)
    assert ours.val_loss == pytest.approx(plain.val_loss, rel=1e-4)
    one, other = weights(tmp_path / "plain"), weights(tmp_path / "ours")
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_stopped_training_goes_on_to_the_same_bits(
    fit: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tmp_path / "whole", TRAINING, accelerate=gpu_form)
    original = train._step

    def stopping(job: Job, *arguments: Any) -> None:
        original(job, *arguments)
        if job.position.step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(train, "_step", stopping)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        fit(tmp_path / "stopped", replace(TRAINING, checkpoint_steps=2), accelerate=gpu_form)
    monkeypatch.setattr(train, "_step", original)
    fit(tmp_path / "stopped", resume=True, accelerate=gpu_form)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_numbers_that_are_not_finite_end_it_with_whole_weights(
    fit: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(DivergedError, match="in step"), np.errstate(all="ignore"):
        fit(tmp_path / "run", replace(TRAINING, lr=1e30, init="model"), accelerate=gpu_form)


def test_what_cannot_be_recorded_is_trained_all_the_same(
    fit: Callable[..., Any], tmp_path: Path
) -> None:
    recorder = Recorder()
    settings = replace(TRAINING, optimizer="adamw", epochs=1)
    fit(tmp_path / "run", settings, accelerate=gpu_form, progress=recorder)
    said = "steps are made one operation after the other: the update rule adamw has no kernel"
    assert any(note.startswith(said) for note in recorder.notes)
