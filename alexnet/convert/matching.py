"""To which network the weights of a file belong, and putting them into it."""

from pathlib import Path

import torch
from torch import Tensor, nn

from alexnet.config import Settings
from alexnet.convert.card import Card
from alexnet.convert.state_dict import TORCHVISION_NAMES, describe_tensors
from alexnet.convert.weights_file import WeightsFile, kinds_of
from alexnet.errors import CheckpointError, UsageError
from alexnet.networks.initialization import weight_layers
from alexnet.networks.registry import create_model
from alexnet.storage.checkpoint_format import Position, Saved, load_weights

ORIGIN_OF_MODEL = {
    "caffe_alexnet": "caffe",
    "caffenet": "caffe",
    "one_weird_trick": "torchvision",
    "cifar10_18": "alexnet",
}
"""The networks that a file's order of rows tells apart, and the preprocessing of their weights."""


def find_network(path: Path, file: WeightsFile, card: Card | None, model: str | None) -> Settings:
    """Find out to which network the weights belong; `model` is what the user says.

    Raises `UsageError` if it is ambiguous, and `CheckpointError` for another order of rows.
    """
    if card and model in (None, card.model):
        return Settings(model=card.model, ablate=card.ablate)
    fitting = [name for name in ORIGIN_OF_MODEL if _kinds(name) == file.kinds]
    if not model:
        names = ["one_weird_trick"] if is_torchvision(file) else fitting
        if len(names) != 1:
            raise UsageError(
                f"{path} does not say to which network it belongs: add --model NAME; it holds "
                f"{describe_tensors(file.weights, most=24)}"
            )
        model = names[0]
    if file.kinds and file.kinds != _kinds(model) and not card:
        says = f"is {fitting[0]}" if fitting else f"has the rows {' '.join(file.kinds)}"
        raise CheckpointError(f"{path} {says}, {model} has the rows {' '.join(_kinds(model))}")
    return Settings(model=model)


def is_torchvision(file: WeightsFile) -> bool:
    """Check for the names of torchvision's layers, which many other packages use."""
    return set(file.layers) >= set(TORCHVISION_NAMES)


def _kinds(name: str) -> tuple[str, ...]:
    return kinds_of(_on_meta(Settings(model=name), 1))


def _on_meta(settings: Settings, classes: int) -> nn.Sequential:
    """Build a network without memory for its weights."""
    with torch.device("meta"):
        return create_model(settings.model, classes, ablate=settings.ablate)


def build_network(
    path: Path, settings: Settings, file: WeightsFile, *, has_card: bool, has_names: bool
) -> nn.Sequential:
    """Build the network with the file's weights; raise `CheckpointError` with all misfits.

    Without a card (`has_card`), one output becomes two, if the classes have names (`has_names`).
    """
    layers = [name for name, _ in weight_layers(_on_meta(settings, 1))]
    weights = _renamed(file, layers)
    last = weights.get(f"{layers[-1]}.weight", torch.empty(0))
    classes = len(last) if last.ndim == 2 and last.numel() else 1000
    if not has_card:
        _check_outputs(path, file, classes, has_names=has_names)
        if classes == 1:
            weights, classes = _with_two_outputs(weights, layers[-1]), 2
    network = _on_meta(settings, classes).to_empty(device="cpu")
    for name in network.state_dict():
        if name.endswith(".num_batches_tracked"):  # for training only; ONNX does not store it
            weights.setdefault(name, torch.tensor(0))
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    load_weights(network, Saved(tensors, Position(), path))
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite")
    return network


def _check_outputs(path: Path, file: WeightsFile, outputs: int, *, has_names: bool) -> None:
    """Refuse outputs that are not logits of classes of which an image has one."""
    if outputs > 1 and file.sigmoid:
        raise CheckpointError(
            f"{path} takes a sigmoid of each of its {outputs:,} outputs: an image can have several "
            f"of these classes, and the networks here give each image one"
        )
    if outputs == 1 and not has_names:  # only both names tell that it is no regression
        raise UsageError(
            f"{path} has one output: if its sigmoid is the probability of the second of two "
            f"classes, add --classes FILE with the names of both; else it is no classifier"
        )


def _with_two_outputs(weights: dict[str, Tensor], last: str) -> dict[str, Tensor]:
    """Add a first output that is always 0, so that the softmax gives 1 - p and p = sigmoid(z)."""
    parts = {name: x for name, x in weights.items() if name in (f"{last}.weight", f"{last}.bias")}
    return weights | {name: torch.cat([torch.zeros_like(x), x]) for name, x in parts.items()}


def _renamed(file: WeightsFile, ours: list[str]) -> dict[str, Tensor]:
    """Return the weights with our layers' names, which are matched by name or by order."""
    theirs = file.layers
    names = {layer: layer for layer in theirs}
    if is_torchvision(file):
        names |= TORCHVISION_NAMES
    elif file.ordered and set(theirs) != set(ours) and len(theirs) == len(ours):
        names = dict(zip(theirs, ours, strict=True))
    split = {name: name.rpartition(".") for name in file.weights}
    return {
        f"{names[layer]}.{part}" if layer else name: file.weights[name]
        for name, (layer, _, part) in split.items()
    }
