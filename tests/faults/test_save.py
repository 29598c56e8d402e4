"""Full, read-only or removed disks, and damaged files: the last good checkpoint stays."""

import errno
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import kill_points
import pytest
import torch
from data_makers import Recorder
from kill_points import SETTINGS
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from step_makers import after_step

from alexnet import train
from alexnet.errors import CheckpointError, StorageError, UsageError
from alexnet.storage import atomic, checkpoint_format, checkpoint_store, locks
from alexnet.storage.metrics_log import MetricsLog, read_metrics
from alexnet.train.state import Indices, TrainState


@pytest.fixture(scope="module")
def undisturbed(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kill_points.finish(tiny_data, tmp_path_factory.mktemp("save") / "run")


@pytest.fixture
def run(undisturbed: Path, tmp_path: Path) -> Path:
    """A finished run that a test may damage."""
    return Path(shutil.copytree(undisturbed, tmp_path / "run"))


def newest(run: Path) -> Path:
    return run / "checkpoints" / str(checkpoint_store.read_manifest(run)["last"])


def steps(run: Path) -> list[int]:
    return [entry["step"] for entry in checkpoint_store.read_manifest(run)["checkpoints"]]


# Writing fails.


@contextmanager
def file_size_limit(bytes_: int) -> Iterator[None]:
    """Limit the size of the files that this process can write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fail_saves(saves: set[int], patch: pytest.MonkeyPatch, run: Path) -> list[list[str]]:
    """Let some saves fail, counted from 1; return the leftover files before each save."""
    original, before = save_file, list[list[str]]()

    def save(*arguments: Any, **options: Any) -> None:
        before.append(kill_points.leftovers(run))
        with file_size_limit(5000 if len(before) in saves else -1):
            original(*arguments, **options)

    patch.setattr(checkpoint_format, "save_file", save)
    return before


@pytest.mark.fault(8)
def test_training_survives_a_disk_that_is_full_for_a_while(
    tiny_data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, recorder = tmp_path / "run", Recorder()
    before = fail_saves({2, 3}, monkeypatch, path)
    kill_points.finish(tiny_data, path, progress=recorder)
    assert before == [["lock", "stacks.txt"]] * 5, "something of a failed save was left"
    warnings = [note for note in recorder.notes if note.startswith("NOT SAVED")]
    assert [note.partition(":")[0] for note in warnings] == [
        "NOT SAVED after step 3",
        "NOT SAVED after step 4",
    ]
    assert "File too large" in warnings[0]
    assert "earlier checkpoints are unchanged" in warnings[0]
    assert kill_points.differences(undisturbed, path) == ["metrics"]
    failures = [row for row in kill_points.rows(path) if row.get("kind") == "not_saved"]
    assert [row["step"] for row in failures] == [3, 4]
    others = [row for row in kill_points.rows(path) if row not in failures]
    assert others == kill_points.rows(undisturbed)


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    ("saves", "at", "last"), [({2, 3, 4}, 6, 2), ({5}, 6, 6)], ids=["in a row", "the last one"]
)
def test_it_ends_when_the_disk_stays_full_or_nothing_more_would_be_tried(
    tiny_data: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saves: set[int],
    at: int,
    last: int,
) -> None:
    path = tmp_path / "run"
    fail_saves(saves, monkeypatch, path)
    with pytest.raises(StorageError, match=f"cannot save .*step-{at:08d}") as caught:
        kill_points.finish(tiny_data, path)
    assert caught.value.exit_code == 6
    assert checkpoint_store.load(path, "last").position.step == last
    monkeypatch.undo()
    kill_points.finish(tiny_data, path)
    assert kill_points.state(path)[1] == kill_points.state(undisturbed)[1]
    assert kill_points.leftovers(path) == []


CALLS: list[tuple[Any, str, int]] = [
    *((os, "fsync", count) for count in range(1, 5)),
    *((os, "replace", count) for count in range(1, 3)),
]


@pytest.mark.fault(8)
@pytest.mark.parametrize(("owner", "name", "count"), CALLS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_whichever_step_of_a_save_is_refused_a_good_one_is_last(
    run: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, count: int, number: int
) -> None:
    before, original, calls = newest(run), getattr(owner, name), [0]
    saved = checkpoint_store.load(run, "last")

    def refused(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == count:
            raise OSError(number, os.strerror(number))
        return original(*arguments)

    position = replace(saved.position, step=9)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refused)
        with pytest.raises(StorageError, match=os.strerror(number)):
            checkpoint_store.write(run, saved.tensors, position)
    assert checkpoint_store.repair(run) == []
    assert kill_points.leftovers(run) == []
    if (name, count) != ("fsync", 4):  # by then checkpoints.json has its new content
        assert newest(run) == before
    checkpoint_store.write(run, saved.tensors, replace(position, step=10))
    assert checkpoint_store.load(run, "last").position.step == 10


@pytest.mark.fault(8)
def test_lines_of_metrics_wait_for_room(tmp_path: Path) -> None:
    warnings: list[str] = []
    log = MetricsLog(tmp_path, warn=warnings.append)
    log.append({"step": 1})
    size = log.path.stat().st_size
    with file_size_limit(size + 4):  # enough for part of a line
        log.append({"step": 2})
        log.append({"step": 3})
        assert log.path.stat().st_size == size
        with pytest.raises(StorageError, match="cannot write"):
            log.flush()
    assert len(warnings) == 1
    assert ": File too large; its lines stay in memory until a write succeeds" in warnings[0]
    log.append({"step": 4})
    assert [row["step"] for row in read_metrics(log.path)] == [1, 2, 3, 4]
    real, log.path = log.path, Path("/dev/full")
    log.append({"step": 5})
    assert "No space left on device" in warnings[-1]
    log.path = real
    log.flush()
    assert [row["step"] for row in read_metrics(log.path)] == [1, 2, 3, 4, 5]


@pytest.mark.fault(9)
def test_a_directory_that_is_removed_on_the_way_is_as_a_full_disk(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, recorder = tmp_path / "run", Recorder()

    def remove(state: TrainState, step: int, indices: Indices) -> None:
        if step == 2:
            shutil.rmtree(path)

    monkeypatch.setattr(train, "make_step", after_step(remove))
    settings = replace(SETTINGS, checkpoint_steps=1, epochs=3)
    with pytest.raises(StorageError, match="cannot"):
        kill_points.finish(tiny_data, path, settings, recorder)
    assert sum(note.startswith("NOT SAVED") for note in recorder.notes) == 2


def train_as_nobody(folder: Path, closed: str) -> None:
    """Train in `folder` as a user who cannot write to `closed`."""
    os.chdir(folder)
    kill_points.train_in_child(
        Path("data"), Path("first")
    )  # imports modules that nobody cannot read
    Path(closed).chmod(0o555)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setuid(65534)
    kill_points.train_in_child(Path("data"), Path("run"))


@pytest.mark.fault(9)
@pytest.mark.parametrize("closed", ["run", "run/checkpoints"])
def test_a_directory_that_cannot_be_written_is_told_before_the_first_step(
    tiny_data: Path, undisturbed: Path, tmp_path: Path, closed: str
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    shutil.copytree(undisturbed, tmp_path / "run")
    newest(tmp_path / "run").unlink()  # there are steps to do
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    code, stderr = kill_points.child(tmp_path, train_as_nobody, tmp_path, closed)
    (tmp_path / closed).chmod(0o755)
    assert code == 6, stderr
    assert "cannot write" in stderr
    assert "Permission denied" in stderr
    after = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert after.startswith(before[:300])
    assert set(after.splitlines()) <= set(before.splitlines()), "no step was made"


@pytest.mark.fault(9)
def test_too_little_room_for_a_checkpoint_is_told_before_the_first_step(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=4000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    with (
        kill_points.recorded_steps() as made,
        pytest.raises(StorageError, match=r"GB needed, 0\.00"),
    ):
        kill_points.finish(tiny_data, tmp_path / "run")
    assert made == []


# Damaged files.


def cut_to(length: Callable[[bytes], int]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: length(data)])

    return damage


def header_only(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def flip(position: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(position * (len(data) - 1))] ^= 0b100
        path.write_bytes(data)

    return damage


def not_a_number(path: Path) -> None:
    """Write NaN into a tensor, and the new digest into the manifest."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["model.conv1.weight"][0, 0, 0, 0] = torch.nan
    save_file(tensors, path, metadata)
    manifest_file = path.parents[1] / "checkpoints.json"
    manifest = json.loads(manifest_file.read_text())
    for entry in manifest["checkpoints"]:
        if entry["file"] == path.name:
            entry["sha256"] = atomic.sha256_of(path)
    manifest_file.write_text(json.dumps(manifest))


DAMAGE = [
    *(
        pytest.param(cut_to(length), id=f"cut {name}", marks=pytest.mark.fault(10))
        for name, length in {
            "to nothing": lambda data: 0,
            "to its header": header_only,
            "in half": lambda data: len(data) // 2,
            "by 10 bytes": lambda data: len(data) - 10,
        }.items()
    ),
    *(
        pytest.param(flip(position), id=f"bit at {position}", marks=pytest.mark.fault(11))
        for position in (0, 0.01, 0.5, 0.9, 1)
    ),
    pytest.param(Path.unlink, id="removed", marks=pytest.mark.fault(10)),
    pytest.param(not_a_number, id="NaN", marks=pytest.mark.fault(16)),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_resumed_from_the_one_before(
    tiny_data: Path, undisturbed: Path, run: Path, damage: Callable[[Path], None]
) -> None:
    damaged = newest(run)
    damage(damaged)
    with pytest.raises(CheckpointError, match=f"{damaged.name} is damaged.*--resume") as caught:
        checkpoint_store.load(run, "last")
    assert caught.value.exit_code == 4
    recorder = Recorder()
    kill_points.finish(tiny_data, run, progress=recorder)
    assert any(note.startswith(f"{damaged.name} is damaged") for note in recorder.notes)
    assert any(note.startswith("resuming after step 6 (step-00000006.s") for note in recorder.notes)
    assert kill_points.differences(undisturbed, run) == []
    assert kill_points.leftovers(run) == []


@pytest.mark.fault(10)
def test_without_any_whole_checkpoint_nothing_is_overwritten(tiny_data: Path, run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        flip(0.5)(path)
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    with pytest.raises(CheckpointError, match="no checkpoint that can be read"):
        kill_points.finish(tiny_data, run)
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before


@pytest.mark.fault(17)
def test_a_checkpoint_of_a_newer_version_is_refused(
    tiny_data: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_format, "VERSION", 2)
    saved = checkpoint_store.load(run, "last")  # of version 1, and read by version 2
    checkpoint_store.write(run, saved.tensors, replace(saved.position, step=9))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="checkpoint of version 2, this alexnet reads 1: upd"):
        kill_points.finish(tiny_data, run)


# Choosing and deleting checkpoints.


@pytest.mark.fault(21)
def test_the_newest_is_told_by_its_step_whatever_the_clock_says(run: Path) -> None:
    for age, path in enumerate(sorted((run / "checkpoints").iterdir(), reverse=True)):
        os.utime(path, (age, age))
    assert checkpoint_store.load(run, "last").position.epoch == 3
    os.utime(newest(run), (0, 0))
    assert checkpoint_store.load(run, "last").position.epoch == 3
    newest(run).unlink()
    for path in (run / "checkpoints").iterdir():
        os.utime(path, (7, 7))
    checkpoint_store.repair(run)
    assert checkpoint_store.load(run, "last").position.step == 6


@pytest.mark.fault(22)
def test_what_cannot_be_deleted_ends_no_training(
    tiny_data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.unlink

    def unlink(path: Path, *arguments: Any, **options: Any) -> None:
        if "checkpoints/step" in str(path):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        original(path, *arguments, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    path = kill_points.finish(tiny_data, tmp_path / "run")
    monkeypatch.undo()
    assert kill_points.differences(undisturbed, path) == []
    assert kill_points.leftovers(path)
    kill_points.finish(tiny_data, path)  # the next start deletes it
    assert kill_points.leftovers(path) == []


@pytest.mark.fault(22)
def test_two_whole_ones_are_kept_and_no_file_of_others_is_touched(run: Path) -> None:
    (run / "checkpoints" / "my notes.txt").write_text("keep")
    (run / "checkpoints" / "step-1.safetensors").write_text("keep")
    saved = checkpoint_store.load(run, "last")

    def write(step: int) -> None:
        position = replace(saved.position, step=step, batch=1)
        checkpoint_store.write(run, saved.tensors, position)

    best = checkpoint_store.load(run, "best").position.step
    for step in (7, 8, 9):
        write(step)
    assert steps(run) == sorted({best, 8, 9})
    cut_to(lambda data: 100)(newest(run))
    write(10)
    assert steps(run) == sorted({best, 8, 10}), "9 is not whole and does not count"
    assert (run / "checkpoints" / "my notes.txt").exists()
    assert (run / "checkpoints" / "step-1.safetensors").exists()


@pytest.mark.fault(22)
def test_reading_while_a_training_deletes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, original = checkpoint_store.load(run, "last"), checkpoint_store.read_manifest
    calls = [0]

    def read_manifest(path: Path) -> dict[str, Any]:
        manifest, calls[0] = original(path), calls[0] + 1
        if calls[0] == 1:  # the training continues before the file is opened
            monkeypatch.setattr(checkpoint_store, "read_manifest", original)
            for step in (7, 8, 9):
                checkpoint_store.write(run, saved.tensors, replace(saved.position, step=step))
        return manifest

    monkeypatch.setattr(checkpoint_store, "read_manifest", read_manifest)
    assert checkpoint_store.load(run, "last").position.step == 9


# One training per directory.


@pytest.mark.fault(20)
def test_a_file_system_without_locks_changes_nothing_but_is_named(
    tiny_data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    recorder = Recorder()
    path = kill_points.finish(tiny_data, tmp_path / "run", progress=recorder)
    assert kill_points.differences(undisturbed, path) == []
    assert kill_points.leftovers(path) == []
    assert "its file system has no locks (No locks available)" in recorder.notes[0]


def train_and_wait(data: Path, run: Path) -> None:
    """Train, but never finish the first step."""

    def wait(*arguments: Any) -> None:
        (run / "waits").touch()
        time.sleep(600)

    kill_points.replace_attribute(train, "make_step", after_step(wait))
    kill_points.train_in_child(data, run)


@pytest.mark.fault(20)
def test_a_second_training_is_refused_and_told_by_whom(tiny_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    first = kill_points.Child(tmp_path, train_and_wait, tiny_data, path)
    while not (path / "waits").exists() and first.process.is_alive():
        time.sleep(0.02)
    (path / "waits").unlink()
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    says = rf"another training is writing to .*/run \(process {first.process.pid} on .+\); wait"
    with pytest.raises(UsageError, match=says) as caught:
        kill_points.finish(tiny_data, path)
    assert caught.value.exit_code == 2
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    os.kill(first.process.pid or 0, signal.SIGKILL)
    first.process.join()
    kill_points.finish(tiny_data, path)  # a dead process holds no lock


@pytest.mark.fault(20)
def test_a_refused_training_leaves_nothing_behind(
    tiny_data: Path, run: Path, tmp_path: Path
) -> None:
    before = sorted(path.name for path in run.iterdir())
    with pytest.raises(UsageError, match="already holds a training"):
        kill_points.finish(tiny_data, run, resume=False)
    assert sorted(path.name for path in run.iterdir()) == before
    nowhere = tmp_path / "nowhere"
    with pytest.raises(UsageError), locks.locked(nowhere, "made"):
        raise UsageError("for another reason")
    assert not nowhere.exists()


def increment_with_lock(folder: Path, times: int) -> None:
    """Increment the count in a file `times` times, each time with the lock."""
    done = 0
    while done < times:
        try:
            with locks.locked(folder, "busy"):
                number = int((folder / "count").read_text())
                time.sleep(0.0005)
                (folder / "count").write_text(str(number + 1))
            done += 1
        except UsageError:
            time.sleep(0.0002)


@pytest.mark.fault(20)
def test_the_lock_holds_although_its_file_is_removed_each_time(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    children = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        children.append(
            kill_points.Child(tmp_path / str(number), increment_with_lock, tmp_path, 40)
        )
    assert [child.end() for child in children] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "120"


@pytest.mark.fault(38)
def test_a_torn_metrics_file_is_gone_on_with(tiny_data: Path, undisturbed: Path, run: Path) -> None:
    newest(run).unlink()
    metrics = run / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes() + bytes(64) + b'\n{"step": 6, "tra\xff')
    kill_points.finish(tiny_data, run)
    assert kill_points.differences(undisturbed, run) == []
