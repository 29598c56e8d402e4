"""Importing weights: from a file in any of several formats to a run directory.

The network is converted to this package's preprocessing (see `origins.py`), so that evaluate,
predict, train --init and export treat it as any other run.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.analysis.summary import image_shape
from alexnet.config import Settings
from alexnet.convert.card import Card, read_card
from alexnet.convert.classes import Names, likely_classes, read_classes
from alexnet.convert.download import PUBLISHED, download
from alexnet.convert.origins import ORIGINS, convert_first_layer, make_preprocessing
from alexnet.convert.read import read_weights
from alexnet.convert.weights_file import WeightsFile, kinds_of
from alexnet.errors import CheckpointError, UsageError
from alexnet.networks.initialization import weight_layers
from alexnet.networks.registry import create_model, list_models
from alexnet.progress import SILENT, Progress
from alexnet.storage import checkpoint_store
from alexnet.storage.atomic import atomic_write, sha256_of
from alexnet.storage.checkpoint_format import Position, Saved, load_weights
from alexnet.storage.run import Run
from alexnet.transforms import Preprocessing

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
    """The origin whose preprocessing the weights are for; "its own" for a file of this package."""
    classes: int
    parameters: int
    resize: str
    size: int
    crop: int
    mean: tuple[float, ...]
    """RGB, 0-255: the mean of the mean image."""
    sha256: str
    """SHA-256 of the file."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Options:
    """What the user says about a file; None leaves it to the file."""

    model: str | None = None
    classes: str | Path | None = None
    mean: str | Path | None = None
    preprocessing: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        if self.model not in (None, *list_models()):
            names = ", ".join(list_models())
            raise UsageError(f"there is no model {self.model!r}; the models are: {names}")
        if self.preprocessing not in (None, *ORIGINS):
            names = ", ".join(ORIGINS)
            raise UsageError(f"--preprocessing is one of {names}, not {self.preprocessing!r}")


