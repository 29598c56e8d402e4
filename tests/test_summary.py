"""The table against the description, PyTorch's own counter, and hand-made networks."""

import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from alexnet.analysis.summary import Row, build_without_memory, image_shape, summarize
from alexnet.errors import UsageError
from alexnet.networks.cifar10 import LocallyConnected2d
from alexnet.networks.layers import Input
from alexnet.networks.registry import create_model, list_models

# The table of docs/paper.md: name, type, kernel, stride, padding, activation, output (H x W x C).
DESCRIBED = [
    ("input", "Image", None, None, None, None, (224, 224, 3)),
    ("conv1", "Convolution", 11, 4, 0, "ReLU", (55, 55, 96)),
    ("pool1", "Max Pooling", 3, 2, 0, None, (27, 27, 96)),
    ("conv2", "Convolution", 5, 1, 2, "ReLU", (27, 27, 256)),
    ("pool2", "Max Pooling", 3, 2, 0, None, (13, 13, 256)),
    ("conv3", "Convolution", 3, 1, 1, "ReLU", (13, 13, 384)),
    ("conv4", "Convolution", 3, 1, 1, "ReLU", (13, 13, 384)),
    ("conv5", "Convolution", 3, 1, 1, "ReLU", (13, 13, 256)),
    ("pool5", "Max Pooling", 3, 2, 0, None, (6, 6, 256)),
    ("fc6", "Fully Connected", None, None, None, "ReLU + Dropout", (4096,)),
    ("fc7", "Fully Connected", None, None, None, "ReLU + Dropout", (4096,)),
    ("fc8", "Fully Connected", None, None, None, None, (1000,)),
]


def rows(name: str) -> dict[str, Row]:
    return {row.name: row for row in summarize(name).layers}


@pytest.mark.parametrize("described", DESCRIBED, ids=lambda row: row[0])
def test_rows_are_those_of_the_description(described: tuple[object, ...]) -> None:
    name, kind, kernel, stride, padding, activation, size = described
    assert isinstance(name, str)
    assert isinstance(size, tuple)
    row = rows("alexnet")[name]
    assert row.type == kind
    assert row.kernel == (kernel and (kernel, kernel))
    assert row.stride == (stride and (stride, stride))
    assert row.padding == (None if padding is None else (padding,) * 4)
    assert row.activation == activation
    assert row.output == (size[2], size[0], size[1]) if len(size) == 3 else size


def test_groups_and_kernel_depth_are_those_of_two_gpus() -> None:
    groups = {name: row.groups for name, row in rows("alexnet").items() if row.groups}
    assert groups == {"conv1": 1, "conv2": 2, "conv3": 1, "conv4": 2, "conv5": 2}


def test_the_three_rows_of_zeros_are_at_the_bottom_and_right() -> None:
    assert rows("alexnet")["pad1"].padding == (0, 3, 0, 3)


def test_normalization_is_named_in_full_and_keeps_the_shape() -> None:
    norm = rows("alexnet")["norm1"]
    assert (norm.type, norm.output) == ("Local Response Normalization", (96, 55, 55))
    assert (norm.parameters, norm.macs, norm.neurons) == (0, 0, 0)


def test_totals_of_the_paper() -> None:
    summary = summarize("alexnet")
    assert summary.parameters == 60_965_224
    assert summary.macs == 724_406_816
    assert summary.neurons == 659_272
    # Section 3.5 lists the neurons; its 253,440 for conv1 is a slip for 55 x 55 x 96.
    neurons = [row.neurons for row in summary.layers if row.neurons]
    assert neurons == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("classes", [1, 10, 1000])
def test_macs_are_half_of_the_operations_that_torch_counts(name: str, classes: int) -> None:
    model = build_without_memory(name, classes)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *image_shape(model)))
    assert summarize(name, classes).macs * 2 == counter.get_total_flops()


@pytest.mark.parametrize("name", ["alexnet_small", "cifar10_13", "cifar10_11"])
def test_shapes_and_parameters_are_those_of_a_real_pass(name: str) -> None:
    model = create_model(name, 7)
    summary = summarize(model)
    x = torch.zeros(2, *summary.input)
    for (layer_name, layer), row in zip(model.named_children(), summary.layers, strict=True):
        x = layer(x)
        assert (row.name, row.output) == (layer_name, tuple(x.shape[1:]))
    assert summary.parameters == sum(p.numel() for p in model.parameters())
    assert [row.output for row in summary.layers] == [
        row.output for row in summarize(name, 7).layers
    ]


