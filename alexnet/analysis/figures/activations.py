"""The maps of one image, layer by layer."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.analysis.features import taps
from alexnet.analysis.figures import style
from alexnet.analysis.figures.pictures import scaled, sheet
from alexnet.analysis.figures.subject import Subject, activation_after, evenly, map_layers
from alexnet.images import Pixels

MAPS = 12
"""Maps shown of each layer: those with the largest mean."""
SIDE = 96
BELOW: dict[str, Any] = {"ha": "center", "va": "top"}


@torch.inference_mode()
def strongest_maps(subject: Subject, index: int) -> dict[str, tuple[list[int], Pixels]]:
    """Return the strongest maps of an image of the split, by the activation's row.

    For each row: the maps' numbers, and their pictures (maps, height, width, 3), in which white is
    the largest value of the row and black is 0 and below. A shade is the square root of the value:
    without it a few large values leave all others black.
    """
    rows = [activation_after(subject.model, name) for name in map_layers(subject.model)]
    inputs = subject.inputs(subject.split.read([index]))
    found = {}
    for name, outputs in taps(subject.model, inputs, rows).items():
        maps: NDArray[np.float32] = outputs[0].float().cpu().numpy()
        order = np.argsort(-maps.mean((1, 2)), kind="stable")[:MAPS]
        shades = np.sqrt(np.clip(maps[order] / max(float(maps.max()), 1e-12), 0, 1))
        pixels = np.rint(255 * shades).astype(np.uint8)[..., None].repeat(3, axis=3)
        found[name] = (order.tolist(), pixels)
    return found


def draw(subject: Subject) -> style.Drawing:
    """Draw an image and, below it, the strongest maps of each layer."""
    index = int(evenly(len(subject.split), 3)[-1])
    found = strongest_maps(subject, index)
    cell = style.WIDTH / MAPS
    figure = style.new_figure(1.5 + len(found) * (cell + 0.37))
    grid = figure.add_gridspec(1 + len(found), 1, height_ratios=[1.5] + [cell] * len(found))
    image = subject.seen(subject.split.read([index]))[0]
    title = style.shorten(subject.title(index))
    top = figure.add_subplot(grid[0], anchor="W")
    style.show_picture(top, image, title, fontsize=8, fontweight="bold", loc="left")
    for row, (name, (numbers, pixels)) in enumerate(found.items(), start=1):
        tiles = sheet([scaled(each, SIDE) for each in pixels], MAPS)
        height, width = pixels.shape[1:3]
        text = f"{name}: {height} x {width}"
        axes = figure.add_subplot(grid[row])
        style.show_picture(axes, tiles, text, loc="left")
        for place, number in enumerate(numbers):
            middle = (place + 0.5) * tiles.shape[1] / MAPS
            axes.text(middle, SIDE + 4, str(number), fontsize=5.5, color=style.SOFT, **BELOW)
    return style.Drawing(
        figure,
        f"A {subject.split.split_name} image and the {MAPS} maps of each layer with the largest "
        "mean, after the activation, with their units' numbers. White is the largest value of the "
        "layer, black is 0, and shades are the square roots of values.",
    )
