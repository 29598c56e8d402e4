"""Drawn scenes of CIFAR-10's ten classes, to try its networks on; no photograph is needed.

Coordinates as in `alexnet.demo.shapes`: x to the right, y down, the scene is -1 ... 1. A part is a
colour and the corners of a polygon; later parts cover earlier ones.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from alexnet.demo.shapes import Points, arc, box, line, polygon
from alexnet.images import Pixels

Color = tuple[int, int, int]
Part = tuple[Color, Points]

SIZE = 128
OVERSAMPLING = 3
BLUR = 1.0
"""Pixels, as a lens would."""
NOISE = 4.0

SKY: tuple[Color, Color] = ((96, 148, 206), (196, 218, 236))
GRASS: tuple[Color, Color] = ((120, 146, 78), (84, 112, 52))
SEA: tuple[Color, Color] = ((72, 118, 152), (40, 80, 116))
ROAD: tuple[Color, Color] = ((150, 150, 150), (110, 110, 112))
BLACK, DARK, WHITE, GLASS = (24, 24, 26), (58, 60, 64), (238, 238, 236), (70, 88, 104)


def draw_scene(name: str, seed: int) -> Pixels:
    """Draw the scene of a class of CIFAR-10, (128, 128, 3) RGB; the same for the same seed."""
    rng = np.random.default_rng((seed, list(SCENES).index(name)))
    above, below, horizon, parts = SCENES[name]
    ground = gradient(above, below, horizon)
    layer = Image.new("RGBA", (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING))
    draw = ImageDraw.Draw(layer)
    for color, outline in parts():
        corners = (outline + 1) / 2 * SIZE * OVERSAMPLING
        draw.polygon(corners.ravel().tolist(), fill=(*color, 255))
    return developed(ground, np.asarray(layer.reduce(OVERSAMPLING), float), rng)


def gradient(
    above: tuple[Color, Color], below: tuple[Color, Color], horizon: float
) -> NDArray[np.float64]:
    """Fill a scene with two ramps of colour that meet at the height `horizon`."""
    heights = np.linspace(-1, 1, SIZE)[:, None]
    upper = np.clip((heights + 1) / max(horizon + 1, 1e-9), 0, 1)
    lower = np.clip((heights - horizon) / max(1 - horizon, 1e-9), 0, 1)
    top = np.array(above[0]) + upper * (np.array(above[1]) - above[0])
    bottom = np.array(below[0]) + lower * (np.array(below[1]) - below[0])
    ramp = np.where(heights < horizon, top, bottom)
    return np.repeat(ramp[:, None], SIZE, axis=1)


def developed(ground: NDArray[np.float64], layer: NDArray[np.float64], rng: Generator) -> Pixels:
    """Lay the parts over the ground, lit from above; add unevenness, blur and noise."""
    uneven = rng.random((12, 12)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(uneven).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    light = 1 + 0.16 * (smooth - 0.5)[..., None]
    fall = np.linspace(1.1, 0.82, SIZE)[:, None, None]
    cover = layer[..., 3:] / 255
    scene = ground * light + cover * (layer[..., :3] * light * fall - ground * light)
    picture = Image.fromarray(scene.clip(0, 255).astype(np.uint8))
    blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(BLUR)), float)
    noisy = blurred + NOISE * rng.standard_normal(blurred.shape)
    return np.rint(noisy).clip(0, 255).astype(np.uint8)


def oval(x: float, y: float, width: float, height: float) -> Points:
    """Return an ellipse of these half axes."""
    return arc(x, y, width, flat=height / width)


def airplane() -> Iterator[Part]:
    """An airliner from the side, in the sky."""
    yield (150, 156, 164), polygon((0.0, -0.02), (0.3, -0.42), (0.42, -0.42), (0.3, 0.0))
    yield WHITE, oval(0.0, 0.0, 0.85, 0.13)
    yield WHITE, polygon((0.5, -0.05), (0.78, -0.42), (0.92, -0.42), (0.82, 0.02))
    yield (60, 90, 150), polygon((0.68, -0.28), (0.78, -0.42), (0.92, -0.42), (0.88, -0.28))
    yield (190, 194, 200), polygon((0.62, 0.0), (0.88, 0.12), (0.98, 0.1), (0.84, -0.02))
    yield (132, 138, 148), polygon((-0.15, 0.04), (0.25, 0.45), (0.4, 0.45), (0.22, 0.04))
    yield DARK, oval(0.1, 0.24, 0.13, 0.06)
    for x in np.linspace(-0.6, 0.5, 12):
        yield GLASS, box(x, -0.05, x + 0.04, -0.01)
    yield GLASS, polygon((-0.8, -0.02), (-0.7, -0.08), (-0.64, -0.08), (-0.66, -0.01))


def ship() -> Iterator[Part]:
    """A freighter on the sea."""
    yield (225, 226, 224), box(0.3, -0.38, 0.66, 0.12)
    yield WHITE, box(0.24, -0.18, 0.72, 0.12)
    yield (190, 70, 50), box(0.42, -0.56, 0.56, -0.36)
    for x in (0.3, 0.42, 0.54):
        yield GLASS, box(x, -0.1, x + 0.07, -0.02)
    for x, color in ((-0.6, (176, 84, 56)), (-0.32, (70, 110, 150)), (-0.04, (170, 150, 90))):
        yield color, box(x, -0.08, x + 0.25, 0.12)
    yield DARK, line(-0.42, 0.1, -0.42, -0.5, 0.04)
    yield (46, 54, 74), polygon((-0.95, 0.08), (0.85, 0.1), (0.76, 0.4), (-0.72, 0.4))
    yield (140, 52, 42), polygon((-0.76, 0.34), (0.79, 0.34), (0.76, 0.42), (-0.7, 0.42))
    yield (120, 156, 180), polygon((-0.95, 0.44), (0.9, 0.42), (0.8, 0.47), (-0.8, 0.48))


def automobile() -> Iterator[Part]:
    """A red saloon on a road."""
    red, deep = (188, 36, 34), (140, 26, 28)
    yield (66, 66, 70), oval(0.0, 0.5, 0.92, 0.09)
    yield red, polygon((-0.52, -0.02), (-0.32, -0.38), (0.28, -0.38), (0.56, -0.02))
    yield GLASS, polygon((-0.42, -0.03), (-0.28, -0.31), (-0.04, -0.31), (-0.04, -0.03))
    yield GLASS, polygon((0.03, -0.03), (0.03, -0.31), (0.25, -0.31), (0.44, -0.03))
    yield (
        red,
        polygon(
            (-0.9, 0.0), (-0.8, -0.06), (0.72, -0.06), (0.92, 0.08), (0.94, 0.36), (-0.92, 0.36)
        ),
    )
    yield deep, box(-0.92, 0.24, 0.94, 0.4)
    yield (240, 226, 170), oval(0.87, 0.12, 0.06, 0.05)
    yield (120, 20, 20), box(-0.92, 0.06, -0.84, 0.16)
    for x in (-0.54, 0.56):
        yield BLACK, oval(x, 0.38, 0.2, 0.2)
        yield (168, 170, 174), oval(x, 0.38, 0.11, 0.11)


def truck() -> Iterator[Part]:
    """A lorry with a box on a road."""
    yield (70, 70, 72), oval(0.0, 0.6, 0.95, 0.08)
    yield (226, 226, 222), box(-0.92, -0.56, 0.36, 0.34)
    yield (200, 202, 200), box(-0.92, -0.56, 0.36, -0.48)
    yield (
        (60, 96, 150),
        polygon((0.4, -0.22), (0.74, -0.22), (0.9, 0.08), (0.93, 0.42), (0.4, 0.42)),
    )
    yield GLASS, polygon((0.5, -0.15), (0.7, -0.15), (0.82, 0.06), (0.5, 0.06))
    yield DARK, box(-0.92, 0.34, 0.93, 0.46)
    yield (240, 226, 170), oval(0.88, 0.24, 0.04, 0.05)
    for x in (-0.66, -0.3, 0.66):
        yield BLACK, oval(x, 0.46, 0.17, 0.17)
        yield (160, 160, 164), oval(x, 0.46, 0.08, 0.08)


def bird() -> Iterator[Part]:
    """A small bird on a branch."""
    brown, breast = (120, 86, 58), (206, 168, 126)
    yield (84, 66, 50), line(-1.0, 0.62, 1.0, 0.5, 0.12)
    yield brown, polygon((0.3, 0.05), (0.92, 0.42), (0.84, 0.54), (0.2, 0.34))
    yield breast, oval(-0.02, 0.1, 0.44, 0.36)
    yield brown, polygon((-0.2, -0.15), (0.25, -0.1), (0.62, 0.34), (0.1, 0.26))
    yield brown, oval(-0.32, -0.3, 0.25, 0.23)
    yield breast, oval(-0.34, -0.18, 0.2, 0.15)
    yield (220, 160, 60), polygon((-0.54, -0.36), (-0.8, -0.26), (-0.54, -0.22))
    yield BLACK, oval(-0.38, -0.36, 0.05, 0.05)
    for x in (-0.08, 0.1):
        yield (90, 70, 50), line(x, 0.42, x, 0.58, 0.05)


def frog() -> Iterator[Part]:
    """A frog from the front, on the ground."""
    green, light, shade = (104, 128, 52), (176, 180, 116), (74, 94, 38)
    for side in (-1, 1):
        yield shade, oval(0.6 * side, 0.34, 0.34, 0.26)
        yield green, oval(0.66 * side, 0.54, 0.26, 0.1)
    yield green, oval(0.0, 0.22, 0.62, 0.46)
    yield light, oval(0.0, 0.42, 0.42, 0.28)
    yield green, oval(0.0, -0.06, 0.56, 0.32)
    yield shade, oval(0.0, 0.04, 0.46, 0.05)
    for side in (-1, 1):
        yield green, oval(0.34 * side, -0.32, 0.18, 0.18)
        yield (196, 170, 70), oval(0.35 * side, -0.33, 0.12, 0.12)
        yield BLACK, oval(0.35 * side, -0.33, 0.08, 0.06)
        yield shade, line(0.3 * side, 0.34, 0.36 * side, 0.66, 0.14)


def four_legs(coat: Color, shade: Color, tall: float) -> Iterator[Part]:
    """The body, legs and neck of a large animal that looks to the left."""
    for x in (-0.26, 0.48):
        yield shade, line(x, 0.1, x - 0.03, tall, 0.11)
    for x in (-0.38, 0.36):
        yield coat, line(x, 0.1, x, tall + 0.04, 0.12)
    yield coat, oval(0.05, -0.02, 0.54, 0.25)
    yield coat, polygon((-0.46, 0.05), (-0.64, -0.46), (-0.44, -0.56), (-0.12, -0.14))


def deer() -> Iterator[Part]:
    """A stag in the grass."""
    coat, shade, horn = (150, 104, 62), (112, 76, 46), (92, 70, 50)
    yield from four_legs(coat, shade, 0.78)
    yield (224, 214, 196), oval(0.56, -0.08, 0.07, 0.1)
    yield coat, polygon((-0.5, -0.62), (-0.88, -0.42), (-0.84, -0.34), (-0.48, -0.4))
    yield shade, oval(-0.42, -0.62, 0.1, 0.05)
    yield BLACK, oval(-0.86, -0.39, 0.04, 0.03)
    for lean in (-0.14, 0.16):
        yield horn, line(-0.52, -0.58, -0.52 + lean, -0.94, 0.045)
        yield horn, line(-0.52 + lean / 2, -0.74, -0.52 + lean * 1.8, -0.86, 0.04)


def horse() -> Iterator[Part]:
    """A horse on a meadow."""
    coat, shade, mane = (124, 70, 40), (90, 50, 30), (40, 28, 22)
    yield mane, polygon((0.52, -0.14), (0.72, 0.02), (0.74, 0.46), (0.62, 0.44), (0.54, 0.08))
    yield from four_legs(coat, shade, 0.76)
    yield mane, polygon((-0.52, -0.62), (-0.4, -0.62), (-0.06, -0.18), (-0.2, -0.16))
    yield coat, polygon((-0.46, -0.62), (-0.62, -0.6), (-0.9, -0.26), (-0.8, -0.16), (-0.44, -0.36))
    yield coat, polygon((-0.52, -0.58), (-0.5, -0.74), (-0.42, -0.6))
    yield BLACK, oval(-0.62, -0.48, 0.03, 0.03)


def cat() -> Iterator[Part]:
    """A tabby's face."""
    coat, shade = (150, 128, 104), (96, 80, 64)
    ears = [polygon((0.16 * s, -0.42), (0.5 * s, -0.92), (0.58 * s, -0.2)) for s in (-1, 1)]
    yield coat, oval(0.0, 0.8, 0.56, 0.6)
    yield from ((shade, ear) for ear in ears)
    yield coat, oval(0.0, -0.08, 0.56, 0.5)
    for x in (-0.16, 0.0, 0.16):
        yield shade, line(x, -0.55, x * 0.8, -0.3, 0.05)
    yield (226, 214, 200), oval(0.0, 0.2, 0.26, 0.18)
    for side in (-1, 1):
        yield (178, 186, 84), oval(0.24 * side, -0.1, 0.12, 0.09)
        yield BLACK, oval(0.24 * side, -0.1, 0.035, 0.085)
        yield shade, line(0.34 * side, 0.02, 0.54 * side, 0.0, 0.04)
        yield shade, line(0.32 * side, 0.14, 0.5 * side, 0.18, 0.04)
        for y in (0.16, 0.24):
            yield WHITE, line(0.14 * side, 0.2, 0.72 * side, y, 0.015)
    yield (200, 120, 120), polygon((-0.07, 0.1), (0.07, 0.1), (0.0, 0.18))


