"""Training: it learns, stops, goes on to the same result, and says when something is wrong."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Stripes
from data_makers import Recorder
from step_makers import after_step

from alexnet import train
from alexnet.config import Settings
from alexnet.dataset import Split
from alexnet.errors import CheckpointError, DivergedError, Interrupted, UsageError
from alexnet.prepare import prepare_dataset
from alexnet.recipes import recipe
from alexnet.storage import checkpoint_format, checkpoint_store
from alexnet.storage.run import Run
from alexnet.train import train_model
from alexnet.train.hints import learning_hint
from alexnet.train.image_cache import Cache
from alexnet.train.state import Indices, TrainState

STEPS = 5
"""Of an epoch: 39 images in batches of 8, the last of 7."""


def final_state(run: Path) -> checkpoint_format.Saved:
    return checkpoint_store.load(run, "last")


def same(one: Path, other: Path) -> bool:
    """Compare weights, velocities, position and metrics, all but the clock, at zero tolerance."""
    first, second = final_state(one), final_state(other)
    assert first.tensors.keys() == second.tensors.keys()
    equal = all(torch.equal(first.tensors[key], second.tensors[key]) for key in first.tensors)
    positions = [timeless(vars(saved.position)) for saved in (first, second)]
    epochs = [
        [timeless(row) for row in Run.open(run).metrics() if "kind" in row] for run in (one, other)
    ]
    return equal and positions[0] == positions[1] and epochs[0] == epochs[1]


def timeless(row: dict[str, object]) -> dict[str, object]:
    clocks = {"seconds", "epoch_seconds", "epoch_waited", "images_per_second", "waited_for_images"}
    return {key: row[key] for key in row if key not in clocks}


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process SIGINT during the given step."""

    def interrupt(state: TrainState, number: int, indices: Indices) -> None:
        if number == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train, "make_step", after_step(interrupt))


def test_a_run_directory_holds_all_that_is_promised(tiny_run: Path) -> None:
    run = Run.open(tiny_run)
    assert run.classes == ["across", "down", "slanting"]
    assert run.preprocessing.size == 32
    assert run.preprocessing.crop == 24
    assert run.settings == TINY
    rows = run.metrics()
    wanted = "epoch step lr train_loss val_loss top1_error top5_error images_per_second seconds"
    assert all(set(wanted.split()) <= set(row) for row in rows)
    assert [row["step"] for row in rows if "kind" in row] == [STEPS, 2 * STEPS]
    assert [row["step"] for row in rows if "kind" not in row] == [2, 4, 6, 8, 10]
    assert all(row["top5_error"] == 0 for row in rows if "kind" in row)


def test_it_learns(tiny_data: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, epochs=20, log_steps=1)
    report = train_model(tiny_data, tmp_path / "run", settings, device="cpu")
    rows = Run.open(tmp_path / "run").metrics()
    assert rows[0]["train_loss"] == pytest.approx(math.log(3), rel=1)
    assert report.top1_error is not None
    assert report.top1_error <= 0.2


