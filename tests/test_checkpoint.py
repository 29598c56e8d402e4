"""Checkpoints: whole or not there, checked when read, two kept beside the best."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from alexnet.errors import CheckpointError, DivergedError, StorageError, UsageError
from alexnet.optim import PaperSGD
from alexnet.storage import checkpoint_format, checkpoint_store
from alexnet.storage.atomic import atomic_write, write_text
from alexnet.storage.checkpoint_format import Position
from alexnet.storage.locks import run_lock


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def trained(folder: Path, errors: list[float]) -> tuple[nn.Sequential, PaperSGD]:
    """Save one checkpoint for each epoch's validation error."""
    (folder / "checkpoints").mkdir()
    model = network()
    optimizer = PaperSGD(model.parameters(), lr=0.1)
    for epoch in range(1, len(errors) + 1):
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        position = Position(epoch=epoch + 1, step=epoch, val_errors=errors[:epoch])
        checkpoint_store.save(folder, model, optimizer, position)
    return model, optimizer


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def name(step: int) -> str:
    return f"step-{step:08d}.safetensors"


def test_what_is_saved_comes_back_exactly(tmp_path: Path) -> None:
    model, optimizer = trained(tmp_path, [0.5])
    saved = checkpoint_store.load(tmp_path, "last")
    assert saved.position == Position(epoch=2, step=1, val_errors=[0.5])
    copy = network()
    again = PaperSGD(copy.parameters(), lr=0.1)
    checkpoint_format.load_weights(copy, saved)
    checkpoint_format.load_optimizer(copy, again, saved)
    for ours, theirs in zip(copy.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(again.state[ours]["velocity"], optimizer.state[theirs]["velocity"])


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_torchs_optimizers_go_on_as_if_never_stopped(tmp_path: Path, kind: str) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        if kind == "sgd":
            return torch.optim.SGD(model.parameters(), 0.1, 0.9, fused=True)
        return torch.optim.AdamW(model.parameters(), 0.1, fused=True)

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(1, 4)).square().sum().backward()
            optimizer.step()

    (tmp_path / "checkpoints").mkdir()
    model = network()
    optimizer = make(model)
    steps(model, optimizer)
    checkpoint_store.save(tmp_path, model, optimizer, Position(step=2))
    copy = network()
    again = make(copy)
    saved = checkpoint_store.load(tmp_path, "last")
    checkpoint_format.load_weights(copy, saved)
    checkpoint_format.load_optimizer(copy, again, saved)
    steps(model, optimizer)
    steps(copy, again)
    for ours, theirs in zip(copy.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_best_and_the_two_newest_are_kept(tmp_path: Path) -> None:
    trained(tmp_path, [0.5, 0.2, 0.4, 0.3, 0.6])
    assert files(tmp_path) == [name(2), name(4), name(5)]
    assert checkpoint_store.load(tmp_path, "best").position.step == 2
    assert checkpoint_store.load(tmp_path, "last").position.step == 5


def test_a_checkpoint_inside_an_epoch_is_never_the_best(tmp_path: Path) -> None:
    model, optimizer = trained(tmp_path, [0.5])
    position = Position(epoch=2, step=2, batch=1, val_errors=[0.5])
    checkpoint_store.save(tmp_path, model, optimizer, position)
    assert checkpoint_store.load(tmp_path, "best").position.step == 1
    assert checkpoint_store.load(tmp_path, "last").position.step == 2


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "remove", "header"])
def test_a_damaged_checkpoint_is_passed_over_for_the_newest_whole_one(
    tmp_path: Path, harm: str
) -> None:
    trained(tmp_path, [0.5, 0.4])
    path = tmp_path / "checkpoints" / name(2)
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[-20] ^= 1
    changed: bytes = {
        "cut": bytes(data[:-10]),
        "empty": b"",
        "header": b"\xff" * 8 + bytes(data[8:]),
    }.get(harm, bytes(data))
    path.write_bytes(changed)
    if harm == "remove":
        path.unlink()
    with pytest.raises(CheckpointError, match=r"step-00000002.safetensors is damaged"):
        checkpoint_store.load(tmp_path, "last")
    assert [problem.split()[0] for problem in checkpoint_store.repair(tmp_path)] == [name(2)]
    assert checkpoint_store.load(tmp_path, "last").position.step == 1
    assert checkpoint_store.repair(tmp_path) == []


def test_no_whole_checkpoint_is_an_error_that_names_them(tmp_path: Path) -> None:
    trained(tmp_path, [0.5, 0.4])
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"00000001.safetensors is damaged.*00000002"):
        checkpoint_store.repair(tmp_path)
    assert len(checkpoint_store.read_manifest(tmp_path)["checkpoints"]) == 2


def test_a_run_without_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        checkpoint_store.load(tmp_path, "last")


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model, optimizer = trained(tmp_path, [0.5])
    with torch.no_grad():
        next(model.parameters())[0, 0] = torch.nan
    before = files(tmp_path)
    with pytest.raises(DivergedError, match="not finite after step 7"):
        checkpoint_store.save(tmp_path, model, optimizer, Position(step=7))
    assert files(tmp_path) == before


def test_a_failed_save_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = trained(tmp_path, [0.5])
    before = files(tmp_path)

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_format, "save_file", full)
    with pytest.raises(StorageError, match=r"No space left.*earlier checkpoints are unchanged"):
        checkpoint_store.save(tmp_path, model, optimizer, Position(step=2))
    assert files(tmp_path) == before
    assert checkpoint_store.load(tmp_path, "last").position.step == 1


