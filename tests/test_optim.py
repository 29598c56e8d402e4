"""Update rules by hand and against torch's, learning rates over time."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from alexnet.config import Settings
from alexnet.networks.initialization import he_initialize, weight_layers
from alexnet.networks.registry import create_model
from alexnet.optim import (
    PaperSGD,
    learning_rate,
    make_optimizer,
    plateau_drops,
    set_learning_rates,
)
from alexnet.train.lars import LARS, make_lars


def walk(optimizer: torch.optim.Optimizer, w: nn.Parameter, rates: list[float]) -> list[float]:
    path = []
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        w.grad = torch.tensor([float(step + 1)], dtype=torch.float64)
        optimizer.step()
        path.append(w.item())
    return path


def test_paper_update_is_the_formula_over_a_drop_of_the_rate() -> None:
    rates = [0.1, 0.1, 0.01, 0.01]
    w = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    ours = walk(PaperSGD([w], lr=0.1, momentum=0.9, weight_decay=0.5), w, rates)
    value, velocity, expected = 2.0, 0.0, []
    for step, rate in enumerate(rates):
        velocity = 0.9 * velocity - 0.5 * rate * value - rate * (step + 1)
        value += velocity
        expected.append(value)
    assert ours == pytest.approx(expected, rel=1e-14)


def test_paper_update_equals_torch_at_a_constant_rate_and_not_after_a_drop() -> None:
    paths = []
    for rates in ([0.1] * 5, [0.1, 0.1, 0.01, 0.01]):
        for kind in (PaperSGD, torch.optim.SGD):
            w = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
            optimizer = kind([w], lr=0.1, momentum=0.9, weight_decay=0.5)
            paths.append(walk(optimizer, w, rates))
    assert paths[0] == pytest.approx(paths[1], rel=1e-12)
    assert paths[2] != pytest.approx(paths[3], rel=1e-3)


def test_a_rate_of_zero_freezes() -> None:
    w = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = PaperSGD([w], lr=0.1, weight_decay=0.5)
    walk(optimizer, w, [0.1])
    before = w.item()
    walk(optimizer, w, [0.0, 0.0])
    assert w.item() == before


def test_groups_have_their_own_rates_and_decays() -> None:
    settings = Settings(
        model="cifar10_11",
        weight_decay=0.1,
        layer_decay={"fc10": 0.5},
        layer_lr={"conv1": 0.25},
        bias_lr=2.0,
        bias_decay=False,
    )
    model = create_model("cifar10_11", 10)
    optimizer = make_optimizer(model, settings)
    set_learning_rates(optimizer, 0.01, settings)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    expected = {
        "conv1.weight": (0.0025, 0.1),
        "conv1.bias": (0.005, 0.0),
        "conv2.weight": (0.01, 0.1),
        "conv2.bias": (0.02, 0.0),
        "fc10.weight": (0.01, 0.5),
        "fc10.bias": (0.02, 0.0),
    }
    parameters = dict(model.named_parameters())
    assert {name: found[id(parameters[name])] for name in expected} == expected
    assert len(found) == len(parameters)


def weight(*rows: list[float], gradient: list[list[float]]) -> nn.Parameter:
    """Make a (rows, columns) weight with a gradient, in double precision."""
    made = nn.Parameter(torch.tensor(rows, dtype=torch.float64))
    made.grad = torch.tensor(gradient, dtype=torch.float64)
    return made


def test_lars_update_is_the_one_worked_out_by_hand() -> None:
    """|w| = 5 and |gradient| = 2, so the ratio is 0.1 * 5 / (2 + 0.2 * 5) = 1/6."""
    w = weight([3.0, 0.0], [0.0, 4.0], gradient=[[0.0, 2.0], [0.0, 0.0]])
    optimizer = LARS([w], lr=6.0, momentum=0.5, weight_decay=0.2, trust_coefficient=0.1)
    optimizer.step()
    # v = -6 / 6 * (gradient + 0.2 w) = -[[0.6, 2], [0, 0.8]]
    assert w.tolist() == [pytest.approx([2.4, -2.0]), pytest.approx([0.0, 3.2])]
    w.data = torch.tensor([[0.0, 4.0], [3.0, 0.0]], dtype=torch.float64)
    w.grad = torch.tensor([[0.0, 0.0], [0.0, -9.0]], dtype=torch.float64)
    optimizer.param_groups[0]["lr"] = 10.0
    optimizer.step()
    # ratio 0.1 * 5 / (9 + 1) = 0.05; v = 0.5 v - 10 * 0.05 * ([[0, 0], [0, -9]] + 0.2 w)
    assert w.tolist() == [
        pytest.approx([-0.3, 4.0 - 1.0 - 0.4]),
        pytest.approx([3.0 - 0.3, -0.4 + 4.5]),
    ]


def test_lars_moves_a_layer_alike_whatever_the_size_of_its_gradient() -> None:
    moved = []
    for factor in (1e-4, 1.0, 1e4):
        w = weight([3.0, 4.0], gradient=[[factor, -factor]])
        LARS([w], lr=10.0, trust_coefficient=0.001).step()
        moved.append((w - torch.tensor([3.0, 4.0])).norm().item())
    assert moved == pytest.approx([10.0 * 0.001 * 5.0] * 3)


def test_lars_scales_no_biases_and_nothing_without_a_norm() -> None:
    bias = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    bias.grad = torch.tensor([1.0, 0.0], dtype=torch.float64)
    zero = weight([0.0, 0.0], gradient=[[1.0, 2.0]])
    flat = weight([1.0, 2.0], gradient=[[0.0, 0.0]])
    frozen = weight([1.0, 2.0], gradient=[[1.0, 1.0]])
    groups: list[dict[str, object]] = [{"params": [each]} for each in (bias, zero, flat)]
    LARS([*groups, {"params": [frozen], "lr": 0.0}], lr=0.1, weight_decay=0.5).step()
    assert bias.tolist() == pytest.approx([3.0 - 0.1 * (1 + 1.5), 4.0 - 0.1 * 2.0])
    assert zero.tolist() == [pytest.approx([-0.1, -0.2])]
    assert flat.tolist() == [pytest.approx([0.95, 1.9])]
    assert frozen.tolist() == [[1.0, 2.0]]


def test_lars_on_the_halves_of_a_layer_is_lars_on_the_whole() -> None:
    """Two optimisers with a half each, whose `total` adds what the other one would send."""
    torch.manual_seed(0)
    whole, gradient = torch.randn(6, 4), torch.randn(6, 4)
    other = torch.randn(3, 2)  # a second layer, which no one shares

    def step(rows: slice, total: Callable[[Tensor], Tensor] | None) -> list[Tensor]:
        parts = [nn.Parameter(whole[rows].clone()), nn.Parameter(other.clone())]
        parts[0].grad, parts[1].grad = gradient[rows], other.cos()
        groups: list[dict[str, object]] = [{"params": [part]} for part in parts]
        LARS(groups, lr=10.0, weight_decay=0.01, sum_squares=total).step()
        return [part.detach() for part in parts]

    def total(squares: Tensor) -> Tensor:
        assert squares.shape == (2, 2)
        squares = squares.clone()
        squares[0] = torch.stack([whole.square().sum(), gradient.square().sum()])
        return squares

    expected = step(slice(None), None)
    halves = [step(slice(3), total), step(slice(3, None), total)]
    torch.testing.assert_close(torch.cat([halves[0][0], halves[1][0]]), expected[0])
    assert torch.equal(halves[0][1], expected[1])
    assert not torch.allclose(step(slice(3), None)[0], halves[0][0], rtol=1e-3)


def test_lars_settings_reach_the_optimizer() -> None:
    settings = Settings(optimizer="lars", trust_coefficient=0.02, momentum=0.8, bias_decay=False)
    total = torch.clone
    model = create_model("cifar10_11", 10)
    with pytest.raises(ValueError, match="make_lars"):
        make_optimizer(model, settings)
    made = make_lars(model, settings, total)
    assert (made.trust_coefficient, made.sum_squares) == (0.02, total)
    assert {group["part"]: group["weight_decay"] for group in made.param_groups} == {
        "weight": 0.0005,
        "bias": 0.0,
    }


@pytest.mark.parametrize("name", ["paper", "sgd", "adamw", "lars"])
def test_each_optimizer_learns(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("fc", nn.Linear(5, 3))
    settings = Settings(optimizer=name, lr=0.05, trust_coefficient=0.5)  # type: ignore[arg-type]
    make = make_lars if name == "lars" else make_optimizer
    optimizer = make(model, settings)
    x, y = torch.randn(30, 5), torch.randint(3, (30,))
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_plateau_counts_epochs_without_a_new_lowest_error() -> None:
    settings = Settings(patience_epochs=2, max_drops=2)
    for errors, drops in [
        ([], 0),
        ([0.5, 0.4, 0.3], 0),
        ([0.5, 0.5, 0.5], 1),
        ([0.5, 0.6, 0.4, 0.4], 0),
        ([0.5, 0.6, 0.6, 0.6, 0.6], 2),
        ([0.5] + [0.6] * 9, 2),
    ]:
        assert plateau_drops(errors, settings) == drops, errors


def test_rates_over_time() -> None:
    steps = Settings(schedule="steps", drop_epochs=(2, 4), lr=1.0)
    assert [learning_rate(steps, t, []) for t in (0.0, 1.99, 2.0, 4.5)] == pytest.approx(
        [1, 1, 0.1, 0.01]
    )
    cosine = Settings(schedule="cosine", lr=2.0, epochs=10, warmup_epochs=2)
    rates = [learning_rate(cosine, t, []) for t in (0.5, 1.0, 2.0, 6.0, 10.0)]
    assert rates == pytest.approx([0.5, 1.0, 2.0, 1.0, 0.0])
    poly = Settings(schedule="poly", lr=8.0, epochs=10, warmup_epochs=2)
    rates = [learning_rate(poly, t, []) for t in (0.0, 1.0, 2.0, 6.0, 8.0, 10.0)]
    assert rates == pytest.approx([0.0, 4.0, 8.0, 2.0, 0.5, 0.0])
    plateau = Settings(patience_epochs=1, lr=1.0)
    assert learning_rate(plateau, 3.5, [0.5, 0.4, 0.4]) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["alexnet_small", "cifar10_13"])
def test_he_start_keeps_the_size_of_the_signal_and_guesses_first(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, 10).eval()
    he_initialize(model, pixel_std=60.0)
    x = torch.randn(8, *model[0].shape) * 60  # type: ignore[misc]
    layers = dict(weight_layers(model))
    last = list(layers)[-1]
    for row, layer in model.named_children():
        x = layer(x)
        if row in layers and row != last:
            assert 0.2 < x.std().item() < 5, row
    loss = nn.functional.cross_entropy(x, torch.arange(8))
    assert loss.item() == pytest.approx(math.log(10), abs=0.6)