@pytest.mark.fault(36)
def test_same_seed_same_result_and_another_seed_another(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    train_model(tiny_data, tmp_path / "again", TINY, device="cpu")
    train_model(tiny_data, tmp_path / "other", dataclasses.replace(TINY, seed=1), device="cpu")
    assert same(tiny_run, tmp_path / "again")
    assert not same(tiny_run, tmp_path / "other")


@pytest.mark.fault(3)
@pytest.mark.parametrize("stops", [[1], [3], [STEPS], [STEPS + 2], [2, 4], [1, STEPS + 1]])
def test_an_interrupted_training_goes_on_to_the_same_result(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, stops: list[int]
) -> None:
    path = tmp_path / "run"
    for stop in stops:
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(stop, patch)
            with pytest.raises(Interrupted, match=f"after step {stop} and saved") as caught:
                train_model(tiny_data, path, TINY, device="cpu", resume=True)
            assert caught.value.exit_code == 130
        assert final_state(path).position.step == stop
    train_model(tiny_data, path, device="cpu", resume=True)
    assert same(tiny_run, path)


@pytest.mark.parametrize("field", ["batch", "epoch", "step"])
def test_the_comparison_notices_a_position_that_was_not_restored(
    tiny_data: Path,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    field: str,
) -> None:
    path = tmp_path / "run"
    stop = STEPS + 2 if field == "epoch" else 2
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(stop, patch)
        with pytest.raises(Interrupted):
            train_model(tiny_data, path, TINY, device="cpu")
    original = checkpoint_store.load

    def forgetful(run: Path, name: checkpoint_store.CheckpointName) -> checkpoint_format.Saved:
        saved = original(run, name)
        start = getattr(checkpoint_format.Position(), field)
        return dataclasses.replace(
            saved, position=dataclasses.replace(saved.position, **{field: start})
        )

    monkeypatch.setattr("alexnet.train.opening.checkpoint_store.load", forgetful)
    train_model(tiny_data, path, device="cpu", resume=True)
    monkeypatch.undo()
    assert not same(tiny_run, path)


def test_resume_starts_afresh_where_nothing_is_yet(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    train_model(tiny_data, tmp_path / "run", TINY, device="cpu", resume=True)
    assert same(tiny_run, tmp_path / "run")


def test_a_finished_run_is_left_as_it_is_and_can_be_made_longer(
    tiny_data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    settings = dataclasses.replace(TINY, epochs=1, schedule="steps")
    train_model(tiny_data, path, settings, device="cpu")
    before = (path / "metrics.jsonl").read_bytes()
    again = train_model(tiny_data, path, settings, device="cpu", resume=True)
    assert (path / "metrics.jsonl").read_bytes() == before
    assert again.epochs == 1
    longer = dataclasses.replace(settings, epochs=2)
    assert train_model(tiny_data, path, longer, device="cpu", resume=True).epochs == 2


@pytest.mark.fault(18)
def test_other_settings_or_data_are_not_resumed(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"already holds a training: add --resume"):
        train_model(tiny_data, tiny_run, TINY)
    with pytest.raises(UsageError, match=r"lr was 0.003, is 0.5; seed was 0, is 9"):
        train_model(
            tiny_data,
            tiny_run,
            dataclasses.replace(TINY, lr=0.5, seed=9),
            resume=True,
            device="cpu",
        )


@pytest.mark.fault(29)
def test_numbers_that_are_not_finite_stop_it_before_the_step(
    tiny_data: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(TINY, optimizer="sgd", lr=1e20, epochs=3, schedule="steps")
    with pytest.raises(DivergedError, match=r"step \d+ \(epoch 1\).*--set lr=1e\+19") as caught:
        train_model(tiny_data, tmp_path / "run", settings, device="cpu")
    assert caught.value.exit_code == 5
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_layers_that_are_not_there_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, layer_lr={"conv9": 1.0})
    with pytest.raises(UsageError, match=r"no layer conv9; its layers are conv1, conv2, local3"):
        train_model(tiny_data, tmp_path / "run", settings, device="cpu")


@pytest.mark.fault(3)
def test_a_network_with_dropout_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    prepare_dataset(Stripes(), data, size=56, workers=1)
    settings = dataclasses.replace(
        recipe("small"), model="alexnet_small", epochs=2, batch_size=16, dropout=0.3
    )
    train_model(data, tmp_path / "whole", settings, device="cpu")
    interrupt_at(2, monkeypatch)
    with pytest.raises(Interrupted):
        train_model(data, tmp_path / "parts", settings, device="cpu")
    monkeypatch.undo()
    torch.manual_seed(99)  # whatever state the generator is in
    train_model(data, tmp_path / "parts", device="cpu", resume=True)
    assert same(tmp_path / "whole", tmp_path / "parts")
    plain = dataclasses.replace(settings, dropout=0.0)
    train_model(data, tmp_path / "plain", plain, device="cpu")
    assert not same(tmp_path / "whole", tmp_path / "plain")


def test_progress_says_what_is_trained_and_how_each_epoch_ended(
    tiny_data: Path, tmp_path: Path
) -> None:
    recorder = Recorder()
    train_model(tiny_data, tmp_path / "run", TINY, device="cpu", progress=recorder)
    assert "cifar10_11, 3 classes, 39 images (15 for validation)" in recorder.notes[0]
    assert recorder.notes[-1].startswith("epoch 2/2: train loss ")


@pytest.mark.fault(6)
def test_the_report_says_which_side_is_the_limit(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(TINY, epochs=1)
    report = train_model(tiny_data, tmp_path / "memory", settings, device="cpu")
    assert report.limit == "the network"
    assert report.waited_for_images < 0.1
    original, recorder = Split.read, Recorder()

    def slowly(split: Split, indices: Any) -> Any:
        time.sleep(0.2)
        return original(split, indices)

    monkeypatch.setattr(Split, "read", slowly)
    monkeypatch.setattr("alexnet.loader.available_cores", lambda: 1)
    path = tmp_path / "disk"
    report = train_model(tiny_data, path, settings, device="cpu", cache="none", progress=recorder)
    assert report.limit == report.as_json()["limit"] == "reading images"
    assert report.waited_for_images > 0.5
    row = Run.open(path).metrics()[-1]
    assert row["waited_for_images"] == report.waited_for_images
    waited = f"{report.waited_for_images:.0%} of the time waiting for images"
    assert any(note.endswith(waited) for note in recorder.notes)


def test_threads_that_read_end_with_a_training_that_fails(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, though the error still holds on to where it was raised."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(train, "train_step", fail)
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError) as held:
        train_model(tiny_data, tmp_path / "run", TINY, device="cpu")
    assert held.traceback
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("read")]


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_143(tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "alexnet", "train", str(tiny_data), str(run)]
    options = ["--model", "cifar10_11", "--epochs", "10000", "--set", "log_steps=1"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped by SIGTERM after step" in errors
    assert final_state(run).position.step >= 1


@pytest.mark.parametrize(
    ("loss", "step", "says"),
    [
        (math.log(10), 500, "not learning yet"),
        (math.log(10), 550, None),
        (math.log(10), 1000, "not learning yet"),
        (math.log(10), 450, None),
        (2.0, 500, None),
        (9.9, 1, "far above that of guessing"),
    ],
)
def test_the_guard_knows_what_guessing_costs(loss: float, step: int, says: str | None) -> None:
    hint = learning_hint(loss, step, 10, Settings())
    assert (hint is None) if says is None else (hint is not None and says in hint)


def test_metrics_are_json_lines(tiny_run: Path) -> None:
    lines = (tiny_run / "metrics.jsonl").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_training_starts_from_another_runs_weights(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(
        TINY, epochs=1, layer_lr={"conv1": 0.0, "conv2": 0.0}, bias_decay=False, model="auto"
    )
    recorder = Recorder()
    path = tmp_path / "run"
    train_model(tiny_data, path, settings, init=tiny_run, device="cpu", progress=recorder)
    assert Run.open(path).model_name == "cifar10_11"
    before, after = (checkpoint_store.load(run, "best").tensors for run in (tiny_run, path))
    for layer in ("conv1", "conv2"):  # frozen
        assert torch.equal(before[f"model.{layer}.weight"], after[f"model.{layer}.weight"])
    assert not torch.equal(before["model.local3.weight"], after["model.local3.weight"])
    assert any("except for none" in note for note in recorder.notes)


def test_other_classes_get_a_new_last_layer(tiny_run: Path, tmp_path: Path) -> None:
    class Others(Stripes):
        classes = ("down", "left", "up")

    prepare_dataset(Others(), tmp_path / "data", size=32, workers=1)
    settings = dataclasses.replace(TINY, epochs=1, lr=1e-9, weight_decay=0.0)
    path = tmp_path / "run"
    train_model(tmp_path / "data", path, settings, init=tiny_run, device="cpu")
    before, after = (checkpoint_store.load(run, "best").tensors for run in (tiny_run, path))
    torch.testing.assert_close(before["model.local4.weight"], after["model.local4.weight"])
    new, old = after["model.fc10.weight"], before["model.fc10.weight"]
    assert new.shape == old.shape
    assert (new - old).abs().max() > 0.01


@pytest.mark.fault(14)
def test_another_network_is_no_start(tiny_run: Path, tmp_path: Path) -> None:
    prepare_dataset(Stripes(), tmp_path / "data", size=56, workers=1)
    settings = dataclasses.replace(TINY, model="alexnet_small")
    with pytest.raises(CheckpointError, match=r"does not fit .*conv1.weight \(64x3x5x5 in"):
        train_model(tmp_path / "data", tmp_path / "run", settings, init=tiny_run, device="cpu")
    # Nothing is left that would stand in the way of the next try.
    train_model(
        tmp_path / "data", tmp_path / "run", dataclasses.replace(settings, epochs=1), device="cpu"
    )


def test_parts_of_the_network_can_be_taken_away(tiny_data: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, epochs=1, ablate={"activation": "tanh", "norm": "batch"})
    train_model(tiny_data, tmp_path / "run", settings, device="cpu")
    model = Run.open(tmp_path / "run").load_model()
    kinds = {type(layer).__name__ for layer in model}
    assert {"Tanh", "BatchNorm2d"} <= kinds
    assert not {"ReLU", "LocalResponseNorm"} & kinds


@pytest.mark.parametrize("cache", ["host", "none"])
def test_where_images_are_kept_changes_no_bit(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, cache: Cache
) -> None:
    train_model(tiny_data, tmp_path / "run", TINY, device="cpu", cache=cache)
    ours, theirs = (checkpoint_store.load(run, "last") for run in (tmp_path / "run", tiny_run))
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in theirs.tensors)
