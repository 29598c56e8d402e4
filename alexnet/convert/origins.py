"""How other packages' networks prepare images, and the conversion to this package's way.

The networks here take RGB, 0-255, less a mean image. For other inputs the first layer's kernels
are converted, exactly: for BGR their colours are swapped; for (x / 255 - m) / s they are divided by
255 s and the mean becomes 255 m. Zero padding needs no conversion, since it follows the
subtraction.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.convert.caffe import read_binaryproto
from alexnet.errors import UsageError
from alexnet.images.decode import Resize
from alexnet.storage.atomic import expanded
from alexnet.storage.untrusted import map_array
from alexnet.transforms import Preprocessing

Color = tuple[float, float, float]

MAX_PROTO_BYTES = 64 << 20
"""The largest .binaryproto; ImageNet's mean image has 0.8 MB."""


@dataclass(frozen=True)
class Origin:
    """How a family of networks prepares its images; colours are RGB, 0-255."""

    mean: Color | None
    """Subtracted; None: the user must give it."""
    std: Color
    """The divisor after the subtraction."""
    bgr: bool
    """Whether the network takes BGR."""
    resize: Resize
    """How an image becomes a square."""


ORIGINS = {
    "alexnet": Origin(mean=None, std=(1, 1, 1), bgr=False, resize="short"),
    # BVLC/caffe, examples/imagenet: `convert -resize 256x256!`. The mean is the published one of
    # each channel, rounded; the mean image is imagenet_mean.binaryproto.
    "caffe": Origin(mean=(123, 117, 104), std=(1, 1, 1), bgr=True, resize="warp"),
    # torchvision, AlexNet_Weights.IMAGENET1K_V1.transforms: 0.485, 0.456, 0.406; 0.229, ...
    "torchvision": Origin(
        mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), bgr=False, resize="short"
    ),
}


def convert_first_layer(weight: Tensor, origin: Origin) -> Tensor:
    """Convert the first kernels, (out, 3, height, width), to RGB 0-255 less the mean."""
    rgb = weight.flip(1) if origin.bgr else weight
    return (rgb.double() / torch.tensor(origin.std).double()[:, None, None]).to(weight.dtype)


def make_preprocessing(
    origin: Origin, crop: int, mean: str | Path | None, size: int | None
) -> Preprocessing:
    """Make the preprocessing of an imported network.

    `mean` is a file (see `read_mean`) or "R,G,B" and replaces the origin's. The colour statistics,
    which only training needs, are 0. Raises `UsageError` where mean or size are needed and missing.
    """
    color = origin.mean if mean is None else _color(str(mean))
    if mean is not None and color is None:
        image = read_mean(expanded(mean))
        if size not in (None, len(image)):
            raise UsageError(f"{mean} has side {len(image)}, --size says {size}")
        size = len(image)
        mean_image = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    elif color is None:
        raise UsageError(
            "the file does not say which mean is subtracted from the images: add --mean R,G,B, "
            "--mean FILE or --preprocessing caffe or torchvision"
        )
    else:
        size = size or _usual_size(crop)
        mean_image = torch.tensor(color, dtype=torch.float32)[:, None, None].repeat(1, size, size)
    return Preprocessing(
        size=size,
        crop=crop,
        mean_image=mean_image,
        color_std=(0.0, 0.0, 0.0),
        color_vectors=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
        resize=origin.resize,
    )


def read_mean(path: Path) -> NDArray[np.float32]:
    """Read a mean image, (size, size, 3) RGB, from Caffe's .binaryproto or a .npy of that shape.

    Raises `UsageError` for anything else.
    """
    try:
        with path.open("rb") as file:
            is_npy = file.read(6) == b"\x93NUMPY"
        if is_npy:
            image: NDArray[np.generic] = map_array(path)
        elif path.stat().st_size > MAX_PROTO_BYTES:
            raise ValueError(f"it has more than {MAX_PROTO_BYTES:,} bytes")
        else:
            image = read_binaryproto(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path} is not a mean image: {reason}") from None
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1]:
        raise UsageError(f"{path} is not a mean image: its shape is {image.shape}, not (N, N, 3)")
    with np.errstate(over="ignore"):  # float64 may overflow; checked below
        mean = image.astype(np.float32)
    if not np.isfinite(mean).all():
        raise UsageError(f"{path} is not a mean image: it holds numbers that are not finite")
    return mean


def _color(text: str) -> Color | None:
    parts = text.split(",")
    try:
        red, green, blue = map(float, parts)
    except ValueError:
        return None
    return red, green, blue


def _usual_size(crop: int) -> int:
    if crop not in (224, 227):
        raise UsageError(
            f"the file does not say from which size of images {crop} x {crop} is cut: add --size N"
        )
    return 256
