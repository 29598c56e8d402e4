"""What excites units: an image made for each, and the parts of images that excite it most."""

from dataclasses import dataclass

import numpy as np

from alexnet.analysis.features import layer_shapes
from alexnet.analysis.figures import style
from alexnet.analysis.figures.excitation import Excitation, find_excitation, patches
from alexnet.analysis.figures.pictures import scaled, sheet
from alexnet.analysis.figures.preferred import preferred_images
from alexnet.analysis.figures.subject import Subject, evenly, learning_rows
from alexnet.analysis.receptive_fields import Field, receptive_fields
from alexnet.errors import DataError, UsageError
from alexnet.images import Pixels
from alexnet.progress import SILENT, Progress

UNITS = 4
"""Units shown of each layer, evenly from those that some image excites."""
PATCHES = 9
SIDE = 56
"""Of a patch in the figure, in pixels."""


@dataclass(frozen=True)
class Unit:
    """One unit with the pictures that show what excites it."""

    layer: str
    number: int
    title: str
    """The class that it stands for, or its number."""
    field: tuple[int, int]
    """What it sees of the image, in pixels."""
    preferred: Pixels
    patches: list[Pixels]

    def picture(self) -> Pixels:
        """Put the preferred image and the patches side by side: RGBA."""
        tiles = sheet([scaled(patch, SIDE) for patch in self.patches], 3)
        own = sheet([scaled(self.preferred, 3 * SIDE + 2)], 1)
        whole = np.zeros((own.shape[0], tiles.shape[1] + own.shape[1] + 5, 4), np.uint8)
        whole[:, : own.shape[1]] = own
        whole[: tiles.shape[0], own.shape[1] + 5 :] = tiles
        return whole


def find_units(
    subject: Subject,
    layer: str | None = None,
    unit: int | None = None,
    *,
    count: int = UNITS,
    progress: Progress = SILENT,
) -> list[list[Unit]]:
    """Return units of each layer, or of one, or a single one, with their pictures.

    Raises `UsageError` for a layer or unit that the network does not have, `DataError` where no
    image excites a unit.
    """
    layers = learning_rows(subject.model)
    if layer is not None and layer not in layers:
        raise UsageError(f"no layer {layer} with units; there are {', '.join(layers)}")
    wanted = layers if layer is None else [layer]
    units = layer_shapes(subject.model)[wanted[-1]][0]
    if unit is not None and not 0 <= unit < units:
        raise UsageError(f"{wanted[-1]} has units 0 to {units - 1}, not {unit}")
    excitations = find_excitation(subject, wanted, top=PATCHES, progress=progress)
    fields = receptive_fields(subject.model)
    found: list[list[Unit]] = []
    with progress.task("make preferred images", len(wanted), "layers") as advance:
        for name in wanted:
            alive = excitations[name].alive()
            chosen = [alive[i] for i in evenly(len(alive), count)] if unit is None else [unit]
            if chosen:
                found.append(_of_layer(subject, name, chosen, excitations[name], fields[name]))
            advance(1)
    if not found:
        raise DataError(f"no {subject.split.split_name} image excites a unit")
    return found


def _of_layer(
    subject: Subject, layer: str, chosen: list[int], excitation: Excitation, field: Field
) -> list[Unit]:
    """Return the units `chosen` of a layer with their pictures."""
    made = preferred_images(subject.model, subject.preprocessing, layer, field, chosen)
    is_last = layer == learning_rows(subject.model)[-1]
    return [
        Unit(
            layer=layer,
            number=number,
            title=subject.titles[number] if is_last else f"unit {number}",
            field=field.size,
            preferred=picture,
            patches=patches(subject, excitation, field, number),
        )
        for number, picture in zip(chosen, made, strict=True)
    ]


def draw(
    subject: Subject,
    layer: str | None = None,
    unit: int | None = None,
    progress: Progress = SILENT,
) -> style.Drawing:
    """Draw units of each layer, one layer to a row, or those of one layer."""
    rows = find_units(subject, layer, unit, progress=progress)
    columns = max(map(len, rows))
    width = style.WIDTH if columns > 1 else style.WIDTH * 0.6
    cell = width / columns / 2
    figure = style.new_figure(len(rows) * (cell + 0.2), width)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, units in enumerate(rows):
        for column, each in enumerate(units):
            title = f"{each.layer}, {style.shorten(each.title)}"
            style.show_picture(grid[row, column], each.picture(), title)
    sizes = ", ".join(f"{row[0].layer} {row[0].field[0]}" for row in rows)
    return style.Drawing(
        figure,
        "Units, chosen evenly from those that some image excites. Left: an image made to excite "
        "the unit, by gradient ascent with 1 / frequency weights, the training images' colours and "
        "random shifts (Olah and others 2017). Right: what it saw in the nine "
        f"{subject.split.split_name} images that excite it most. Sides in pixels: {sizes}; what "
        "lies outside of the image is pale grey.",
    )
