"""The tables: names, shapes as their comments say, sizes, initial weights, gradients, errors."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from model_facts import facts
from network_makers import TABLES, empty, pictures, shrunk
from torch import nn

from alexnet import networks
from alexnet.analysis.summary import summarize
from alexnet.errors import UsageError
from alexnet.networks.ablation import ABLATIONS
from alexnet.networks.initialization import weight_layers
from alexnet.networks.registry import MODELS, create_model, input_shape, list_models

ROW = re.compile(r"^        (\w+)=.*# +(\d+(?: x \d+ x \d+)?|num_classes)$", re.MULTILINE)


@pytest.mark.parametrize("name", list_models())
def test_shapes_in_the_comments_are_those_of_the_live_network(name: str) -> None:
    written = ROW.findall(inspect.getsource(MODELS[name]))
    model = empty(name, 7).to_empty(device="cpu")
    x = torch.empty(0, *input_shape(name))  # no image has every shape, and costs nothing
    assert [row for row, _ in written] == [row for row, _ in model.named_children()]
    for (row, text), layer in zip(written, model, strict=True):
        x = layer(x)
        shape = " x ".join(map(str, x.shape[1:]))
        assert text.replace("num_classes", "7") == shape, row


EIGHT = "conv1 conv2 conv3 conv4 conv5 fc6 fc7 fc8"
LAYERS = dict.fromkeys(list_models(), EIGHT) | dict.fromkeys(
    ("cifar10_13", "cifar10_11"), "conv1 conv2 local3 local4 fc10"
)
LAYERS |= dict.fromkeys(
    ("vgg11", "vgg11_small"), " ".join([*(f"conv{n}" for n in range(1, 9)), "fc9 fc10 fc11"])
)
LAYERS["cifar10_18"] = "conv1 conv2 conv3 fc10"


@pytest.mark.parametrize("name", TABLES)
def test_state_dict_has_the_names_of_the_layers(name: str) -> None:
    expected = [f"{layer}.{part}" for layer in LAYERS[name].split() for part in ("weight", "bias")]
    assert list(empty(name).state_dict()) == expected


def test_names_are_known_without_the_tables() -> None:
    assert list(networks.NAMES) == list_models() == [build.__name__ for build in MODELS.values()]


@pytest.mark.parametrize(
    ("name", "parameters", "macs", "neurons"),
    [
        ("alexnet", 60_965_224, 724_406_816, 659_272),
        ("alexnet_2012", 60_965_224, 724_406_816, 659_272),
        ("caffe_alexnet", 60_965_224, 724_406_816, 659_272),
        ("caffenet", 60_965_224, 724_406_816, 659_272),
        ("alexnet_one_tower", 62_378_344, 1_135_256_096, 659_272),
        ("one_weird_trick", 61_100_840, 714_188_480, 494_184),
        ("alexnet_half", 59_798_312, 391_514_384, 355_864),
        ("alexnet_nocomm", 60_714_408, 724_323_872, 710_024),
    ],
)
def test_totals(name: str, parameters: int, macs: int, neurons: int) -> None:
    summary = summarize(name)
    assert (summary.parameters, summary.macs, summary.neurons) == (parameters, macs, neurons)


def test_totals_of_the_net_without_communication_by_hand() -> None:
    """Two towers of layers-150.cfg, and the layer in which they meet."""
    kernels = [(48, 3 * 121), (160, 48 * 25), (192, 160 * 9), (192, 192 * 9), (128, 192 * 9)]
    units = [(4096, 128 * 36), (2048, 4096)]
    tower = sum(out * reads + out for out, reads in kernels + units)
    assert 2 * tower + 1000 * 4096 + 1000 == 60_714_408
    positions = [55**2, 27**2, 13**2, 13**2, 13**2, 1, 1]
    layers = zip(kernels + units, positions, strict=True)
    macs = sum(out * reads * position for (out, reads), position in layers)
    assert 2 * macs + 1000 * 4096 == 724_323_872


@pytest.mark.parametrize("name", ["caffe_alexnet", "caffenet"])
def test_norms_of_caffe_are_torchs(name: str) -> None:
    """Both divide alpha by the size, and Caffe's k is 1 where nothing is said (caffe.proto:888)."""
    model, x = empty(name), torch.randn(2, 96, 5, 5) * 60
    for row in ("norm1", "norm2"):
        expected = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1)(x)
        torch.testing.assert_close(model.get_submodule(row)(x), expected)


def test_caffes_two_have_the_orders_of_their_files() -> None:
    for name, block in (("caffe_alexnet", "relu norm pool"), ("caffenet", "relu pool norm")):
        rows = [row for row, _ in empty(name).named_children()]
        for layer in "12":
            first = rows.index(f"conv{layer}") + 1
            assert rows[first : first + 3] == [f"{word}{layer}" for word in block.split()]


@pytest.mark.parametrize("name", ["caffe_alexnet", "alexnet_small", "cifar10_18", "cifar10_11"])
def test_initial_weights_are_as_noted(name: str) -> None:
    """What `summary` says of the start is what is drawn; the biases are the noted ones exactly."""
    torch.manual_seed(0)
    for (layer, made), row in zip(
        weight_layers(create_model(name, 10)),
        [row for row in summarize(name, 10).layers if row.parameters],
        strict=True,
    ):
        assert row.start is not None
        weight, bias = made.get_parameter("weight"), made.get_parameter("bias")
        error = (2 * weight.numel()) ** -0.5  # of a measured deviation, as a fraction
        assert weight.std().item() == pytest.approx(row.start["std"], rel=5 * error), layer
        assert torch.equal(bias, torch.full_like(bias, row.start["bias"]))


