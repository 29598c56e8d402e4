"""The first layer's filters: pictures of them, and what they have learned in numbers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet.analysis.figures import style
from alexnet.analysis.figures.pictures import enlarged, sheet
from alexnet.analysis.figures.subject import Subject, learning_rows, tower_count
from alexnet.images.filter_pictures import filter_pictures

Weights = NDArray[np.float32]
"""(filters, 3, height, width)."""

IS_COLOURED = 0.3
"""A filter sees colour if more than this part of its energy is off the grey axis."""
DEVIATIONS = 3.0
"""A filter is smooth if it is more so than chance by this many standard deviations."""


def by_tower(weights: Weights, towers: int) -> list[Weights]:
    """Divide the filters among the towers, whose filters follow each other."""
    return list(weights.reshape(towers, -1, *weights.shape[1:]))


def smoothness(weights: Weights) -> NDArray[np.float64]:
    """Return the correlation of each filter's weights with those of the next pixel: (filters,).

    It is 1 for equal weights and 0 on average for the independent ones that a filter starts with.
    """
    x = weights.astype(np.float64)
    products = (
        (x[..., 1:] * x[..., :-1]).sum((1, 2, 3)),
        (x[..., 1:, :] * x[..., :-1, :]).sum((1, 2, 3)),
    )
    pairs = x[..., 1:].size + x[..., 1:, :].size
    energy = np.square(x).mean((1, 2, 3)) * (pairs / len(x))
    found: NDArray[np.float64] = sum(products) / np.where(energy > 0, energy, 1)
    return found


def chance(shape: tuple[int, ...]) -> float:
    """Return the standard deviation of the smoothness of independent weights (3, height, width)."""
    channels, height, width = shape
    return float(1 / np.sqrt(channels * (height * (width - 1) + (height - 1) * width)))


def coloured(weights: Weights) -> NDArray[np.float64]:
    """Return the part of each filter's energy that is off the grey axis: (filters,)."""
    grey = weights.mean(axis=1, keepdims=True, dtype=np.float64)
    energy = np.square(weights.astype(np.float64)).sum((1, 2, 3))
    found: NDArray[np.float64] = np.square(weights - grey).sum((1, 2, 3)) / np.where(
        energy > 0, energy, 1
    )
    return found


@dataclass(frozen=True)
class Learned:
    """What can be counted in a tower's filters."""

    filters: int
    smooth: int
    """Filters that are smoother than chance; at the start hardly any is."""
    smoothness: float
    """The mean; 0 at the start."""
    coloured: int
    """Filters with more than `IS_COLOURED` of their energy off the grey axis."""


def learned(weights: Weights) -> Learned:
    """Count what the filters of a tower have learned."""
    found = smoothness(weights)
    limit = DEVIATIONS * chance(weights.shape[1:])
    return Learned(
        filters=len(weights),
        smooth=int((found > limit).sum()),
        smoothness=float(found.mean()),
        coloured=int((coloured(weights) > IS_COLOURED).sum()),
    )


def in_words(parts: list[Learned]) -> str:
    """Say in a sentence or two whether the filters can be seen to have learned, and what."""
    count, smooth = sum(part.filters for part in parts), sum(part.smooth for part in parts)
    mean = sum(part.smoothness * part.filters for part in parts) / count
    seen = (
        f"{smooth} of {count} filters are smoother than random weights (by more than 3 standard "
        f"deviations; the correlation of neighbouring weights is {mean:.2f} on average, that of "
        "random ones 0)"
    )
    if smooth <= count / 4:
        return f"Most still look like the noise that they started with: {seen}."
    colours = ", ".join(f"{part.coloured} of {part.filters}" for part in parts)
    where = " in the two towers" if len(parts) == 2 else ""
    return f"{seen}. Filters that see colour{where}: {colours}."


def first_filters(subject: Subject) -> Weights:
    """Return the weights of the first row that has any."""
    name = learning_rows(subject.model)[0]
    weights: Weights = subject.model.get_parameter(f"{name}.weight").detach().cpu().numpy()
    return weights


def draw(subject: Subject) -> style.Drawing:
    """Draw the first layer's filters in colour, those of each tower by themselves."""
    towers = by_tower(first_filters(subject), tower_count(subject.model))
    across = 12 if len(towers[0]) <= 48 else 16
    rows = -(-len(towers[0]) // across)
    title_height = 0.25 if len(towers) > 1 else 0
    figure = style.new_figure(0.1 + len(towers) * (title_height + rows * style.WIDTH / across))
    for number, (axes, weights) in enumerate(
        zip(figure.subplots(len(towers), squeeze=False)[:, 0], towers, strict=True), start=1
    ):
        title = f"Tower {number}" if len(towers) > 1 else ""
        look = {"fontsize": 9, "fontweight": "bold", "loc": "left"}
        style.show_picture(
            axes, sheet(enlarged(filter_pictures(weights), 8), across, gap=5), title, **look
        )
    count, (_, height, width) = sum(map(len, towers)), towers[0].shape[1:]
    found = in_words([learned(weights) for weights in towers])
    return style.Drawing(
        figure,
        f"The {count} filters of the first layer, {height} x {width} pixels. Grey is zero; each is "
        f"scaled by its largest weight. {found}",
    )
