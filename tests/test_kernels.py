"""The accelerated network against its rows: values, gradients, modes, weights that change."""

import importlib
import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from network_makers import TABLES, shrunk
from torch import Tensor, nn
from torch.nn import functional as F

import alexnet.kernels.cpu
from alexnet.errors import UsageError
from alexnet.kernels import accelerate
from alexnet.kernels.accelerated import AcceleratedNetwork
from alexnet.kernels.cpu import onednn
from alexnet.networks.layers import Input
from alexnet.networks.registry import create_model, set_dropout

CHANGES = [
    {"activation": "tanh"},
    {"norm": "none"},
    {"norm": "batch"},
    {"overlap": "no"},
    {"without": "conv4"},
    {"norm": "none", "overlap": "no", "without": "conv5"},
]


def images_for(model: nn.Sequential, count: int = 2) -> Tensor:
    torch.manual_seed(3)
    first, parameter = model[0], next(model.parameters())
    assert isinstance(first, Input)
    return torch.randn((count, *first.shape), dtype=parameter.dtype)


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the logits and the gradient by each parameter, dropout the same each time."""
    torch.manual_seed(4)
    logits = model(images)
    F.cross_entropy(logits, torch.arange(len(images)) % 3).backward()  # type: ignore[no-untyped-call]
    found = {"logits": logits.detach()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        found[name] = parameter.grad
        parameter.grad = None
    return found


@pytest.fixture
def small() -> nn.Sequential:
    """The paper's layers at a quarter of the size, in float32 and training mode."""
    return shrunk("alexnet_small", 4).float().train()


@pytest.mark.parametrize("name", TABLES)
def test_every_network_equals_its_rows(name: str) -> None:
    torch.manual_seed(0)
    # `shrunk` leaves layers without shared kernels as they are; the CIFAR-10 nets are small anyway.
    whole = name.startswith("cifar10")
    model = (create_model(name).double() if whole else shrunk(name, 8)).train()
    accelerated, images = accelerate(model), images_for(model) * (50 if whole else 1)
    assert isinstance(accelerated, AcceleratedNetwork)
    assert len(accelerated.stages) < len(model)
    ours, theirs = gradients(accelerated, images), gradients(model, images)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_in_float32_it_differs_by_rounding(small: nn.Sequential, training: bool) -> None:
    small.train(training)
    images = images_for(small, 3)
    ours, theirs = gradients(accelerate(small), images), gradients(small, images)
    for name, expected in theirs.items():
        assert (ours[name] - expected).norm() <= 1e-5 * expected.norm(), name


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_changed_networks_equal_their_rows(changes: dict[str, str]) -> None:
    torch.manual_seed(0)
    model = create_model("alexnet_small", 3, ablate=changes).double()
    images = images_for(model) * 50
    ours, theirs = gradients(accelerate(model), images), gradients(model, images)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_parameters_names_and_modes_are_shared(small: nn.Sequential) -> None:
    accelerated = accelerate(small)
    theirs = dict(small.named_parameters())
    assert all(parameter is theirs[name] for name, parameter in accelerated.named_parameters())
    assert list(accelerated.state_dict()) == list(small.state_dict())
    assert accelerated.training
    accelerated.eval()
    assert not small.get_submodule("drop6").training
    images = images_for(small)
    assert torch.equal(accelerated(images), accelerated(images))
    small.train()
    assert not torch.equal(accelerated(images), accelerated(images))
    set_dropout(small, 0)
    assert torch.equal(accelerated(images), accelerated(images))


