"""Training from another run's weights: what comes with them, and layers that do not learn."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Stripes
from data_makers import Recorder

from alexnet.config import Override, Settings
from alexnet.dataset import Dataset
from alexnet.errors import CheckpointError, UsageError
from alexnet.kernels import accelerate
from alexnet.kernels.cpu.blocks import CpuBlock
from alexnet.optim import make_optimizer
from alexnet.prepare import prepare_dataset
from alexnet.storage import checkpoint_store
from alexnet.storage.run import Run
from alexnet.train import train_model
from alexnet.train.initial_weights import freeze, shifted_mean
from alexnet.transforms import Preprocessing

FROZEN = dataclasses.replace(TINY, epochs=1, layer_lr={"conv1": 0.0, "conv2": 0.0})


class Pale(Stripes):
    """The same stripes, much brighter: their mean image is another one."""

    def read(self, item: Any) -> Any:
        return 150 + super().read(item) // 3


@pytest.fixture(scope="module")
def pale(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pale") / "data"
    prepare_dataset(Pale(), out, size=32, workers=1)
    return out


@pytest.fixture(scope="module")
def tuned(pale: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the pale images from the weights of the tiny run, convolutions frozen."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    train_model(pale, run, FROZEN, init=tiny_run, device="cpu")
    return run


# The preprocessing of the weights stays with them.


def test_frozen_layers_compute_the_same_of_an_image_as_before(
    tuned: Path, tiny_run: Path, pale: Path
) -> None:
    pixels = Dataset(pale).split("val").read(np.arange(4))
    answers = []
    for run in (Run.open(tiny_run), Run.open(tuned)):
        crops = torch.from_numpy(np.array(pixels[:, 4:28, 4:28])).permute(0, 3, 1, 2).float()
        model = run.load_model()
        convolutions = model[: list(dict(model.named_children())).index("local3")]
        answers.append(convolutions(crops - run.preprocessing.mean).detach())
    assert answers[0].abs().max() > 0.1
    assert torch.equal(*answers)


def test_the_run_says_whose_mean_image_it_subtracts(
    tiny_run: Path, pale: Path, tmp_path: Path
) -> None:
    recorder = Recorder()
    train_model(pale, tmp_path / "run", FROZEN, init=tiny_run, device="cpu", progress=recorder)
    assert any("its mean image is subtracted too, not that of these" in n for n in recorder.notes)
    run, source = Run.open(tmp_path / "run"), Run.open(tiny_run)
    assert run.info["mean_image_of"] == str(tiny_run)
    assert torch.equal(run.preprocessing.mean_image, source.preprocessing.mean_image)
    # The colour jitter belongs to the new images.
    assert run.preprocessing.color_std == pytest.approx(list(Dataset(pale).color_std))
    assert run.preprocessing.color_std != source.preprocessing.color_std


@pytest.mark.parametrize(("size", "crop"), [(32, 24), (31, 24), (24, 24), (33, 24), (40, 24)])
def test_the_centre_of_the_mean_image_stays_for_other_sizes(size: int, crop: int) -> None:
    mean = torch.arange(3 * 32 * 32, dtype=torch.float32).view(3, 32, 32)
    vectors = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    source = Preprocessing(32, 24, mean, (0.0, 0.0, 0.0), vectors)
    found = shifted_mean(source, size, crop)
    assert found.shape == (3, size, size)
    start = (size - crop) // 2
    assert torch.equal(found[:, start : start + crop, start : start + crop], source.mean)
    assert set(found.flatten().tolist()) <= set(mean.flatten().tolist())


def test_images_of_another_size_and_shape_are_said(tiny_run: Path, tmp_path: Path) -> None:
    prepare_dataset(Stripes(), tmp_path / "data", size=40, resize="warp", workers=1)
    recorder, run = Recorder(), tmp_path / "run"
    train_model(tmp_path / "data", run, FROZEN, init=tiny_run, device="cpu", progress=recorder)
    assert any("for images of side 40, not 32" in note for note in recorder.notes)
    assert any("of --resize short, these are warp" in note for note in recorder.notes)
    assert torch.equal(Run.open(run).preprocessing.mean, Run.open(tiny_run).preprocessing.mean)


# Frozen layers.


def test_frozen_layers_have_no_gradient_no_update_and_no_state(tuned: Path) -> None:
    names = checkpoint_store.load(tuned, "last").tensors
    optimized = {name.split(".")[1] for name in names if name.startswith("optimizer.")}
    assert optimized == {"local3", "local4", "fc10"}
    model = Run.open(tuned).new_model()
    freeze(model, FROZEN, lambda _: None)
    groups = make_optimizer(model, FROZEN).param_groups
    assert {group["layer"] for group in groups} == optimized
    model(torch.rand(2, 3, 24, 24)).sum().backward()
    learns = {
        name.split(".")[0] for name, each in model.named_parameters() if each.grad is not None
    }
    assert learns == optimized


@pytest.mark.parametrize("optimizer", ["paper", "sgd", "adamw", "lars"])
def test_the_others_learn_as_if_the_frozen_had_only_a_rate_of_zero(
    optimizer: Any, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(FROZEN, optimizer=optimizer, layer_lr={"conv1": 0, "local3": 0})
    train_model(tiny_data, tmp_path / "frozen", settings, device="cpu")
    monkeypatch.setattr("alexnet.train.opening.freeze", lambda *_: None)
    train_model(tiny_data, tmp_path / "rate", settings, device="cpu")
    frozen, rate = (Run.open(tmp_path / name).load_model() for name in ("frozen", "rate"))
    for (name, one), (_, other) in zip(
        frozen.named_parameters(), rate.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize(
    ("frozen", "blocks"), [([], 2), (["conv1"], 1), (["conv1", "conv2"], 0), (["conv2"], 2)]
)
def test_no_backward_pass_runs_below_the_first_layer_that_learns(
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    frozen: list[str],
    blocks: int,
) -> None:
    """The accelerated network has a block after each of its two convolutions."""
    calls: list[object] = []
    original = CpuBlock.backward

    def counted(ctx: Any, *gradients: torch.Tensor) -> object:
        calls.append(ctx)
        return original(ctx, *gradients)

    monkeypatch.setattr(CpuBlock, "backward", staticmethod(counted))
    # float32: "auto" may take steps of its own, to find the fastest precision.
    rates = dict.fromkeys(frozen, 0.0)
    settings = dataclasses.replace(FROZEN, layer_lr=rates, precision="float32")
    report = train_model(tiny_data, tmp_path / "run", settings, device="cpu", accelerate=accelerate)
    assert len(calls) == blocks * report.steps


def test_a_layer_that_learns_later_is_not_frozen() -> None:
    model = torch.nn.Sequential()
    for name in ("one", "two", "three"):
        model.add_module(name, torch.nn.Linear(2, 2))
    settings = Settings(
        layer_lr={"one": 0.0, "two": 0.0}, overrides=(Override(3, "layer_lr", {"one": 0.0}),)
    )
    notes: list[str] = []
    freeze(model, settings, notes.append)
    assert notes == ["frozen, without gradients: one", "at rest until epoch 3: two"]
    assert [each.requires_grad for each in model.parameters()] == [False, False, *[True] * 4]


def test_a_network_without_a_layer_that_learns_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    every = dict.fromkeys(("conv1", "conv2", "local3", "local4", "fc10"), 0.0)
    settings = dataclasses.replace(TINY, layer_lr=every)
    with pytest.raises(
        UsageError, match="no layer would learn: conv1, conv2, local3, local4, fc10"
    ):
        train_model(tiny_data, tmp_path / "run", settings, device="cpu")


# A run directory depends on nothing outside.


@pytest.fixture
def source(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "source"))


def test_a_run_goes_on_after_the_source_of_its_weights_was_moved(
    tiny_data: Path, tmp_path: Path, source: Path
) -> None:
    settings, run = dataclasses.replace(TINY, schedule="steps", epochs=1), tmp_path / "run"
    train_model(tiny_data, run, settings, init=source, device="cpu")
    source.rename(tmp_path / "elsewhere")
    longer = dataclasses.replace(settings, epochs=2)
    report = train_model(tiny_data, run, longer, resume=True, device="cpu")
    assert report.epochs == 2
    whole = train_model(
        tiny_data, tmp_path / "whole", longer, init=tmp_path / "elsewhere", device="cpu"
    )
    assert whole.train_loss == report.train_loss
    again = train_model(tiny_data, run, longer, resume=True, init=source, device="cpu")
    assert again.epochs == 2


def test_without_a_checkpoint_the_moved_source_is_named(
    tiny_data: Path, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("alexnet.train.opening.freeze", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_model(tiny_data, run, TINY, init=source, device="cpu")
    source.rename(tmp_path / "elsewhere")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint yet, and .*source.* without --resume"
    ):
        train_model(tiny_data, run, TINY, resume=True, device="cpu")
    train_model(tiny_data, run, TINY, init=tmp_path / "elsewhere", device="cpu")


def test_other_initial_weights_are_not_ignored_when_a_run_is_resumed(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, source: Path
) -> None:
    with pytest.raises(UsageError, match="was begun with weights of its own: leave out --init"):
        train_model(tiny_data, tiny_run, TINY, resume=True, init=source, device="cpu")


# What is not a run directory.


@pytest.mark.parametrize(
    ("init", "command"),
    [
        ("torchvision", "`alexnet import torchvision runs/torchvision`"),
        ("ImageNet", "such as alexnet.imagenet_convolutions() returns"),
        (
            "https://host/alexnet-owt-7be5be79.pth",
            "download the file, then make one with `alexnet import alexnet-owt-7be5be79.pth runs/",
        ),
        ("my net.pth", "import 'my net.pth' 'runs/my net'` and add --init 'runs/my net'"),
        ("runs/none", "--init takes a run directory, not runs/none: it does not exist"),
    ],
)
def test_weights_that_are_no_run_name_the_command_that_makes_one(
    init: str, command: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my net.pth").write_bytes(b"weights")
    with pytest.raises(CheckpointError) as caught:
        train_model(tiny_data, "run", TINY, init=init, device="cpu")
    assert command in str(caught.value)
    assert not Path("run/run.json").exists()


def test_a_file_of_a_run_names_the_run(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    file = next((tiny_run / "checkpoints").iterdir())
    with pytest.raises(CheckpointError, match=f"--init {tiny_run}, not"):
        train_model(tiny_data, tmp_path / "run", TINY, init=file, device="cpu")
