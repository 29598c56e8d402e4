"""The ten objects of the embedded data set: a short function for each lists its coloured parts.

Coordinates: x to the right, y down; an object fills about -1 ... 1 in both directions. A part is a
paint (an index into the picture's palette) and the (n, 2) corners of a filled polygon; later parts
cover earlier ones. The palette is drawn for every picture, so colours say nothing about the class.
Each function draws its proportions from the given generator, so no two houses are the same.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Points = NDArray[np.float64]
Part = tuple[int, Points]

BODY, TRIM, DETAIL = 0, 1, 2
PAINTS = 3


def between(rng: Generator, *ranges: tuple[float, float]) -> list[float]:
    """Draw one number from each range."""
    return [rng.uniform(low, high) for low, high in ranges]


def polygon(*corners: tuple[float, float]) -> Points:
    """Return the (n, 2) points of these corners."""
    return np.array(corners, dtype=np.float64)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """Return the corners of an upright rectangle."""
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def arc(
    x: float, y: float, radius: float, start: float = 0, stop: float = 360, flat: float = 1
) -> Points:
    """Return points on an arc, clockwise in the picture from `start` to `stop` degrees.

    `flat` scales the height: 1 is a circle.
    """
    angles = np.radians(np.linspace(start, stop, 25))
    return np.stack([x + radius * np.cos(angles), y + flat * radius * np.sin(angles)], axis=1)


def stroke(path: Points, width: float) -> Points:
    """Return the outline of a line of `width` along `path`; a closed path gives a ring."""
    along = np.gradient(path, axis=0)
    if len(path) > 2 and np.allclose(path[0], path[-1]):
        along[[0, -1]] = path[1] - path[-2]
    across = along[:, ::-1] * (-1, 1) / np.linalg.norm(along, axis=1, keepdims=True) * width / 2
    return np.concatenate([path + across, (path - across)[::-1]])


def line(x0: float, y0: float, x1: float, y1: float, width: float = 0.12) -> Points:
    """Return the outline of a straight line."""
    return stroke(polygon((x0, y0), (x1, y1)), width)


def bicycle(rng: Generator) -> Iterator[Part]:
    """Two wheels, a frame, a saddle and handlebars."""
    radius, reach, top = between(rng, (0.36, 0.44), (0.56, 0.64), (-0.5, -0.3))
    width = rng.uniform(0.1, 0.14)
    for hub in (-reach, reach):
        yield TRIM, stroke(arc(hub, 0.3, radius), width)
        yield DETAIL, arc(hub, 0.3, 0.1)
    seat, head, pedal = (-0.28, top), (reach - 0.26, top), (-0.06, 0.32)
    for start, end in [(seat, head), (seat, pedal), (head, pedal), ((-reach, 0.3), pedal)]:
        yield BODY, line(*start, *end, width)
    yield BODY, line(-reach, 0.3, *seat, width)
    yield BODY, line(head[0] - 0.06, top - 0.24, reach, 0.3, width)
    yield DETAIL, box(-0.5, top - 0.16, -0.12, top - 0.02)
    yield DETAIL, line(head[0] - 0.22, top - 0.24, head[0] + 0.16, top - 0.3, width)
    yield DETAIL, arc(*pedal, 0.12)


def boat(rng: Generator) -> Iterator[Part]:
    """A hull, a mast, a mainsail, often a jib and a flag."""
    mast, deck, top = between(rng, (-0.15, 0.15), (0.4, 0.55), (-1.0, -0.85))
    bow, stern = rng.uniform(0.75, 1.0, 2)
    yield BODY, polygon((-stern, deck), (bow, deck), (bow - 0.35, 0.95), (0.25 - stern, 0.95))
    yield DETAIL, line(mast, deck, mast, top, 0.1)
    clear = deck - 0.12
    yield TRIM, polygon((mast - 0.1, top + 0.1), (mast - 0.1, clear), (0.15 - stern, clear))
    if rng.random() < 0.75:
        yield TRIM, polygon((mast + 0.1, top + 0.25), (mast + 0.1, clear), (bow - 0.15, clear))
    if rng.random() < 0.5:
        yield DETAIL, polygon((mast, top - 0.15), (mast + 0.35, top), (mast, top + 0.15))
    if rng.random() < 0.5:
        yield DETAIL, line(0.1 - stern, deck + 0.18, bow - 0.1, deck + 0.18)


def car(rng: Generator) -> Iterator[Part]:
    """A long body, a cabin with two windows, two wheels; saloon or van by its proportions."""
    roof, bonnet, wheel = between(rng, (-0.6, -0.4), (0.15, 0.5), (0.22, 0.29))
    boot = rng.uniform(-0.95, -0.55)
    yield BODY, polygon((boot, 0.0), (boot + 0.2, roof), (bonnet - 0.25, roof), (bonnet + 0.1, 0.0))
    yield BODY, polygon((-1, -0.05), (0.9, -0.02), (1, 0.15), (1, 0.45), (-1, 0.45))
    middle, sill = (boot + bonnet) / 2, roof + 0.12
    rear = polygon((boot + 0.15, 0), (boot + 0.27, sill), (middle - 0.08, sill), (middle - 0.08, 0))
    front = polygon((middle + 0.05, 0), (middle + 0.05, sill), (bonnet - 0.27, sill), (bonnet, 0))
    yield TRIM, rear
    yield TRIM, front
    if rng.random() < 0.5:
        yield TRIM, line(-0.95, 0.2, 0.95, 0.2, 0.08)
    for x in between(rng, (-0.65, -0.5), (0.5, 0.62)):
        yield DETAIL, arc(x, 0.45, wheel)
        yield TRIM, arc(x, 0.45, wheel / 2.2)


def cup(rng: Generator) -> Iterator[Part]:
    """A cup with a handle, its opening seen from above, perhaps a band, a saucer or steam."""
    wide, narrow, foot, rim = between(rng, (0.5, 0.65), (0.3, 0.5), (0.55, 0.8), (-0.5, -0.3))
    yield BODY, stroke(arc(wide + 0.02, 0.1, rng.uniform(0.25, 0.34), -110, 110), 0.15)
    side = polygon((-wide, rim), (wide, rim), (narrow, foot))
    yield BODY, np.concatenate([side, arc(0, foot, narrow, 0, 180, 0.3), side[:1]])
    if rng.random() < 0.5:
        yield TRIM, polygon((-wide, -0.1), (wide, -0.1), (wide - 0.08, 0.2), (0.08 - wide, 0.2))
    yield TRIM, arc(0, rim, wide, flat=0.3)
    yield DETAIL, arc(0, rim + 0.02, wide - 0.1, flat=0.25)
    if rng.random() < 0.4:
        yield TRIM, arc(0, foot + 0.16, 0.95, -10, 190, 0.16)
    if rng.random() < 0.4:
        for x in (-0.2, 0.2):
            up = np.linspace(0, 1, 12)
            wave = np.stack([x + 0.09 * np.sin(6 * up), rim - 0.2 - 0.45 * up], axis=1)
            yield DETAIL, stroke(wave, 0.09)


def face(rng: Generator) -> Iterator[Part]:
    """A head with eyes, nose and mouth, and hair, a hat or ears."""
    width, tall, eye, mood = between(rng, (0.6, 0.8), (0.95, 1.15), (0.09, 0.15), (0.08, 0.22))
    top = rng.integers(4)
    if top == 0:  # long hair behind the head
        yield TRIM, arc(0, 0, width + 0.2, 150, 390, tall)
    if top == 1:  # ears
        for side in (-1, 1):
            yield TRIM, arc(side * (width - 0.02), -0.05, 0.2)
    yield BODY, arc(0, 0.1, width, flat=tall)
    if top == 2:  # a hat
        yield TRIM, box(-width + 0.1, -0.95, width - 0.1, -0.4)
        yield TRIM, box(-width - 0.15, -0.5, width + 0.15, -0.36)
    if top == 3:  # short hair
        yield TRIM, arc(0, 0.0, width, 190, 350, tall)
    for side in (-1, 1):
        yield DETAIL, arc(side * width * 0.42, -0.05, eye)
    if rng.random() < 0.6:
        yield DETAIL, line(0, 0.05, 0, 0.28, 0.1)
    yield DETAIL, stroke(arc(0, 0.55 - mood, width * 0.5, 20, 160, 0.4 + mood), 0.11)


def fish(rng: Generator) -> Iterator[Part]:
    """A lens-shaped body, a tail, fins, an eye, perhaps stripes."""
    tall, tail, fin = between(rng, (0.36, 0.58), (0.3, 0.5), (0.2, 0.4))
    yield TRIM, polygon((0.35, 0), (0.98, -tail), (0.82, 0), (0.98, tail))
    yield TRIM, polygon((-0.35, 0.25 - tall), (0.1, -tall - fin), (0.3, 0))
    if rng.random() < 0.7:
        yield TRIM, polygon((-0.2, 0), (0.2, tall + fin * 0.8), (0.25, 0))
    x = np.linspace(-1, 0.55, 20)
    back = -tall * np.sin(np.pi * ((x + 1) / 1.55) ** 0.8)
    yield BODY, np.concatenate([np.stack([x, back], 1), np.stack([x, -back], 1)[::-1]])
    for x in rng.uniform(-0.3, 0.3, rng.integers(3)):
        yield TRIM, line(x, -tall * 0.6, x, tall * 0.6)
    yield DETAIL, arc(-0.66, -0.08, 0.1)
    yield DETAIL, stroke(arc(-0.1, 0, 0.36, 145, 215), 0.08)


def house(rng: Generator) -> Iterator[Part]:
    """Walls, a roof, a door, windows, perhaps a chimney."""
    wall, eaves, ridge, top = between(rng, (0.55, 0.9), (-0.3, 0.0), (-0.25, 0.25), (-1.0, -0.75))
    if rng.random() < 0.6:
        yield DETAIL, box(wall - 0.4, top, wall - 0.18, eaves)
    yield BODY, box(-wall, eaves - 0.05, wall, 0.9)
    flat = rng.choice((0.0, 0.35)) * wall
    left, right = -wall - 0.15, wall + 0.15
    yield TRIM, polygon((left, eaves), (ridge - flat, top), (ridge + flat, top), (right, eaves))
    door = rng.uniform(-0.1, 0.1)
    yield DETAIL, box(door - 0.14, 0.35, door + 0.14, 0.9)
    for x in (-wall * 0.6, wall * 0.6):
        yield TRIM, box(x - 0.14, 0.2, x + 0.14, 0.5)


def key(rng: Generator) -> Iterator[Part]:
    """A bow with a hole, a shaft, and two or three teeth."""
    radius, width, end = between(rng, (0.32, 0.42), (0.15, 0.22), (0.85, 1.0))
    bow = -1 + radius
    flat = rng.uniform(0.85, 1.3)
    yield BODY, line(bow + radius - 0.05, 0, end, 0, width)
    for x in end - 0.08 - 0.24 * np.arange(rng.integers(2, 4)):
        yield BODY, box(x - 0.08, 0, x + 0.08, rng.uniform(0.28, 0.45))
    yield BODY, stroke(arc(bow, 0, radius, flat=flat), width)
    if rng.random() < 0.6:
        yield TRIM, box(bow + radius + 0.02, -0.17, bow + radius + 0.16, 0.17)
    if rng.random() < 0.3:
        yield DETAIL, arc(bow - radius, 0, 0.16)


def tree(rng: Generator) -> Iterator[Part]:
    """A trunk under a round crown with fruit, or under the tiers of a fir."""
    trunk, low = between(rng, (0.12, 0.2), (0.25, 0.4))
    yield TRIM, polygon((-trunk, 0), (trunk, 0), (trunk + 0.08, 1), (-trunk - 0.08, 1))
    if rng.random() < 0.4:
        for tier, half in enumerate(between(rng, (0.6, 0.85), (0.45, 0.7), (0.3, 0.5))):
            base = low + 0.1 - 0.42 * tier
            yield BODY, polygon((-half, base), (half, base), (0, base - 0.75))
        return
    for x, y in [(-0.4, low - 0.3), (0.4, low - 0.3), (-0.22, -0.5), (0.25, -0.5), (0, -0.2)]:
        yield BODY, arc(x, y, rng.uniform(0.36, 0.5))
    for x, y in rng.uniform((-0.5, -0.7), (0.5, 0.2), (rng.integers(6), 2)):
        yield DETAIL, arc(x, y, 0.1)


def umbrella(rng: Generator) -> Iterator[Part]:
    """A dome of panels with a scalloped rim, a tip, and a stick that ends in a hook."""
    tall, rim, width = between(rng, (0.7, 1.05), (-0.1, 0.1), (0.1, 0.14))
    yield DETAIL, line(0, rim - tall - 0.14, 0, 0.75, width)
    yield DETAIL, stroke(arc(0.16, 0.75, 0.16, 180, 0), width)
    panels = int(rng.integers(3, 7))
    edges = np.linspace(-0.95, 0.95, panels + 1)
    two = rng.random() < 0.6
    for number, (left, right) in enumerate(pairwise(edges.tolist())):
        scallop = arc((left + right) / 2, rim, (right - left) / 2, 360, 180, 0.4)
        yield (TRIM if two and number % 2 else BODY), umbrella_panel(scallop, rim - tall)


def umbrella_panel(scallop: Points, top: float) -> Points:
    """Close a panel: its `scallop` runs right to left, and two arcs meet at (0, top)."""
    up = np.sin(np.linspace(0, np.pi / 2, 9))
    over = np.cos(np.linspace(0, np.pi / 2, 9))
    (right, rim), (left, _) = scallop[0], scallop[-1]
    climb = np.stack([left * over, rim + (top - rim) * up], axis=1)
    fall = np.stack([right * over, rim + (top - rim) * up], axis=1)[::-1]
    return np.concatenate([scallop, climb, fall])


OBJECTS: dict[str, Callable[[Generator], Iterable[Part]]] = {
    function.__name__: function
    for function in (bicycle, boat, car, cup, face, fish, house, key, tree, umbrella)
}
