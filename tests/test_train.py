"""Training: it learns, stops, goes on to the same result, and says when something is wrong."""

import dataclasses
import json
import math
import os
import shutil
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
from torch import nn

from alexnet import train
from alexnet.config import Settings
from alexnet.dataset import Split
from alexnet.errors import CheckpointError, DivergedError, Interrupted, UsageError
from alexnet.prepare import prepare_dataset
from alexnet.recipes import recipe
from alexnet.storage import checkpoint_format, checkpoint_store
from alexnet.storage.checkpoint_format import Position
from alexnet.storage.run import Run
from alexnet.train import train_model
from alexnet.train.hints import LearningCheck, learning_hint, result_warning
from alexnet.train.image_cache import Cache
from alexnet.train.resuming import check_epochs
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
    recorder = Recorder()
    again = train_model(tiny_data, path, settings, device="cpu", resume=True, progress=recorder)
    assert (path / "metrics.jsonl").read_bytes() == before
    assert again.epochs == 1
    assert any(
        note.startswith("all epochs are done (1), nothing is trained") for note in recorder.notes
    )
    longer = dataclasses.replace(settings, epochs=2)
    report = train_model(tiny_data, path, longer, device="cpu", resume=True, progress=recorder)
    assert report.epochs == 2
    assert "epochs 2 instead of 1; the learning rate continues as before" in recorder.notes


def cosine(epochs_done: float, epochs: int) -> str:
    """Write the rate of TINY's half cosine as the notes do."""
    return f"{0.003 * (1 + math.cos(math.pi * epochs_done / epochs)) / 2:.2g}"


