"""Our layers against reference loops, other engines and numerical gradients."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alexnet.errors import UsageError
from alexnet.networks.cifar10 import LocallyConnected2d, cut_patches
from alexnet.networks.layers import Input, LocalResponseNorm
from alexnet.networks.layers_2012 import GroupedLinear, PaperDropout, SpatialResponseNorm


def test_response_norm_equals_torch_whose_alpha_is_divided_by_the_size() -> None:
    x = torch.randn(5, 96, 7, 7) * 60
    ours = LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2)(x)
    torch.testing.assert_close(ours, nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)(x))


@pytest.mark.parametrize("size", [1, 3, 5, 9])
@pytest.mark.parametrize(
    ("channels", "towers"), [(1, 1), (2, 1), (4, 2), (11, 1), (12, 2), (12, 3)]
)
def test_response_norm_equals_a_loop(size: int, channels: int, towers: int) -> None:
    x = np.random.default_rng(size).normal(0, 30, (2, channels, 3, 2))
    expected = np.empty_like(x)
    width = channels // towers
    for i in range(channels):
        first = i // width * width  # of the channel's tower
        window = x[:, max(first, i - size // 2) : min(i + size // 2 + 1, first + width)]
        expected[:, i] = x[:, i] / (1.5 + 1e-3 * (window**2).sum(1)) ** 0.6
    ours = LocalResponseNorm(size, alpha=1e-3, beta=0.6, k=1.5, towers=towers)(torch.from_numpy(x))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12)


def test_response_norm_of_towers_is_that_of_each_alone() -> None:
    x = torch.randn(3, 96, 5, 5) * 60
    both = LocalResponseNorm(alpha=2e-5, towers=2)(x)
    torch_norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2)
    torch.testing.assert_close(both, torch.cat([torch_norm(half) for half in x.chunk(2, 1)], 1))


def test_response_norm_refuses_towers_of_different_size() -> None:
    with pytest.raises(RuntimeError, match="unflatten"):
        LocalResponseNorm(towers=2)(torch.zeros(1, 5, 1, 1))


@pytest.mark.parametrize("channel", range(8))
def test_response_norm_ends_where_a_tower_does(channel: int) -> None:
    """A change of one channel reaches two to each side, but not out of its tower of four."""
    x = torch.ones(1, 8, 1, 1)
    changed = x.clone()
    changed[0, channel] = 2
    norm = LocalResponseNorm(towers=2)
    reached = (norm(x) != norm(changed)).flatten().nonzero().flatten().tolist()
    tower = range(4) if channel < 4 else range(4, 8)
    assert reached == [i for i in tower if abs(i - channel) <= 2]


@pytest.mark.parametrize(("channels", "towers"), [(7, 1), (8, 2), (4, 2)])
def test_response_norm_gradient_is_the_numerical_one(channels: int, towers: int) -> None:
    x = torch.randn(2, channels, 3, 2, dtype=torch.float64, requires_grad=True)
    norm = LocalResponseNorm(5, alpha=0.3, beta=0.75, k=2, towers=towers)
    assert torch.autograd.gradcheck(norm, (x,))


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 6)])
def test_spatial_norm_equals_a_loop(size: int, height: int, width: int) -> None:
    a = np.random.default_rng(size).normal(0, 60, (2, 3, height, width))
    expected = np.empty_like(a)
    for image, i, y, x in np.ndindex(a.shape):
        total = 0.0
        for v in range(max(0, y - size // 2), min(height - 1, y + size // 2) + 1):
            for u in range(max(0, x - size // 2), min(width - 1, x + size // 2) + 1):
                total += a[image, i, v, u] ** 2
        expected[image, i, y, x] = a[image, i, y, x] * (1 + 4e-5 * total) ** -0.75
    ours = SpatialResponseNorm(size, alpha=4e-5)(torch.from_numpy(a))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12)


def test_spatial_norm_is_that_of_2012_without_arguments() -> None:
    """Scale 0.001, divided by the 25 pixels, power 0.75, k 1 (layer-params-145.cfg:157-163)."""
    a = torch.randn(1, 2, 9, 9, dtype=torch.float64) * 60
    window = F.conv2d(a**2, torch.ones(2, 1, 5, 5, dtype=torch.float64), padding=2, groups=2)
    torch.testing.assert_close(SpatialResponseNorm()(a), a / (1 + 0.001 / 25 * window) ** 0.75)


def test_spatial_norm_gradient_is_the_numerical_one() -> None:
    x = torch.randn(2, 2, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SpatialResponseNorm(5, alpha=0.3), (x,))


@pytest.mark.parametrize("norm", [LocalResponseNorm(), SpatialResponseNorm()], ids=repr)
def test_norms_compute_in_float32_for_half_precision(norm: nn.Module) -> None:
    x = torch.randn(2, 8, 3, 3) * 1000  # squares do not fit float16
    for kind, tolerance in ((torch.float16, 2e-3), (torch.bfloat16, 1e-2)):
        y = norm(x.to(kind))
        assert y.dtype == kind
        torch.testing.assert_close(y.float(), norm(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "norm", [LocalResponseNorm(), LocalResponseNorm(towers=2), SpatialResponseNorm()], ids=repr
)
def test_norms_are_the_same_in_channels_last(norm: nn.Module) -> None:
    x = torch.randn(2, 8, 5, 5) * 50
    torch.testing.assert_close(norm(x.to(memory_format=torch.channels_last)), norm(x))


def loop_locally_connected(layer: LocallyConnected2d, x: torch.Tensor) -> torch.Tensor:
    side, k, p = layer.output_size, layer.kernel_size, layer.padding
    padded = F.pad(x, (p, p, p, p))
    out = torch.empty(len(x), layer.out_channels, side, side, dtype=x.dtype)
    for row, column in itertools.product(range(side), range(side)):
        patch = padded[:, :, row : row + k, column : column + k].reshape(len(x), -1)
        kernels = layer.weight[row * side + column]
        out[:, :, row, column] = patch @ kernels.T + layer.bias[:, row, column]
    return out


@pytest.mark.parametrize(("kernel_size", "padding"), [(3, 1), (2, 0), (5, 2)])
def test_patches_on_a_gpu_are_those_of_unfold(kernel_size: int, padding: int) -> None:
    x = torch.randn(3, 4, 6, 7, dtype=torch.float64, requires_grad=True)
    ours = cut_patches(x, kernel_size, padding=padding)
    reference = F.unfold(x, kernel_size, padding=padding)
    assert torch.equal(ours, reference)
    slope = torch.randn_like(reference)
    gradients = [torch.autograd.grad(y, x, slope)[0] for y in (ours, reference)]
    torch.testing.assert_close(*gradients)


def local_layer(**changes: int) -> LocallyConnected2d:
    layer = LocallyConnected2d(3, 4, 3, input_size=5, **changes).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize("padding", [0, 1])
def test_locally_connected_equals_a_loop(padding: int) -> None:
    layer, x = local_layer(padding=padding), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), loop_locally_connected(layer, x))


def test_locally_connected_with_equal_kernels_is_a_convolution() -> None:
    layer, x = local_layer(padding=1), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
        layer.bias.zero_()
    kernel = layer.weight[0].reshape(4, 3, 3, 3)
    torch.testing.assert_close(layer(x), F.conv2d(x, kernel, padding=1))


def test_locally_connected_gradient_is_the_numerical_one() -> None:
    layer = local_layer()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.func.functional_call(
            layer, {"weight": weight, "bias": bias}, (x,)
        )
        return out

    assert torch.autograd.gradcheck(run, (x, layer.weight, layer.bias))


def test_dropout_of_the_paper_drops_in_training_and_scales_in_evaluation() -> None:
    """P 4.2: zero with probability 0.5; at test time "multiply their outputs by 0.5"."""
    drop, x = PaperDropout(0.25), torch.rand(1000, 100) + 1
    torch.manual_seed(1)
    dropped = drop.train()(x)
    retained = dropped != 0
    assert torch.equal(dropped[retained], x[retained])
    assert retained.float().mean().item() == pytest.approx(0.75, abs=0.01)
    assert torch.equal(drop.eval()(x), x * 0.75)
    assert dropped.mean().item() == pytest.approx(drop(x).mean().item(), rel=0.01)


def test_dropout_of_the_paper_is_torchs_less_its_factor() -> None:
    torch.manual_seed(2)
    x = torch.rand(200, 200)
    shares = [(layer(x) / x).unique().tolist() for layer in (PaperDropout(0.5), nn.Dropout(0.5))]
    assert shares == [[0, 1], [0, 2]]


@pytest.mark.parametrize("training", [True, False])
def test_dropout_of_the_paper_can_be_turned_off(training: bool) -> None:
    x = torch.rand(5, 7)
    assert torch.equal(PaperDropout(0.0).train(training)(x), x)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_gradient_is_the_numerical_one(training: bool) -> None:
    drop = PaperDropout(0.5).train(training)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return drop.forward(x)

    assert torch.autograd.gradcheck(run, (x,))


def test_grouped_linear_is_two_layers_side_by_side() -> None:
    layer, x = GroupedLinear(6, 8, groups=2), torch.randn(5, 6)
    halves = []
    for part, inputs in enumerate(x.chunk(2, dim=1)):
        rows = slice(4 * part, 4 * part + 4)
        halves.append(F.linear(inputs, layer.weight[rows], layer.bias[rows]))
    torch.testing.assert_close(layer(x), torch.cat(halves, dim=1))
    assert layer(x[:0]).shape == (0, 8)


def test_grouped_linear_is_a_linear_layer_with_zeros_between_the_groups() -> None:
    layer, x = GroupedLinear(6, 9, groups=3), torch.randn(5, 6)
    whole = torch.zeros(9, 6)
    for part, weight in enumerate(layer.weight.chunk(3)):
        whole[3 * part : 3 * part + 3, 2 * part : 2 * part + 2] = weight
    torch.testing.assert_close(layer(x), F.linear(x, whole, layer.bias))


def test_grouped_linear_starts_as_torchs_linear_of_one_group() -> None:
    torch.manual_seed(4)
    layer = GroupedLinear(200, 400, groups=2)
    for parameter in layer.parameters():
        assert 0.095 < parameter.abs().max().item() <= 0.1  # 1 / sqrt(100 inputs)


def test_grouped_linear_takes_part_in_mixed_precision() -> None:
    x = torch.randn(3, 64)
    layer = GroupedLinear(64, 32, groups=2)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16  # as of torch.nn.Linear
    torch.testing.assert_close(y.float(), layer(x), rtol=0.02, atol=0.02)


def test_grouped_linear_gradient_is_the_numerical_one() -> None:
    layer = GroupedLinear(4, 6, groups=2).double()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.func.functional_call(
            layer, {"weight": weight, "bias": bias}, (x,)
        )
        return out

    assert torch.autograd.gradcheck(run, (x, layer.weight, layer.bias))


def test_layers_print_what_they_are_made_with() -> None:
    assert repr(LocalResponseNorm(towers=2)) == (
        "LocalResponseNorm(size=5, alpha=0.0001, beta=0.75, k=2.0, towers=2)"
    )
    assert repr(SpatialResponseNorm()) == "SpatialResponseNorm(size=5, alpha=4e-05, beta=0.75)"
    assert repr(PaperDropout()) == "PaperDropout(p=0.5)"
    assert repr(GroupedLinear(4, 6, groups=2)) == "GroupedLinear(4, 6, groups=2)"


def test_input_refuses_another_size_in_one_line() -> None:
    layer = Input(3, 224, 224)
    assert layer(torch.zeros(2, 3, 224, 224)).shape == (2, 3, 224, 224)
    with pytest.raises(UsageError, match=r"\(N, 3, 224, 224\), not \(2, 3, 227, 227\)"):
        layer(torch.zeros(2, 3, 227, 227))
