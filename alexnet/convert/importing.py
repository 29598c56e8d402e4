"""Importing weights: from a file in any of several formats to a run directory.

The network is converted to this package's preprocessing (see `origins.py`), so that evaluate,
predict, train --init and export treat it as any other run.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.analysis.summary import image_shape
from alexnet.convert import caffe
from alexnet.convert.card import Card, read_card
from alexnet.convert.classes import Names, likely_classes, read_classes
from alexnet.convert.download import PUBLISHED, download
from alexnet.convert.matching import (
    ORIGIN_OF_MODEL,
    build_network,
    find_network,
    is_torchvision,
)
from alexnet.convert.origins import ORIGINS, Origin, convert_first_layer, make_preprocessing
from alexnet.convert.read import read_weights
from alexnet.convert.weights_file import WeightsFile
from alexnet.errors import CheckpointError, UsageError
from alexnet.networks.initialization import weight_layers
from alexnet.networks.registry import list_models
from alexnet.progress import SILENT, Progress
from alexnet.storage import checkpoint_store
from alexnet.storage.atomic import atomic_write, expanded, sha256_of
from alexnet.storage.checkpoint_format import Position
from alexnet.storage.folders import refuse_address
from alexnet.storage.run import Run
from alexnet.transforms import Preprocessing

ENDINGS = (".caffemodel", ".npz", ".onnx", ".pt", ".pt2", ".pth", ".safetensors")
"""Of files with weights; their content says what they are."""


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
        refuse_address(self.classes or "")
        refuse_address(self.mean or "")


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

    The format is recognised by content; a folder is one of the export to Caffe. Options for what
    the file does not say: `model`, the name of the network; `classes`, a file (see docs/import.md);
    `mean`, a file or "R,G,B"; `preprocessing`, "alexnet", "caffe" or "torchvision"; `size`, the
    side of the images from which the network's input is cut. `mirror` is another address for the
    download. A network with one output (a sigmoid) becomes one with the two `classes`.
    Raises `CheckpointError` for a file that cannot be used or does not fit, with all that does not
    fit, and `UsageError` for a missing option.
    """
    options = Options(model, classes, mean, preprocessing, size)
    out = expanded(out)
    if out.exists():
        raise UsageError(f"{out} exists already: name another directory")
    if str(file) in PUBLISHED:
        with download(PUBLISHED[str(file)], mirror, progress) as path:
            return _import(path, out, options)
    refuse_address(file)
    return _import(_file_in(expanded(file)), out, options)


def _file_in(path: Path) -> Path:
    """Return the file of weights in a folder of the export to Caffe; any other path as it is."""
    if Run.exists(path):
        raise UsageError(f"{path} is a run directory: other commands take it without an import")
    if path.is_dir() and not (path / caffe.WEIGHTS).is_file():
        inside = sorted(file for file in path.iterdir() if file.suffix in ENDINGS)
        example = f", such as {inside[0]}" if inside else ""
        raise CheckpointError(
            f"cannot read {path}: it is a folder; name a file with weights{example}"
        )
    return path / caffe.WEIGHTS if path.is_dir() else path


def _import(path: Path, out: Path, options: Options) -> ImportReport:
    file = read_weights(path)
    try:
        card = read_card(file.metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    if not card:
        _check_foreign(path, file, options)
    settings = find_network(path, file, card, options.model)
    network = build_network(
        path, settings, file, has_card=card is not None, has_names=options.classes is not None
    )
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


def _check_foreign(path: Path, file: WeightsFile, options: Options) -> None:
    """Refuse parts of a run or of an export, which say less than the whole."""
    if "position" in file.metadata:
        raise UsageError(f"{path} is a checkpoint of a run: use the run directory, not the file")
    mean = path.with_name(caffe.MEAN)
    if path.name == caffe.WEIGHTS and options.mean is None and mean.is_file():
        raise UsageError(f"{path} does not say which mean is subtracted: add --mean {mean}")


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
    first = weight_layers(network)[0][1].get_parameter("weight")
    if card and file.format == caffe.FORMAT and not options.preprocessing:
        _convert_layer(first, ORIGINS["caffe"])
    if card and not (options.preprocessing or options.mean or options.size):
        return "its own", card.preprocessing
    origin_name = options.preprocessing or ("alexnet" if card else _guess_origin(name, file))
    origin = ORIGINS[origin_name]
    crop = image_shape(network)[1]
    preprocessing = make_preprocessing(origin, crop, options.mean, options.size)
    if card and not options.preprocessing:  # only the mean is another one
        size, mean_image = preprocessing.size, preprocessing.mean_image
        preprocessing = replace(card.preprocessing, size=size, mean_image=mean_image)
    _convert_layer(first, origin)
    return origin_name, preprocessing


@torch.no_grad()
def _convert_layer(weight: Tensor, origin: Origin) -> None:
    weight.copy_(convert_first_layer(weight, origin))


def _guess_origin(name: str, file: WeightsFile) -> str:
    if is_torchvision(file):
        return "torchvision"
    if file.format == caffe.FORMAT and name != "cifar10_18":  # its example reads RGB, not OpenCV's
        return "caffe"
    return ORIGIN_OF_MODEL.get(name, "alexnet") if file.ordered else "alexnet"


def _class_names(network: nn.Sequential, card: Card | None, options: Options) -> Names:
    if options.classes:
        return read_classes(expanded(options.classes), _outputs(network))
    return (list(card.classes), list(card.titles)) if card else likely_classes(_outputs(network))
