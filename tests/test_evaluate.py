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
from numpy.typing import NDArray
from torch import nn

from alexnet import evaluate
from alexnet.dataset import Dataset
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.evaluate import evaluate_run, log_probabilities
from alexnet.prepare import prepare_dataset
from alexnet.prepare.sources.base import Item, Listing
from alexnet.progress import Progress
from alexnet.storage.fit import class_numbers, classes_text, match_classes, subset_of
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


def renamed_run(run: Path, out: Path, *classes: str) -> Path:
    """Copy a run and give its outputs other names."""
    shutil.copytree(run, out)
    info = json.loads((out / "run.json").read_text())
    info["classes"], info["titles"] = classes, classes
    (out / "run.json").write_text(json.dumps(info))
    return out


def striped(out: Path, *classes: str, counts: tuple[int, int, int] = (13, 5, 5)) -> Path:
    """Prepare some of the classes of the tiny data set; others are called as they are named."""

    class Some(Stripes):
        def listing(self, progress: Progress) -> Listing:
            rows = enumerate(zip(("train", "val", "test"), counts, strict=True))
            return Listing(
                [
                    Item(split, name, f"{split}/{name}/{number}", (part, kind % 3, number))
                    for part, (split, count) in rows
                    for kind, name in enumerate(classes, start=1)
                    for number in range(count)
                ]
            )

    prepare_dataset(Some(), out, size=32, workers=1)
    return out


def probabilities(run: Path, data: Path) -> NDArray[np.float64]:
    opened, split = Run.open(run), Dataset(data).split("val")
    images = split.read(np.arange(len(split)))
    scores = log_probabilities(opened.load_model(), images, opened.preprocessing)
    return scores.exp().numpy()


def test_classes_in_another_order_are_matched_by_name(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run = renamed_run(tiny_run, tmp_path / "run", "slanting", "across", "down")
    recorder = Recorder()
    result = evaluate_run(run, tiny_data, device="cpu", progress=recorder)
    scores, labels = (
        probabilities(tiny_run, tiny_data),
        np.array(Dataset(tiny_data).split("val").labels),
    )
    number = np.array([1, 2, 0])[labels]  # across, down, slanting among the outputs' names
    said = scores.argmax(1)
    assert result.top1_error == (said != number).mean()
    assert result.loss == pytest.approx(-np.log(scores[np.arange(15), number]).mean(), rel=1e-6)
    assert [row["class"] for row in result.per_class] == ["slanting", "across", "down"]
    for true, row in enumerate(result.confusion):
        assert row == [int(((number == true) & (said == other)).sum()) for other in range(3)]
    assert (result.subset, recorder.notes) == (None, [])


def test_a_part_of_the_classes_gives_errors_among_all_and_among_the_part(
    tiny_run: Path, tmp_path: Path
) -> None:
    data, recorder = striped(tmp_path / "data", "down", "slanting"), Recorder()
    result = evaluate_run(tiny_run, data, device="cpu", progress=recorder)
    scores, labels = probabilities(tiny_run, data), np.array(Dataset(data).split("val").labels)
    assert result.top1_error == (scores.argmax(1) != labels + 1).mean()
    assert [row["images"] for row in result.per_class] == [0, 5, 5]
    part = scores[:, 1:] / scores[:, 1:].sum(1, keepdims=True)
    subset = result.subset
    assert subset is not None
    assert subset.top1_error == (part.argmax(1) != labels).mean()
    assert subset.loss == pytest.approx(-np.log(part[np.arange(10), labels]).mean(), rel=1e-6)
    assert [row["class"] for row in subset.per_class] == ["down", "slanting"]
    assert np.sum(subset.confusion) == subset.images == 10
    assert recorder.notes == [f"{data}: it lacks 1 class (across) of the 3 of {tiny_run}"]
    assert json.loads(json.dumps(result.as_json()))["subset"]["top1_error"] == subset.top1_error


def test_other_classes_are_refused_and_named(tiny_run: Path, tmp_path: Path) -> None:
    data = striped(tmp_path / "others", "a", "down", "b")
    with pytest.raises(DataError) as refused:
        evaluate_run(tiny_run, data)
    assert str(refused.value) == (
        f"{data} has other classes: 2 classes (a: 5 images, b: 5 images) that {tiny_run} does not "
        "know; it lacks 2 classes (across, slanting) of the 3 of "
        f"{tiny_run} (classes are matched by name)"
    )


def test_runs_of_different_classes_are_not_averaged(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    turned = renamed_run(tiny_run, tmp_path / "turned", "down", "slanting", "across")
    result = evaluate_run([tiny_run, turned], tiny_data, device="cpu")
    scores, labels = (
        probabilities(tiny_run, tiny_data),
        np.array(Dataset(tiny_data).split("val").labels),
    )
    mean = (scores + scores[:, [2, 0, 1]]) / 2
    assert result.loss == pytest.approx(-np.log(mean[np.arange(15), labels]).mean(), rel=1e-6)
    other = renamed_run(tiny_run, tmp_path / "other", "down", "slanting", "up")
    with pytest.raises(DataError, match=r"only .*run knows 1 class \(across\); only .* \(up\)"):
        evaluate_run([tiny_run, other], tiny_data, device="cpu")


@pytest.mark.parametrize(
    ("known", "given", "numbers"),
    [
        ("ab", "ba", [1, 0]),
        ("ab", "bc", [1, None]),
        (["cafe\u0301"], ["caf\u00e9"], [0]),
        (["caf\u00e9", "cafe\u0301"], ["cafe\u0301", "caf\u00e9"], [1, 0]),
    ],
)
def test_names_match_whatever_their_unicode_form(
    known: list[str], given: list[str], numbers: list[int | None]
) -> None:
    assert match_classes(known, given) == numbers


def test_an_unknown_class_without_images_is_noted(tmp_path: Path) -> None:
    network, recorder = (tmp_path / "run", ["a", "b", "c"]), Recorder()
    numbers = class_numbers(network, (tmp_path, ["b", "x", "c"]), [1, 0, 1], recorder)
    assert (numbers, subset_of(3, numbers)) == ([1, -1, 2], [1, 2])
    assert "has 1 class (x: 0 images) that" in recorder.notes[0]
    assert classes_text(list("abcdefg")) == "7 classes (a, b, c, d, e, ...)"


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
