"""Images that a unit would prefer to all others, made by gradient ascent.

The regulariser is that of Olah, Mordvintsev and Schubert (Feature Visualization, 2017): the image
is a sum of waves, weighted by 1 / frequency as in photographs, in the principal colours of the
training images, and it is shifted at random before each step. The contrast is fixed to that of the
training images. Without all this, ascent ends in fine noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexnet.analysis.features import row_of_one_size, taps
from alexnet.analysis.receptive_fields import Field
from alexnet.images import Pixels
from alexnet.transforms import Preprocessing

STEPS = 128
RATE = 0.05
"""Of Adam, for the waves' amplitudes."""
JITTER = 1 / 16
"""The largest shift, as a part of the image's side."""
PHOTOGRAPH_STD = 60.0
"""Deviation of colours, 0-255, for runs that do not know those of their training images."""


def preferred_images(
    model: nn.Sequential,
    preprocessing: Preprocessing,
    layer: str,
    field: Field,
    units: Sequence[int],
) -> Pixels:
    """Return what excites each of `units` of the row `layer` most: (units, height, width, 3).

    Of a unit that sees a part of the image, it is the part that the unit in the middle sees.
    The same arguments give the same images.
    """
    device = preprocessing.mean_image.device
    canvas = _canvas(model, layer, field, preprocessing.crop)
    waves = Waves(preprocessing, len(units), canvas.side, device)
    optimizer = torch.optim.Adam([waves.spectrum], lr=RATE)
    generator = torch.Generator().manual_seed(0)
    reach = int(canvas.side * JITTER)
    index = torch.arange(len(units)), torch.tensor(list(units))
    for _ in range(STEPS):
        shift = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
        inputs = waves.pixels().roll(shift, (2, 3)) - waves.mean(canvas.side)
        outputs = taps(model, inputs, [layer])[layer]
        wanted = outputs if outputs.ndim == 2 else outputs[..., canvas.row, canvas.row]
        (gradient,) = torch.autograd.grad(-wanted[index].sum(), waves.spectrum)
        waves.spectrum.grad = gradient
        optimizer.step()
    with torch.no_grad():
        pixels = waves.pixels().round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    top, left, bottom, right = canvas.window
    return pixels[:, top:bottom, left:right]


@dataclass(frozen=True)
class _Canvas:
    """The side of the images that are made, the unit that looks at them, and what it sees."""

    side: int
    row: int
    window: tuple[int, int, int, int]


def _canvas(model: nn.Sequential, layer: str, field: Field, crop: int) -> _Canvas:
    """Choose the smallest images in which a unit sees no padding, or else the network's own."""
    if row_of_one_size(model, [layer]) is None and field.stride[0]:
        row = math.ceil(max(-field.start[0], 0) / field.stride[0])
        top, left, bottom, right = field.window(row, row)
        if max(bottom, right) <= crop:
            return _Canvas(max(bottom, right), row, (top, left, bottom, right))
    # The unit whose field has its middle nearest to the image's; a fully connected row has one.
    row = round(((crop - 1) / 2 - field.center[0]) / field.stride[0]) if field.stride[0] else 0
    top, left, bottom, right = field.window(row, row)
    return _Canvas(crop, row, (max(top, 0), max(left, 0), min(bottom, crop), min(right, crop)))


class Waves:
    """Images (N, 3, side, side) as sums of waves; `spectrum` holds their amplitudes."""

    def __init__(
        self, preprocessing: Preprocessing, count: int, side: int, device: torch.device
    ) -> None:
        frequency = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side))
        self._weight = (1 / frequency.clamp(min=1 / side)).to(device) / side
        std = torch.tensor(preprocessing.color_std)
        if not std.any():
            std = torch.full((3,), PHOTOGRAPH_STD)
        self._colors = (torch.tensor(preprocessing.color_vectors) * std).to(device) / 255
        self._side, self._mean = side, preprocessing.mean
        shape = (count, 3, side, side // 2 + 1, 2)
        start = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.01
        self.spectrum = start.to(device).requires_grad_()

    def pixels(self) -> Tensor:
        """Return the images, 0-255; a sigmoid keeps them within the range."""
        waves = torch.view_as_complex(self.spectrum) * self._weight
        colors = torch.fft.irfft2(waves, s=(self._side, self._side), norm="forward")
        colors = colors / colors.square().mean((1, 2, 3), keepdim=True).sqrt()
        return 255 * torch.einsum("ij,njhw->nihw", self._colors * 4, colors).sigmoid()

    def mean(self, side: int) -> Tensor:
        """Return what is subtracted from pixels: the mean image, or its colour for other sizes."""
        if side == self._mean.shape[1]:
            return self._mean
        return self._mean.mean((1, 2), keepdim=True)
