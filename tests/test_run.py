"""The run directory opens without being told what is in it, or says why not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from torch import nn

from alexnet.dataset import Dataset
from alexnet.errors import CheckpointError, StorageError, UsageError
from alexnet.progress import Silent
from alexnet.storage import checkpoint_format, checkpoint_store
from alexnet.storage.environment import describe_device
from alexnet.storage.locks import run_lock
from alexnet.storage.run import Run
from alexnet.train import train_model


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A run that a test may harm."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def test_it_carries_what_the_data_set_knows(tiny_run: Path, tiny_data: Path) -> None:
    run, data = Run.open(tiny_run), Dataset(tiny_data)
    mean = torch.from_numpy(np.asarray(data.mean_image)).permute(2, 0, 1)
    assert torch.equal(run.preprocessing.mean_image, mean)
    assert run.preprocessing.color_std == pytest.approx(tuple(data.color_std))
    np.testing.assert_allclose(run.preprocessing.color_vectors, data.color_vectors)
    assert run.info["data"]["fingerprint"] == data.fingerprint
    assert set(run.info["versions"]) >= {"alexnet", "torch", "numpy", "python"}


def test_it_says_what_it_was_made_on_from_the_start(tiny_data: Path, tmp_path: Path) -> None:
    settings = replace(TINY, epochs=1)
    with pytest.raises(ZeroDivisionError):
        train_model(tiny_data, tmp_path / "run", settings, device="cpu", progress=Failing())
    assert Run.open(tmp_path / "run").info["hardware"] == describe_device(torch.device("cpu"))


def test_a_finished_training_names_what_it_was_made_on(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(TINY, epochs=1)
    first = train_model(tiny_data, tmp_path, settings, device="cpu")
    monkeypatch.setattr("alexnet.storage.environment.cpu_name", lambda: "Another CPU")
    again = train_model(tiny_data, tmp_path, resume=True, device="cpu")
    assert (again.device, again.images_per_second) == (first.device, first.images_per_second)
    more = train_model(tiny_data, tmp_path, replace(TINY, epochs=2), resume=True, device="cpu")
    assert more.device.startswith("Another CPU")


class Failing(Silent):
    """Ends a training before its first step."""

    def note(self, message: str) -> None:
        raise ZeroDivisionError(message)


def test_a_tilde_is_the_home_folder(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tiny_run.parent))
    monkeypatch.chdir(tmp_path)
    name = f"~/{tiny_run.name}"
    assert Run.exists(name)
    assert Run.open(name).path == tiny_run
    monkeypatch.setenv("HOME", str(tmp_path))
    Run.create("~/new", Dataset(tiny_data), TINY, 24, {})
    train_model(tiny_data, "~/trained", replace(TINY, epochs=1), init=tiny_run, device="cpu")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "trained"}


def test_a_checkpoint_is_best_or_last_and_any_device_has_a_name(tiny_run: Path) -> None:
    run = Run.open(tiny_run)
    with pytest.raises(UsageError, match="checkpoint is one of best, last, not 'newest'"):
        run.load_model(checkpoint="newest")  # type: ignore[arg-type]
    run.load_model("auto")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("metrics.jsonl", '{"step": 1}', "has metrics.jsonl but no run.json"),
        ("checkpoints.json", "{}", "has checkpoints.json but no run.json"),
        ("run.json", '{"name": "of another program"}', "run.json is of something else"),
        ("run.json", '{"format": "alex', "run.json is of something else"),
        ("lock", "my notes", "lock is a file of something else"),
    ],
)
def test_files_of_something_else_are_not_replaced(
    tiny_data: Path, tmp_path: Path, name: str, content: str, says: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=says):
        train_model(tiny_data, tmp_path, replace(TINY, epochs=1), device="cpu")
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == content


def test_a_run_that_was_begun_and_never_saved_is_begun_again(
    tiny_data: Path, tmp_path: Path
) -> None:
    run = Run.create(tmp_path, Dataset(tiny_data), TINY, 24, {})
    (run.path / "metrics.jsonl").write_text('{"step": 1}')
    (run.path / "lock").touch()  # a killed process left it, before it wrote its name
    train_model(tiny_data, tmp_path, replace(TINY, epochs=1), device="cpu")


def test_it_can_be_moved(copy: Path, tiny_run: Path) -> None:
    x = torch.randn(1, 3, 24, 24)
    assert torch.equal(Run.open(copy).load_model()(x), Run.open(tiny_run).load_model()(x))


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda run: (run / "run.json").unlink(), "has no run.json"),
        (lambda run: (run / "run.json").write_text("{"), "cannot be read as a run"),
        (lambda run: (run / "mean_image.npy").write_bytes(b""), "cannot be read as a run"),
        (lambda run: change(run, version=99), "update it"),
        (lambda run: change(run, format="other"), "is other version"),
        (lambda run: change(run, settings={"warp": 9}), "no setting 'warp'"),
        (lambda run: change(run, preprocessing={}), "cannot be read as a run"),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(copy: Path, harm: object, says: str) -> None:
    harm(copy)  # type: ignore[operator]
    with pytest.raises((CheckpointError, UsageError), match=says) as caught:
        Run.open(copy)
    assert "\n" not in str(caught.value)


def test_an_unknown_resize_is_refused(copy: Path) -> None:
    info = json.loads((copy / "run.json").read_text())
    change(copy, preprocessing=info["preprocessing"] | {"resize": "stretch"})
    with pytest.raises(CheckpointError, match="resize is 'stretch', not short or warp"):
        Run.open(copy)


def change(run: Path, **values: object) -> None:
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | values))


@pytest.mark.fault(12)
def test_a_mean_image_with_code_in_it_is_not_run(copy: Path, tmp_path: Path) -> None:
    np.save(copy / "mean_image.npy", np.array([Bomb(tmp_path / "ran")]), allow_pickle=True)
    with pytest.raises(CheckpointError):
        Run.open(copy)
    assert not (tmp_path / "ran").exists()


class Bomb:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_place_that_cannot_be_written_is_named(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write the run directory"):
        Run.create(tmp_path / "file" / "run", Dataset(tiny_data), TINY, 24, {})
    with (
        pytest.raises(StorageError, match="cannot write the run directory"),
        run_lock(tmp_path / "file" / "run"),
    ):
        pass


def test_loading_draws_no_weights_and_reads_none_of_the_optimiser(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be thrown away at once took half of the time until an answer."""
    read: list[str] = []
    original = checkpoint_format.load_weights

    def looking(model: nn.Module, saved: checkpoint_format.Saved) -> None:
        read.extend(saved.tensors)
        original(model, saved)

    monkeypatch.setattr("alexnet.storage.run.load_weights", looking)
    before = torch.get_rng_state()
    model = Run.open(tiny_run).load_model()
    assert torch.equal(torch.get_rng_state(), before)
    assert set(read) == {f"model.{name}" for name in model.state_dict()}
    assert all(parameter.requires_grad for parameter in model.parameters())
    whole = checkpoint_store.load(tiny_run, "best").tensors
    assert all(torch.equal(t, whole[f"model.{name}"]) for name, t in model.state_dict().items())
