"""Experiments: parts of a data set, tuning, resuming, and what a difference means."""

import json
import math
import multiprocessing
import os
import sys
import tomllib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alexnet.analysis.summary import summarize
from alexnet.cli import main
from alexnet.cli.reproduce import fitting, sentence
from alexnet.dataset import Dataset
from alexnet.errors import UsageError, WorkerError
from alexnet.evaluate import log_probabilities
from alexnet.networks.registry import create_model, input_shape
from alexnet.prepare import prepare_dataset
from alexnet.progress import SILENT
from alexnet.reproduce import Machine, experiments, measuring, reproduce, running
from alexnet.reproduce.classical import (
    describe_hog,
    describe_pixels,
    describe_words,
    measure_classifier,
    sift,
)
from alexnet.reproduce.measuring import epochs_until
from alexnet.reproduce.part import choose, evenly, pack_part
from alexnet.reproduce.plan import Arm, Budget, Comparison, Experiment
from alexnet.reproduce.statistics import Difference, judge, paired_difference, paired_ratio
from alexnet.reproduce.wording import difference_text
from alexnet.storage.run import Run

ARMS = (Arm("with"), Arm("without", {"model": "cifar10_13"}))
TOGETHER = Comparison(
    "with", "with", "less", "test_error_averaged", of_second="test_error_10_views"
)  # fmt: skip
TRIAL = Experiment(
    name="trial",
    question="Is it better with?",
    claims=(10,),
    settings=replace(TINY, epochs=1),
    side=32,
    arms=ARMS,
    comparisons=(
        Comparison("with", "without", "much better"),
        Comparison("with", "without", "sooner", "epochs_to_25"),
        TOGETHER,
    ),
    budgets={"quick": Budget(epochs=2, images=18, test_images=9, rates=(1 / 3, 1.0), seeds=2)},
    training_error=True,
)
CPU = Machine("cpu", jobs=1)
ROOT = Path(__file__).parents[1]


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setitem(experiments.EXPERIMENTS, "trial", TRIAL)
    return TRIAL


