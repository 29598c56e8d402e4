"""Receptive fields: which pixels of the network's input a unit of each row can depend on."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from alexnet.analysis.summary import forward_shapes, image_shape, pair, sides
from alexnet.networks.branches import Branches
from alexnet.networks.layers_2012 import GroupedLinear, SpatialResponseNorm

WHOLE_MAP = (nn.Linear, GroupedLinear)
"""Rows whose units see all that the row before has."""


@dataclass(frozen=True)
class Field:
    """The field of the first unit of a row, and how far the next unit's field is from it.

    All values are pixels of the network's input, (vertical, horizontal). `start` is the first pixel
    of the field: negative where it begins in the padding, which is counted in `size`. Units of
    fully connected rows see one and the same part: their `stride` is 0.
    """

    size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    start: tuple[int, int] = (0, 0)

    @property
    def center(self) -> tuple[float, float]:
        """The middle of the first unit's field; pixel 0 has its own middle at 0."""
        return self.start[0] + (self.size[0] - 1) / 2, self.start[1] + (self.size[1] - 1) / 2

    def window(self, row: int = 0, column: int = 0) -> tuple[int, int, int, int]:
        """Return (top, left, bottom, right) of a unit's field, the last two exclusive.

        It can reach past the image: what lies there is padding.
        """
        top = self.start[0] + row * self.stride[0]
        left = self.start[1] + column * self.stride[1]
        return top, left, top + self.size[0], left + self.size[1]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "center": self.center}


def receptive_fields(model: nn.Module) -> dict[str, Field]:
    """Return the field of each row's units by the row's name, from the table alone.

    `flatten` keeps the fields of its maps. Raises `UsageError` for a network without `Input`.
    """
    return {name: field for name, field, _ in fields_and_shapes(model)}


def fields_and_shapes(model: nn.Module) -> Iterator[tuple[str, Field, tuple[int, ...]]]:
    """Yield each row's name, the field of its units, and the shape of its output."""
    image = image_shape(model)
    field, positions = Field(), image[1:]
    branches: dict[str, Field] = {}  # of the row that is being computed: the fields so far
    rows = [name for name, each in model.named_modules() if isinstance(each, Branches)]
    for name, layer, shape in forward_shapes(model, image):
        row, _, within = name.partition(".")
        if isinstance(layer, Branches):
            field, branches = _together(list(branches.values())), {}
        elif row in rows:
            branch = within.partition(".")[0]
            branches[branch] = _through(branches.get(branch, field), layer)
            yield name, branches[branch], shape
            continue
        elif isinstance(layer, WHOLE_MAP):
            field = _whole(field, positions, image[1:])
            positions = (1, 1)
        else:
            field = _through(field, layer)
        if len(shape) == 3:
            positions = shape[1:]
        yield name, field, shape


def _through(field: Field, layer: nn.Module) -> Field:
    """Return the field of the units of `layer`, whose inputs have the field `field`."""
    kernel, stride, (top, left) = _window(layer)
    step = field.stride
    return Field(
        size=_pair_of(field.size[i] + (kernel[i] - 1) * step[i] for i in (0, 1)),
        stride=_pair_of(step[i] * stride[i] for i in (0, 1)),
        start=(field.start[0] - top * step[0], field.start[1] - left * step[1]),
    )


def _window(layer: nn.Module) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return a layer's kernel, stride and padding (top, left); other layers see one position."""
    if isinstance(layer, SpatialResponseNorm):
        return (layer.size, layer.size), (1, 1), (layer.size // 2, layer.size // 2)
    kernel = pair(getattr(layer, "kernel_size", None)) or (1, 1)
    stride = pair(getattr(layer, "stride", None)) or (1, 1)
    top, _, left, _ = sides(getattr(layer, "padding", None)) or (0, 0, 0, 0)
    return kernel, stride, (top, left)


def _together(fields: list[Field]) -> Field:
    """Return what the first units of branches see together; their strides are equal."""
    start = _pair_of(min(each.start[i] for each in fields) for i in (0, 1))
    end = _pair_of(max(each.window()[2 + i] for each in fields) for i in (0, 1))
    return Field((end[0] - start[0], end[1] - start[1]), fields[0].stride, start)


def _whole(field: Field, positions: tuple[int, ...], image: tuple[int, ...]) -> Field:
    """Return what all units of a map see together, without the padding."""
    last = replace(field, start=field.window(positions[0] - 1, positions[1] - 1)[:2])
    start = max(field.start[0], 0), max(field.start[1], 0)
    end = _pair_of(min(last.start[i] + last.size[i], image[i]) for i in (0, 1))
    return Field((end[0] - start[0], end[1] - start[1]), (0, 0), start)


def _pair_of(values: Iterator[int]) -> tuple[int, int]:
    """Return two values as a pair."""
    first, second = values
    return first, second