def dog() -> Iterator[Part]:
    """A dog's face with hanging ears."""
    coat, shade = (206, 170, 122), (132, 92, 56)
    yield coat, oval(0.0, 0.8, 0.56, 0.6)
    yield coat, oval(0.0, -0.08, 0.56, 0.5)
    for side in (-1, 1):
        yield shade, oval(0.54 * side, 0.04, 0.17, 0.46)
        yield BLACK, oval(0.22 * side, -0.14, 0.07, 0.07)
    yield (236, 220, 196), oval(0.0, 0.2, 0.28, 0.24)
    yield BLACK, oval(0.0, 0.1, 0.12, 0.08)
    yield DARK, line(0.0, 0.16, 0.0, 0.32, 0.03)
    yield (206, 96, 100), oval(0.0, 0.42, 0.1, 0.1)


Scene = tuple[tuple[Color, Color], tuple[Color, Color], float, Callable[[], Iterator[Part]]]
WALL: tuple[Color, Color] = ((168, 150, 130), (140, 124, 106))
LEAVES: tuple[Color, Color] = ((136, 162, 108), (176, 192, 140))
EARTH: tuple[Color, Color] = ((132, 116, 84), (104, 90, 62))
SCENES: dict[str, Scene] = {
    "airplane": (SKY, SKY, 1.0, airplane),
    "automobile": (SKY, ROAD, 0.05, automobile),
    "bird": (LEAVES, LEAVES, 1.0, bird),
    "cat": (WALL, WALL, 1.0, cat),
    "deer": (LEAVES, GRASS, -0.3, deer),
    "dog": (GRASS, GRASS, -1.0, dog),
    "frog": (EARTH, EARTH, -1.0, frog),
    "horse": (SKY, GRASS, 0.1, horse),
    "ship": (SKY, SEA, 0.22, ship),
    "truck": (SKY, ROAD, 0.2, truck),
}
"""Of each class: the colours above and below the horizon, its height, and the parts."""
