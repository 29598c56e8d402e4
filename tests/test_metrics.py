"""Counting errors and keeping what was measured."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from alexnet.errors import UsageError
from alexnet.evaluate import confusion_matrix, ranks
from alexnet.images.filter_pictures import filter_pictures
from alexnet.storage.metrics_log import MetricsLog, read_metrics
from alexnet.storage.run import Run
from alexnet.train import train_model


def test_ranks_count_the_classes_that_score_higher() -> None:
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    assert ranks(scores, torch.tensor([1, 1, 0])).tolist() == [0, 1, 2]


def test_ranks_equal_those_of_a_sort() -> None:
    rng = np.random.default_rng(0)
    scores, labels = (
        rng.permuted(np.tile(np.arange(20.0), (50, 1)), axis=1),
        rng.integers(0, 20, 50),
    )
    order = np.argsort(-scores, axis=1)
    expected = [
        int(np.flatnonzero(row == label)[0]) for row, label in zip(order, labels, strict=True)
    ]
    assert ranks(torch.from_numpy(scores), torch.from_numpy(labels)).tolist() == expected


def test_a_network_that_says_the_same_of_all_classes_is_wrong() -> None:
    labels = torch.arange(4)
    assert ranks(torch.zeros(4, 10), labels).tolist() == [9] * 4
    assert ranks(torch.full((4, 10), torch.nan), labels).tolist() == [9] * 4


def test_confusion_has_true_classes_in_rows() -> None:
    matrix = confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]), 3)
    assert matrix.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]


@pytest.mark.fault(38)
def test_a_torn_last_line_is_ignored_and_later_lines_can_be_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.append({"step": step})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    log.cut(2)
    log.append({"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_tensorboard_shows_the_same(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, tensorboard=True)
    log.append({"step": 50, "epoch": 1, "train_loss": 2.5, "val_loss": None})
    log.append({"step": 60, "epoch": 1, "train_loss": 2.0, "val_loss": 1.5, "kind": "epoch"})
    log.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    assert shown["step/train_loss"] == [(50, 2.5)]
    assert shown["epoch/train_loss"] == [(60, 2.0)]
    assert shown["epoch/val_loss"] == [(60, 1.5)]
    assert "step/val_loss" not in shown


def test_tensorboard_has_training_and_validation_on_one_card(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, tensorboard=True)
    log.append({"step": 60, "epoch": 1, "train_loss": 2.0, "val_loss": 1.5, "kind": "epoch"})
    log.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (value,) = events.Tensors("custom_scalars__config__")
    (category,) = layout_pb2.Layout.FromString(value.tensor_proto.string_val[0]).category
    assert [chart.title for chart in category.chart] == ["loss", "error"]
    loss = category.chart[0].multiline.tag
    assert list(loss) == ["epoch/train_loss", "epoch/val_loss"]
    assert set(loss) <= set(events.Tags()["scalars"])


def test_tensorboard_shows_the_filters_after_each_epoch(tmp_path: Path, tiny_data: Path) -> None:
    train_model(tiny_data, tmp_path / "run", replace(TINY, epochs=2, tensorboard=True))
    events = event_accumulator.EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    shown = events.Images("filters/conv1")
    assert [event.step for event in shown] == [
        row["step"] for row in read_metrics(tmp_path / "run/metrics.jsonl") if "kind" in row
    ]
    pixels = np.asarray(Image.open(BytesIO(shown[-1].encoded_image_string)))
    weights = Run.open(tmp_path / "run").load_model("cpu", "last").get_parameter("conv1.weight")
    first = filter_pictures(weights[:1].detach().numpy())[0]
    assert np.array_equal(pixels[: first.shape[0], : first.shape[1]], first)


def test_tensorboard_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"alexnet\[tensorboard\]"):
        MetricsLog(tmp_path, tensorboard=True)
