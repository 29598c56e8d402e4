"""Networks learn: they begin with the loss of a guess, and can learn one batch by heart."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.networks.initialization import he_initialize
from alexnet.networks.registry import create_model, input_shape, set_dropout


def noise(name: str, count: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return noise images for the network `name`, less their mean, and random labels."""
    torch.manual_seed(0)
    images = torch.rand(count, *input_shape(name)) * 255 - 127.5
    return images, torch.randint(classes, (count,))


@pytest.mark.parametrize(
    ("name", "classes", "init"),
    [
        ("alexnet", 1000, "model"),
        ("alexnet_2012", 1000, "model"),
        ("caffenet", 1000, "model"),
        ("one_weird_trick", 1000, "model"),
        ("cifar10_11", 10, "model"),
        ("alexnet_small", 10, "he"),
    ],
)
def test_the_first_loss_is_that_of_a_guess(name: str, classes: int, init: str) -> None:
    images, labels = noise(name, 4, classes)
    model = create_model(name, classes).eval()
    if init == "he":
        he_initialize(model, pixel_std=images.std().item())
    with torch.no_grad():
        loss = F.cross_entropy(model(images), labels)
    assert loss.item() == pytest.approx(math.log(classes), rel=0.1)


@pytest.mark.parametrize("name", ["alexnet_small", "cifar10_11"])
def test_one_batch_is_learned_by_heart(name: str) -> None:
    images, labels = noise(name, 10, classes=10)
    model = create_model(name, num_classes=10)
    set_dropout(model, 0.0)
    he_initialize(model, pixel_std=images.std().item())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 2
    assert losses[-1] < 0.001
