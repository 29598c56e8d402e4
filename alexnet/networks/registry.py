"""Networks by name."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from alexnet.errors import UsageError
from alexnet.networks.ablation import ablate as ablate_table
from alexnet.networks.caffe import caffe_alexnet, caffenet
from alexnet.networks.cifar10 import cifar10_11, cifar10_13, cifar10_18
from alexnet.networks.code_2012 import alexnet_2012, alexnet_half, alexnet_nocomm
from alexnet.networks.googlenet import googlenet, googlenet_small
from alexnet.networks.layers import Input
from alexnet.networks.layers_2012 import PaperDropout
from alexnet.networks.one_tower import alexnet_one_tower
from alexnet.networks.one_weird_trick import one_weird_trick
from alexnet.networks.paper import alexnet
from alexnet.networks.resnet import resnet18, resnet18_small
from alexnet.networks.small import alexnet_small
from alexnet.networks.vgg import vgg11, vgg11_small

MODELS: dict[str, Callable[[int], nn.Sequential]] = {
    build.__name__: build
    for build in (
        alexnet,
        alexnet_2012,
        alexnet_half,
        alexnet_nocomm,
        alexnet_one_tower,
        caffe_alexnet,
        caffenet,
        one_weird_trick,
        vgg11,
        googlenet,
        resnet18,
        alexnet_small,
        vgg11_small,
        googlenet_small,
        resnet18_small,
        cifar10_18,
        cifar10_13,
        cifar10_11,
    )
}


def list_models() -> list[str]:
    """List the names that `create_model` takes."""
    return list(MODELS)


def create_model(
    name: str, num_classes: int = 1000, *, ablate: Mapping[str, str] | None = None
) -> nn.Sequential:
    """Build the network called `name` with new weights, drawn by torch's global generator.

    `ablate` removes or replaces parts, such as {"activation": "tanh", "norm": "none"}: see
    `alexnet.networks.ablation`. Raises `UsageError` for an unknown name and for no classes.
    """
    if name not in MODELS:
        raise UsageError(f"there is no model {name!r}; the models are: {', '.join(MODELS)}")
    if num_classes < 1:
        raise UsageError(f"num_classes must be at least 1, not {num_classes}")
    return ablate_table(MODELS[name](num_classes), ablate or {})


def input_shape(name: str, *, ablate: Mapping[str, str] | None = None) -> tuple[int, int, int]:
    """Return the channels, height and width of the images of the network called `name`.

    It takes no memory for weights. Raises `UsageError` as `create_model` does.
    """
    with torch.device("meta"):
        first = create_model(name, ablate=ablate)[0]
    assert isinstance(first, Input)  # noqa: S101 - the first row of every table
    return first.shape


def set_dropout(model: nn.Module, p: float) -> None:
    """Set the probability of all dropout rows; 0 turns dropout off (P 4.2)."""
    for layer in model.modules():
        if isinstance(layer, nn.Dropout | PaperDropout):
            layer.p = p