def test_one_weird_trick_starts_as_pytorch_does() -> None:
    assert all(row.start is None for row in summarize("one_weird_trick").layers)
    torch.manual_seed(0)
    weight = create_model("one_weird_trick", 10).get_parameter("conv3.weight")
    assert weight.abs().max().item() == pytest.approx((192 * 9) ** -0.5, rel=1e-3)


def test_the_two_cifar_nets_differ_by_the_norms_alone() -> None:
    with torch.device("meta"):
        reference, normed = create_model("cifar10_13", 10), create_model("cifar10_11", 10)
    rows = [(row, repr(layer)) for row, layer in normed.named_children() if "norm" not in row]
    assert rows == [(row, repr(layer)) for row, layer in reference.named_children()]
    assert [row for row, _ in normed.named_children() if "norm" in row] == ["norm1", "norm2"]


def test_cifar_initial_weights_are_those_of_the_2012_file() -> None:
    torch.manual_seed(0)
    expected = {"conv1": 0.0001, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01}
    for name, layer in weight_layers(create_model("cifar10_11", 10)):
        assert layer.get_parameter("weight").std().item() == pytest.approx(expected[name], rel=0.05)
        assert not layer.get_parameter("bias").any()


@pytest.mark.parametrize("name", TABLES)
def test_gradient_of_a_whole_network_is_the_numerical_one(name: str) -> None:
    """With an eighth of the kernels and units (the CIFAR-10 nets whole), along one direction."""
    if name.startswith("cifar10"):
        torch.manual_seed(1)
        model = create_model(name, 3).double().eval()
        for _, layer in weight_layers(model):
            nn.init.normal_(layer.get_parameter("weight"), std=0.1)
        x = torch.randn(2, *input_shape(name), dtype=torch.float64) * 3
    else:
        model = shrunk(name)
        x = pictures(2, input_shape(name)[1])
    parameters: list[torch.Tensor] = list(model.parameters())
    # In proportion to the weights, and short: a step across a kink of ReLU or pool counts as error.
    directions = [torch.randn_like(p) * p.abs().mean() for p in parameters]

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(x), torch.tensor([0, 2]))

    gradients = torch.autograd.grad(loss(), parameters)
    exact = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
    step, values = 1e-8, []
    for sign in (1, -1):
        with torch.no_grad():
            torch._foreach_add_(parameters, directions, alpha=sign * step)
            values.append(loss().item())
            torch._foreach_add_(parameters, directions, alpha=-sign * step)
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(exact, rel=1e-4)


def test_same_seed_same_weights() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(create_model("alexnet_small", 10).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_unknown_names_and_class_counts_are_refused() -> None:
    with pytest.raises(UsageError, match=r"alexnet, alexnet_2012, .*, cifar10_13, cifar10_11"):
        create_model("vgg")
    with pytest.raises(UsageError, match="at least 1"):
        create_model("alexnet", 0)
    assert list_models() == list(MODELS)


# What docs/models.md says.

MODELS_PAGE = (Path(__file__).parents[1] / "docs/models.md").read_text(encoding="utf-8")


def tables_of_differences(text: str) -> list[dict[str, dict[str, str]]]:
    """Read the tables with a column for each network: {network: {first cell of the line: cell}}."""
    tables = []
    for table in re.findall(r"^\| \| `.* \| source \|\n(?:\|.*\n)+", text, re.MULTILINE):
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        ]
        names = [cell.strip("`") for cell in lines[0][1:-1]]
        tables.append(
            {
                name: {line[0]: line[column] for line in lines[2:]}
                for column, name in enumerate(names, start=1)
            }
        )
    return tables


def test_the_tables_of_differences_are_those_of_the_live_networks() -> None:
    tables = tables_of_differences(MODELS_PAGE)
    assert {name for table in tables for name in table} == {
        name for name in list_models() if not name.endswith("_small") and "cifar" not in name
    } - {"vgg11", "googlenet", "resnet18"}
    for table in tables:
        live = {name: facts(name) for name in table}
        for name, cells in table.items():
            assert cells == {line: live[name][line] for line in cells}, name
        differing = {
            line for line in live["alexnet"] if len({live[name][line] for name in live}) > 1
        }
        assert differing == set(table["alexnet"])


def test_the_tables_of_differences_are_read() -> None:
    text = "| | `a` | `b` | source |\n|---|---|---|---|\n| x | 1 | 2, 3 | P |\n| y z | - | 0 | |\n"
    assert tables_of_differences(text) == [
        {"a": {"x": "1", "y z": "-"}, "b": {"x": "2, 3", "y z": "0"}}
    ]


DEFAULTS = {"order=norm_pool", "towers=two", "activation=relu", "norm=lrn", "overlap=yes"}


def test_the_table_of_changes_has_all_of_them_with_the_live_totals() -> None:
    """Lines such as: | `without=conv3` | what | source | 59,858,920 parameters |."""
    lines = re.findall(r"^\| (`\w+=.*)\|(.*?)\|$", MODELS_PAGE, re.MULTILINE)
    changes = {
        change: total for names, total in lines for change in re.findall(r"`(\w+=\w+)`", names)
    }
    known = {f"{part}={kind}" for part, kinds in ABLATIONS.items() for kind in kinds}
    assert set(changes) | DEFAULTS == known
    reference = summarize("alexnet")
    for change, total in changes.items():
        live = summarize("alexnet", ablate=dict([change.split("=")]))
        expected = ""
        if live.parameters != reference.parameters:
            expected = f"{live.parameters:,} parameters"
        elif live.macs != reference.macs:
            expected = f"{live.macs:,} multiply-adds"
        assert total.strip() == expected
