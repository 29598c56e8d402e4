"""The network that torchvision trained on ImageNet, as published; or its convolutions alone.

The convolutions are for `alexnet train --init imagenet`: linear layers for a thousand classes are
of little use to a few other ones, and begin anew. What comes of it is a run directory, in the
user's cache folder, so that a file is downloaded once.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from alexnet.compiled import cache_folder
from alexnet.config import Settings
from alexnet.convert.classes import likely_classes
from alexnet.convert.download import PUBLISHED, download
from alexnet.convert.origins import ORIGINS, convert_first_layer, make_preprocessing
from alexnet.convert.read import read_weights
from alexnet.convert.state_dict import TORCHVISION_NAMES
from alexnet.errors import CheckpointError, StorageError
from alexnet.networks.registry import create_model, input_shape
from alexnet.progress import SILENT, Progress
from alexnet.storage import checkpoint_store
from alexnet.storage.atomic import atomic_write, expanded, sha256_of
from alexnet.storage.checkpoint_format import MODEL, Position
from alexnet.storage.run import Run

NETWORK, CLASSES = "one_weird_trick", 1000
CONVOLUTIONS = {
    theirs: ours for theirs, ours in TORCHVISION_NAMES.items() if ours.startswith("conv")
}


def imagenet_convolutions(mirror: str | Path | None = None, *, progress: Progress = SILENT) -> Path:
    """Return a run directory with the five convolutions that torchvision trained on ImageNet.

    It is the `init` of a training: other commands refuse it, since it has no linear layers.
    `mirror` is another address for the download, or a file on this machine: torchvision's, or an
    .npz of the same names. Only a download is compared with the published SHA-256.
    Raises `StorageError` if the download fails, `CheckpointError` for a file without convolutions.
    """
    run = _published(mirror, "imagenet", CONVOLUTIONS, progress)
    progress.note(f"ImageNet's convolutions: {_origin(run, mirror)}")
    return run


def imagenet_network(mirror: str | Path | None = None, *, progress: Progress = SILENT) -> Path:
    """Return a run directory with torchvision's whole network, for ImageNet's thousand classes.

    `mirror` and the errors are those of `imagenet_convolutions`.
    """
    return _published(mirror, "torchvision", TORCHVISION_NAMES, progress)


def _published(
    mirror: str | Path | None, name: str, layers: Mapping[str, str], progress: Progress
) -> Path:
    """Return the run directory `name`-DIGEST with the `layers` of a file; make it if needed."""
    file = PUBLISHED["torchvision"]
    if mirror is None or str(mirror).startswith(("http://", "https://")):
        run = _folder(name, file.sha256_prefix)
        if not Run.exists(run):
            with download(file, None if mirror is None else str(mirror), progress) as path:
                _write(path, run, layers)
        return run
    path = expanded(mirror)
    run = _folder(name, _digest(path))
    if not Run.exists(run):
        _write(path, run, layers)
    return run


def _origin(run: Path, mirror: str | Path | None) -> str:
    """Say where the weights in `run` come from."""
    file = PUBLISHED["torchvision"]
    if mirror is None or str(mirror).startswith(("http://", "https://")):
        return f"torchvision's {file.file}, in {run}"
    is_published = run.name.endswith(file.sha256_prefix)
    what = "as torchvision published them" if is_published else "which is not the published file"
    return f"{expanded(mirror)}, {what}"


def _folder(name: str, digest: str) -> Path:
    """Return the run directory for a file whose SHA-256 begins with `digest`."""
    return cache_folder().parent / "weights" / f"{name}-{digest[:8]}"


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None


def _write(path: Path, run: Path, layers: Mapping[str, str]) -> None:
    """Write `layers` of a file, converted to this package's preprocessing, as a run."""
    origin, first = ORIGINS["torchvision"], f"{MODEL}conv1.weight"
    tensors = _read(path, layers)
    tensors[first] = convert_first_layer(tensors[first], origin)
    preprocessing = make_preprocessing(origin, input_shape(NETWORK)[1], None, None)
    note = {
        "data": {"path": f"imported from {path.name}", "fingerprint": ""},
        "layers": list(layers.values()),
    }
    names, titles = likely_classes(CLASSES)
    try:
        with atomic_write(run) as temporary:
            Run.write(temporary, Settings(model=NETWORK), names, titles, preprocessing, note)
            checkpoint_store.write(temporary, tensors, Position())
    except StorageError:
        if not Run.exists(run):  # else another process was faster, such as a rank of torchrun
            raise


def _read(path: Path, layers: Mapping[str, str]) -> dict[str, Tensor]:
    """Read `layers` of a file, from torchvision's names to ours, by their names in a checkpoint."""
    weights = read_weights(path).weights
    with torch.device("meta"):
        shapes = create_model(NETWORK).state_dict()
    tensors: dict[str, Tensor] = {}
    for theirs, ours in layers.items():
        for part in ("weight", "bias"):
            tensor, shape = weights.get(f"{theirs}.{part}"), shapes[f"{ours}.{part}"].shape
            if tensor is None or tensor.shape != shape:
                found = "has no" if tensor is None else f"has another shape of {tuple(shape)} for"
                raise CheckpointError(
                    f"{path} {found} {theirs}.{part}: it is not torchvision's AlexNet"
                )
            tensors[f"{MODEL}{ours}.{part}"] = tensor.float().contiguous()
    return tensors
