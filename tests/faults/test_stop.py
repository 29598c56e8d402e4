"""Signals stop and save a training; hangs are detected; errors in threads are reported."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import kill_points
import numpy as np
import pytest
from kill_points import SETTINGS
from safetensors.torch import save_file
from step_makers import after_step
from torch.nn import functional as F

from alexnet import cli, dataset, evaluate, randomness, train
from alexnet.cli import options
from alexnet.errors import DataError, Interrupted
from alexnet.networks import registry as model
from alexnet.storage import checkpoint_format, checkpoint_store
from alexnet.train.processes import Processes
from alexnet.train.state import Indices, Step, TrainState
from alexnet.train.watchdog import watchdog

GRACE = 30.0
"""Seconds that launchers such as torchrun wait between SIGTERM and SIGKILL."""


@pytest.fixture(scope="module")
def undisturbed(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kill_points.finish(tiny_data, tmp_path_factory.mktemp("stop") / "run")


def in_step(number: int, act: Callable[[], object]) -> None:
    """Call `act` in the child during step `number`."""

    def act_then(state: TrainState, step: int, indices: Indices) -> None:
        if step == number:
            act()

    kill_points.replace_attribute(train, "make_step", after_step(act_then))


# Signals.


def train_by_command(data: Path, run: Path, act: Callable[[], object]) -> None:
    """Run the command `alexnet train`; call `act` in the first step."""
    in_step(1, act)
    kill_points.replace_attribute(options, "NAMES", ("tiny",))
    words = [f"--set={name}" for name in ("batch_size=13", "optimizer=adamw", "init=he")]
    sys.exit(cli.main(["train", str(data), str(run), "--model=tiny", "--resume", *words]))


def train_by_command_signalled(data: Path, run: Path, numbers: list[int]) -> None:
    def act() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    train_by_command(data, run, act)


@pytest.mark.fault(6)
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        (signal.SIGINT, 130),
        (signal.SIGHUP, 129),
        (signal.SIGUSR1, 138),
    ],
)
def test_a_signal_ends_the_step_saves_and_leaves(
    tiny_data: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run, began = tmp_path / "run", time.monotonic()
    result = kill_points.child(tmp_path, train_by_command_signalled, tiny_data, run, [int(number)])
    assert time.monotonic() - began < GRACE
    assert result[0] == code
    assert f"stopped by {number.name} after step 1 and saved; to continue, repeat" in result[1]
    assert checkpoint_store.load(run, "last").position.step == 1
    assert kill_points.leftovers(run) == []


@pytest.mark.fault(6)
def test_a_second_signal_leaves_at_once(tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _ = kill_points.child(
        tmp_path, train_by_command_signalled, tiny_data, run, [signal.SIGHUP, signal.SIGTERM]
    )
    assert code == -signal.SIGTERM
    assert not checkpoint_store.read_manifest(run)["checkpoints"]


def train_without_terminal(data: Path, run: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    in_step(1, lambda: os.kill(os.getpid(), signal.SIGHUP))
    kill_points.train_in_child(data, run)


@pytest.mark.fault(6)
def test_what_was_told_to_ignore_a_closed_terminal_does(
    tiny_data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    code, _ = kill_points.child(tmp_path, train_without_terminal, tiny_data, tmp_path / "run")
    assert code == 0
    assert kill_points.differences(undisturbed, tmp_path / "run") == []


@pytest.mark.fault(6)
def test_a_long_evaluation_is_left_too(
    tiny_data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, original = list[int](), evaluate.log_probabilities

    def signalled(*arguments: Any, **options: Any) -> Any:
        batches.append(len(batches))
        if len(batches) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **options)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "EVALUATION_BATCH", 3)  # five batches
        patch.setattr(evaluate, "log_probabilities", signalled)
        with pytest.raises(Interrupted):
            kill_points.finish(tiny_data, run)
    assert len(batches) == 2
    kill_points.finish(tiny_data, run)
    assert kill_points.differences(undisturbed, run) == []


def train_with_slow_saves(data: Path, run: Path) -> None:
    def slow(tensors: Any, path: Path, **options: Any) -> None:
        save_file(tensors, path, **options)
        (run / "saving").touch()
        time.sleep(0.5)

    kill_points.replace_attribute(checkpoint_format, "save_file", slow)
    kill_points.train_in_child(data, run)


@pytest.mark.fault(7)
def test_a_signal_during_a_save_waits_for_it(
    tiny_data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = kill_points.Child(tmp_path, train_with_slow_saves, tiny_data, run)
    while not (run / "saving").exists() and process.process.is_alive():
        time.sleep(0.02)
    os.kill(process.process.pid or 0, signal.SIGTERM)
    assert process.end() == 143
    (run / "saving").unlink()
    # After the save of step 2 the training makes one more step and saves it.
    assert [entry["step"] for entry in checkpoint_store.read_manifest(run)["checkpoints"]] == [2, 3]
    assert kill_points.leftovers(run) == []
    kill_points.finish(tiny_data, run)
    assert kill_points.differences(undisturbed, run) == []


# Hangs.


def hang_with_the_lock() -> None:
    """Sleep in C with Python's lock held: no other thread can run."""
    ctypes.PyDLL(None).sleep(600)


