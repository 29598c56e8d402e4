"""SIGKILL at every step of a save, and at any byte: the same command ends in the same run."""

import signal
from pathlib import Path

import kill_points
import pytest

from alexnet.storage import checkpoint_store

SIZE = 8_000
"""Approximate size of a checkpoint in bytes."""


@pytest.fixture(scope="module")
def undisturbed(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kill_points.finish(tiny_data, tmp_path_factory.mktemp("kill") / "run")


@pytest.fixture(scope="module")
def touches(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The calls in a whole training that can change a file, in order."""
    folder = tmp_path_factory.mktemp("kill")
    arguments = (tiny_data, folder / "run", folder / "names")
    assert kill_points.child(folder, kill_points.list_touches, *arguments) == (0, "")
    return (folder / "names").read_text().split()


def chosen(touches: list[str]) -> list[int]:
    """Choose all calls of the first save and of the last two, and some others.

    `make soak` tries every call.
    """
    saves = [index for index, name in enumerate(touches) if name == "serialize_file"]
    near = {*range(saves[0] - 3, saves[0] + 14), *range(saves[-2] - 3, len(touches))}
    others = set(range(0, len(touches), 5))
    return [index for index in sorted(near | others) if touches[index] != "open"]


@pytest.mark.fault(1)
@pytest.mark.fault(2)
@pytest.mark.slow
def test_killed_at_any_step_the_same_command_ends_in_the_same_run(
    tiny_data: Path, undisturbed: Path, touches: list[str], tmp_path: Path
) -> None:
    points = chosen(touches)
    assert len(points) > 40
    assert {"serialize_file", "fsync", "replace", "unlink"} <= {touches[index] for index in points}
    for index in points:
        run = tmp_path / f"run{index}"
        code, _ = kill_points.child(tmp_path, kill_points.train_till_touch, tiny_data, run, index)
        assert code == -signal.SIGKILL, touches[index]
        check_checkpoints(run)
        kill_points.finish(tiny_data, run)
        assert kill_points.differences(undisturbed, run) == [], (index, touches[index])
        assert kill_points.leftovers(run) == [], (index, touches[index])


@pytest.mark.slow
@pytest.mark.fault(1)
def test_killed_at_any_byte_of_a_checkpoint_the_one_before_is_whole(
    tiny_data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    size = sum(path.stat().st_size for path in (undisturbed / "checkpoints").iterdir()) // 2
    assert size == pytest.approx(SIZE, rel=0.2)
    offsets = [0, 1, 7, 8, 9, 100, 1000, SIZE // 2, *range(SIZE, 5 * SIZE, SIZE * 4 // 13)]
    assert len(offsets) >= 20
    for offset in offsets:
        run = tmp_path / f"run{offset}"
        code, _ = kill_points.child(tmp_path, kill_points.train_till_byte, tiny_data, run, offset)
        assert code == -signal.SIGKILL
        assert (run / "checkpoints").exists()
        check_checkpoints(run)
        kill_points.finish(tiny_data, run)
        assert kill_points.differences(undisturbed, run) == [], offset
        assert kill_points.leftovers(run) == [], offset


def check_checkpoints(run: Path) -> None:
    """Check that every checkpoint in the manifest can be read."""
    if checkpoint_store.read_manifest(run)["checkpoints"]:
        assert checkpoint_store.repair(run) == []


@pytest.mark.fault(20)
def test_the_lock_of_a_killed_training_does_not_bind(
    tiny_data: Path, undisturbed: Path, touches: list[str], tmp_path: Path
) -> None:
    index = touches.index("serialize_file")
    run = tmp_path / "run"
    kill_points.child(tmp_path, kill_points.train_till_touch, tiny_data, run, index)
    assert (run / "lock").read_text().startswith("process ")
    kill_points.finish(tiny_data, run)
    assert not (run / "lock").exists()
