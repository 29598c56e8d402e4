"""The networks of 2012 against a reference in float64, written from the formulas with loops.

The reference uses nothing of PyTorch. Its functions take and return the maps of one image,
(maps, height, width), or units.
"""

import copy
import functools
import math
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from network_makers import empty, pictures, relative_error, shrunk, taps_of
from numpy.typing import NDArray
from torch import nn

from alexnet.networks.layers import LocalResponseNorm
from alexnet.networks.layers_2012 import PaperDropout
from alexnet.networks.registry import create_model

Array = NDArray[np.float64]


def convolve(
    x: Array, weight: Array, bias: Array, *, stride: int, padding: int, groups: int
) -> Array:
    """Convolve square maps; 1 + ceil((2 * padding + size - kernel) / stride) positions per axis.

    Where the last position reaches past the padding, there are zeros, too.
    """
    size, kernel = x.shape[1], weight.shape[2]
    side = 1 + math.ceil((2 * padding + size - kernel) / stride)
    past = max(0, (side - 1) * stride + kernel - padding - size)
    padded = np.pad(x, ((0, 0), (padding, past), (padding, past)))
    out = np.empty((len(weight), side, side))
    for group, kernels in enumerate(np.split(weight, groups)):
        maps = padded[group * kernels.shape[1] : (group + 1) * kernels.shape[1]]
        flat = kernels.reshape(len(kernels), -1)
        for row in range(side):
            for column in range(side):
                y, z = row * stride, column * stride
                window = maps[:, y : y + kernel, z : z + kernel]
                first = group * len(kernels)
                out[first : first + len(kernels), row, column] = flat @ window.ravel()
    return out + bias[:, None, None]


def normalize_across(a: Array, *, towers: int) -> Array:
    """b_i = a_i / (2 + 2e-5 * sum of a_j^2 over i - 2 ... i + 2 within the tower) ** 0.75."""
    b = np.empty_like(a)
    width = len(a) // towers
    for i in range(len(a)):
        first = i // width * width
        total = np.zeros(a.shape[1:])
        for j in range(max(first, i - 2), min(first + width - 1, i + 2) + 1):
            total += a[j] ** 2
        b[i] = a[i] * (2 + 1e-4 / 5 * total) ** -0.75
    return b


def normalize_within(a: Array) -> Array:
    """b = a / (1 + 4e-5 * sum of a^2 over the 5 x 5 pixels around, within the map) ** 0.75."""
    b = np.empty_like(a)
    height, width = a.shape[1:]
    for y in range(height):
        for x in range(width):
            total = np.zeros(len(a))
            for v in range(max(0, y - 2), min(height - 1, y + 2) + 1):
                for u in range(max(0, x - 2), min(width - 1, x + 2) + 1):
                    total += a[:, v, u] ** 2
            b[:, y, x] = a[:, y, x] * (1 + 0.001 / 25 * total) ** -0.75
    return b


