"""Made-up material to measure with: photographs, packed data sets of any size, runs."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from alexnet.bench.spec import CLASSES, SIZE
from alexnet.bench.steps import preprocessing
from alexnet.config import Settings
from alexnet.images.decode import encode_jpeg
from alexnet.networks.registry import input_shape
from alexnet.prepare.shards import IMAGES_PER_SHARD
from alexnet.prepare.sources import open_source
from alexnet.progress import Progress
from alexnet.storage import checkpoint_store
from alexnet.storage.atomic import sha256_of
from alexnet.storage.checkpoint_format import Position
from alexnet.storage.dataset_manifest import FORMAT, VERSION
from alexnet.storage.run import Run

WIDTH, HEIGHT, QUALITY = 500, 375, 93
"""Like ImageNet's photographs, 110 kB each on average."""
FOLDERS = 4
"""Class folders of photographs."""
CLASS_NAMES = tuple(f"{number:04d}" for number in range(CLASSES))
"""Of packed data sets and runs."""

# Photographs.


def write_photos(folder: Path, count: int, source: Path | None, progress: Progress) -> str:
    """Write `count` JPEG files into class folders below `folder`; return what they are.

    They are taken evenly from `source`, of any kind that `prepare` reads, or made up.
    """
    photos = _selected(folder, count, source, progress) if source else _noise(count)
    pixels = total = 0
    for number, data in enumerate(photos):
        below = folder / f"class{number % FOLDERS}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{number:06d}.jpg").write_bytes(data)
        with Image.open(io.BytesIO(data)) as image:
            pixels += image.width * image.height
        total += len(data)
        count = number + 1
    what = f"photographs of {source.name}" if source else "made-up pictures"
    mean = f"{pixels / count / 1e6:.2f} megapixels and {total / count / 1000:.0f} kB on average"
    return f"{count:,} {what}, {mean}"


def _selected(folder: Path, count: int, source: Path, progress: Progress) -> Iterator[bytes]:
    opened = open_source(source, folder.parent, progress)
    items = opened.listing(progress).items
    for index in np.linspace(0, len(items) - 1, min(count, len(items))).astype(int).tolist():
        data = opened.read(items[index])
        yield data if isinstance(data, bytes) else _encode(Image.fromarray(data))


def _noise(count: int) -> Iterator[bytes]:
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


# Packed data sets.


def write_dataset(folder: Path, images: int, store: str, size: int = SIZE) -> None:
    """Write a data set of `images` training images whose shards are sparse files.

    Images that are read from a hole are black; the first image of a JPEG shard is there.
    """
    folder.mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    jpeg = encode_jpeg(coarse.repeat(size // 32, 0).repeat(size // 32, 1))
    labels = np.sort(np.arange(images) % CLASSES)
    (folder / "train-names.txt").write_text('"made up"\n' * images)
    (folder / "rejects.jsonl").write_text("")
    train = {
        "images": images,
        "per_class": np.bincount(labels, minlength=CLASSES).tolist(),
        "labels": _write_array(folder, "train-labels.npy", labels),
        "names": _entry(folder / "train-names.txt"),
        "shards": _write_shards(folder, images, store, jpeg, size),
    }
    if store == "jpeg":
        offsets = np.tile(np.array([[0, 0, len(jpeg)]]), (images, 1))
        offsets[:, 0] = np.arange(images) // IMAGES_PER_SHARD
        train["index"] = _write_array(folder, "train-index.npy", offsets)
    mean_image = np.zeros((size, size, 3), np.float32)
    info = {
        "format": FORMAT,
        "version": VERSION,
        "size": size,
        "store": store,
        "resize": "short",
        "classes": list(CLASS_NAMES),
        "titles": list(CLASS_NAMES),
        "splits": {"train": train},
        "mean_image": _write_array(folder, "mean_image.npy", mean_image),
        "color_std": [1.0, 2.0, 3.0],
        "color_vectors": np.eye(3).tolist(),
        "rejects": {"count": 0, **_entry(folder / "rejects.jsonl")},
        "ignored": 0,
        "provenance": {"options": {}},
        "fingerprint": "made up",
    }
    (folder / "dataset.json").write_text(json.dumps(info))


def fill_dataset(folder: Path) -> None:
    """Write noise into the raw shards of `write_dataset`; all full shards become one file."""
    first, *others = sorted(folder.glob("train-0*.npy"))
    generator = np.random.default_rng(0)
    size = first.stat().st_size
    with first.open("r+b") as file:
        file.seek(size % 4096)  # past the header
        while rest := size - file.tell():
            file.write(generator.bytes(min(rest, 2**24)))
    for path in others:
        if path.stat().st_size == size:
            path.unlink()
            path.hardlink_to(first)


def _write_shards(
    folder: Path, images: int, store: str, jpeg: bytes, size: int
) -> list[dict[str, Any]]:
    suffix = "npy" if store == "raw" else "tar"
    return [
        _write_shard(
            folder / f"train-{number:05d}.{suffix}",
            min(IMAGES_PER_SHARD, images - start),
            jpeg,
            size,
        )
        for number, start in enumerate(range(0, images, IMAGES_PER_SHARD))
    ]


def _write_shard(path: Path, images: int, jpeg: bytes, size: int) -> dict[str, Any]:
    """Write a shard with a hole where its images should be; a tar holds one image."""
    with path.open("wb") as out:
        if path.suffix == ".tar":
            out.write(jpeg)
            length = images * 30_000
        else:
            header = {"descr": "|u1", "fortran_order": False, "shape": (images, size, size, 3)}
            np.lib.format.write_array_header_1_0(out, header)
            length = out.tell() + images * size * size * 3
        out.truncate(length)
    return {**_entry(path, digest=False), "images": images}  # all of ImageNet: 252 GB of zeros


def _write_array(folder: Path, name: str, array: Any) -> dict[str, Any]:
    """Write a .npy file; return its entry in the manifest."""
    np.save(folder / name, array)
    return _entry(folder / name)


def _entry(path: Path, *, digest: bool = True) -> dict[str, Any]:
    """Describe a file as dataset.json does; without `digest` that is made up."""
    sha256 = sha256_of(path) if digest else "0" * 64
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256}


# Runs.


def write_run(path: Path, model: str = "alexnet", size: int = SIZE) -> Run:
    """Write a run directory for a network with its initial weights, for images of side `size`."""
    settings = Settings(model=model)
    prepared = preprocessing(torch.device("cpu"), size, input_shape(model)[1])
    note = {"data": {"path": "none", "fingerprint": ""}}
    run = Run.write(path, settings, CLASS_NAMES, CLASS_NAMES, prepared, note)
    network = run.new_model()
    checkpoint_store.save(run.path, network, torch.optim.SGD(network.parameters()), Position())
    return run
