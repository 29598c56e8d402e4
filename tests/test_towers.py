"""Groups joined and parted: the same answers, and back to the same bits."""

import json
from pathlib import Path

import pytest
import torch
from convert_makers import lively, use_small, write_run
from network_makers import shrunk
from torch import nn

from alexnet.cli import main
from alexnet.convert.towers import convert_run, convert_weights
from alexnet.doctor import diagnose
from alexnet.errors import CheckpointError, UsageError
from alexnet.networks.groups import join_groups, separate_groups
from alexnet.networks.layers_2012 import GroupedLinear
from alexnet.networks.registry import MODELS
from alexnet.storage.run import Run

BOTH = ("alexnet", "alexnet_one_tower")


def eighths(*shape: int) -> torch.Tensor:
    """Draw multiples of 1/8 in float64: their sums and products are exact in any order."""
    return torch.randint(-64, 64, shape).double() / 8


@pytest.mark.parametrize("groups", [2, 3])
def test_a_joined_convolution_gives_the_same_bits(groups: int) -> None:
    torch.manual_seed(groups)
    conv = nn.Conv2d(4 * groups, 5 * groups, 3, padding=1, groups=groups).double()
    joined = nn.Conv2d(4 * groups, 5 * groups, 3, padding=1).double()
    conv.weight.data = eighths(5 * groups, 4, 3, 3)
    joined.weight.data = join_groups(conv.weight.data, groups)
    joined.bias = conv.bias = nn.Parameter(eighths(5 * groups))
    images = eighths(2, 4 * groups, 7, 6)
    assert torch.equal(joined(images), conv(images))
    assert torch.equal(separate_groups(joined.weight, groups), conv.weight)


def test_a_joined_linear_layer_gives_the_same_bits() -> None:
    grouped = GroupedLinear(8, 6, groups=2).double()
    grouped.weight.data, x = eighths(6, 4), eighths(3, 8)
    grouped.bias.data = eighths(6)
    joined = nn.functional.linear(x, join_groups(grouped.weight.data, 2), grouped.bias)
    assert torch.equal(joined, grouped(x))


def test_a_whole_network_answers_the_same_and_comes_back() -> None:
    towers, whole = shrunk("alexnet"), shrunk("alexnet_one_tower")
    before = {name: weight.clone() for name, weight in towers.state_dict().items()}
    whole.load_state_dict(convert_weights(towers, whole))
    images = torch.randn(2, 3, 224, 224, dtype=torch.float64) * 60
    torch.testing.assert_close(whole(images), towers(images), rtol=1e-12, atol=1e-12)
    back = convert_weights(whole, towers)
    assert all(torch.equal(back[name], weight) for name, weight in before.items())
    # The weights between the towers are felt, once there are some.
    whole.get_submodule("conv4").get_parameter("weight").data[0, -1] = 1.0
    assert not torch.allclose(whole(images), towers(images), rtol=1e-6)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small(monkeypatch, *BOTH)


def state(run: Path) -> dict[str, torch.Tensor]:
    return Run.open(run).load_model().state_dict()


@pytest.mark.usefixtures("small")
def test_a_run_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", lively("alexnet"), "alexnet")
    words = ["convert", str(run.path), str(tmp_path / "one"), "--to", "alexnet_one_tower"]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    one = Run.open(tmp_path / "one")
    sizes = [sum(w.numel() for w in state(each).values()) for each in (run.path, one.path)]
    assert report["layers"] == ["conv2", "conv4", "conv5"]
    assert (report["parameters"], report["zeros"]) == (sizes[1], sizes[1] - sizes[0])
    assert (one.model_name, one.classes) == ("alexnet_one_tower", run.classes)
    assert torch.equal(one.preprocessing.mean_image, run.preprocessing.mean_image)
    assert diagnose(one.path).sound
    assert main(["convert", str(one.path), str(tmp_path / "back"), "--to", "alexnet"]) == 0
    out = capsys.readouterr().out
    assert f"weights of 0 removed in conv2, conv4, conv5\nrun: {tmp_path / 'back'}" in out
    before, after = state(run.path), state(tmp_path / "back")
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@pytest.mark.usefixtures("small")
def test_weights_between_the_towers_are_not_dropped(tmp_path: Path) -> None:
    model = lively("alexnet_one_tower")
    run = write_run(tmp_path / "run", model, "alexnet_one_tower")
    total = model.get_submodule("conv2").get_parameter("weight").numel() // 2
    says = f"{total:,} of the {total:,} weights between the 2 groups of conv2 are not 0"
    with pytest.raises(CheckpointError, match=says):
        convert_run(run.path, tmp_path / "out", "alexnet")
    assert not (tmp_path / "out").exists()


REFUSED: dict[str, tuple[str, str]] = {
    "the same": ("cifar10_11", "cifar10_11 and cifar10_11 have the same groups"),
    "another norm": (
        "cifar10_13",
        r"cannot be written as cifar10_13, which differs in norm1 \(typ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_networks_are_refused(tmp_path: Path, tiny_run: Path, case: str) -> None:
    to, says = REFUSED[case]
    with pytest.raises(UsageError, match=says):
        convert_run(tiny_run, tmp_path / "out", to)


def small_one_tower(classes: int) -> nn.Sequential:
    """Build `alexnet_small` without groups."""
    model = MODELS["alexnet_small"](classes)
    for name, maps in (("conv2", 48), ("conv4", 192), ("conv5", 192)):
        outputs = len(model.get_submodule(name).get_parameter("bias"))
        kernel, padding = (5, 2) if name == "conv2" else (3, 1)
        model.set_submodule(name, nn.Conv2d(maps, outputs, kernel, padding=padding))
    return model


def test_changes_of_the_run_stay_unless_others_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(MODELS, "alexnet_one_tower", small_one_tower)
    changes, name = {"activation": "tanh"}, "alexnet_small"
    run = write_run(tmp_path / "run", lively(name, ablate=changes), name, changes)
    convert_run(run.path, tmp_path / "one", "alexnet_one_tower")
    assert Run.open(tmp_path / "one").settings.ablate == changes
    words = ["convert", str(run.path), str(tmp_path / "out"), "--to", "alexnet_one_tower"]
    assert main([*words, "--ablate", "activation=relu"]) == UsageError.exit_code
    assert "which differs in relu1 (type), tanh1 (type)" in capsys.readouterr().err


def test_an_existing_folder_is_left_alone(tmp_path: Path, tiny_run: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        convert_run(tiny_run, tmp_path, "cifar10_13")