def import_weights(  # noqa: PLR0913 - each is an option of the command
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

    The format is recognised by content. Options for what the file does not say: `model`, the name
    of the network; `classes`, a file (see docs/import.md); `mean`, a file or "R,G,B";
    `preprocessing`, "alexnet", "caffe" or "torchvision"; `size`, the side of the images from which
    the network's input is cut. `mirror` is another address for the download.
    Raises `CheckpointError` for a file that cannot be used or does not fit, with all that does not
    fit, and `UsageError` for a missing option.
    """
    options = Options(model, classes, mean, preprocessing, size)
    if Path(out).exists():
        raise UsageError(f"{out} exists already: name another directory")
    if str(file) in PUBLISHED:
        with download(PUBLISHED[str(file)], mirror, progress) as path:
            return _import(path, Path(out), options)
    return _import(Path(file), Path(out), options)


def _import(path: Path, out: Path, options: Options) -> ImportReport:
    file = read_weights(path)
    try:
        card = read_card(file.metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    settings = _settings(path, file, card, options)
    if not card:
        _check_order(path, file, settings.model)
    network = _build(path, settings, file)
    if card:
        _check_card(path, card, network)
    origin, preprocessing = _convert(network, settings.model, file, card, options)
    classes, titles = _class_names(network, card, options)
    digest = sha256_of(path)
    imported = {"file": path.name, "format": file.format, "sha256": digest, "preprocessing": origin}
    note = {"data": {"path": f"imported from {path.name}", "fingerprint": ""}, "imported": imported}
    with atomic_write(out) as temporary:
        Run.write(temporary, settings, classes, titles, preprocessing, note)
        optimizer = torch.optim.SGD(network.parameters())
        checkpoint_store.save(temporary, network, optimizer, Position())
    return ImportReport(
        run=str(out),
        model=settings.model,
        format=file.format,
        preprocessing=origin,
        classes=len(classes),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        resize=preprocessing.resize,
        size=preprocessing.size,
        crop=preprocessing.crop,
        mean=tuple(preprocessing.mean_image.mean((1, 2)).tolist()),
        sha256=digest,
    )


def _settings(path: Path, file: WeightsFile, card: Card | None, options: Options) -> Settings:
    """Find out to which network the weights belong; raise `UsageError` if it is ambiguous."""
    if card and options.model in (None, card.model):
        return Settings(model=card.model, ablate=card.ablate)
    if options.model:
        return Settings(model=options.model)
    if _is_torchvision(file):
        return Settings(model="one_weird_trick")
    fitting = [name for name in ORIGIN_OF_MODEL if _kinds(name) == file.kinds]
    if len(fitting) == 1:
        return Settings(model=fitting[0])
    raise UsageError(f"{path} does not say to which network it belongs: add --model NAME")


def _is_torchvision(file: WeightsFile) -> bool:
    """Check for the names of torchvision's layers, which many other packages use."""
    return set(file.layers) == set(TORCHVISION_NAMES)


def _check_order(path: Path, file: WeightsFile, name: str) -> None:
    """Refuse the weights of a network with the same shapes but other rows between them."""
    if file.kinds and file.kinds != _kinds(name):
        others = [other for other in ORIGIN_OF_MODEL if _kinds(other) == file.kinds]
        says = f"is {others[0]}" if others else f"has the rows {' '.join(file.kinds)}"
        raise CheckpointError(f"{path} {says}, {name} has the rows {' '.join(_kinds(name))}")


def _kinds(name: str) -> tuple[str, ...]:
    return kinds_of(_on_meta(Settings(model=name), 1))


def _on_meta(settings: Settings, classes: int) -> nn.Sequential:
    """Build a network without memory for its weights."""
    with torch.device("meta"):
        return create_model(settings.model, classes, ablate=settings.ablate)


def _build(path: Path, settings: Settings, file: WeightsFile) -> nn.Sequential:
    """Build the network with the file's weights; raise `CheckpointError` with all misfits."""
    layers = [name for name, _ in weight_layers(_on_meta(settings, 1))]
    weights = _renamed(file, layers)
    last = weights.get(f"{layers[-1]}.weight", torch.empty(0))
    classes = len(last) if last.ndim == 2 and last.numel() else 1000
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


def _renamed(file: WeightsFile, ours: list[str]) -> dict[str, Tensor]:
    """Return the weights with our layers' names, which are matched by name or by order."""
    theirs = file.layers
    names = {layer: layer for layer in theirs}
    if _is_torchvision(file):
        names = TORCHVISION_NAMES
    elif file.ordered and set(theirs) != set(ours) and len(theirs) == len(ours):
        names = dict(zip(theirs, ours, strict=True))
    split = {name: name.rpartition(".") for name in file.weights}
    return {
        f"{names[layer]}.{part}" if layer else name: file.weights[name]
        for name, (layer, _, part) in split.items()
    }


def _check_card(path: Path, card: Card, network: nn.Sequential) -> None:
    """Refuse a card of another network."""
    crop, outputs = image_shape(network)[1], _outputs(network)
    if card.preprocessing.crop != crop:
        side = card.preprocessing.crop
        raise CheckpointError(f"{path} describes images of side {side}, the network takes {crop}")
    if not len(card.classes) == len(card.titles) == outputs:
        raise CheckpointError(
            f"{path} names {len(card.classes)} classes, the network has {outputs}"
        )


def _outputs(network: nn.Sequential) -> int:
    return len(weight_layers(network)[-1][1].get_parameter("weight"))


def _convert(
    network: nn.Sequential, name: str, file: WeightsFile, card: Card | None, options: Options
) -> tuple[str, Preprocessing]:
    """Convert the network to this package's preprocessing; return its origin and that."""
    if card and not (options.preprocessing or options.mean or options.size):
        return "its own", card.preprocessing
    origin_name = options.preprocessing or ("alexnet" if card else _guess_origin(name, file))
    origin = ORIGINS[origin_name]
    crop = image_shape(network)[1]
    preprocessing = make_preprocessing(origin, crop, options.mean, options.size)
    with torch.no_grad():
        first = weight_layers(network)[0][1].get_parameter("weight")
        first.copy_(convert_first_layer(first, origin))
    return origin_name, preprocessing


def _guess_origin(name: str, file: WeightsFile) -> str:
    if _is_torchvision(file):
        return "torchvision"
    if file.format == "Caffe model":
        return "caffe"
    return ORIGIN_OF_MODEL.get(name, "alexnet") if file.ordered else "alexnet"


def _class_names(network: nn.Sequential, card: Card | None, options: Options) -> Names:
    if options.classes:
        return read_classes(Path(options.classes), _outputs(network))
    return (list(card.classes), list(card.titles)) if card else likely_classes(_outputs(network))
