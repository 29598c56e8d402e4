"""Weights in: from a file in anyone's format to a run directory.

The network is rewritten to take images as ours do (see `origins.py`), so that evaluate, predict,
train --init and export need no word about where it came from.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.analysis.summary import input_shape
from alexnet.config import Settings
from alexnet.convert.card import Card, read_card
from alexnet.convert.classes import Names, likely_classes, read_classes
from alexnet.convert.download import PUBLISHED, download
from alexnet.convert.origins import ORIGINS, convert_first_layer, make_preprocessing
from alexnet.convert.read import read_weights
from alexnet.convert.stored import Stored, kinds_of
from alexnet.errors import CheckpointError, UsageError
from alexnet.networks.registry import create_model, list_models, weight_layers
from alexnet.progress import SILENT, Progress
from alexnet.storage import checkpoint
from alexnet.storage.atomic import atomic_write, sha256_of
from alexnet.storage.run import Run
from alexnet.transforms import Preprocessing

# torchvision's names, and those of all who took over its layers.
TORCHVISION_NAMES = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
    "classifier.1": "fc6",
    "classifier.4": "fc7",
    "classifier.6": "fc8",
}
ORIGIN_OF_MODEL = {
    "caffe_alexnet": "caffe",
    "caffenet": "caffe",
    "one_weird_trick": "torchvision",
}


@dataclass(frozen=True)
class ImportReport:
    """What was imported, and how it was understood."""

    run: str
    model: str
    format: str
    preprocessing: str
    """Whose way of preparing images the file's weights are for; "its own" for a file of ours."""
    classes: int
    parameters: int
    resize: str
    size: int
    crop: int
    mean: tuple[float, ...]
    """RGB, 0-255: the mean of the mean image."""
    sha256: str
    """Of the file."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Told:
    """What the user says about a file; None where the file is to be believed."""

    model: str | None = None
    classes: str | Path | None = None
    mean: str | Path | None = None
    preprocessing: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        """Refuse names that stand for nothing."""
        if self.model not in (None, *list_models()):
            names = ", ".join(list_models())
            raise UsageError(f"there is no model {self.model!r}; the models are: {names}")
        if self.preprocessing not in (None, *ORIGINS):
            names = ", ".join(ORIGINS)
            raise UsageError(f"--preprocessing is one of {names}, not {self.preprocessing!r}")


def import_weights(  # noqa: PLR0913 - each is a question that a file may leave open
    file: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    classes: str | Path | None = None,
    mean: str | Path | None = None,
    preprocessing: str | None = None,
    size: int | None = None,
    mirror: str | None = None,
    progress: Progress = SILENT,
) -> ImportReport:
    """Make the run directory `out` from a file; "torchvision" downloads the published weights.

    The format is recognised by content. What the file may leave open: `model`, the network's name;
    `classes`, a file (see docs/import.md); `mean`, a file or "R,G,B"; `preprocessing`, "alexnet",
    "caffe" or "torchvision"; `size`, the side of the images that the network's input is cut from.
    `mirror` is an address to download from instead.
    Raises `CheckpointError` for a file that cannot be used or does not fit, naming all that does
    not, and `UsageError` for a question left open.
    """
    answers = Told(model, classes, mean, preprocessing, size)
    if Path(out).exists():
        raise UsageError(f"{out} exists already: name another directory")
    if str(file) in PUBLISHED:
        with download(PUBLISHED[str(file)], mirror, progress) as path:
            return _import(path, Path(out), answers)
    return _import(Path(file), Path(out), answers)


def _import(path: Path, out: Path, told: Told) -> ImportReport:
    stored = read_weights(path)
    try:
        card = read_card(stored.metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    settings = _settings(path, stored, card, told)
    if not card:
        _check_order(path, stored, settings.model)
    network = _build(path, settings, stored)
    if card:
        _check_card(path, card, network)
    way, preprocessing = _prepare(network, settings.model, stored, card, told)
    classes, titles = _class_names(network, card, told)
    digest = sha256_of(path)
    imported = {"file": path.name, "format": stored.format, "sha256": digest, "preprocessing": way}
    note = {"data": {"path": f"imported from {path.name}", "fingerprint": ""}, "imported": imported}
    with atomic_write(out) as aside:
        Run.write(aside, settings, classes, titles, preprocessing, note)
        nothing_learned_yet = torch.optim.SGD(network.parameters())
        checkpoint.save(aside, network, nothing_learned_yet, checkpoint.Position())
    return ImportReport(
        run=str(out),
        model=settings.model,
        format=stored.format,
        preprocessing=way,
        classes=len(classes),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        resize=preprocessing.resize,
        size=preprocessing.size,
        crop=preprocessing.crop,
        mean=tuple(preprocessing.mean_image.mean((1, 2)).tolist()),
        sha256=digest,
    )


def _settings(path: Path, stored: Stored, card: Card | None, told: Told) -> Settings:
    """Find out which network the weights are of, where the file or the user leaves no doubt."""
    if card and told.model in (None, card.model):
        return Settings(model=card.model, ablate=card.ablate)
    if told.model:
        return Settings(model=told.model)
    if set(stored.layers) == set(TORCHVISION_NAMES):
        return Settings(model="one_weird_trick")
    fitting = [name for name in ORIGIN_OF_MODEL if _kinds(name) == stored.kinds]
    if len(fitting) == 1:
        return Settings(model=fitting[0])
    raise UsageError(f"{path} does not say of which network it is: add --model NAME")


def _check_order(path: Path, stored: Stored, name: str) -> None:
    """Refuse the weights of a network with the same shapes, but other rows between them."""
    if stored.kinds and stored.kinds != _kinds(name):
        others = [other for other in ORIGIN_OF_MODEL if _kinds(other) == stored.kinds]
        says = f"is {others[0]}" if others else f"has the rows {' '.join(stored.kinds)}"
        raise CheckpointError(f"{path} {says}, {name} has the rows {' '.join(_kinds(name))}")


def _kinds(name: str) -> tuple[str, ...]:
    return kinds_of(_blueprint(Settings(model=name), 1))


def _blueprint(settings: Settings, classes: int) -> nn.Sequential:
    """Build a network that has shapes but no numbers yet."""
    with torch.device("meta"):
        return create_model(settings.model, classes, ablate=settings.ablate)


def _build(path: Path, settings: Settings, stored: Stored) -> nn.Sequential:
    """Make the network with the file's weights, or list all that does not fit."""
    layers = [name for name, _ in weight_layers(_blueprint(settings, 1))]
    weights = _with_our_names(layers, stored)
    last = weights.get(f"{layers[-1]}.weight", torch.empty(0))
    classes = len(last) if last.ndim == 2 and last.numel() else 1000
    network = _blueprint(settings, classes).to_empty(device="cpu")
    for name in network.state_dict():
        if name.endswith(".num_batches_tracked"):  # for training only; ONNX has no place for it
            weights.setdefault(name, torch.tensor(0))
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    checkpoint.load_weights(network, checkpoint.Saved(tensors, checkpoint.Position(), path))
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite")
    return network