def hang_in_python() -> None:
    threading.Event().wait()


def train_and_hang(data: Path, run: Path, hang: Callable[[], None]) -> None:
    in_step(2, hang)
    settings = replace(SETTINGS, watchdog_seconds=1)
    kill_points.train_in_child(data, run, settings)


def train_and_read_for_ever(data: Path, run: Path) -> None:
    original = dataset.Split.read

    def read_for_ever(self: dataset.Split, indices: Any) -> Any:
        if self.split_name == "train" and len(indices) and indices[0] == third:
            hang_in_python()
        return original(self, indices)

    third = int(randomness.order(0, 1, 39)[26])
    kill_points.replace_attribute(dataset.Split, "read", read_for_ever)
    settings = replace(SETTINGS, watchdog_seconds=1)
    kill_points.train_in_child(data, run, settings)


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    ("work", "arguments", "where"),
    [
        (train_and_hang, (hang_in_python,), "hang_in_python"),
        (train_and_read_for_ever, (), "read_for_ever"),
    ],
    ids=["in Python", "in a thread that reads"],
)
def test_a_hang_ends_the_process_with_the_stacks_of_all_threads(
    tiny_data: Path,
    undisturbed: Path,
    tmp_path: Path,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    where: str,
) -> None:
    run = tmp_path / "run"
    code, stderr = kill_points.child(tmp_path, work, tiny_data, run, *arguments)
    assert code == 7
    stacks = (run / "stacks.txt").read_text()
    assert "no training step ended within 1 s: it hangs, so the process ends" in stderr
    assert str(run / "stacks.txt") in stderr
    assert f"in {where}" in stacks
    assert "in train_model" in stacks
    kill_points.finish(tiny_data, run)
    assert kill_points.differences(undisturbed, run) == []
    assert kill_points.leftovers(run) == []


@pytest.mark.slow
@pytest.mark.fault(25)
def test_a_hang_that_holds_pythons_lock_ends_the_process_too(
    tiny_data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, stderr = kill_points.child(tmp_path, train_and_hang, tiny_data, run, hang_with_the_lock)
    assert code == 1  # of faulthandler: no Python code can run
    assert "Timeout" in stderr
    assert "in hang_with_the_lock" in stderr
    assert "in train_model" in stderr
    kill_points.finish(tiny_data, run)
    assert kill_points.differences(undisturbed, run) == []


@pytest.mark.fault(25)
def test_work_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    with watchdog(0.4, "step", tmp_path / "stacks.txt") as beat:
        for _ in range(6):
            time.sleep(0.15)
            beat()
    threads = [thread.name for thread in threading.enumerate()]
    assert "watchdog" not in threads
    assert not (tmp_path / "stacks.txt").exists()
    with watchdog(0, "step", tmp_path / "stacks.txt"):
        assert not (tmp_path / "stacks.txt").exists()


def beat_before_and_after_sleeping(folder: Path) -> None:
    kill_points.replace_attribute(sys.modules["alexnet.train.watchdog"], "GRACE", 0.2)
    # The kernel ignores Ctrl-Z for an orphaned process group; under some CI the tests run in one.
    os.setpgrp()
    with watchdog(0.5, "step", folder / "stacks.txt") as beat:
        beat()
        os.kill(os.getpid(), signal.SIGTSTP)  # Ctrl-Z
        time.sleep(0.1)
        beat()
        time.sleep(0.3)


@pytest.mark.fault(25)
def test_no_time_passes_while_a_training_is_stopped(tmp_path: Path) -> None:
    process = kill_points.Child(tmp_path, beat_before_and_after_sleeping, tmp_path)
    pid = process.process.pid or 0
    status = Path(f"/proc/{pid}/stat")
    while status.read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.02)
    time.sleep(1.5)
    os.kill(pid, signal.SIGCONT)
    assert process.end() == 0, process.stderr()


