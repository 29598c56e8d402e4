"""Ranks that fail, die or hang: all ranks restart, and the result is the same."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import parallel_makers
import pytest
import torch
from conftest import TINY, Stripes
from parallel_makers import pool_of, processes_are_gone, rank_as_started, rank_environments, start
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from alexnet.errors import DataError, Interrupted, UsageError, WorkerError
from alexnet.parallel import TrainingSpec, launch, launching, process_group
from alexnet.prepare import prepare_dataset
from alexnet.storage import checkpoint_store
from alexnet.train import train_model

SETTINGS = dataclasses.replace(TINY, model="alexnet_small", checkpoint_steps=2, optimizer="paper")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("faults") / "data"
    prepare_dataset(Stripes(), out, size=56, workers=1)
    return out


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks without a fault."""
    run = tmp_path_factory.mktemp("faults") / "run"
    result = launch(TrainingSpec("data", data, run, SETTINGS, device="cpu"), 2)
    assert result.result().epochs == 2
    return run


def same(one: Path, other: Path) -> bool:
    """Compare the last checkpoints bit for bit."""
    first, second = (checkpoint_store.load(run, "last").tensors for run in (one, other))
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.fault(23)
@pytest.mark.parametrize("way", ["raises", "dies"])
@pytest.mark.fault(24)
@pytest.mark.slow
def test_training_goes_on_to_the_same_result(
    data: Path, undisturbed: Path, tmp_path: Path, way: str
) -> None:
    fail: Callable[[nn.Sequential], nn.Module] = getattr(parallel_makers, f"rank_that_{way}")
    run = tmp_path / "run"
    spec = TrainingSpec("data", data, run, SETTINGS, device="cpu", accelerate=fail)
    assert launch(spec, 2, max_restarts=1).result().steps == 10
    assert same(undisturbed, run)


