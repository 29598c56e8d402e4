"""The images, and the positions in them, that excite each unit of a row most."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet.analysis.features import taps
from alexnet.analysis.figures.subject import MOST_IMAGES, Indices, Subject, evenly
from alexnet.analysis.receptive_fields import Field
from alexnet.images import Pixels
from alexnet.progress import SILENT, Progress

Window = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels of the network's input, the last two exclusive."""


@dataclass(frozen=True)
class Excitation:
    """The images that excite each unit most, each by its own most exciting position."""

    values: Tensor
    """(units, top): the largest first. Where there were fewer images, -inf."""
    images: Tensor
    """(units, top): indices in the split."""
    positions: Tensor
    """(units, top, 2): row and column in the unit's map."""

    def alive(self) -> list[int]:
        """List the units that some image excites: with a value above 0."""
        numbers: list[int] = (self.values[:, 0] > 0).nonzero()[:, 0].tolist()
        return numbers


@torch.inference_mode()
def find_excitation(
    subject: Subject,
    layers: Sequence[str],
    *,
    top: int = 9,
    images: Indices | None = None,
    progress: Progress = SILENT,
) -> dict[str, Excitation]:
    """Search the split for what excites the units of `layers` most, in one pass.

    `images` are indices in the split; by default all, or `MOST_IMAGES` of them. Memory holds one
    batch and the best of each unit.
    """
    wanted = evenly(len(subject.split), MOST_IMAGES) if images is None else images
    best: dict[str, Excitation] = {}
    with progress.task("search images", len(wanted), "images") as advance:
        for indices, inputs in subject.batches(subject.split, wanted):
            for name, outputs in taps(subject.model, inputs, layers).items():
                found = _of_batch(outputs, torch.from_numpy(indices))
                best[name] = _merge(best[name], found, top) if name in best else found
            advance(len(indices))
    return {name: _merge(found, None, top) for name, found in best.items()}


def _of_batch(outputs: Tensor, images: Tensor) -> Excitation:
    """Return each image's largest value by unit, for outputs (N, units) or (N, units, H, W)."""
    width = outputs.shape[3] if outputs.ndim == 4 else 1
    values, position = outputs.flatten(2).max(2) if outputs.ndim == 4 else (outputs, None)
    flat = torch.zeros_like(values, dtype=torch.int64) if position is None else position
    positions = torch.stack([flat // width, flat % width], dim=2)
    numbers = images[:, None].expand(values.shape)
    return Excitation(values.T.cpu(), numbers.T, positions.transpose(0, 1).cpu())


def _merge(first: Excitation, second: Excitation | None, top: int) -> Excitation:
    """Keep the `top` largest of both."""
    both = [first] if second is None else [first, second]
    values = torch.cat([each.values for each in both], 1)
    images = torch.cat([each.images for each in both], 1)
    positions = torch.cat([each.positions for each in both], 1)
    kept, order = values.topk(min(top, values.shape[1]), dim=1)
    return Excitation(
        kept, images.gather(1, order), positions.gather(1, order[:, :, None].expand(-1, -1, 2))
    )


def cut(image: Pixels, window: Window, fill: int = 232) -> Pixels:
    """Cut `window` out of an image (H, W, 3); what lies outside of the image is `fill`."""
    top, left, bottom, right = window
    height, width = image.shape[:2]
    patch = np.full((bottom - top, right - left, 3), fill, np.uint8)
    inside = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    row, column = max(-top, 0), max(-left, 0)
    patch[row : row + inside.shape[0], column : column + inside.shape[1]] = inside[:height, :width]
    return patch


def patches(subject: Subject, found: Excitation, field: Field, unit: int) -> list[Pixels]:
    """Cut out what `unit` saw in its most exciting images: its receptive field, at its position."""
    views = subject.seen(subject.split.read(found.images[unit].tolist()))
    positions = found.positions[unit].tolist()
    return [
        cut(view, field.window(row, column))
        for view, (row, column) in zip(views, positions, strict=True)
    ]
