"""From stored 8-bit images to the network's input: whole batches at once, on any device.

Training: a random crop, mirrored half of the time, its colour shifted (P 4.1). Evaluation: the
centre, or the ten views. Both subtract the centre of the mean image, as the 2012 code does for
every crop (convdata_jpeg.py:95).
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from alexnet import randomness
from alexnet.config import AugmentationSettings, Settings
from alexnet.errors import UsageError
from alexnet.images import Orientation
from alexnet.images.decode import Resize, check_rules


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network; a run directory stores it."""

    size: int
    """Side of the stored images in pixels; see `resize`."""
    crop: int
    """Side of the network's input in pixels, at most `size`."""
    mean_image: Tensor = field(repr=False)
    """(3, size, size) float32, 0-255: the mean of the training images."""
    color_std: tuple[float, ...]
    """Standard deviation of the colours along their three principal directions, 0-255."""
    color_vectors: tuple[tuple[float, ...], ...]
    """3 x 3, RGB in rows: its columns are those directions."""
    resize: Resize = "short"
    """How an image of any shape becomes a square of `size`."""
    orientation: Orientation = "turn"
    """Whether a photograph is first turned as its EXIF tag says."""

    def __post_init__(self) -> None:
        """Refuse a crop larger than the images and unknown rules."""
        check_rules(self.resize, self.orientation)
        if self.crop > self.size:
            raise UsageError(
                f"the network takes {self.crop} x {self.crop} images, the data set holds "
                f"{self.size} x {self.size}: prepare it again with a larger --size"
            )

    @property
    def mean(self) -> Tensor:
        """The centre of the mean image: (3, crop, crop)."""
        start = (self.size - self.crop) // 2
        return self.mean_image[:, start : start + self.crop, start : start + self.crop]

    def to(self, device: torch.device) -> "Preprocessing":
        """Return a copy whose tensor is on `device`."""
        return replace(self, mean_image=self.mean_image.to(device))


class View(NamedTuple):
    """A crop of an image by its top left corner in pixels, mirrored or not."""

    top: int
    left: int
    flip: bool


def views(size: int, crop: int, count: int) -> list[View]:
    """List the centre (count 1), or the four corners and the centre, each also mirrored (10).

    Order and positions are those of the 2012 code (convdata_jpeg.py:224-233). Raises `UsageError`
    for another count.
    """
    end, middle = size - crop, (size - crop) // 2
    if count == 1:
        return [View(middle, middle, False)]
    if count == 10:
        corners = [(0, 0), (0, end), (middle, middle), (end, 0), (end, end)]
        return [View(top, left, flip) for flip in (False, True) for top, left in corners]
    raise UsageError(f"there are 1 or 10 views, not {count}")


def take_view(images: Tensor, view: View, preprocessing: Preprocessing) -> Tensor:
    """Cut `view` out of each image: (N, size, size, 3) uint8 to (N, 3, crop, crop) float32."""
    crop = preprocessing.crop
    cut = images[:, view.top :, view.left :][:, :crop, :crop].permute(0, 3, 1, 2).float()
    return (cut.flip(3) if view.flip else cut) - preprocessing.mean