@pytest.mark.fault(25)
@pytest.mark.slow
def test_a_rank_that_hangs_is_given_up(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fail = parallel_makers.rank_that_hangs
    spec = TrainingSpec("data", data, run, SETTINGS, device="cpu", accelerate=fail, timeout=2)
    ranks = [start(rank_as_started, spec, environment) for environment in rank_environments(2)]
    try:
        assert ranks[0][1].poll(60)
        message = ranks[0][1].recv()
    finally:
        for process, _ in ranks:  # as torchrun does
            process.kill()
    assert message.startswith("7: rank 0 lost another rank, or waited 2 s for it: ")
    assert checkpoint_store.load(run, "last").position.step == 6
    again = dataclasses.replace(spec, resume=True, accelerate=None, timeout=60)
    assert launch(again, 2).result().steps == 10
    assert same(undisturbed, run)


@pytest.mark.slow
def test_the_comparison_notices_another_result(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    other = dataclasses.replace(SETTINGS, seed=1, epochs=1)
    train_model(data, tmp_path / "run", other, device="cpu")
    assert not same(undisturbed, tmp_path / "run")


@pytest.mark.fault(26)
def test_when_restarts_are_used_up_the_first_failure_is_named(data: Path, tmp_path: Path) -> None:
    spec = TrainingSpec(
        "data",
        data,
        tmp_path / "run",
        SETTINGS,
        device="cpu",
        accelerate=parallel_makers.rank_that_always_raises,
    )
    with pytest.raises(
        WorkerError, match=r"rank 1 failed after all 1 restarts.*as planned"
    ) as caught:
        launch(spec, 2, max_restarts=1)
    assert caught.value.exit_code == 7


def test_the_first_failure_is_found_where_torchrun_saw_only_the_second(tmp_path: Path) -> None:
    def write(attempt: int, rank: int, text: str) -> None:
        file = tmp_path / "run" / f"attempt_{attempt}" / str(rank) / "error.json"
        file.parent.mkdir(parents=True)
        file.write_text(text)

    lost = "WorkerError: rank 0 lost another rank, or waited 5 s for it"
    write(0, 1, json.dumps({"message": {"message": "ValueError: of an earlier start"}}))
    extra = {"timestamp": "1"}  # torchrun needs it in the files that it reads
    write(1, 0, json.dumps({"message": {"message": lost, "extraInfo": extra}}))
    write(1, 1, json.dumps({"message": {"message": "ZeroDivisionError: as planned\nat"}}))
    write(1, 2, '{"message": {"mess')
    failure = ProcessFailure(0, 7, 1, str(tmp_path / "run" / "attempt_1" / "0" / "error.json"))
    message = launching.first_failure(ChildFailedError("alexnet", {0: failure}), 1, tmp_path)
    assert message.startswith("rank 1 failed after all 1 restarts: ZeroDivisionError: as planned;")


def test_what_another_start_would_not_mend_is_told_at_once(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    spec = TrainingSpec("data", data, undisturbed, SETTINGS, device="cpu")
    result = launch(spec, 2)
    assert result.exit_code == 2
    assert "already holds a training: add --resume" in result.error
    with pytest.raises(DataError):
        launch(dataclasses.replace(spec, data=tmp_path), 2)
    with pytest.raises(
        UsageError, match="towers needs two ranks, or an even number of them, not 3"
    ):
        launch(dataclasses.replace(spec, mode="towers"), 3)


@pytest.mark.fault(33)
def test_a_port_in_use_is_named(data: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is in use"):
            launch(
                TrainingSpec("data", data, tmp_path / "run", SETTINGS, device="cpu"), 2, port=port
            )
        own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in own.items():
                patch.setenv(name, value)
            with (
                pytest.raises(UsageError, match=f"port {port} is in use"),
                process_group.join("data"),
            ):
                pass


@pytest.mark.fault(39)
def test_one_device_is_offered_the_grouped_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"here is one .* --processes 2 --device cpu"):
        launching.default_processes("towers", "cpu")
    monkeypatch.setattr("alexnet.device.available_devices", lambda: ["cuda:0", "cpu"])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UsageError, match=r"2 ranks need as many GPUs, and here is one"):
        process_group.rank_device("auto", 0, 2)
    assert process_group.rank_device("cuda:0", 1, 2) == torch.device("cuda:0")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert process_group.rank_device("auto", 3, 4) == torch.device("cuda:3")
    assert launching.default_processes("towers", "cuda") == 2
    assert launching.default_processes("data", "auto") == 4


@pytest.mark.slow
def test_a_signal_to_the_launcher_stops_all(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def terminate() -> None:
        while not (run / "metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=terminate)
    thread.start()
    spec = TrainingSpec("data", data, run, dataclasses.replace(SETTINGS, epochs=1000), device="cpu")
    with pytest.raises(Interrupted, match="stopped by SIGTERM") as caught:
        launch(spec, 2)
    thread.join()
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert checkpoint_store.load(run, "last").position.step >= 1


@pytest.mark.parametrize("mode", ["towers", "data"])
def test_the_groups_end_before_python_does(data: Path, tmp_path: Path, mode: str) -> None:
    """Their threads release tensors, for which they need Python; else it may abort."""
    settings = dataclasses.replace(SETTINGS, epochs=1)
    spec = TrainingSpec(mode, data, tmp_path / "run", settings, device="cpu")
    with pool_of(2) as pool:
        assert pool.run(2, processes_are_gone, spec) == [True, True]


@pytest.mark.slow
def test_torchrun_starts_it_too(data: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", "-m", "alexnet", "train"]
    options = ["--model", "alexnet_small", "--recipe", "paper", "--set", "batch_size=8"]
    parallel = ["--device", "cpu", "--parallel", "towers", "--report-communication"]
    run = str(tmp_path / "run")
    done = subprocess.run(
        [*command, str(data), run, *options, *parallel, "--epochs", "1", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)  # rank 0's alone
    assert report["epochs"] == 1
    assert [each["rank"] for each in report["communication"]] == [0, 1]
