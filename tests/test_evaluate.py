"""Evaluation: exact counts, the mean of probabilities, errors that say what does not fit."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Stripes
from data_makers import Recorder
from torch import nn

from alexnet import evaluate
from alexnet.dataset import Dataset
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.evaluate import evaluate_run, log_probabilities
from alexnet.prepare import prepare_dataset
from alexnet.storage.run import Run
from alexnet.train import train_model
from alexnet.transforms import take_view, views


@pytest.mark.parametrize("count", [1, 10])
def test_probabilities_are_averaged_over_the_views(
    tiny_run: Path, tiny_data: Path, count: int
) -> None:
    run, split = Run.open(tiny_run), Dataset(tiny_data).split("val")
    images, model = split.read(np.arange(4)), run.load_model()
    ours = log_probabilities(model, images, run.preprocessing, view_count=count).exp()
    with torch.no_grad():
        each = [
            model(take_view(torch.from_numpy(images), view, run.preprocessing)).double().softmax(1)
            for view in views(32, 24, count)
        ]
    torch.testing.assert_close(ours, torch.stack(each).mean(0))
    torch.testing.assert_close(ours.sum(1), torch.ones(4, dtype=torch.float64))


@pytest.mark.fault(34)
@pytest.mark.parametrize("batch", [1, 4, 15, 128])
def test_every_image_counts_once_whatever_the_batch(
    tiny_run: Path, tiny_data: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate_run(tiny_run, tiny_data, device="cpu")
    monkeypatch.setattr(evaluate, "EVALUATION_BATCH", batch)
    recorder = Recorder()
    result = evaluate_run(tiny_run, tiny_data, device="cpu", progress=recorder)
    assert result.images == 15
    assert result.loss == pytest.approx(expected.loss, rel=1e-5)
    assert dataclasses.replace(result, loss=0) == dataclasses.replace(expected, loss=0)


def test_figures_are_those_computed_by_hand(tiny_run: Path, tiny_data: Path) -> None:
    result = evaluate_run(tiny_run, tiny_data, split="test", device="cpu", views=10)
    run, split = Run.open(tiny_run), Dataset(tiny_data).split("test")
    images = split.read(np.arange(len(split)))
    scores = log_probabilities(run.load_model(), images, run.preprocessing, view_count=10).numpy()
    labels = np.array(split.labels)
    said = scores.argmax(1)
    assert result.top1_error == (said != labels).mean()
    assert result.top5_error == 0
    assert result.loss == pytest.approx(-scores[np.arange(15), labels].mean(), rel=1e-6)
    for true, row in enumerate(result.confusion):
        assert row == [int(((labels == true) & (said == other)).sum()) for other in range(3)]
        entry = result.per_class[true]
        assert entry["images"] == sum(row) == 5
        assert entry["top1_error"] == pytest.approx(1 - row[true] / 5)
    json.dumps(result.as_json())


def test_the_network_is_left_in_its_mode(tiny_run: Path, tiny_data: Path) -> None:
    run, data = Run.open(tiny_run), Dataset(tiny_data)
    model: nn.Module = run.load_model().train()
    evaluate.evaluate_split([(model, run.preprocessing)], data.split("val"), run.classes)
    assert model.training


def test_validation_during_training_is_the_evaluation(tiny_run: Path, tiny_data: Path) -> None:
    last = [row for row in Run.open(tiny_run).metrics() if "kind" in row][-1]
    result = evaluate_run(tiny_run, tiny_data, checkpoint="last", device="cpu")
    assert (result.loss, result.top1_error) == (last["val_loss"], last["top1_error"])


def test_what_does_not_fit_is_refused(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    prepare_dataset(Stripes(), tmp_path / "large", size=40, workers=1)
    with pytest.raises(DataError, match="prepare it with --size 32"):
        evaluate_run(tiny_run, tmp_path / "large")
    with pytest.raises(UsageError, match="1 or 10 views"):
        evaluate_run(tiny_run, tiny_data, views=3)
    with pytest.raises(CheckpointError, match="not a run directory"):
        evaluate_run(tiny_data, tiny_data)


def test_other_classes_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    class Others(Stripes):
        classes = ("a", "b", "c")

    prepare_dataset(Others(), tmp_path / "others", size=32, workers=1)
    with pytest.raises(DataError, match="other classes"):
        evaluate_run(tiny_run, tmp_path / "others")


def test_a_data_set_made_square_in_another_way_is_noted(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    manifest = tmp_path / "data" / "dataset.json"
    info = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**info, "resize": "warp"}))
    recorder = Recorder()
    evaluate_run(tiny_run, tmp_path / "data", device="cpu", progress=recorder)
    assert "prepare the data with --resize short" in recorder.notes[0]
    manifest.write_text(json.dumps({**info, "resize": "stretch"}))
    with pytest.raises(DataError, match="unknown resize 'stretch'"):
        Dataset(tmp_path / "data")


def test_several_runs_are_averaged(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    train_model(tiny_data, other, dataclasses.replace(TINY, seed=7), device="cpu")
    result = evaluate_run([tiny_run, other], tiny_data, split="test", device="cpu")
    split = Dataset(tiny_data).split("test")
    images = split.read(np.arange(len(split)))
    each = [
        log_probabilities(run.load_model(), images, run.preprocessing).exp().numpy()
        for run in (Run.open(tiny_run), Run.open(other))
    ]
    mean = (each[0] + each[1]) / 2
    labels = np.array(split.labels)
    assert result.top1_error == (mean.argmax(1) != labels).mean()
    assert result.loss == pytest.approx(-np.log(mean[np.arange(15), labels]).mean(), rel=1e-6)
    same = evaluate_run([tiny_run, tiny_run], tiny_data, split="test", device="cpu")
    assert same.loss == pytest.approx(evaluate_run(tiny_run, tiny_data, split="test").loss)