def test_two_runs_are_the_same_bit_for_bit(small: nn.Sequential) -> None:
    accelerated, images = accelerate(small), images_for(small, 4)
    first, second = gradients(accelerated, images), gradients(accelerated, images)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_inference_uses_the_current_weights(small: nn.Sequential) -> None:
    accelerated, images = accelerate(small).eval(), images_for(small, 3)
    optimizer = torch.optim.SGD(small.parameters(), 1e-3, fused=True)
    saved = {name: value.clone() for name, value in small.state_dict().items()}

    def agree() -> None:
        with torch.no_grad():
            for _ in range(3):  # weights are rearranged from the second call on
                torch.testing.assert_close(accelerated(images), small(images), rtol=1e-4, atol=1e-5)

    agree()
    before = accelerated(images)
    before.sum().backward()
    optimizer.step()  # fused steps do not raise the version of a weight
    assert not torch.allclose(before, small(images), rtol=1e-2)
    agree()
    small.load_state_dict(saved)
    agree()
    small.load_state_dict({name: value * 1.5 for name, value in saved.items()}, assign=True)
    agree()
    with torch.no_grad():
        torch.testing.assert_close(accelerated(images), small(images), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(accelerated(images), accelerated(images * 0.5), rtol=1e-2)


def test_bfloat16_weights_differ_in_the_third_digit(small: nn.Sequential) -> None:
    exact, narrow = accelerate(small).eval(), accelerate(small, weights="bfloat16").eval()
    images = images_for(small, 3)
    with torch.no_grad():
        error = (narrow(images) - exact(images)).norm() / exact(images).norm()
    assert 1e-4 < error < 1e-2
    # Where a gradient is computed, weights are not rounded.
    torch.testing.assert_close(narrow(images), exact(images), rtol=0, atol=0)


def test_unknown_weights_are_refused(small: nn.Sequential) -> None:
    with pytest.raises(UsageError, match="float32 or bfloat16, not 'int4'"):
        accelerate(small, weights="int4")


@pytest.mark.parametrize("training", [True, False])
def test_mixed_precision_is_that_of_the_rows(small: nn.Sequential, training: bool) -> None:
    small.train(training)
    accelerated, images = accelerate(small), images_for(small, 3)
    exact = gradients(small, images)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(4)
        ours = accelerated(images)
        torch.manual_seed(4)
        theirs = small(images)
        with torch.no_grad():
            torch.manual_seed(4)
            without = accelerated(images)
    assert ours.dtype == theirs.dtype == without.dtype == torch.bfloat16
    scale = exact["logits"].norm()
    assert (ours - theirs).norm() < 0.02 * scale
    assert (without - theirs).norm() < 0.02 * scale
    ours.float().sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_the_wrong_size_is_still_refused(small: nn.Sequential) -> None:
    with pytest.raises(UsageError, match="takes images of shape"):
        accelerate(small)(torch.zeros(1, 3, 55, 55))


def test_without_numba_the_network_itself_is_returned(
    small: nn.Sequential, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in sys.modules if name.startswith("alexnet.kernels.cpu.")]:
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(alexnet.kernels.cpu, name.rpartition(".")[2], raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    alexnet.kernels.find_engine.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert accelerate(small) is small
            assert accelerate(small) is small
    finally:
        alexnet.kernels.find_engine.cache_clear()
    assert len(caplog.messages) == 1
    assert "networks on cpu run without accelerated kernels" in caplog.messages[0]
    assert "numba" in caplog.messages[0]
    monkeypatch.undo()
    assert importlib.import_module("alexnet.kernels.cpu.blocks").supports


@pytest.mark.parametrize("missing", onednn.OPERATIONS)
def test_without_an_operation_of_onednn_pytorchs_layers_run(
    small: nn.Sequential, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have private names, which another PyTorch may not have."""
    others = [name for name in onednn.OPERATIONS if name != missing]
    left = {name: getattr(torch.ops.mkldnn, name) for name in others}
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**left))
    assert not onednn.is_available()
    images = images_for(small, 3)
    ours, theirs = gradients(accelerate(small.eval()), images), gradients(small, images)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        network = accelerate(small)
        for _ in range(2):  # weights are rearranged at the second call
            torch.testing.assert_close(network(images), small(images), rtol=1e-4, atol=1e-4)


def test_a_device_without_kernels_gets_the_network_itself() -> None:
    with torch.device("meta"):
        model = create_model("alexnet")
    assert accelerate(model) is model