@pytest.fixture(scope="module")
def finished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished trial."""
    out = tmp_path_factory.mktemp("reproduced")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(experiments.EXPERIMENTS, "trial", TRIAL)
        patch.setattr(running, "available_cores", lambda: 1)  # others test at the same time
        reproduce("trial", tiny_data, out, machine=CPU)
    return out


def result_in(out: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / "trial.json").read_text())
    return found


def test_a_trial_has_a_result_of_every_arm_and_seed(finished: Path) -> None:
    result = json.loads((finished / "trial.json").read_text())
    assert result["data"]["images"] == {"train": 18, "val": 15, "test": 9}
    for name, arm in result["arms"].items():
        assert [each["rate"] for each in arm["tried"]] == [0.001, 0.003], name
        assert arm["rate"] in (0.001, 0.003)
        assert len(arm["seeds"]) == 2
        for seed in arm["seeds"]:
            assert {len(seed["epochs"][column]) for column in ("train_loss", "top1_error")} == {2}
            # After the last epoch both are the same weights on the same images.
            assert seed["epochs"]["train_error"][-1] == pytest.approx(seed["train_error"], 5e-3)
            assert set(seed["epochs"]["gradient_norms"]) >= {"conv1", "fc10"}
    assert {each["outcome"] for each in result["comparisons"]} <= {
        "agrees", "disagrees", "cannot tell",
    }  # fmt: skip
    first = result["comparisons"][0]
    assert first["values"]["first"] == [
        seed["test_error"] for seed in result["arms"]["with"]["seeds"]
    ]


def test_the_same_command_again_trains_nothing(
    finished: Path, tiny_data: Path, trial: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = result_in(finished)
    monkeypatch.setattr(measuring, "train_model", None)
    stamps = {path: path.stat().st_mtime_ns for path in finished.glob("runs/*/metrics.jsonl")}
    reproduce(trial.name, tiny_data, finished, machine=CPU)
    assert result_in(finished) == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_the_command_writes_the_page(
    finished: Path, tiny_data: Path, trial: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(tiny_data), "--out", str(finished), "--device", "cpu", "--jobs", "1"]
    assert main(["reproduce", trial.name, *words]) == 0
    assert f"page: {finished / 'index.html'}" in capsys.readouterr().out
    assert trial.question in (finished / "index.html").read_text(encoding="utf-8")
    stored = result_in(finished)
    assert (
        stored["command"] == f"alexnet reproduce trial --data data/{tiny_data.name} --budget quick"
    )


def test_networks_together_are_the_mean_of_their_probabilities(finished: Path) -> None:
    result = json.loads((finished / "trial.json").read_text())
    arm, data = result["arms"]["with"], Dataset(next((finished / "data").iterdir()))
    test = data.split("test")
    pixels = test.read(range(len(test)))
    probabilities = []
    for path in (finished / "runs").iterdir():
        run = Run.open(path)
        if (run.settings.model, run.settings.lr) == ("cifar10_11", arm["rate"]):
            model = run.load_model("cpu", "last").eval()
            log = log_probabilities(model, pixels, run.preprocessing, view_count=10)
            probabilities.append(log.exp().numpy())
    assert len(probabilities) == 2
    answers = np.mean(probabilities, axis=0).argmax(1)
    expected = float((answers != test.labels).mean())
    compared = result["comparisons"][2]
    assert compared["values"]["first"] == pytest.approx([expected, expected], 1e-5)
    singles = [seed["test_error_10_views"] for seed in arm["seeds"]]
    assert compared["values"]["second"] == singles
    assert "2 networks together against one" in sentence(compared)


def test_the_size_and_time_of_each_network_are_recorded(finished: Path) -> None:
    arms = json.loads((finished / "trial.json").read_text())["arms"]
    for name, arm in arms.items():
        summary = summarize("cifar10_11" if name == "with" else "cifar10_13", 3)
        network = arm["network"]
        assert (network["parameters"], network["macs"]) == (summary.parameters, summary.macs)
        total = sum(seed["seconds"] for seed in arm["seeds"])
        assert network["seconds_per_epoch"] == pytest.approx(total / 4, 1e-4)  # 2 seeds, 2 epochs


@pytest.mark.slow
def test_several_trainings_at_a_time_give_the_same(
    finished: Path, tiny_data: Path, tmp_path: Path, trial: Experiment
) -> None:
    def timeless(out: Path) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((out / "trial.json").read_text())
        for arm in result["arms"].values():
            arm["network"].pop("seconds_per_epoch")
            for seed in arm["seeds"]:
                seed.pop("seconds")
        return {"arms": result["arms"], "comparisons": result["comparisons"]}

    reproduce(trial.name, tiny_data, tmp_path / "two", machine=Machine("cpu", jobs=2))
    assert timeless(tmp_path / "two") == timeless(finished)


@pytest.mark.slow
def test_a_training_process_that_dies_is_one_line() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(os._exit, 1): Path("run")}
        with pytest.raises(WorkerError, match="a training process died; memory may be short"):
            list(running.finished(futures))  # type: ignore[arg-type]


def test_weights_of_rates_that_were_not_chosen_are_gone(finished: Path) -> None:
    runs = list((finished / "runs").iterdir())
    with_weights = [run for run in runs if (run / "checkpoints").exists()]
    assert (len(runs), len(with_weights)) == (6, 4)  # two arms of two seeds
    assert all((run / "figures.json").is_file() for run in runs)


def test_a_training_that_diverges_counts_as_wrong(tiny_data: Path, tmp_path: Path) -> None:
    training = measuring.Training(
        tiny_data, tmp_path / "run", replace(TINY, lr=1e30, optimizer="sgd", warmup_epochs=0.0),
        training_error=False, device="cpu", threads=1, plain=True,
    )  # fmt: skip
    found = measuring.train_and_measure(training)
    assert (found["test_error"], found["epochs_to_25"]) == (1.0, None)
    assert "diverged" in found
    assert measuring.train_and_measure(training) == found


def test_gradients_are_those_of_the_weights_that_were_saved(finished: Path) -> None:
    result = json.loads((finished / "trial.json").read_text())
    data = Dataset(next((finished / "data").iterdir()))
    train = data.split("train")
    runs = [Run.open(path) for path in (finished / "runs").iterdir()]
    arm, seed = result["arms"]["with"], 1
    (run,) = [
        run
        for run in runs
        if (run.settings.model, run.settings.seed) == ("cifar10_11", seed)
        and run.settings.lr == arm["rate"]
    ]
    model, mean = run.load_model("cpu", "last"), run.preprocessing.mean_image
    pixels = torch.from_numpy(train.read(range(18))).permute(0, 3, 1, 2)
    logits = model((pixels - mean)[:, :, 4:28, 4:28])
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(train.labels))
    norms = arm["seeds"][seed]["epochs"]["gradient_norms"]
    found = {name: column[-1] for name, column in norms.items()}
    gradients = torch.autograd.grad(loss, [model.get_parameter(f"{name}.weight") for name in found])
    sizes = [float(gradient.norm()) for gradient in gradients]
    assert list(found.values()) == pytest.approx(sizes, rel=5e-3)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.5, 0.25], 2.0),
        ([0.5, 0.3, 0.2], 2.5),
        ([0.2], 0.75 / 0.8),
        ([0.5, 0.4], None),
        ([], None),
        ([None, None], None),
    ],
)
def test_epochs_until_a_training_error(errors: list[float | None], expected: float | None) -> None:
    assert epochs_until(errors) == (None if expected is None else pytest.approx(expected))


# Parts of a data set.


def test_a_part_has_the_pixels_of_the_whole(tiny_data: Path, tmp_path: Path) -> None:
    part = Dataset(pack_part(tiny_data, tmp_path, 18, 9, SILENT))
    whole = Dataset(tiny_data)
    assert part.classes == whole.classes
    for split in part.split_names:
        own = part.split(split)
        for place in range(len(own)):
            origin, index = own.name(place).split("/")
            assert np.array_equal(own.read([place]), whole.split(origin).read([int(index)]))
            label = whole.split(origin).labels[int(index)]
            assert part.classes[own.labels[place]] == whole.classes[label]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 60))
def test_images_are_drawn_evenly(labels: list[int], count: int) -> None:
    order = evenly(np.array(labels))
    assert sorted(order.tolist()) == list(range(len(labels)))
    drawn = np.bincount(np.array(labels)[order[:count]], minlength=5)
    available = np.bincount(labels, minlength=5)
    for one in range(5):
        for other in range(5):  # one has fewer only where there are no more
            assert drawn[one] >= drawn[other] - 1 or drawn[one] == available[one]


def test_without_a_test_split_validation_images_are_tested(tmp_path: Path) -> None:
    from conftest import Stripes

    source = Stripes()
    source.counts = {"train": 20, "val": 5}  # type: ignore[misc]
    prepare_dataset(source, tmp_path / "two", size=32, workers=1)
    takes = {take.split: take for take in choose(Dataset(tmp_path / "two"), 0, 0)}
    assert {name: take.origin for name, take in takes.items()} == {
        "train": "train", "val": "train", "test": "val",
    }  # fmt: skip
    assert takes["train"].stop == takes["val"].start  # no image is in both
    assert takes["val"].stop == 60


def test_all_images_are_trained_on_where_nothing_is_chosen(tiny_data: Path, tmp_path: Path) -> None:
    whole = Dataset(tiny_data)
    part = Dataset(pack_part(tiny_data, tmp_path, 0, 0, SILENT, holds_out=False))
    assert list(part.split_names) == ["train", "test"]
    train = part.split("train")
    names = {train.name(place) for place in range(len(train))}
    assert names == {
        f"{split}/{index}" for split in ("train", "val") for index in range(len(whole.split(split)))
    }
    assert pack_part(tiny_data, tmp_path, 0, 0, SILENT) != part.path


# What a difference means.


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=9))
def test_intervals_are_those_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    first, second = (np.array(column) for column in zip(*pairs, strict=True))
    if np.ptp(first - second) < 1e-6:
        return
    found = paired_difference(first.tolist(), second.tolist())
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_ratios_are_compared_by_their_logarithms() -> None:
    found = paired_ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0], 30)
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    bound = paired_ratio([5.0, 6.0, 7.0], [None, None, None], 30)
    assert bound.is_bound
    assert bound.mean == pytest.approx((5 * 6 * 7) ** (1 / 3) / 30)
    with pytest.raises(ValueError, match="did not get there"):
        paired_ratio([None, 1.0], [1.0, 1.0], 30)


@pytest.mark.parametrize(
    ("low", "high", "is_claimed", "outcome"),
    [
        (-0.02, -0.01, True, "agrees"),
        (-0.02, 0.01, True, "cannot tell"),
        (0.01, 0.02, True, "disagrees"),
        (0.01, 0.02, False, "differs"),
        (-0.02, -0.01, False, "differs"),
    ],
)
def test_outcomes(low: float, high: float, is_claimed: bool, outcome: str) -> None:
    assert judge(Difference(0, low, high, 3), 0.0, is_claimed=is_claimed) == outcome


def test_a_claim_about_long_trainings_is_not_judged_by_short_ones() -> None:
    figures = {"a": [{"test_error": value} for value in (0.1, 0.11, 0.12)]}
    figures["b"] = [{"test_error": each["test_error"] + 0.2} for each in figures["a"]]
    claim = Comparison("a", "b", "", fewest_epochs=520)
    outcomes = [running.compare(claim, figures, epochs)["outcome"] for epochs in (519, 520)]
    assert outcomes == ["cannot tell", "agrees"]


def test_one_seed_tells_nothing() -> None:
    alone = paired_difference([0.1], [0.9])
    assert judge(alone, 0.0, is_claimed=True) == "cannot tell"
    stored = json.loads(json.dumps(alone.as_json(), allow_nan=False))  # infinity is no JSON
    assert difference_text("test_error", stored) == "-80.0 points (one seed: no interval)"


def test_a_difference_is_written_with_its_interval() -> None:
    points = Difference(-0.02, -0.03, -0.01, 3).as_json()
    assert difference_text("test_error", points) == "-2.0 points (-3.0 to -1.0)"
    assert difference_text("overfitting", points) == "-2.0 points (-3.0 to -1.0)"
    ratio = Difference(0.2, 0.1, 0.3, 3, is_bound=True).as_json()
    assert difference_text("epochs_to_25", ratio) == "at most 0.20 times the epochs (0.10 to 0.30)"


def test_rates_are_chosen_on_validation_images(trial: Experiment) -> None:
    tried: dict[float, dict[str, Any]] = {
        0.1: {"val_error": 0.5, "test_error": 0.1, "epochs_to_25": None},
        0.2: {"val_error": 0.4, "test_error": 0.9, "epochs_to_25": 9.0},
        0.3: {"val_error": 0.6, "test_error": 0.0, "epochs_to_25": 5.0},
    }
    assert running.best_rate(replace(trial, training_error=False), tried) == 0.2
    assert running.best_rate(trial, tried) == 0.3  # the fewest epochs, where these are asked for


# The list.


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_experiments_fit_together(name: str) -> None:
    plan = experiments.experiment(name)
    for cost in plan.budgets.values():
        # Without validation images no rate can be chosen, and all images are trained on.
        assert cost.holds_out or (len(cost.rates), cost.images) == (1, 0)
        for arm in plan.arms:
            settings = replace(
                plan.settings, **{**cost.changes, **arm.changes, "epochs": cost.epochs}
            )
            shape = input_shape(settings.model, ablate=settings.ablate)
            assert shape[1] <= (cost.side or plan.side), (arm.name, shape)
            with torch.device("meta"):
                create_model(settings.model, 10, ablate=settings.ablate)
    for each in plan.comparisons:
        assert plan.arm(each.first)
        assert plan.arm(each.second)
        assert plan.training_error or each.figure != "epochs_to_25"


def test_the_steps_of_all_in_full_are_expected_to_take_six_minutes_of_a_gpu() -> None:
    """At the rates predicted for an H200, which leaves some of seven for all else.

    Networks without a prediction are put at what the launches of their kernels would take.
    """
    rates = {
        each["key"]: each["predicted"]
        for each in tomllib.loads((ROOT / "results/gpu_predictions.toml").read_text())["prediction"]
    }
    step = {"alexnet": 128 / rates["train_command_batch_128.rate"], "googlenet_small": 0.002}
    step |= dict.fromkeys(("alexnet_small", "vgg11_small"), 0.0005)
    step |= {"resnet18_small": 0.0015, "batch norm": 0.001}
    step |= dict.fromkeys(
        ("cifar10_13", "cifar10_11"), 128 / rates["train_command_cifar10_11.rate"]
    )
    trainings = {}
    visit = (
        (ROOT / "Makefile").read_text().partition("alexnet reproduce ")[2].partition("--budget")[0]
    )
    for plan in map(experiments.experiment, visit.replace("\\", "").split()):
        cost = plan.budgets["full"]
        images = cost.images or (9469 if plan.side == 64 else 50000)
        for arm in (arm for arm in plan.arms if not arm.classifier):
            settings = replace(plan.settings, **{**cost.changes, **arm.changes})
            seconds = step[arm.name if arm.name in step else settings.model]
            facts = json.dumps([settings.as_json(), cost.epochs, cost.holds_out, images])
            count = len(cost.rates) + cost.seeds - 1
            steps = cost.epochs * math.ceil(images / settings.batch_size)
            trainings[facts] = count * steps * seconds
    assert 300 <= sum(trainings.values()) <= 400


def test_an_experiment_takes_the_smallest_images_that_do(tiny_data: Path) -> None:
    assert fitting(experiments.EXPERIMENTS["relu"], [tiny_data], "quick") == tiny_data
    with pytest.raises(UsageError, match=r"dropout needs images of 64 x 64 or more: .* 32 x 32"):
        fitting(experiments.EXPERIMENTS["dropout"], [tiny_data], "quick")
    with pytest.raises(UsageError, match="no --data is given"):
        fitting(experiments.EXPERIMENTS["relu"], [], "quick")
    with pytest.raises(
        UsageError, match="there is no experiment 'x'; there are: cifar10, relu, lrn"
    ):
        experiments.experiment("x")


def test_a_comparison_is_one_sentence(finished: Path) -> None:
    for each in json.loads((finished / "trial.json").read_text())["comparisons"]:
        line = sentence(each)
        assert each["outcome"] in line
        assert "\n" not in line


# Classifiers without a network.


def test_classifiers_learn_stripes(tiny_data: Path) -> None:
    """Directions of stripes: gradients tell them apart, and words do."""
    for kind, most in (("hog", 0.1), ("words", 0.4)):
        found = measure_classifier(tiny_data, kind, 0)
        assert found["test_error"] <= most, (kind, found)
        assert found["train_error"] <= found["val_error"] <= 1


def test_pixels_of_large_images_are_means() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    means = image.reshape(1, 32, 2, 32, 2, 3).mean((2, 4)).ravel()
    np.testing.assert_allclose(describe_pixels(image)[0], means, atol=0.51)
    assert np.array_equal(describe_pixels(image[:, :32, :32])[0], image[0, :32, :32].ravel())


def test_histograms_of_gradients_see_direction_not_brightness() -> None:
    row, _ = np.mgrid[:32, :32]
    across = np.repeat(((row // 4 % 2) * 100 + 50).astype(np.uint8)[..., None], 3, axis=2)
    down = across.transpose(1, 0, 2)
    first, second, brighter = describe_hog(np.stack([across, down, across + 60]))
    assert np.abs(first - brighter).max() < 0.05
    assert np.abs(first - second).max() > 0.3
    assert len(first) == 7 * 7 * 4 * 9


def test_words_are_counted_in_the_image_and_its_quarters() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    centers = sift(image)[::7][:10]
    (found,) = describe_words(image[None], centers)
    shares = (found**2).reshape(5, 10)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(shares[1:].mean(0), shares[0], atol=1e-6)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match=r"OpenCV is missing: pip install 'alexnet\[reproduce\]'"):
        describe_hog(np.zeros((1, 32, 32, 3), np.uint8))
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(UsageError, match="scipy is missing"):
        paired_difference([0.1, 0.2], [0.3, 0.4])