def pool(x: Array) -> Array:
    """Take the largest of 3 x 3 at every second pixel; ceil((size - 3) / 2) + 1 positions."""
    side = math.ceil((x.shape[1] - 3) / 2) + 1
    out = np.empty((len(x), side, side))
    for row in range(side):
        for column in range(side):
            window = x[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            out[:, row, column] = window.max((1, 2))
    return out


def rectify(x: Array) -> Array:
    return np.maximum(x, 0)


def halve(x: Array) -> Array:
    return x * 0.5


Step = tuple[str, Callable[[Array], Array]]


def steps_of_2012(weights: dict[str, Array]) -> list[Step]:
    """The net #145 (layers-145.cfg), row by row, for the weights of a state dict."""

    def conv(name: str, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Step:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return name, functools.partial(
            convolve, weight=weight, bias=bias, stride=stride, padding=padding, groups=groups
        )

    def dense(name: str) -> Step:
        return name, lambda x: weights[f"{name}.weight"] @ x.ravel() + weights[f"{name}.bias"]

    across = functools.partial(normalize_across, towers=2)
    return [
        conv("conv1", stride=4),
        ("norm1", across),
        ("pool1", pool),
        ("relu1", rectify),
        conv("conv2", padding=2, groups=2),
        ("relu2", rectify),
        ("norm2", across),
        ("snorm2", normalize_within),
        ("pool2", pool),
        conv("conv3", padding=1),
        ("relu3", rectify),
        conv("conv4", padding=1, groups=2),
        ("relu4", rectify),
        conv("conv5", padding=1, groups=2),
        ("pool5", pool),
        ("relu5", rectify),
        dense("fc6"),
        ("relu6", rectify),
        ("drop6", halve),
        dense("fc7"),
        ("relu7", rectify),
        ("drop7", halve),
        dense("fc8"),
    ]


def taps_of_2012(weights: dict[str, Array], image: Array, last: str = "fc8") -> dict[str, Array]:
    taps = {}
    for name, step in steps_of_2012(weights):
        taps[name] = image = step(image)
        if name == last:
            break
    return taps


def trained_like(name: str) -> nn.Sequential:
    """Build a network whose first responses are as large as those of a trained one."""
    torch.manual_seed(0)
    model = create_model(name).eval()
    with torch.no_grad():
        for layer in ("conv1.weight", "conv2.weight"):
            model.get_parameter(layer).mul_(4)
        for part, parameter in model.named_parameters():
            if part.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    return trained_like("alexnet_2012")


@pytest.fixture(scope="module")
def weights(model: nn.Sequential) -> dict[str, Array]:
    return {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}


def rows_between(model: nn.Sequential, first: str, last: str) -> nn.Sequential:
    """Copy the rows from one to another, in float64."""
    rows = dict(model.named_children())
    names = list(rows)[list(rows).index(first) : list(rows).index(last) + 1]
    return copy.deepcopy(nn.Sequential(OrderedDict((name, rows[name]) for name in names))).double()


def test_layers_1_and_2_equal_the_loops_in_float64(
    model: nn.Sequential, weights: dict[str, Array]
) -> None:
    """64 x 64 pixels give maps of 15, 7 and 3: windows at all edges, and some that touch none."""
    image = pictures(1, 64)
    ours = taps_of(rows_between(model, "pad1", "pool2"), image)
    expected = taps_of_2012(weights, image[0].numpy(), last="pool2")
    assert ["pad1", *expected] == list(ours)
    for name, tap in expected.items():
        np.testing.assert_allclose(ours[name][0].numpy(), tap, rtol=1e-9, atol=1e-9, err_msg=name)


def reorder_layer_1(rows: nn.Sequential) -> nn.Sequential:
    named = dict(rows.named_children())
    order = ["pad1", "conv1", "relu1", "norm1", "pool1", *list(named)[5:]]
    return nn.Sequential(OrderedDict((name, named[name]) for name in order))


@pytest.mark.parametrize(
    ("change", "least"),
    [
        ({"norm1": LocalResponseNorm(5, 2e-5)}, 1e-3),
        ({"norm2": LocalResponseNorm(5, 2e-5)}, 1e-3),
        ({"norm1": LocalResponseNorm(5, 1e-4, towers=2)}, 0.1),
        ({"norm2": LocalResponseNorm(5, 2e-5, k=1, towers=2)}, 0.1),
        ({"snorm2": nn.Identity()}, 0.1),
        ({}, 1e-3),
    ],
    ids=["towers of layer 1", "towers of layer 2", "alpha", "k", "second norm", "ReLU first"],
)
def test_the_comparison_notices_what_is_not_as_in_2012(
    model: nn.Sequential, weights: dict[str, Array], change: dict[str, nn.Module], least: float
) -> None:
    image = pictures(1, 64)
    rows = rows_between(model, "pad1", "pool2")
    for name, layer in change.items():
        rows.set_submodule(name, layer)
    ours = taps_of(rows if change else reorder_layer_1(rows), image)["pool2"][0]
    expected = taps_of_2012(weights, image[0].numpy(), last="pool2")["pool2"]
    assert relative_error(ours, expected) > least


def test_every_tap_equals_the_reference(model: nn.Sequential, weights: dict[str, Array]) -> None:
    images = pictures(5, 224)
    five = taps_of(model, images.float())
    one = taps_of(model, images[4:].float())
    for index in (0, 4):
        for name, tap in taps_of_2012(weights, images[index].numpy()).items():
            assert relative_error(five[name][index], tap) < 1e-5, name
            assert index == 0 or relative_error(one[name][0], tap) < 1e-5, name


def test_the_net_of_one_gpu_is_a_tower_of_the_other(model: nn.Sequential) -> None:
    """#145-half is one column of #145 (layer-params-145-half.cfg): up to pool2 with its weights."""
    half = rows_between(empty("alexnet_half").to_empty(device="cpu"), "pad1", "pool2")
    for layer, kernels in (("conv1", 48), ("conv2", 128)):
        for part in ("weight", "bias"):
            source = model.get_parameter(f"{layer}.{part}")
            half.get_parameter(f"{layer}.{part}").data.copy_(source[:kernels])
    image = pictures(1, 64)
    both = taps_of(rows_between(model, "pad1", "pool2"), image)
    tower = taps_of(half, image)
    for name in ("norm1", "relu1", "norm2", "snorm2", "pool2"):
        maps = tower[name].shape[1]
        torch.testing.assert_close(tower[name], both[name][:, :maps])


def test_towers_without_communication_meet_only_in_the_last_layer() -> None:
    """#150 (layers-150.cfg): what the second tower sees reaches no unit of the first one."""
    net = shrunk("alexnet_nocomm")
    image = pictures(1, 224)
    before = taps_of(net, image)
    with torch.no_grad():
        net.get_parameter("conv1.bias")[6:] += 5
    after = taps_of(net, image)
    for name in list(before)[2:-1]:
        first, second = (before[name] != after[name]).chunk(2, dim=1)
        assert not first.any(), name
        assert second.any(), name
    assert (before["fc8"] != after["fc8"]).all()


@pytest.mark.parametrize("name", ["alexnet_2012", "alexnet_half", "alexnet_nocomm"])
def test_dropout_halves_at_test_time_and_not_in_training(name: str) -> None:
    rows = empty(name).named_children()
    drops = {row: layer for row, layer in rows if row.startswith("drop")}
    assert list(drops) == ["drop6", "drop7"]
    for layer in drops.values():
        assert isinstance(layer, PaperDropout)
        assert layer.p == 0.5
        assert set(layer.train()(torch.ones(99)).tolist()) == {0.0, 1.0}
        assert set(layer.eval()(torch.ones(99)).tolist()) == {0.5}


def test_initial_weights_are_those_of_the_file(model: nn.Sequential) -> None:
    """0.03 in conv3, conv4 and conv5 (layers-145.cfg), where the paper has 0.01."""
    stds = {f"conv{number}": 0.03 for number in (3, 4, 5)} | {f"fc{n}": 0.01 for n in (6, 7, 8)}
    for name, std in stds.items():
        assert model.get_parameter(f"{name}.weight").std().item() == pytest.approx(std, rel=0.01)
    for name, bias in {"conv3": 0, "conv4": 1, "conv5": 1, "fc6": 1, "fc7": 1, "fc8": 0}.items():
        assert model.get_parameter(f"{name}.bias").mean().item() == pytest.approx(bias, abs=0.05)