# Errors in reading threads.


@pytest.mark.fault(27)
@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (MemoryError(), 6, "out of memory; try --batch-size 16, or --cache none"),
        (DataError("shard 3: cut off"), 3, "shard 3: cut off"),
        (OSError(5, "Input/output error", "shard"), 6, "shard: Input/output error"),
    ],
    ids=["memory", "data", "disk"],
)
def test_an_error_in_a_thread_that_reads_is_told_in_a_line(
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    says: str,
) -> None:
    def read(self: dataset.Split, indices: Any) -> Any:
        raise error

    monkeypatch.setattr(dataset.Split, "read", read)
    monkeypatch.setitem(model.MODELS, "tiny", kill_points.tiny)
    monkeypatch.setattr(options, "NAMES", ("tiny",))
    run, before = tmp_path / "run", set(threading.enumerate())
    assert cli.main(["train", str(tiny_data), str(run), "--model=tiny"]) == code
    assert says in " ".join(capsys.readouterr().err.split())
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("read")]


@pytest.mark.fault(53)
def test_a_data_set_that_goes_away_ends_it_with_the_checkpoint_kept(
    tiny_data: Path, tmp_path: Path
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    subprocess.run(["cp", "-r", tiny_data, data], check=True)
    code, stderr = kill_points.child(tmp_path, train_and_lose_data, data, run)
    assert code == 3
    assert "No such file" in stderr
    assert "prepare the data set again" in stderr
    assert checkpoint_store.load(run, "last").position.step >= 2


def train_and_lose_data(data: Path, run: Path) -> None:
    def lose() -> None:
        for path in data.glob("*.npy"):
            path.unlink()

    in_step(3, lose)
    kill_points.train_in_child(data, run)


@pytest.mark.fault(29)
def test_numbers_gone_wrong_stop_it_before_the_weights(tiny_data: Path, tmp_path: Path) -> None:
    code, stderr = kill_points.child(tmp_path, train_on_infinity, tiny_data, tmp_path / "run")
    assert code == 5
    assert "the gradient became nan in step 3 (epoch 1)" in stderr
    assert "last good checkpoint is step-00000002.safetensors" in stderr
    assert "train/" in stderr, "the images of the batch"
    weights, _ = kill_points.state(tmp_path / "run")
    assert all(np.isfinite(tensor.numpy()).all() for tensor in weights.values())


def train_on_infinity(data: Path, run: Path) -> None:
    original, states = train.make_step, list[TrainState]()
    cross_entropy = F.cross_entropy

    def make_step(state: TrainState, processes: Processes) -> Step:
        states.append(state)
        return original(state, processes)

    def loss(*arguments: Any, **options: Any) -> Any:
        value = cross_entropy(*arguments, **options)
        if states[0].position.step == 2:
            weight = states[0].model.get_parameter("fc2.weight")
            return value + (weight * 0).sqrt().sum()  # whose gradient is 0 * infinity
        return value

    kill_points.replace_attribute(train, "make_step", make_step)
    kill_points.replace_attribute(F, "cross_entropy", loss)
    kill_points.train_in_child(data, run)
