"""Taps: the outputs of a network's rows for images, by the row's name.

`conv5` is the output of the convolution, `relu5` the output of its activation. `alexnet summary`
lists the names. Rows before the first fully connected or locally connected one take images of any
size.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet.analysis.summary import forward_shapes, image_shape
from alexnet.device import DeviceName, pick_device
from alexnet.errors import DataError, UsageError
from alexnet.images import Pixels
from alexnet.images.files import find_files, load_files, raise_error, separate_errors
from alexnet.loader import read_ahead
from alexnet.networks.cifar10 import LocallyConnected2d
from alexnet.networks.layers import Input
from alexnet.networks.layers_2012 import GroupedLinear
from alexnet.progress import SILENT, Progress
from alexnet.storage.checkpoint_store import CheckpointName
from alexnet.storage.run import Run
from alexnet.transforms import Preprocessing, center_view

FEATURE_BATCH = 32
OF_ONE_SIZE = (nn.Flatten, nn.Linear, GroupedLinear, LocallyConnected2d)
"""Rows whose weights, or those after them, fit one size of image."""

Features = dict[str, NDArray[np.float32]]
"""By the row's name: (N, channels, height, width), or (N, units)."""


def taps(model: nn.Sequential, inputs: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
    """Return the outputs of the rows `layers` for the network's `inputs` (N, 3, height, width).

    Rows run in order up to the last one of `layers`; gradients flow as usual. Height and width are
    free where all of `layers` come before the first row that needs a size.
    Raises `UsageError` for a name that the network does not have.
    """
    names = list(layers)
    check_layers(model, names)
    is_free = row_of_one_size(model, names) is None and inputs.ndim == 4
    found: dict[str, Tensor] = {}
    for name, row in model.named_children():
        if not (is_free and isinstance(row, Input) and inputs.shape[1] == row.shape[0]):
            inputs = row(inputs)
        if name in names:
            found[name] = inputs
        if len(found) == len(set(names)):
            break
    return {name: found[name] for name in names}


def layer_shapes(model: nn.Sequential) -> dict[str, tuple[int, ...]]:
    """List the names of all rows with the shape of each one's output for one image."""
    return {name: shape for name, _, shape in forward_shapes(model, image_shape(model))}


def row_of_one_size(model: nn.Sequential, layers: Sequence[str]) -> str | None:
    """Return the first row up to the last one of `layers` that needs one size of image."""
    rows = list(model.named_children())
    last = max(index for index, (name, _) in enumerate(rows) if name in layers)
    needy = (name for name, row in rows[: last + 1] if isinstance(row, OF_ONE_SIZE))
    return next(needy, None)


def shapes_of_size(
    model: nn.Sequential, layers: Sequence[str], height: int, width: int
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each layer's output for an image of any size.

    Raises `UsageError` where one of `layers` needs its own size, and for images that are too small.
    """
    if needy := row_of_one_size(model, layers):
        _, own_height, own_width = image_shape(model)
        raise UsageError(
            f"{needy} needs images of {own_height} x {own_width}; only layers before it take others"
        )
    try:
        with torch.inference_mode():
            empty = next(model.parameters()).new_empty((0, 3, height, width))
            return {name: tuple(out.shape[1:]) for name, out in taps(model, empty, layers).items()}
    except RuntimeError as error:
        raise UsageError(f"images of {height} x {width} are too small: {error}") from None


def check_layers(model: nn.Sequential, layers: Sequence[str]) -> None:
    """Raise `UsageError` for an unknown row, or for none."""
    names = [name for name, _ in model.named_children()]
    unknown = [layer for layer in layers if layer not in names]
    if unknown or not layers:
        raise UsageError(f"no layer {', '.join(unknown) or 'named'}; there are {', '.join(names)}")


def extract_features(
    network: str | Path | Run | nn.Sequential,
    images: str | Path | Iterable[str | Path] | NDArray[np.uint8] | Tensor,
    layers: str | Sequence[str],
    *,
    size: int | None = None,
    checkpoint: CheckpointName = "best",
    device: DeviceName = "auto",
) -> Features:
    """Return the outputs of the rows `layers` for images, as float32 arrays by name.

    With a run, `images` are files, folders, or pixels (N, size, size, 3) uint8 RGB as in a packed
    data set; the run's preprocessing is applied to their centre. With a network they are its
    inputs, (N, 3, height, width) float. The network is left in evaluation mode.
    Layers that take any size (see `taps`) can have other images of a run: pixels of another height
    and width, or files scaled to `size` x `size`. They are used whole; see `Tapped.inputs`.
    Raises `DataError` for the first file that is not an image, `UsageError` for unknown layers.
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    if isinstance(network, nn.Sequential):
        if not isinstance(images, Tensor | np.ndarray):
            raise UsageError("a network takes arrays of images only; give its run for files")
        inputs, weights = torch.as_tensor(images), next(network.parameters())
        network.eval()
        parts = (inputs[part].to(weights.device, torch.float32) for part in _slices(len(inputs)))
        return _joined((_to_arrays(network, part, names) for part in parts), names)
    tapped = Tapped(network, names, size=size, checkpoint=checkpoint, device=device)
    if isinstance(images, Tensor | np.ndarray):
        pixels = np.asarray(images)
        return _joined((tapped(pixels[part]) for part in _slices(len(pixels))), names)
    return _joined((features for _, features in tapped.read(images)), names)


class Tapped:
    """A run's network, which returns the outputs of some of its rows.

    `size` is the side of its inputs; None takes the run's own.
    """

    def __init__(
        self,
        run: str | Path | Run,
        layers: Sequence[str],
        *,
        size: int | None = None,
        checkpoint: CheckpointName = "best",
        device: DeviceName = "auto",
    ) -> None:
        self.run = run if isinstance(run, Run) else Run.open(run)
        self.layers = list(layers)
        chosen = pick_device(device)
        self.model = self.run.load_model(chosen, checkpoint)
        self.preprocessing: Preprocessing = self.run.preprocessing.to(chosen)
        self.size = size
        check_layers(self.model, self.layers)
        if size is None:
            shapes = layer_shapes(self.model)
        else:
            shapes = shapes_of_size(self.model, self.layers, size, size)
        self.shapes = {layer: shapes[layer] for layer in self.layers}
        """The shape of each layer's output for one image."""

    def __call__(self, pixels: Pixels) -> Features:
        """Return the features of stored images, (N, size, size, 3) uint8 RGB, or others."""
        return _to_arrays(self.model, self.inputs(pixels), self.layers)

    def inputs(self, pixels: Pixels) -> Tensor:
        """Return the network's inputs for (N, H, W, 3) uint8 RGB.

        Of stored images they are the centre. Images of another size are used whole, where the
        layers allow it, and the mean colour is subtracted: the mean image has no other size.
        """
        size, crop = self.preprocessing.size, self.preprocessing.crop
        if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8:
            raise self._wrong(pixels, "")
        # Always the same memory layout: convolutions round differently in others.
        images = torch.from_numpy(np.ascontiguousarray(pixels))
        images = images.to(self.preprocessing.mean_image.device)
        height, width = pixels.shape[1:3]
        if self.size is None and height == width == size:
            return center_view(images, self.preprocessing)
        if needy := row_of_one_size(self.model, self.layers):
            raise self._wrong(pixels, f"; {needy} needs that size, layers before it take any")
        shapes_of_size(self.model, self.layers, height, width)
        mean = self.preprocessing.mean
        if not height == width == crop:
            mean = mean.mean((1, 2), keepdim=True)
        return images.permute(0, 3, 1, 2).float() - mean

    def _wrong(self, pixels: Pixels, reason: str) -> UsageError:
        size = self.preprocessing.size
        found = f"{pixels.shape} {pixels.dtype}"
        return UsageError(
            f"images of this run are (N, {size}, {size}, 3) uint8, not {found}{reason}"
        )

    def read(
        self,
        images: str | Path | Iterable[str | Path],
        *,
        on_bad: Callable[[DataError], None] = raise_error,
        progress: Progress = SILENT,
    ) -> Iterator[tuple[list[str], Features]]:
        """Read files, or all files in folders, and yield names and features batch by batch.

        `on_bad` gets the error of a file that is not a readable image; the file is left out.
        """
        files = find_files([images] if isinstance(images, str | Path) else images)
        batches = [files[part] for part in _slices(len(files))]
        size, rules = self.size or self.preprocessing.size, self.preprocessing
        load = partial(load_files, size, rules.resize, rules.orientation)
        with progress.task("features", len(files), "images") as advance:
            for loaded in read_ahead(load, batches):
                names, pixels = separate_errors(loaded, on_bad)
                if names:
                    yield names, self(np.stack(pixels))
                advance(len(loaded))


def _slices(count: int) -> Iterator[slice]:
    """Yield the slices that cut `count` images into batches."""
    return (slice(start, start + FEATURE_BATCH) for start in range(0, count, FEATURE_BATCH))


@torch.inference_mode()
def _to_arrays(model: nn.Sequential, inputs: Tensor, layers: list[str]) -> Features:
    found = taps(model, inputs, layers)
    return {name: found[name].float().cpu().numpy() for name in layers}


def _joined(batches: Iterator[Features], layers: list[str]) -> Features:
    parts = list(batches)
    if not parts:
        raise UsageError("there are no images to take features of")
    return {name: np.concatenate([part[name] for part in parts]) for name in layers}
