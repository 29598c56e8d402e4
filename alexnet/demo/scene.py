"""Turn a drawn object into a picture: pose, colours, background, clutter, light and noise.

A scene is (64, 64, 3) float, 0-255. Everything is drawn at three times the size and averaged.
"""

from collections.abc import Iterable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from alexnet.demo.shapes import PAINTS, Part, arc, between, stroke
from alexnet.images import Pixels

Field = NDArray[np.float64]

SIZE = 64
OVERSAMPLING = 3
SIDE: Field = np.linspace(-1, 1, SIZE)
COLUMNS, ROWS = np.meshgrid(SIDE, SIDE)


def compose(parts: Iterable[Part], rng: Generator) -> Pixels:
    """Make one (64, 64, 3) picture of an object; draw everything but its shape from `rng`."""
    ground, colors = np.split(distinct_colors(2 + PAINTS + 2, rng), [2])
    behind, before = scatter(0.4, 3, rng), scatter(0.2, 2, rng)
    scene = background(ground, rng)
    posed = pose(list(parts), rng)
    texture = 1 + rng.uniform(0, 0.4) * (pattern(rng) - 0.5)
    return expose(paint(scene, [*behind, *posed, *before], colors, texture), rng)


def distinct_colors(count: int, rng: Generator) -> Field:
    """Draw (count, 3) RGB colours that the eye can distinguish from each other.

    Each is the first of 24 random candidates that is far enough from all colours before it, or the
    farthest.
    """
    pure = rng.uniform(0, 255, (count, 24, 3))
    grey = pure.mean(axis=2, keepdims=True)
    candidates = grey + rng.uniform(0.1, 0.9, (count, 24, 1)) * (pure - grey)
    perceived = candidates * np.sqrt(3 * np.array([0.3, 0.59, 0.11]))  # green counts most
    chosen = [(0, 0)]
    for number in range(1, count):
        before = np.stack([perceived[index] for index in chosen])
        gaps = np.linalg.norm(perceived[number, :, None] - before, axis=2).min(axis=1)
        chosen.append((number, int(np.argmax(np.minimum(gaps, 100)))))
    return np.stack([candidates[index] for index in chosen])


def pattern(rng: Generator) -> Field:
    """Draw a (64, 64) pattern, 0 to 1: flat, gradient, smooth noise, stripes, blobs or checks."""
    angle, period, phase = between(rng, (0, np.pi), (0.15, 0.6), (0, 1))
    along = np.cos(angle) * COLUMNS + np.sin(angle) * ROWS
    across = np.cos(angle) * ROWS - np.sin(angle) * COLUMNS
    field: Field = np.zeros((SIZE, SIZE))
    match rng.integers(6):
        case 1:
            field = along / 2.8 + 0.5
        case 2:
            field = smooth_noise(rng.integers(4, 20), rng)
        case 3:
            field = np.sin(2 * np.pi * (along / period + phase)) / 2 + 0.5
        case 4:
            field = 8 * smooth_noise(rng.integers(4, 9), rng) - 3.5
        case 5:
            checks = np.sin(np.pi * (along / period + phase)) * np.sin(np.pi * across / period)
            field = 4 * checks + 0.5
    return field.clip(0, 1)


def smooth_noise(cells: np.int64, rng: Generator) -> Field:
    """Draw (64, 64) noise, about 0 to 1, with waves about 64 / `cells` pixels long."""
    grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(grid.resize((SIZE, SIZE), Image.Resampling.BICUBIC), float).clip(0, 1)


def background(colors: Field, rng: Generator) -> Field:
    """Fill a scene with a pattern between two colours, strong or faint."""
    strength = rng.uniform(0.1, 0.5)
    scene: Field = colors[0] + (strength * pattern(rng))[..., None] * (colors[1] - colors[0])
    return scene


def scatter(size: float, most: int, rng: Generator) -> list[Part]:
    """Draw up to `most` pieces of clutter at any position: discs, lines, triangles.

    `size` is their largest reach, as a fraction of half the picture.
    """
    pieces: list[Part] = []
    for number in range(rng.integers(most + 1)):
        x, y = rng.uniform(0, SIZE, 2)
        reach = SIZE / 2 * size * rng.uniform(0.4, 1)
        corners = rng.uniform(-reach, reach, (3, 2)) + np.array((x, y))
        width = rng.uniform(2, 4)
        shapes = (
            arc(x, y, reach / 2.5),
            stroke(corners[:2], width),
            corners,
        )
        pieces.append((PAINTS + number % 2, shapes[rng.integers(len(shapes))]))
    return pieces


def pose(parts: list[Part], rng: Generator) -> list[Part]:
    """Mirror, shear, tilt, turn, scale and move an object; return its parts in scene pixels."""
    shear, tilt_x, tilt_y = between(rng, (-0.2, 0.2), (-0.12, 0.12), (-0.12, 0.12))
    turn = rng.uniform(-25, 25)
    mirror = rng.choice((-1, 1))
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    linear = np.array([[cos, -sin], [sin, cos]]) @ [[mirror, shear], [0, 1]]
    points = np.concatenate([outline for _, outline in parts])
    points = points @ linear.T / (1 + points @ (tilt_x, tilt_y))[:, None]
    low, high = points.min(axis=0), points.max(axis=0)
    scale = rng.uniform(0.55, 1) * SIZE / (high - low).max()
    offset = rng.uniform(0, 1, 2) * (SIZE - scale * (high - low))
    points = (points - low) * scale + offset
    ends = np.cumsum([len(outline) for _, outline in parts])
    return list(zip([paint for paint, _ in parts], np.split(points, ends[:-1]), strict=True))


def paint(scene: Field, parts: list[Part], colors: Field, texture: Field) -> Field:
    """Draw parts, given in pixels, over the scene; `texture` (64, 64) scales their colours."""
    layer = Image.new("RGBA", (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING))
    draw = ImageDraw.Draw(layer)
    fills = [(*color, 255) for color in colors.astype(int).tolist()]
    for number, outline in parts:
        draw.polygon((outline * OVERSAMPLING).ravel().tolist(), fill=fills[number])
    pixels = np.asarray(layer.reduce(OVERSAMPLING), dtype=float)
    cover = pixels[..., 3:] / 255
    return scene + cover * (pixels[..., :3] * texture[..., None] - scene)


def expose(scene: Field, rng: Generator) -> Pixels:
    """Light the scene from one side, change brightness and contrast, add noise: 8-bit pixels."""
    angle, slope, gain, contrast = between(rng, (0, 2 * np.pi), (0, 0.3), (0.8, 1.1), (0.7, 1.1))
    light = gain * (1 + slope * (np.cos(angle) * COLUMNS + np.sin(angle) * ROWS))
    lit = 128 + contrast * (scene * light[..., None] - 128)
    noisy: Field = lit + rng.uniform(0, 10) * rng.standard_normal(scene.shape)
    return np.rint(noisy).clip(0, 255).astype(np.uint8)
