"""`one_weird_trick` is torchvision's `alexnet`: every tap, with the same weights.

Skipped where torchvision is not installed; it is no dependency.
"""

from collections.abc import Iterator

import pytest
import torch
from network_makers import import_torchvision, pictures, taps_of
from torch import nn

from alexnet.networks.registry import create_model

# The indices of torchvision's layers in its two parts, with the names of our rows.
FEATURES = (
    *("conv1", "relu1", "pool1", "conv2", "relu2", "pool2"),
    *("conv3", "relu3", "conv4", "relu4", "conv5", "relu5", "pool5"),
)
CLASSIFIER = ("drop6", "fc6", "relu6", "drop7", "fc7", "relu7", "fc8")


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = import_torchvision().models.alexnet(num_classes=1000)
    return model.eval()


@pytest.fixture(scope="module")
def ours(theirs: nn.Module) -> nn.Sequential:
    with torch.device("meta"):
        model = create_model("one_weird_trick")
    state = {our_name(name): tensor for name, tensor in theirs.state_dict().items()}
    model.load_state_dict(state, assign=True)  # strict: every tensor, and of the same shape
    return model.eval()


def our_name(name: str) -> str:
    part, index, parameter = name.split(".")
    return f"{(FEATURES if part == 'features' else CLASSIFIER)[int(index)]}.{parameter}"


def their_taps(model: nn.Module, images: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    features, classifier = model.get_submodule("features"), model.get_submodule("classifier")
    assert isinstance(features, nn.Sequential)
    assert isinstance(classifier, nn.Sequential)
    x = images
    with torch.no_grad():
        for name, layer in zip(FEATURES, features, strict=True):
            x = layer(x)
            yield name, x.clone()  # its ReLUs write over their input
        x = torch.flatten(model.get_submodule("avgpool")(x), 1)
        yield "flatten", x.clone()
        for name, layer in zip(CLASSIFIER, classifier, strict=True):
            x = layer(x)
            yield name, x.clone()


@pytest.mark.parametrize("batch", [1, 5])
def test_every_tap_is_torchvisions(theirs: nn.Module, ours: nn.Sequential, batch: int) -> None:
    images = pictures(5, 224)[:batch].float()
    mine = taps_of(ours, images)
    expected = dict(their_taps(theirs, images))
    with torch.no_grad():
        expected["fc8"] = theirs(images)  # the whole, in its own order
    assert list(mine) == ["input", *FEATURES, "flatten", *CLASSIFIER]
    for name, tap in expected.items():
        error = (mine[name] - tap).abs().max() / tap.abs().max()
        assert error.item() <= 1e-6, name


def test_layers_are_made_as_torchvisions(theirs: nn.Module, ours: nn.Sequential) -> None:
    """This covers sizes that the input does not distinguish: rounding of pools, dropout."""
    parts = [*theirs.get_submodule("features"), *theirs.get_submodule("classifier")]  # type: ignore[misc]
    rows = dict(zip((*FEATURES, *CLASSIFIER), parts, strict=True))
    for name, layer in ours.named_children():
        if name not in ("input", "flatten"):
            assert repr(layer) == repr(rows[name]).replace("inplace=True", ""), name


def test_gradients_are_torchvisions(theirs: nn.Module, ours: nn.Sequential) -> None:
    images = pictures(1, 224).float()
    gradients = []
    for model in (ours, theirs):
        loss = nn.functional.cross_entropy(model(images), torch.tensor([3]))
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)