@pytest.mark.fault(14)
def test_every_mismatch_is_listed_with_both_shapes(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    tensors = {"model.0.weight": torch.zeros(5, 4), "model.9.bias": torch.zeros(2)}
    save_file(tensors, path)
    saved = checkpoint_format.Saved(tensors, Position(), path)
    with pytest.raises(CheckpointError) as caught:
        checkpoint_format.load_weights(network(), saved)
    text = str(caught.value)
    assert "0.weight (5x4 in the file, 3x4 in the network)" in text
    assert "0.bias (missing in the file, 3 in the network)" in text
    assert "9.bias (2 in the file, missing in the network)" in text


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    trained(tmp_path, [0.5])
    (tmp_path / "checkpoints.json").write_text('{"checkpoints": []')
    with pytest.raises(CheckpointError, match=r"checkpoints\.json is damaged"):
        checkpoint_store.load(tmp_path, "last")


def test_a_run_belongs_to_one_training(tmp_path: Path) -> None:
    with (
        run_lock(tmp_path),
        pytest.raises(UsageError, match="another training"),
        run_lock(tmp_path),
    ):
        pass
    with run_lock(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    warnings: list[str] = []
    with run_lock(tmp_path, warnings.append):
        assert f"process {os.getpid()}" in (tmp_path / "lock").read_text()
    (warning,) = warnings
    assert warning.startswith(f"{tmp_path}: its file system has no locks ({os.strerror(number)})")
    assert list(tmp_path.iterdir()) == []


def test_other_failures_of_locking_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(StorageError, match="Input/output error"), run_lock(tmp_path):
        pass


@pytest.fixture(params=[0o022, 0o027, 0o077])
def new_file_mode(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """The mode of an ordinary new file, for several umasks."""
    before = os.umask(request.param)
    (tmp_path / "ordinary").touch()
    yield mode(tmp_path / "ordinary")
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_all_files_have_the_mode_of_ordinary_new_files(tmp_path: Path, new_file_mode: int) -> None:
    run = tmp_path / "run"
    run.mkdir()
    trained(run, [0.5])
    with atomic_write(tmp_path / "exported.safetensors") as temporary:
        save_file({"x": torch.zeros(2)}, temporary)
    written = [tmp_path / "exported.safetensors", *(f for f in run.rglob("*") if f.is_file())]
    assert [mode(file) for file in written] == [new_file_mode] * 3


# Writing whole files and folders.


@pytest.mark.parametrize("name", ["net.onnx.partial", "net.partial", ".alexnet-x.partial"])
@pytest.mark.parametrize("fails", [False, True])
def test_nobody_elses_file_or_folder_is_removed(tmp_path: Path, name: str, fails: bool) -> None:
    mine = tmp_path / name
    mine.mkdir()
    (mine / "photo.jpg").write_bytes(b"my only copy")
    (tmp_path / "net.tmp").write_bytes(b"another")
    before = sorted(tmp_path.rglob("*"))
    with suppress(ZeroDivisionError), atomic_write(tmp_path / "net.onnx") as temporary:
        assert temporary.suffix == ".onnx"
        temporary.write_bytes(b"new")
        assert not fails or 1 / 0
    made = [] if fails else [tmp_path / "net.onnx"]
    assert sorted(tmp_path.rglob("*")) == sorted([*before, *made])
    assert (mine / "photo.jpg").read_bytes() == b"my only copy"


@pytest.mark.parametrize("out", [".", "..", "file/below"])
def test_what_cannot_be_written_is_one_error(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    path = tmp_path / out if "file" in out else folder / out
    with pytest.raises(StorageError, match="cannot write"), atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "file", folder]


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with atomic_write(Path("~/made/net.npy")) as temporary:
        temporary.write_bytes(b"new")
    with atomic_write(Path("~no such user")) as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "made/net.npy").read_bytes() == b"new"
    assert (tmp_path / "~no such user").read_bytes() == b"new"


def test_a_link_in_the_way_of_a_temporary_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("old")
    (tmp_path / "run.tmp").symlink_to(tmp_path / "victim")
    write_text(tmp_path / "run.json", "{}")
    assert (tmp_path / "victim").read_text() == "old"
    assert (tmp_path / "run.json").read_text() == "{}"


def test_text_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for value in (1, 2):
        write_text(path, json.dumps(value))
        assert json.loads(path.read_text()) == value
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_what_a_kill_left_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    trained(tmp_path, [0.5])
    for left in (".tmp2lv45c", "step-00000009.tmp", "step-00000009.safetensors"):
        (tmp_path / "checkpoints" / left).write_bytes(b"half of a")
    for other in ("notes.txt", ".tmp", "step-9.safetensors", "best.safetensors"):
        (tmp_path / "checkpoints" / other).write_bytes(b"somebody's")
    checkpoint_store.sweep(tmp_path)
    assert files(tmp_path) == sorted(
        [name(1), "notes.txt", ".tmp", "step-9.safetensors", "best.safetensors"]
    )


def test_safetensors_names_unfinished_files_as_the_sweep_expects(tmp_path: Path) -> None:
    # Killed by the kernel at a limit on the size of files, in the middle of writing.
    script = f"""
import resource, signal, torch
from safetensors.torch import save_file
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
save_file({{"x": torch.zeros(1_000_000)}}, {str(tmp_path / "step-00000001.tmp")!r})
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGXFSZ
    (left,) = tmp_path.iterdir()
    patterns = (checkpoint_store.UNFINISHED, checkpoint_store.OURS)
    assert any(pattern.fullmatch(left.name) for pattern in patterns)
