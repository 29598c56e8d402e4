"""Photographs to measure with: those of a source, or made-up ones of ImageNet's size."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet.prepare.sources import open_source
from alexnet.progress import Progress

WIDTH, HEIGHT, QUALITY = 500, 375, 93
"""What ImageNet's photographs are like: 110 kB is what its archive has for each, on average."""
CLASSES = 4


def write_photos(folder: Path, count: int, source: Path | None, progress: Progress) -> str:
    """Write `count` JPEG files into class folders below `folder`; return what they are.

    They are taken evenly from `source`, of any kind that `prepare` reads, or made up.
    """
    photos = _taken(folder, count, source, progress) if source else _made(count)
    pixels = total = 0
    for number, data in enumerate(photos):
        place = folder / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06d}.jpg").write_bytes(data)
        with Image.open(io.BytesIO(data)) as image:
            pixels += image.width * image.height
        total += len(data)
        count = number + 1
    what = f"photographs of {source.name}" if source else "made-up pictures"
    mean = f"{pixels / count / 1e6:.2f} megapixels and {total / count / 1000:.0f} kB on average"
    return f"{count:,} {what}, {mean}"


def _taken(folder: Path, count: int, source: Path, progress: Progress) -> Iterator[bytes]:
    opened = open_source(source, folder.parent, progress)
    items = opened.listing(progress).items
    for place in np.linspace(0, len(items) - 1, min(count, len(items))).astype(int).tolist():
        data = opened.read(items[place])
        yield data if isinstance(data, bytes) else _encode(Image.fromarray(data))


def _made(count: int) -> Iterator[bytes]:
    """Make pictures with detail of every size, as photographs have: noise, scaled and added up."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        total = np.full((HEIGHT, WIDTH, 3), 128.0)
        for level in range(1, 9):
            shape = (max(2, HEIGHT >> level), max(2, WIDTH >> level), 3)
            noise = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            wide = noise.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            total += (np.asarray(wide, np.float64) - 128) * 0.3
        yield _encode(Image.fromarray(total.clip(0, 255).astype(np.uint8)))


def _encode(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