def test_every_tap_has_a_row_and_only_layers_name_what_follows() -> None:
    summary = summarize("alexnet")
    assert [row.name for row in summary.layers] == list(dict(create_names("alexnet")))
    assert rows("alexnet")["relu6"].activation is None
    assert rows("alexnet")["pool1"].activation is None


def create_names(name: str) -> list[tuple[str, nn.Module]]:
    with torch.device("meta"):
        return list(create_model(name).named_children())


def test_a_changed_network_gives_changed_rows() -> None:
    model = nn.Sequential()
    model.add_module("input", Input(1, 8, 9))
    model.add_module("conv", nn.Conv2d(1, 4, (3, 2), stride=(2, 1), padding=(1, 0)))
    model.add_module("local", LocallyConnected2d(4, 2, 3, input_size=4))
    with pytest.raises(RuntimeError):
        summarize(model)  # 8 x 9 does not become 4 x 4: the pass is a real one
    model[2] = nn.Flatten()
    model.add_module("tanh", nn.Tanh())
    row = summarize(model).layers[1]
    assert (row.output, row.kernel, row.stride) == ((4, 4, 8), (3, 2), (2, 1))
    assert row.padding == (1, 1, 0, 0)
    assert (row.parameters, row.macs) == (4 * 6 + 4, 4 * 6 * 4 * 8)
    assert summarize(model).layers[3].type == "Tanh"
    assert summarize(model).model == "Sequential"


def test_measuring_leaves_the_network_and_the_generator_as_they_were() -> None:
    model = create_model("alexnet_small", 10).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    summarize(model)
    summarize("cifar10_11")
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not any(layer._forward_hooks for layer in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_network_without_a_known_input_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no row alexnet\.networks\.layers\.Input"):
        summarize(nn.Sequential(nn.Linear(3, 4)))


def test_constants_of_layers_are_listed() -> None:
    live = rows("alexnet_2012")
    across = {"size": 5, "alpha": 2e-5, "beta": 0.75, "k": 2.0, "towers": 2}
    assert live["norm1"].options == live["norm2"].options == across
    assert live["snorm2"].type == "Spatial Response Normalization"
    assert live["snorm2"].options == {"size": 5, "alpha": 4e-5, "beta": 0.75}
    assert live["drop6"].options == {"p": 0.5, "scaled_in": "test"}
    assert rows("alexnet")["drop6"].options == {"p": 0.5, "scaled_in": "training"}
    assert rows("cifar10_13")["pool1"].options == {"ceil_mode": True}


def test_a_fully_connected_layer_can_have_groups() -> None:
    fc6 = rows("alexnet_nocomm")["fc6"]
    assert (fc6.type, fc6.groups, fc6.inputs, fc6.output) == ("Fully Connected", 2, 4608, (8192,))
    assert (fc6.parameters, fc6.macs) == (8192 * 4608 + 8192, 8192 * 4608)


def test_activation_and_dropout_are_listed_with_the_row_before_them() -> None:
    live = rows("one_weird_trick")
    assert (live["flatten"].activation, live["fc6"].activation) == ("Dropout", "ReLU + Dropout")
    assert live["fc7"].activation == "ReLU"
    assert rows("alexnet_2012")["pool1"].activation == "ReLU"
    assert rows("alexnet_2012")["fc6"].activation == "ReLU + Dropout"


def test_a_changed_network_is_measured_by_name() -> None:
    summary = summarize("alexnet", 10, ablate={"activation": "sigmoid", "norm": "none"})
    assert summary.model == "alexnet (activation=sigmoid, norm=none)"
    assert [row.name for row in summary.layers][:4] == ["input", "pad1", "conv1", "sigmoid1"]
    assert summary.layers[2].activation == "Sigmoid"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="vgg"):
        summarize("vgg")


def test_json_holds_plain_values() -> None:
    document = json.loads(json.dumps(summarize("alexnet").as_json()))
    assert document["input"] == [3, 224, 224]
    assert document["macs"] == 724_406_816
    conv2 = next(layer for layer in document["layers"] if layer["name"] == "conv2")
    expected = {
        "name": "conv2",
        "type": "Convolution",
        "output": [256, 27, 27],
        "parameters": 256 * 48 * 25 + 256,
        "macs": 256 * 48 * 25 * 27 * 27,
        "kernel": [5, 5],
        "stride": [1, 1],
        "padding": [2, 2, 2, 2],
        "groups": 2,
        "activation": "ReLU",
        "inputs": 48,
        "options": {},
        "start": {"std": 0.01, "bias": 1.0},
    }
    assert expected.items() <= conv2.items()