def test_more_epochs_say_what_the_learning_rate_becomes_and_stay(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, recorder = tmp_path / "run", Recorder()
    shutil.copytree(tiny_run, path)
    longer = dataclasses.replace(TINY, epochs=4, log_steps=1)
    interrupt_at(2 * STEPS + 1, monkeypatch)
    with pytest.raises(Interrupted):
        train_model(tiny_data, path, longer, device="cpu", resume=True, progress=recorder)
    monkeypatch.undo()
    last, following = cosine(2 - 0.5 / STEPS, 2), cosine(2 + 0.5 / STEPS, 4)
    assert (last, following) == ("1.8e-05", "0.0014")
    wanted = (
        f"epochs 4 instead of 2 change the cosine schedule: the learning rate was {last} in the "
        f"last step and is {following} in the next one. "
    )
    assert any(note.startswith(wanted) for note in recorder.notes)
    assert f"{Run.open(path).metrics()[-1]['lr']:.2g}" == following
    changes = [{"after_step": 2 * STEPS, "epochs_before": 2, "epochs": 4}]
    assert Run.open(path).info["changes"] == changes
    assert train_model(tiny_data, path, device="cpu", resume=True).epochs == 4


def test_another_end_in_the_middle_says_what_was_planned(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, recorder = tmp_path / "run", Recorder()
    settings = dataclasses.replace(TINY, epochs=4)
    interrupt_at(STEPS + 2, monkeypatch)
    with pytest.raises(Interrupted):
        train_model(tiny_data, path, settings, device="cpu")
    monkeypatch.undo()
    shorter = dataclasses.replace(settings, epochs=2)
    train_model(tiny_data, path, shorter, device="cpu", resume=True, progress=recorder)
    done = 1 + 1.5 / STEPS
    rates = cosine(done, 4), cosine(done + 1 / STEPS, 2), cosine(done + 1 / STEPS, 4)
    wanted = "was {} in the last step and is {} in the next one where {} was planned"
    assert any(wanted.format(*rates) in note for note in recorder.notes)


def test_in_the_warm_up_the_rate_is_not_that_of_the_epochs(tiny_run: Path, tmp_path: Path) -> None:
    run, notes = Run.open(shutil.copytree(tiny_run, tmp_path / "run")), list[str]()
    run.settings = dataclasses.replace(TINY, epochs=9, warmup_epochs=2.0)
    longer = dataclasses.replace(run.settings, epochs=12)
    check_epochs(run, longer, Position(epoch=1, batch=3, step=3), STEPS, notes.append)
    assert notes == ["epochs 12 instead of 9; the cosine schedule after the warm-up changes"]


def test_fewer_epochs_than_begun_are_refused(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    interrupt_at(STEPS + 1, monkeypatch)
    with pytest.raises(Interrupted):
        train_model(tiny_data, path, TINY, device="cpu")
    monkeypatch.undo()
    fewer = dataclasses.replace(TINY, epochs=1)
    with pytest.raises(UsageError, match="has begun epoch 2, and --epochs 1 was given"):
        train_model(tiny_data, path, fewer, device="cpu", resume=True)
    assert train_model(tiny_data, path, device="cpu", resume=True).epochs == 2


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
    with pytest.raises(DivergedError, match=r"step \d+ \(epoch 1\).*--lr 1e\+19") as caught:
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


class SlowNetwork(nn.Module):
    """A network that takes so long that reading is no limit, on a loaded machine either."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.3 * self.training)
        logits: torch.Tensor = self.model(x)
        return logits


def test_the_report_says_which_side_is_the_limit(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(TINY, epochs=1)
    report = train_model(
        tiny_data, tmp_path / "memory", settings, device="cpu", accelerate=SlowNetwork
    )
    assert report.limit == "the network"
    assert report.waited_for_images < 0.1
    original, recorder = Split.read, Recorder()

    def slowly(split: Split, indices: Any) -> Any:
        time.sleep(0.5)
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


def epoch_row(epoch: int, loss: float, error: float | None) -> dict[str, Any]:
    return {
        "kind": "epoch", "epoch": epoch, "step": 3 * epoch, "train_loss": loss, "top1_error": error
    }  # fmt: skip


def test_the_guard_speaks_once_in_an_epoch() -> None:
    """On a fast GPU an epoch has thousands of steps."""
    warnings: list[str] = []
    check = LearningCheck(10, Settings(), warnings.append)
    for epoch in (1, 2):
        for step in range(50, 4050, 50):
            number = (epoch - 1) * 4000 + step
            check({"epoch": epoch, "step": number, "train_loss": math.log(10)})
        check(epoch_row(epoch, math.log(10), 0.9))
        check({"kind": "not_saved", "epoch": epoch, "step": 4000 * epoch})
    assert [warning.split(": ")[0] for warning in warnings] == ["step 500", "step 8000"]


def test_the_guard_judges_epochs_of_a_few_steps() -> None:
    warnings: list[str] = []
    check = LearningCheck(6, Settings(epochs=16), warnings.append)
    for epoch in range(1, 17):
        check(epoch_row(epoch, math.log(6), 0.8333))
    assert [warning.split(": ")[0] for warning in warnings] == ["epoch 2", "epoch 4", "epoch 8"]
    assert all(
        "not learning yet: loss 1.792 is no lower than that of guessing" in each
        for each in warnings
    )


def test_the_guard_names_a_loss_far_above_guessing_after_each_epoch() -> None:
    warnings: list[str] = []
    check = LearningCheck(6, Settings(epochs=3), warnings.append)
    for epoch in range(1, 4):
        check(epoch_row(epoch, 15.0, 0.8333))
    assert [each.partition(",")[0] for each in warnings] == [
        f"epoch {epoch}: loss 15.00 is far above that of guessing" for epoch in (1, 2)
    ]


@pytest.mark.parametrize(
    ("loss", "error", "says"),
    [
        (
            math.log(6),
            5 / 6,
            "has not learned: loss 1.792 is no lower than that of guessing, ln 6 = 1.792",
        ),
        (math.log(6), None, "has not learned: loss 1.792"),
        (15.0, 5 / 6, "has not learned: loss 15.00 is far above that of guessing"),
        (math.log(6), 0.3, None),  # dropout and augmentation cost so much
        (0.5, 5 / 6, "no better than guessing, whose error is 83.3%, though the training loss"),
        (0.5, 0.3, None),
        (1.7, 0.8, None),
    ],
)
def test_the_result_says_that_nothing_was_learned(
    loss: float, error: float | None, says: str | None
) -> None:
    warning = result_warning(epoch_row(3, loss, error), 6, Settings())
    assert (warning is None) if says is None else (warning is not None and says in warning)


def test_a_short_training_that_learns_nothing_says_so_at_its_end(
    tiny_data: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(TINY, lr=1e-9, init="model", epochs=3)
    recorder = Recorder()
    path = tmp_path / "run"
    report = train_model(tiny_data, path, settings, device="cpu", progress=recorder)
    assert report.warning is not None
    assert report.warning.startswith("the network has not learned: loss 1.099 is no lower")
    assert report.as_json()["warning"] == report.warning
    assert sum("not learning yet" in note for note in recorder.notes) == 1
    again = train_model(tiny_data, path, settings, device="cpu", resume=True)
    assert again.warning == report.warning


def test_a_finished_run_without_metrics_is_named(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "metrics.jsonl").unlink()
    data = Run.open(run).info["data"]["path"]
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl has no line of an epoch"):
        train_model(data, run, device="cpu", resume=True)


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
