"""Where in an image the evidence for a class is: by occlusion, and by gradients (Grad-CAM)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.analysis.features import FEATURE_BATCH, taps
from alexnet.analysis.figures import style
from alexnet.analysis.figures.pictures import spotlight
from alexnet.analysis.figures.predictions import answers
from alexnet.analysis.figures.subject import Subject, activation_after, evenly, map_layers
from alexnet.networks.cifar10 import LocallyConnected2d
from alexnet.progress import SILENT, Progress

IMAGES = 5
PARTS = 5
"""The side of the occluding square is this part of the image's side."""
STEPS_OF_A_SQUARE = 4
"""The square moves by this part of its side."""

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Occluded:
    """An occlusion map as far as it is known: `done` of `count` squares have covered the image."""

    lost: Map
    done: int
    count: int
    side: int
    """Of a square, in pixels."""


def occlusion_map(model: nn.Module, image: Tensor, label: int) -> Map:
    """Return how much of the class's probability each pixel holds: (height, width).

    A square of the mean colour is moved over the network's input `image` (3, height, width), also
    partly past its edges (Zeiler and Fergus 2014). A pixel's value is the mean, over the squares
    that cover it, of what the probability of `label` loses. It is negative where it gains.
    """
    *_, last = occlusion_steps(model, image, label)
    return last.lost


def occlusion_steps(
    model: nn.Module, image: Tensor, label: int, batch: int = FEATURE_BATCH
) -> Iterator[Occluded]:
    """Yield what `occlusion_map` knows after each batch of squares, first those of a coarse grid.

    A batch is always whole, since an accelerated network prefers one size.
    """
    height, width = image.shape[1:]
    side = max(1, height // PARTS)
    step = max(1, side // STEPS_OF_A_SQUARE)
    corners = sorted(
        product(range(step - side, height, step), range(step - side, width, step)),
        key=lambda corner: _fineness(corner, step),
    )
    nothing = (slice(0), slice(0))
    squares = [nothing, *(_square(corner, side) for corner in corners)]
    lost, covered = (torch.zeros(height, width, dtype=torch.float64) for _ in range(2))
    whole = 0.0
    for start in range(0, len(squares), batch):
        some = squares[start : start + batch]
        images = image.repeat(batch, 1, 1, 1)
        for occluded, square in zip(images, some, strict=False):
            occluded[:, *square] = 0  # the mean image has been subtracted
        values = _probabilities(model, images, label)
        whole = whole if start else values[0]
        for square, value in zip(some, values, strict=False):
            lost[square] += whole - value
            covered[square] += 1
        known = (lost / covered.clamp(min=1)).float().numpy()
        yield Occluded(known, start + len(some) - 1, len(corners), side)


def _fineness(corner: tuple[int, int], step: int) -> int:
    """Return 0 for a corner of the grid whose squares do not overlap, then 1, then 2."""
    top, left = corner[0] // step, corner[1] // step
    return sum(bool(top % each or left % each) for each in (STEPS_OF_A_SQUARE, 2))


def _square(corner: tuple[int, int], side: int) -> tuple[slice, slice]:
    """Return the rows and columns of a square, cut at the top and left edge of the image."""
    top, left = corner
    return slice(max(top, 0), top + side), slice(max(left, 0), left + side)


@torch.inference_mode()
def _probabilities(model: nn.Module, images: Tensor, label: int) -> list[float]:
    values: list[float] = model(images).softmax(1)[:, label].tolist()
    return values


def grad_cam(model: nn.Sequential, image: Tensor, label: int) -> Map:
    """Return the Grad-CAM map of a class (Selvaraju and others 2017): (height, width), from 0.

    The maps of the last convolution are weighted by the mean gradient of the logit of `label`,
    added, and cut at 0; then they are scaled to the size of `image` (3, height, width), bilinearly.
    """
    # Where weights differ from place to place, the mean gradient over the places says nothing.
    shared = [
        name
        for name in map_layers(model)
        if not isinstance(model.get_submodule(name), LocallyConnected2d)
    ]
    row = activation_after(model, shared[-1])
    maps = taps(model, image[None], [row])[row].detach().requires_grad_()
    logit = _rows_after(model, row)(maps)[0, label]
    (gradient,) = torch.autograd.grad(logit, maps)
    weights = gradient.mean((2, 3), keepdim=True)
    found = (weights * maps.detach()).sum(1, keepdim=True).relu()
    size = image.shape[1], image.shape[2]
    scaled = F.interpolate(found, size, mode="bilinear", align_corners=False)
    return scaled[0, 0].float().cpu().numpy()


def _rows_after(model: nn.Sequential, row: str) -> nn.Sequential:
    """Return the rows after `row`, which share the network's weights."""
    names = [name for name, _ in model.named_children()]
    return nn.Sequential(*list(model)[names.index(row) + 1 :])


def draw(subject: Subject, progress: Progress = SILENT) -> style.Drawing:
    """Draw images with an occlusion map and Grad-CAM of the most probable class of each."""
    found = answers(subject, evenly(len(subject.split), IMAGES))
    figure = style.new_figure(0.75 + 3 * style.WIDTH / IMAGES)
    grid = figure.subplots(3, len(found), squeeze=False)
    with progress.task("occlude", len(found), "images") as advance:
        for column, answer in enumerate(found):
            label, probability = answer.predictions[0]
            image = subject.inputs(subject.split.read([answer.index]))[0]
            lost = occlusion_map(subject.model, image, label)
            cam = grad_cam(subject.model, image, label)
            title = f"{style.shorten(subject.titles[label])} {style.percent(probability)}"
            if not answer.is_right:
                title += f"\n(it is {style.shorten(subject.titles[answer.truth])})"
            style.show_picture(grid[0, column], answer.picture, title, fontweight="bold")
            most = f"covered: -{100 * max(float(lost.max()), 0):.0f} points"
            style.show_picture(grid[1, column], spotlight(answer.picture, lost), most)
            style.show_picture(grid[2, column], spotlight(answer.picture, cam), "Grad-CAM")
            advance(1)
    return style.Drawing(
        figure,
        f"Where the network sees the class that it predicts for {len(found)} "
        f"{subject.split.split_name} images. Middle: how much of the class's probability is lost "
        f"when a square of a {PARTS}th of the side covers a place (occlusion). Bottom: Grad-CAM. "
        "An image fades where its map is low; each map is scaled by its largest value.",
    )