def _with_our_names(ours: list[str], stored: Stored) -> dict[str, Tensor]:
    """Call the layers as the network does: they are known by their names, or by their order."""
    theirs = stored.layers
    new = {layer: layer for layer in theirs}
    if set(theirs) == set(TORCHVISION_NAMES):
        new = TORCHVISION_NAMES
    elif stored.ordered and set(theirs) != set(ours) and len(theirs) == len(ours):
        new = dict(zip(theirs, ours, strict=True))
    split = {name: name.rpartition(".") for name in stored.weights}
    return {
        f"{new[layer]}.{part}" if layer else name: stored.weights[name]
        for name, (layer, _, part) in split.items()
    }


def _check_card(path: Path, card: Card, network: nn.Sequential) -> None:
    """Refuse a description that is of another network."""
    crop, outputs = input_shape(network)[1], _outputs(network)
    if card.preprocessing.crop != crop:
        side = card.preprocessing.crop
        raise CheckpointError(f"{path} describes images of side {side}, the network takes {crop}")
    if not len(card.classes) == len(card.titles) == outputs:
        raise CheckpointError(
            f"{path} names {len(card.classes)} classes, the network has {outputs}"
        )


def _outputs(network: nn.Sequential) -> int:
    return len(weight_layers(network)[-1][1].get_parameter("weight"))


def _prepare(
    network: nn.Sequential, name: str, stored: Stored, card: Card | None, told: Told
) -> tuple[str, Preprocessing]:
    """Make the network take images as ours do; return whose way it was, and the preprocessing."""
    if card and not (told.preprocessing or told.mean or told.size):
        return "its own", card.preprocessing
    way = told.preprocessing or ("alexnet" if card else _guess_origin(name, stored))
    origin = ORIGINS[way]
    crop = input_shape(network)[1]
    preprocessing = make_preprocessing(origin, crop, told.mean, told.size)
    with torch.no_grad():
        first = weight_layers(network)[0][1].get_parameter("weight")
        first.copy_(convert_first_layer(first, origin))
    return way, preprocessing


def _guess_origin(name: str, stored: Stored) -> str:
    if set(stored.layers) == set(TORCHVISION_NAMES):
        return "torchvision"
    if stored.format == "Caffe model":
        return "caffe"
    return ORIGIN_OF_MODEL.get(name, "alexnet") if stored.ordered else "alexnet"


def _class_names(network: nn.Sequential, card: Card | None, told: Told) -> Names:
    if told.classes:
        return read_classes(Path(told.classes), _outputs(network))
    return (list(card.classes), list(card.titles)) if card else likely_classes(_outputs(network))
