"""A data set that changes, and checkpoints and folders that are not as usual, in training."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import kill_points
import pytest
import torch
from conftest import TINY, Stripes
from data_makers import Recorder, photo, write_tree
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from alexnet.convert import export_run
from alexnet.doctor import diagnose
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.evaluate import evaluate_run
from alexnet.parallel import TrainingSpec, launch
from alexnet.predict import predict_images
from alexnet.prepare import prepare_dataset
from alexnet.storage import checkpoint_format, checkpoint_store
from alexnet.storage.atomic import sha256_of
from alexnet.train import train_model

# Images that are cached in memory cannot change.
FROM_DISK: dict[str, Any] = {"cache": "none"}


class Damaging(Recorder):
    """Calls `damage` at the end of the first epoch."""

    def __init__(self, damage: Callable[[], object]) -> None:
        super().__init__()
        self.damage = damage

    def note(self, message: str) -> None:
        super().note(message)
        if message.startswith("epoch 1"):
            self.damage()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.fault(27)
@pytest.mark.fault(53)
@pytest.mark.parametrize(
    ("damage", "says"), [(Path.unlink, "No such file"), (cut, "cut off since it was opened")]
)
def test_data_that_vanish_or_break_during_training(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    shard, run = data / "train-00000.npy", tmp_path / "run"
    progress = Damaging(lambda: damage(shard))
    with pytest.raises(DataError, match=rf"train-00000\.npy: {says}") as caught:
        train_model(data, run, TINY, device="cpu", progress=progress, **FROM_DISK)
    assert caught.value.exit_code == 3
    saved = checkpoint_store.load(run, "last")
    assert saved.position.epoch == 2
    assert diagnose(run).sound
    # With the data restored it resumes to the result of an undisturbed training, bit for bit.
    shutil.copy(tiny_data / shard.name, shard)
    train_model(data, run, TINY, device="cpu", resume=True, **FROM_DISK)
    resumed, undisturbed = (checkpoint_store.load(path, "last").tensors for path in (run, tiny_run))
    assert resumed.keys() == undisturbed.keys()
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in resumed)


@pytest.mark.fault(16)
def test_a_checkpoint_with_numbers_that_are_none_is_passed_over(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """The digest of the file is right; a number in it is not finite."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    manifest = json.loads((run / "checkpoints.json").read_text())
    newest = max(manifest["checkpoints"], key=lambda entry: int(entry["step"]))
    path = run / "checkpoints" / newest["file"]
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["model.conv2.bias"][3] = torch.inf
    save_file(tensors, path, metadata=metadata)
    newest |= {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    (run / "checkpoints.json").write_text(json.dumps(manifest))
    train_model(tiny_data, run, TINY, device="cpu", resume=True)
    resumed, whole = (checkpoint_store.load(each, "last").tensors for each in (run, tiny_run))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.fault(16)
def test_no_answer_is_given_with_weights_that_are_none(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Evaluation, prediction and export would else give numbers that look like any others."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    manifest = json.loads((run / "checkpoints.json").read_text())
    for entry in manifest["checkpoints"]:
        path = run / "checkpoints" / entry["file"]
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        tensors["model.conv2.bias"][3] = torch.nan
        save_file(tensors, path, metadata=metadata)
        entry |= {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    (run / "checkpoints.json").write_text(json.dumps(manifest))
    image = write_tree(tmp_path / "in", {"a.jpg": photo(1)}) / "a.jpg"
    for work in (
        lambda: evaluate_run(run, tiny_data, device="cpu"),
        lambda: predict_images([image], run, device="cpu"),
        lambda: export_run(run, tmp_path / "out.safetensors"),
    ):
        with pytest.raises(CheckpointError, match="not finite"):
            work()
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.fault(18)
def test_another_data_set_is_not_resumed_with(tiny_run: Path, tmp_path: Path) -> None:
    """It has the same classes and sizes, but one label less in training."""

    class Fewer(Stripes):
        counts: ClassVar = {"train": 12, "val": 5, "test": 5}

    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    prepare_dataset(Fewer(), tmp_path / "data", size=32, workers=1)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"the data set was .*, is another one"):
        train_model(tmp_path / "data", run, TINY, device="cpu", resume=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def compiled(model: nn.Module) -> nn.Module:
    """Wrap a network as torch.compile does, without a compiler."""
    return cast(nn.Module, torch.compile(model, backend="eager"))


@pytest.mark.fault(37)
def test_a_compiled_network_is_saved_under_its_own_names(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    """It is resumed without the wrapping, and the other way round."""
    one_epoch, run = dataclasses.replace(TINY, epochs=1, schedule="steps"), tmp_path / "run"
    two_epochs = dataclasses.replace(one_epoch, epochs=2)
    expected = checkpoint_store.load(tiny_run, "last").tensors
    train_model(tiny_data, run, one_epoch, device="cpu", accelerate=compiled)
    assert checkpoint_store.load(run, "last").tensors.keys() == expected.keys()
    train_model(tiny_data, run, two_epochs, device="cpu", resume=True)
    assert checkpoint_store.load(run, "last").position.epoch == 3
    longer = dataclasses.replace(one_epoch, epochs=3)
    train_model(tiny_data, run, longer, device="cpu", resume=True, accelerate=compiled)
    assert checkpoint_store.load(run, "last").tensors.keys() == expected.keys()


@pytest.mark.fault(54)
@pytest.mark.parametrize("name", ["two words", "Füße-写真", "two\nlines", "%s {0} 'q'", "l" * 200])
def test_odd_names_of_runs_from_training_to_export(
    tiny_data: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    data, run = Path(shutil.copytree(tiny_data, folder / "d")), folder / "r"
    train_model(data, run, dataclasses.replace(TINY, epochs=1), device="cpu")
    assert evaluate_run(run, data, device="cpu").images == 15
    image = write_tree(folder, {f"{name}.jpg": photo(1)}) / f"{name}.jpg"
    assert [str(found.image) for found in predict_images([image], run, device="cpu")] == [
        str(image)
    ]
    export_run(run, folder / f"{name}.safetensors")
    assert diagnose(run).findings == ()


def list_writers(model: nn.Module) -> nn.Module:
    """Let this rank note its number in a file at every checkpoint that it writes."""

    def save(*arguments: Any, **options: Any) -> None:
        with Path(os.environ["WRITERS"]).open("a", encoding="ascii") as file:
            file.write(os.environ["RANK"] + "\n")
        save_file(*arguments, **options)

    kill_points.replace_attribute(checkpoint_format, "save_file", save)
    return model


@pytest.mark.fault(23)
@pytest.mark.slow
def test_one_rank_alone_writes_checkpoints(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRITERS", str(tmp_path / "writers"))
    settings = dataclasses.replace(TINY, checkpoint_steps=2)
    spec = TrainingSpec(
        "data", tiny_data, tmp_path / "run", settings, device="cpu", accelerate=list_writers
    )
    assert launch(spec, 2).result().epochs == 2
    writers = (tmp_path / "writers").read_text().split()
    assert len(writers) > 3
    assert set(writers) == {"0"}
