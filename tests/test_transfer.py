"""Experiment `transfer`: draws of images, features, the linear classifier, all of it together."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import TINY, Stripes
from convert_makers import small_torchvision, use_small
from sklearn.linear_model import Ridge as PeersRidge
from torch.nn import functional as F

from alexnet.cli import main
from alexnet.cli.reproduce import fitting
from alexnet.convert import published
from alexnet.convert.published import imagenet_convolutions
from alexnet.dataset import Dataset
from alexnet.errors import UsageError
from alexnet.prepare import prepare_dataset
from alexnet.progress import SILENT
from alexnet.reproduce import Machine, experiments, reproduce, transfer
from alexnet.reproduce.draws import BACKGROUND, TEST_IMAGES, divided, draw_all
from alexnet.reproduce.plan import Budget, Comparison, Experiment
from alexnet.reproduce.ridge import PENALTIES, fit_ridge
from alexnet.reproduce.transfer import measure_tap, pyramid, scratch_arm, tap_arm

COMPARISON = Comparison("pool5, 8 images", "from scratch, 8 images", "", "class_error")
TRIAL = Experiment(
    name="trial",
    question="Do they serve?",
    claims=(),
    settings=replace(TINY, epochs=1),
    side=256,
    arms=(
        tap_arm("pool5", "imagenet", 4),
        tap_arm("pool5", "imagenet", 8),
        tap_arm("pool5", "random", 8),
        scratch_arm(8),
    ),
    comparisons=(COMPARISON,),
    budgets={"quick": Budget(epochs=1, rates=(1.0,), seeds=2, drawn_side=32)},
)


class Caltech(Stripes):
    """Stripes across and slanting, and a class of other images: 23 of each."""

    classes: ClassVar = ("across", BACKGROUND, "slanting")  # type: ignore[misc]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("caltech") / "data"
    prepare_dataset(Caltech(), out, size=256, workers=1)
    return out


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of convolutions with an eighth of the kernels."""
    use_small(monkeypatch, "one_weird_trick")
    monkeypatch.setattr(published, "cache_folder", lambda: tmp_path / "cache/kernels")
    state = small_torchvision().features.state_dict()
    np.savez(tmp_path / "features.npz", **{f"features.{k}": v.numpy() for k, v in state.items()})
    return imagenet_convolutions(tmp_path / "features.npz")


# Draws.


def test_a_class_is_divided_by_hand() -> None:
    found = divided(np.arange(100), images=15, most=30)
    assert found["train"].tolist() == list(range(13))
    assert found["val"].tolist() == [13, 14]
    assert found["test"].tolist() == list(range(30, 80))
    assert TEST_IMAGES == 50
    assert divided(np.arange(31), 30, 30)["test"].tolist() == [30]  # Caltech's smallest class


def test_draws_share_test_images_and_nothing_else(data: Path, tmp_path: Path) -> None:
    draws = draw_all([4, 8], 2, 32, data, tmp_path, SILENT)
    whole = Dataset(data)
    pixels = np.concatenate([whole.split(name).read(range(len(whole.split(name))))
                             for name in whole.split_names])  # fmt: skip
    rows: dict[tuple[int, int, str], set[int]] = {}
    for (images, seed), path in draws.items():
        part = Dataset(path)
        assert part.classes == ["across", "slanting"]
        for name in part.split_names:
            split = part.split(name)
            own = [int(split.name(index)) for index in range(len(split))]
            rows[images, seed, name] = set(own)
            # Reduced to an eighth of the side: the means agree.
            shown = split.read(range(len(split))).mean((1, 2))
            np.testing.assert_allclose(shown, pixels[own].mean((1, 2)), atol=1)
        assert len(rows[images, seed, "train"]) + len(rows[images, seed, "val"]) == 2 * images
        assert len(rows[images, seed, "test"]) == 2 * (23 - 8)
        assert len(set().union(*(rows[images, seed, name] for name in part.split_names))) == (
            2 * images + 2 * (23 - 8)
        )
    assert rows[4, 0, "test"] == rows[8, 0, "test"] != rows[8, 1, "test"]
    assert rows[4, 0, "train"] < rows[8, 0, "train"]


def test_too_few_images_are_one_line(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"more than 30 images of each class, .* has 23 of across"):
        draw_all([15, 30], 1, 32, data, tmp_path, SILENT)


# The classifier.


def left_out_errors(x: torch.Tensor, y: torch.Tensor, penalty: float) -> int:
    """Fit to all images but one, for each: what the closed form must equal."""
    wrong = 0
    for one in range(len(x)):
        others = [row for row in range(len(x)) if row != one]
        targets = 2 * F.one_hot(y[others], 3).double().numpy() - 1
        peer = PeersRidge(alpha=penalty).fit(x[others].double().numpy(), targets)
        wrong += int(peer.predict(x[[one]].double().numpy()).argmax() != y[one])
    return wrong


