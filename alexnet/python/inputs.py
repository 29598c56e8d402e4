"""Images as Python has them, turned into what a network takes.

An image is a path, the bytes of a file, an image of Pillow, or an array or tensor of pixels. Where
an array could be read in two ways it is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from alexnet.errors import DataError, UsageError
from alexnet.images import Pixels
from alexnet.images.decode import ImageError, load_square, square, upright
from alexnet.images.files import load_file
from alexnet.storage.atomic import expanded
from alexnet.storage.folders import refuse_address
from alexnet.transforms import Preprocessing, center_view

Array: TypeAlias = NDArray[np.generic] | Tensor
ImageLike: TypeAlias = str | Path | bytes | Image.Image | Array
"""One image. An array or tensor is (H, W), (H, W, C) or (C, H, W); C is 1, 3 (RGB) or 4 (RGBA).

Its numbers are uint8, 0-255, or floats, 0-1.
"""
KINDS = (str, Path, bytes, Image.Image, np.ndarray, Tensor)
"""What `ImageLike` is, for isinstance."""
CHANNELS = (1, 3, 4)


def name_of(image: ImageLike) -> str:
    """Return what a prediction calls an image: its path, or what it is."""
    if isinstance(image, str | Path):
        return str(expanded(image))
    if isinstance(image, bytes):
        return f"{len(image):,} bytes"
    if isinstance(image, Image.Image):
        return f"{image.mode} image, {image.width} x {image.height}"
    if isinstance(image, np.ndarray | Tensor):
        return f"{'tensor' if isinstance(image, Tensor) else 'array'} {tuple(image.shape)}"
    return type(image).__name__


def read_pixels(image: ImageLike, preprocessing: Preprocessing) -> Pixels:
    """Return an image as the stored images of a training: (size, size, 3) uint8 RGB.

    Raises `DataError` for an image that cannot be read, `UsageError` for one that is ambiguous.
    """
    if isinstance(image, str | Path):
        return _read_file(image, preprocessing)
    size, resize = preprocessing.size, preprocessing.resize
    try:
        if isinstance(image, bytes):
            return load_square(image, size, resize=resize, orientation=preprocessing.orientation)
        if isinstance(image, Image.Image):
            return square(upright(image, preprocessing.orientation), size, resize)
        if isinstance(image, np.ndarray | Tensor):
            return square(upright(from_array(image), "ignore"), size, resize)
    except ImageError as error:
        raise DataError(f"{name_of(image)}: {error}") from None
    raise UsageError(
        f"an image is a path, bytes, an image of Pillow, an array or a tensor, not a "
        f"{type(image).__name__}"
    )


def _read_file(path: str | Path, preprocessing: Preprocessing) -> Pixels:
    refuse_address(path)
    own = preprocessing
    found = load_file(expanded(path), own.size, own.resize, own.orientation)
    if isinstance(found, DataError):
        raise found
    return found


def from_array(image: Array) -> Image.Image:
    """Make an image of Pillow from pixels. Raises `UsageError` where they could mean two things."""
    if isinstance(image, Tensor):
        own = image.detach().cpu()
        pixels = (own.double() if own.is_floating_point() else own).numpy()
    else:
        pixels = image
    what = name_of(image)
    if pixels.ndim == 4:
        raise UsageError(f"{what} is a batch: pass list(batch) for an answer to each image")
    if pixels.ndim == 3:
        pixels = _channels_last(pixels, what)
    elif pixels.ndim != 2:
        raise UsageError(f"{what}: an image is (H, W), (H, W, C) or (C, H, W)")
    if not pixels.size:
        raise UsageError(f"{what} has no pixels")
    return Image.fromarray(np.ascontiguousarray(_eight_bits(pixels, what)))


def _channels_last(pixels: NDArray[np.generic], what: str) -> NDArray[np.generic]:
    first, last = pixels.shape[0] in CHANNELS, pixels.shape[2] in CHANNELS
    if first and last:
        raise UsageError(f"{what}: the first or the last number can be the channels; pass an image")
    if not first and not last:
        raise UsageError(f"{what} has neither first nor last 1, 3 or 4 channels")
    pixels = pixels if last else pixels.transpose(1, 2, 0)
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels


def _eight_bits(pixels: NDArray[np.generic], what: str) -> Pixels:
    """Return uint8 as it is, and floats from 0 to 1 times 255."""
    if pixels.dtype == np.uint8:
        return pixels.view(np.uint8)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise UsageError(f"{what} of {pixels.dtype}: pixels are uint8, 0-255, or floats, 0-1")
    low, high = float(pixels.min()), float(pixels.max())
    if not 0 <= low <= high <= 1:
        raise UsageError(
            f"{what} holds floats from {low:g} to {high:g}: floats are 0-1; pass values of 0-255 "
            f"as uint8, and pixels from which nothing was subtracted"
        )
    scaled: Pixels = (pixels.astype(np.float64) * 255).round().astype(np.uint8)
    return scaled


@dataclass(frozen=True, repr=False, eq=False)
class Preprocess:
    """Turns images into the input of a run's network, as evaluation does: the centre of each.

    The result is float32, RGB, 0-255, less the training's mean image.
    """

    preprocessing: Preprocessing

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Tensor:
        """Return one image as (3, crop, crop), a list or batch as (N, 3, crop, crop).

        A batch is an array or tensor of four dimensions, such as a `DataLoader` makes of a data
        set's images. Raises as `Run.predict` does.
        """
        if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
            return self._of_list(list(images))
        if isinstance(images, Sequence) and not isinstance(images, str | bytes):
            return self._of_list(images)
        return self._of_list([images])[0]

    def _of_list(self, images: Sequence[ImageLike]) -> Tensor:
        own = self.preprocessing
        stored = torch.from_numpy(np.stack([read_pixels(image, own) for image in images]))
        return center_view(stored, own)

    def __repr__(self) -> str:
        own = self.preprocessing
        side = "both sides" if own.resize == "warp" else "shorter side"
        return f"Preprocess({side} to {own.size}, centre {own.crop} x {own.crop}, less the mean)"