def center_view(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Cut the centre out of each image: (N, size, size, 3) uint8 to (N, 3, crop, crop) float32."""
    view = views(preprocessing.size, preprocessing.crop, 1)[0]
    return take_view(images, view, preprocessing)


BLOCKS = 2**40
"""Offset of the numbers of blocks, far from those of images."""
CENTER = 0.5 - 1e-9
"""The position of a crop in the middle. An odd number of pixels is rounded down, as in `views`."""


@dataclass(frozen=True)
class AugmentParams:
    """The random choices for a batch of N images, made before any pixel is touched."""

    top: NDArray[np.float64]
    """(N,) position of the crop from 0 (top) to 1 (bottom)."""
    left: NDArray[np.float64]
    """(N,) the same from left to right."""
    flip: NDArray[np.bool_]
    """(N,) whether to mirror."""
    zoom: NDArray[np.float64]
    """(N,) side of the crop as a fraction of the image's side; unused where min_crop_scale is 0."""
    shift: NDArray[np.float32]
    """(N, 3) what to add to red, green and blue."""


def sample_augment(
    settings: Settings,
    preprocessing: Preprocessing,
    epoch: int,
    images: NDArray[np.int64],
    first: int = 0,
) -> AugmentParams:
    """Draw the augmentation of `images` (their indices in the split) in `epoch`.

    `first` is the number of images that the epoch has had before: where `crop_block` successive
    images share crop and mirroring, their position in the epoch decides, not the image.

    The colour shift is p1 a1 s1 + p2 a2 s2 + p3 a3 s3 with a normal of standard deviation
    `lighting`: one draw for each use of an image. The paper calls s "eigenvalues";
    the 2012 code has their square roots, and only these make sense in size (docs/paper.md).
    """
    numbers = randomness.uniforms(settings.seed, epoch, images, 10)
    amounts = randomness.normals(numbers[:, 4:10]) * settings.lighting
    if settings.crop_block > 1:
        blocks = (first + np.arange(len(images))) // settings.crop_block
        numbers = randomness.uniforms(settings.seed, epoch, BLOCKS + blocks, 4)
    shift = (amounts * np.array(preprocessing.color_std)) @ np.array(preprocessing.color_vectors).T
    position = numbers[:, :2] if settings.random_crop else np.full((len(images), 2), CENTER)
    return AugmentParams(
        top=position[:, 0],
        left=position[:, 1],
        flip=(numbers[:, 2] < 0.5) & settings.flip,
        zoom=settings.min_crop_scale + numbers[:, 3] * (1 - settings.min_crop_scale),
        shift=shift.astype(np.float32),
    )


def augment(
    images: Tensor,
    params: AugmentParams,
    preprocessing: Preprocessing,
    settings: AugmentationSettings,
) -> Tensor:
    """Apply `params` to (N, size, size, 3) uint8 images: (N, 3, crop, crop) float32."""
    crops = _scaled_crops if settings.min_crop_scale else _crops
    shift = torch.from_numpy(params.shift).to(images.device)
    pixels = crops(images, params, preprocessing.crop)  # new memory, so it can be changed
    pixels.sub_(preprocessing.mean).add_(shift[:, :, None, None])
    if settings.lighting_rescale:  # by a tensor: a GPU would multiply by a number's reciprocal
        pixels.div_(pixels.new_tensor(1 + settings.lighting))
    return pixels


def crop_corners(
    params: AugmentParams, size: int, crop: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return top and left (N,) of each crop in pixels: 33 x 33 positions for 224 in 256."""
    positions = size - crop + 1
    top, left = (np.floor(x * positions).astype(np.int64) for x in (params.top, params.left))
    return top, left


def crop_matrices(params: AugmentParams) -> NDArray[np.float32]:
    """Return (N, 2, 3): what maps a crop's (x, y, 1) to the image's x and y, for crops of any size.

    In these coordinates, those of torch's grid_sample, either square spans -1 ... 1.
    """
    room = 1 - params.zoom  # so a crop's centre lies in +-room
    mirror = np.where(params.flip, -1.0, 1.0)
    zero = np.zeros_like(params.zoom)
    across = np.stack([params.zoom * mirror, zero, (2 * params.left - 1) * room], axis=1)
    down = np.stack([zero, params.zoom, (2 * params.top - 1) * room], axis=1)
    return np.stack([across, down], axis=1).astype(np.float32)


def _crops(images: Tensor, params: AugmentParams, crop: int) -> Tensor:
    """Cut crops of side `crop`, each at its own whole pixel."""
    top, left = crop_corners(params, images.shape[1], crop)
    if images.device.type == "cpu":
        return _crops_one_by_one(images, top, left, params.flip, crop)
    rows, columns = (start[:, None] + np.arange(crop) for start in (top, left))
    columns = np.where(params.flip[:, None], columns[:, ::-1], columns)
    row_index = torch.from_numpy(rows).to(images.device)[:, :, None]
    column_index = torch.from_numpy(columns).to(images.device)[:, None, :]
    image_index = torch.arange(len(images), device=images.device)[:, None, None]
    return images[image_index, row_index, column_index].permute(0, 3, 1, 2).float()


def _crops_one_by_one(
    images: Tensor,
    top: NDArray[np.int64],
    left: NDArray[np.int64],
    flip: NDArray[np.bool_],
    crop: int,
) -> Tensor:
    """Do it without an index of positions: three times as fast on a CPU, slower elsewhere."""
    out = images.new_empty((len(images), 3, crop, crop), dtype=torch.float32)
    for number, image in enumerate(images):
        cut = image[top[number] :, left[number] :][:crop, :crop].permute(2, 0, 1)
        out[number] = cut.flip(2) if flip[number] else cut
    return out


def _scaled_crops(images: Tensor, params: AugmentParams, crop: int) -> Tensor:
    """Cut crops of any size and position, and scale them to side `crop`, bilinearly."""
    matrices = torch.from_numpy(crop_matrices(params)).to(images.device)
    grid = F.affine_grid(matrices, [len(images), 3, crop, crop], align_corners=False)
    pixels = images.permute(0, 3, 1, 2).float()
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
