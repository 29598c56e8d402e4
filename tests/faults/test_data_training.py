"""A data set that changes while a network is trained on it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from data_makers import Recorder
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from alexnet.doctor import diagnose
from alexnet.errors import DataError
from alexnet.storage import checkpoint_store
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
