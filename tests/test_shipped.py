"""The net that comes with the package: its files, its answers, and what is said about it."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import alexnet
from alexnet.cli import main
from alexnet.errors import CheckpointError
from alexnet.storage.folders import SHIPPED_RUN, named_run
from alexnet.storage.quantized import FORM, INTEGERS, STEP, quantize, restore
from alexnet.storage.run import Run

ROOT = Path(__file__).parents[1]
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program that puts a run into the package."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("ship_net")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    noise = np.random.default_rng(2).integers(0, 256, (12, 16, 3), np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(noise).resize((640, 480)).save(path)
    return path


# Weights as integers.


def test_integers_are_those_worked_out_by_hand() -> None:
    weight = torch.tensor([[1.0, -1.0, 0.6, 0.0]])
    made = quantize("w", weight, 3)
    # Steps of 1/3: 3, -3, 2 (of 1.8) and 0, stored from 0 on as 6, 0, 5, 3: 110 000 101 011.
    assert made["w" + INTEGERS].tolist() == [0b11000010, 0b10110000]
    assert made["w" + STEP].tolist() == [[pytest.approx(1 / 3)]]
    assert made["w" + FORM].tolist() == [3, 1, 4]
    assert restore(made)["w"].tolist() == [[1, -1, pytest.approx(2 / 3), 0]]


@pytest.mark.parametrize("bits", [2, 5, 6, 7, 8])
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (6, 2, 9), (3, 7)])
def test_no_weight_moves_by_more_than_half_a_step(bits: int, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(bits))
    weight[0] = 0
    made = {**quantize("w", weight, bits), "bias": torch.ones(2)}
    back = restore(made)
    assert set(back) == {"w", "bias"}
    assert back["w"].shape == shape
    assert back["w"].dtype == torch.float32
    assert not back["w"][0].any()
    filters = weight.flatten(0, 1) if len(shape) == 3 else weight.flatten(1)
    largest = filters.abs().amax(1).max()
    assert made["w" + STEP].numel() == len(filters)
    assert (back["w"] - weight).abs().max() <= largest / (2 ** (bits - 1) - 1) / 2 * 1.0001
    assert len(made["w" + INTEGERS]) == -(-weight.numel() * bits // 8)


@pytest.mark.parametrize(
    "change",
    [
        {"w" + FORM: torch.tensor([9, 2, 8])},
        {"w" + FORM: torch.tensor([1, 2, 8])},
        {"w" + FORM: torch.tensor([4, 2, 2**60])},
        {"w" + FORM: torch.tensor([4, -2, -8])},
        {"w" + FORM: torch.tensor([4])},
        {"w" + STEP: torch.ones(3, 1)},
        {"w" + STEP: torch.ones(2)},
        {"w" + INTEGERS: torch.zeros(7, dtype=torch.uint8)},
        {"w" + INTEGERS: torch.zeros(8, dtype=torch.int64)},
    ],
)
def test_integers_of_a_stranger_are_checked(change: dict[str, torch.Tensor]) -> None:
    made = quantize("w", torch.ones(2, 8), 4)
    with pytest.raises(ValueError, match=r"integers of"):
        restore(made | change)


# A run made small.


def test_a_run_made_small_is_a_run_with_nearly_the_same_answers(
    script: Any, tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run, out = Run.open(tiny_run), tmp_path / "small"
    script.write_run(run, out)
    small = Run.open(out)
    assert small.classes == run.classes
    assert torch.equal(small.preprocessing.mean_image, run.preprocessing.mean_image)
    theirs, ours = run.load_model().state_dict(), small.load_model().state_dict()
    for name, weight in theirs.items():
        if name.endswith("bias"):
            assert torch.equal(ours[name], weight)
            continue
        steps = 2 ** (script.BITS.get(name.split(".")[0], 8) - 1) - 1
        assert 0 < (ours[name] - weight).abs().max() <= weight.abs().max() / steps / 2 * 1.0001
    compared = script.compare(run, small, tiny_data)["one_view"]
    assert 0 < compared["largest_probability_difference"] < 0.1
    assert compared["top1_error"] == alexnet.evaluate_run(out, tiny_data, split="test").top1_error
    assert alexnet.diagnose(out).sound
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert size < 1_000_000 < (run.path / "checkpoints").stat().st_size + 4_400_000


def test_damaged_integers_are_an_error_of_one_line(
    script: Any, tiny_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small"
    script.write_run(Run.open(tiny_run), out)
    (file,) = (out / "checkpoints").iterdir()
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        Run.open(out).load_model()


# The files in the package.


def test_the_package_has_at_most_one_megabyte_of_it() -> None:
    files = [path for path in SHIPPED_RUN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 1_000_000
    assert sorted(path.suffix for path in files) == [
        ".json",
        ".json",
        ".md",
        ".npy",
        ".safetensors",
    ]
    run = Run.shipped()
    assert (run.model_name, run.classes, run.path) == ("cifar10_11", CIFAR10, SHIPPED_RUN)
    assert set(run.load()[1].tensors) == {
        f"model.{name}" for name in alexnet.create_model("cifar10_11", 10).state_dict()
    }


def test_its_card_says_what_is_recorded(script: Any) -> None:
    result = json.loads((ROOT / "results/shipped_net/result.json").read_text(encoding="utf-8"))
    card = (SHIPPED_RUN / "README.md").read_text(encoding="utf-8")
    assert card == script.card(result)
    for views in ("one_view", "ten_views"):
        assert f"{100 * result['shipped'][views]['top1_error']:.1f} %" in card
        # The integers cost next to nothing.
        difference = result["shipped"][views]["top1_error"] - result["test"][views]["top1_error"]
        assert abs(difference) < 0.005
    assert ", ".join(CIFAR10) in card


def test_pretrained_is_the_same_network(picture: Path) -> None:
    model = alexnet.create_model("cifar10_11", pretrained=True)
    for name, weight in Run.shipped().load_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    assert alexnet.predict_images(picture) == alexnet.predict_images(picture, SHIPPED_RUN)


def test_other_classes_get_a_new_last_layer(picture: Path) -> None:
    whole = alexnet.create_model("cifar10_11", pretrained=True)
    model = alexnet.create_model("cifar10_11", 7, pretrained=True)
    assert model[-1].out_features == 7
    assert torch.equal(model.get_parameter("local4.weight"), whole.get_parameter("local4.weight"))
    assert alexnet.Run.shipped().predict(picture) in alexnet.predict_images(picture)


# The command line.


def test_predict_without_a_run_answers_and_says_what_it_knows(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shipped").mkdir()  # a folder of that name is not in the way
    assert main(["predict", str(picture), "--top", "10"]) == 0
    shown = capsys.readouterr()
    assert sorted(line.split()[-1] for line in shown.out.splitlines()[1:]) == CIFAR10
    assert ", ".join(CIFAR10) in " ".join(shown.err.split())
    assert main(["predict", str(picture), "--json"]) == 0
    shown = capsys.readouterr()
    (answer,) = json.loads(shown.out)
    assert answer["run"] == "shipped"
    assert "airplane" in shown.err
    (same,) = alexnet.predict_images(picture, SHIPPED_RUN)
    assert answer == same.as_json() | {"run": "shipped"}


def test_predict_with_a_run_does_not_speak_of_it(
    tiny_run: Path, picture: Path, capsys: Any
) -> None:
    assert main(["predict", str(picture), "--run", str(tiny_run), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)[0]["run"] == str(tiny_run)
    assert "airplane" not in shown.err


def test_shipped_names_it_where_no_folder_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["features", "--run", "shipped", "--list", "--json"]) == 0
    assert "local3" in capsys.readouterr().out
    assert main(["export", "shipped", "net.safetensors", "--check-images", "2"]) == 0
    assert (tmp_path / "net.safetensors").stat().st_size > 4_000_000
    assert main(["evaluate", "shipped", "nothing"]) == 3
    assert "nothing does not exist" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "shipped").mkdir()
    assert named_run(Path("shipped")) == Path("shipped")