def test_the_classifier_is_ridge_regression() -> None:
    torch.manual_seed(0)
    y = torch.arange(24) % 3
    x = torch.randn(24, 60) + 0.25 * torch.randn(3, 60)[y]
    fitted = fit_ridge(x, y, 3)
    centred = x - x.mean(0)
    scale = float(centred.square().sum()) / 24  # the mean eigenvalue: trace over images
    errors = {each: left_out_errors(x, y, each * scale) for each in PENALTIES}
    assert 0 < min(errors.values()) < max(errors.values())  # there is something to choose
    best = max(each for each in PENALTIES if errors[each] == min(errors.values()))
    assert fitted.penalty == best
    assert fitted.left_out_error == pytest.approx(errors[best] / 24)
    targets = 2 * F.one_hot(y, 3).numpy() - 1
    peer = PeersRidge(alpha=best * scale).fit(x.numpy(), targets)
    new = torch.randn(5, 60)
    np.testing.assert_allclose(fitted.answers(new), peer.predict(new.numpy()), atol=1e-4)


def test_errors_are_means_of_the_classes(data: Path, tmp_path: Path) -> None:
    """All test images of one class are given the other's features: half of the classes is wrong."""
    draw = draw_all([8], 1, 32, data, tmp_path / "draws", SILENT)[8, 0]
    part, values = Dataset(draw), np.zeros((69, 72), np.float16)
    for name in part.split_names:
        split = part.split(name)
        for index, label in enumerate(split.labels.tolist()):
            values[int(split.name(index)), 0 if name == "test" else 36 * label] = 1
    np.save(tmp_path / "pool5.npy", values)
    found = measure_tap(draw, tmp_path, "pool5")
    assert (found["train_error"], found["val_error"]) == (0, 0)
    assert (found["test_error"], found["class_error"]) == (0.5, 0.5)


def test_the_pyramid_by_hand() -> None:
    maps = torch.zeros(1, 1, 6, 6)
    maps[0, 0, 0, 0], maps[0, 0, 5, 5] = 16.0, 4.0
    found = pyramid(maps.flatten(1))[0]
    first, second, third = found[:36], found[36:45], found[45:]
    # Roots of 16 and 4, then of 4 and 1 (means of 2 x 2), each of length 1 / sqrt(3).
    for level in (first, second):
        assert [float(level[0]), float(level[-1])] == pytest.approx(
            [4 / 60**0.5, 2 / 60**0.5], rel=1e-5
        )
        assert int((level != 0).sum()) == 2
    assert float(third) == pytest.approx(3**-0.5)


# All of it.


def test_features_are_the_taps_of_each_image(data: Path, init: Path, tmp_path: Path) -> None:
    material = transfer.prepare_material(
        TRIAL, TRIAL.budgets["quick"], data, tmp_path / "data", init, "cpu", SILENT
    )
    theirs: Any = small_torchvision()
    split = Dataset(data).split("val")
    pixels = torch.from_numpy(split.read([3])).permute(0, 3, 1, 2)[:, :, 16:240, 16:240] / 255
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    with torch.inference_mode():
        for tap, rows in (("pool2", 6), ("pool5", 13)):
            maps = theirs.features[:rows]((pixels - mean) / std)
            expected = F.normalize(F.adaptive_avg_pool2d(maps, 6).flatten(1))[0]
            folder = material.features["imagenet"]
            found = np.load(folder / f"{tap}.npy")[39 + 3].astype(np.float32)
            np.testing.assert_allclose(found, expected, atol=2e-3)
    others = np.load(material.features["random"] / "pool5.npy")
    assert np.abs(others[42] - found).max() > 0.05


def test_a_trial_is_compared_and_not_repeated(
    data: Path, init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(experiments.EXPERIMENTS, "trial", TRIAL)
    options: dict[str, Any] = {"init": init, "machine": Machine("cpu", jobs=1)}
    result = reproduce("trial", data, tmp_path / "out", **options)
    stored = json.loads((tmp_path / "out/trial.json").read_text())
    assert stored["arms"] == result["arms"]
    assert result["data"]["images"] == {"train": 14, "val": 2, "test": 30}
    for arm in result["arms"].values():
        assert len(arm["seeds"]) == 2
        assert all(0 <= seed["class_error"] <= 1 for seed in arm["seeds"])
    (compared,) = result["comparisons"]
    assert compared["values"]["first"] == [
        seed["class_error"] for seed in result["arms"]["pool5, 8 images"]["seeds"]
    ]
    for name in ("fit_ridge", "write_features"):
        monkeypatch.setattr(transfer, name, None)
    assert reproduce("trial", data, tmp_path / "out", **options) == result


def test_what_is_missing_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"transfer needs ImageNet's convolutions: init="):
        reproduce("transfer", data, tmp_path / "out")
    missing = tmp_path / "missing.npz"
    transfer_it = ["reproduce", "transfer", "--data", str(data), "--mirror", str(missing)]
    assert main(transfer_it) != 0
    error = capsys.readouterr().err
    assert f"cannot read {missing}: No such file" in " ".join(error.split())
    assert main(["reproduce", "views", "--data", str(data), "--mirror", str(missing)]) == 2
    assert "--mirror is for transfer" in capsys.readouterr().err


def test_draws_take_the_data_of_most_classes(data: Path, tmp_path: Path) -> None:
    class Two(Stripes):
        classes = ("across", "down")  # type: ignore[assignment]

    prepare_dataset(Two(), tmp_path / "two", size=256, workers=1)
    both = [data, tmp_path / "two"]
    assert fitting(transfer.TRANSFER, both, "quick") == data
    assert fitting(experiments.VIEWS, both, "quick") == tmp_path / "two"
