"""Taps: what any row of a network gives for images, by the row's name.

Every row of a table has a name, so every intermediate result has one: `conv5` is what the
convolution gives, `relu5` the same after its activation. `alexnet summary` lists them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet.analysis.summary import forward_shapes, input_shape
from alexnet.device import pick_device
from alexnet.errors import DataError, UsageError
from alexnet.loader import read_ahead
from alexnet.predict import find_files, keep_good, load_files, raise_error
from alexnet.progress import SILENT, Progress
from alexnet.storage.checkpoint import CheckpointName
from alexnet.storage.run import Run
from alexnet.transforms import Preprocessing, take_view, views

FEATURE_BATCH = 32

Features = dict[str, NDArray[np.float32]]
"""By the row's name: (N, channels, height, width), or (N, units)."""


def taps(model: nn.Sequential, inputs: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
    """Return what the rows called `layers` give for `inputs`, (N, 3, height, width) as it takes.

    Rows run one after the other up to the last that is wanted; gradients flow as usual.
    Raises `UsageError` for a name that the network does not have.
    """
    wanted = list(layers)
    check_layers(model, wanted)
    found: dict[str, Tensor] = {}
    for name, row in model.named_children():
        inputs = row(inputs)
        if name in wanted:
            found[name] = inputs
        if len(found) == len(set(wanted)):
            break
    return {name: found[name] for name in wanted}


def layer_shapes(model: nn.Sequential) -> dict[str, tuple[int, ...]]:
    """List the names of all rows with the shape of what each gives for one image."""
    return {name: shape for name, _, shape in forward_shapes(model, input_shape(model))}


def check_layers(model: nn.Sequential, layers: Sequence[str]) -> None:
    """Raise `UsageError` for a row that there is not, naming those that there are."""
    names = [name for name, _ in model.named_children()]
    unknown = [layer for layer in layers if layer not in names]
    if unknown or not layers:
        raise UsageError(f"no layer {', '.join(unknown) or 'named'}; there are {', '.join(names)}")


def extract_features(
    network: str | Path | Run | nn.Sequential,
    images: str | Path | Iterable[str | Path] | NDArray[np.uint8] | Tensor,
    layers: str | Sequence[str],
    *,
    which: CheckpointName = "best",
    device: str = "auto",
) -> Features:
    """Return what the rows called `layers` give for images, as float32 arrays by name.

    With a run, `images` are files, folders, or pixels (N, size, size, 3) uint8 RGB as a packed data
    set holds them; the run's preprocessing is applied to their centre. With a network alone they
    are (N, 3, height, width) float, as it takes them. The network is left in evaluation mode.
    Raises `DataError` for the first file that is no image, `UsageError` for unknown layers.
    """
    wanted = [layers] if isinstance(layers, str) else list(layers)
    if isinstance(network, nn.Sequential):
        if not isinstance(images, Tensor | np.ndarray):
            raise UsageError("a network alone takes arrays of images; open its run for files")
        inputs, place = torch.as_tensor(images), next(network.parameters()).device
        network.eval()
        starts = range(0, len(inputs), FEATURE_BATCH)
        parts = (inputs[at : at + FEATURE_BATCH].to(place, torch.float32) for at in starts)
        return _joined((_to_arrays(network, part, wanted) for part in parts), wanted)
    tapped = Tapped(network, wanted, which=which, device=device)
    if isinstance(images, Tensor | np.ndarray):
        pixels = np.asarray(images)
        starts = range(0, len(pixels), FEATURE_BATCH)
        return _joined((tapped(pixels[at : at + FEATURE_BATCH]) for at in starts), wanted)
    return _joined((features for _, features in tapped.read(images)), wanted)


class Tapped:
    """A run's network, opened to give what some of its rows give."""

    def __init__(
        self,
        run: str | Path | Run,
        layers: Sequence[str],
        *,
        which: CheckpointName = "best",
        device: str = "auto",
    ) -> None:
        self.run = run if isinstance(run, Run) else Run.open(run)
        self.layers = list(layers)
        place = pick_device(device)
        self.model = self.run.load_model(place, which)
        self.preprocessing: Preprocessing = self.run.preprocessing.to(place)
        check_layers(self.model, self.layers)

    def __call__(self, pixels: NDArray[np.uint8]) -> Features:
        """Return the features of stored images, (N, size, size, 3) uint8 RGB."""
        size, crop = self.preprocessing.size, self.preprocessing.crop
        if pixels.shape[1:] != (size, size, 3) or pixels.dtype != np.uint8:
            raise UsageError(
                f"images of this run are (N, {size}, {size}, 3) uint8, not "
                f"{pixels.shape} {pixels.dtype}"
            )
        # One layout in memory, whatever the caller's: convolutions round differently in others.
        images = torch.from_numpy(np.ascontiguousarray(pixels))
        images = images.to(self.preprocessing.mean_image.device)
        inputs = take_view(images, views(size, crop, 1)[0], self.preprocessing)
        return _to_arrays(self.model, inputs, self.layers)

    def read(
        self,
        images: str | Path | Iterable[str | Path],
        *,
        on_bad: Callable[[DataError], None] = raise_error,
        progress: Progress = SILENT,
    ) -> Iterator[tuple[list[str], Features]]:
        """Read files, or all files in folders, and give names and features batch by batch.

        A file that is not a readable image goes to `on_bad` and is left out unless that raises.
        """
        files = find_files([images] if isinstance(images, str | Path) else images)
        batches = [files[at : at + FEATURE_BATCH] for at in range(0, len(files), FEATURE_BATCH)]
        size, resize = self.preprocessing.size, self.preprocessing.resize
        with progress.task("features", len(files), "images") as advance:
            for loaded in read_ahead(partial(load_files, size=size, resize=resize), batches):
                names, pixels = keep_good(loaded, on_bad)
                if names:
                    yield names, self(np.stack(pixels))
                advance(len(loaded))


@torch.inference_mode()
def _to_arrays(model: nn.Sequential, inputs: Tensor, layers: list[str]) -> Features:
    found = taps(model, inputs, layers)
    return {name: found[name].float().cpu().numpy() for name in layers}


def _joined(batches: Iterator[Features], layers: list[str]) -> Features:
    parts = list(batches)
    if not parts:
        raise UsageError("there are no images to take features of")
    return {name: np.concatenate([part[name] for part in parts]) for name in layers}
