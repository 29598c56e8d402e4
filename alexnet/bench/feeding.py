"""`alexnet bench data` and `prepare`: reading and making packed data sets against the usual ways.

The usual way to read is a folder of class folders behind a DataLoader; the usual way to prepare is
to decode each photograph, scale it to 256 and save it.
"""

import importlib
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from alexnet.bench.arms import Arm, Here, Pace, measure
from alexnet.bench.network import IMAGENET_IMAGES, days
from alexnet.bench.photos import write_photos
from alexnet.bench.steps import CROP, SIZE, preprocessing
from alexnet.bench.tables import Row, Table
from alexnet.config import Settings
from alexnet.dataset import Dataset, read_manifest
from alexnet.images.decode import JPEG_QUALITY
from alexnet.prepare import prepare_dataset
from alexnet.progress import Progress
from alexnet.train.image_cache import CachePlan, Images, image_bytes
from alexnet.transforms import augment, sample_augment

IMAGENET_ALL = IMAGENET_IMAGES + 50_000
"""With its validation images."""


@dataclass(frozen=True)
class Feed:
    """What is read, and how."""

    photos: int = 512
    """How many."""
    source: Path | None = None
    """Where they are taken from; None: they are made up."""
    batch: int = 128
    workers: int = 1
    """Processes of the DataLoader; 0: none but this."""
    device: str = "cpu"


def prepare_table(feed: Feed, pace: Pace, progress: Progress) -> Table:
    """Measure how fast one core prepares photographs: packed, and as a folder of small files."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        what = write_photos(work / "photos", feed.photos, feed.source, progress)
        files = sorted((work / "photos").rglob("*.jpg"))
        made: dict[str, float] = {}

        def ours(store: str) -> None:
            with tempfile.TemporaryDirectory(dir=work) as out:
                place = Path(out, "data")
                prepare_dataset(work / "photos", place, store=store, workers=1, val_fraction=0)
                shards = read_manifest(place)["splits"]["train"]["shards"]
                made[store] = sum(shard["bytes"] for shard in shards) / len(files)

        def usual() -> None:
            with tempfile.TemporaryDirectory(dir=work) as out:
                for file in files:
                    _shrink(file, Path(out, file.name))

        ways: list[tuple[str, str, Callable[[], None]]] = [
            ("ours_raw", "alexnet prepare", partial(ours, "raw")),
            ("ours_jpeg", "alexnet prepare --store jpeg", partial(ours, "jpeg")),
            ("usual", "Pillow: decode, scale, crop, save JPEG", usual),
        ]
        # Processor time: neither the disk is compared nor who else is at work.
        arms = [
            Arm(key, name, partial(Here, step, clock=time.process_time), units=len(files))
            for key, name, step in ways
        ]
        rows = measure("prepare", arms, pace, progress)
    facts = _imagenet(rows, made)
    return Table(
        key="prepare",
        title="preparing photographs, one core",
        unit="images/s of processor time",
        rows=rows,
        inside="reading, decoding, scaling to 256 x 256, statistics, checksums, writing",
        facts=facts,
        notes=[what, *_imagenet_notes(facts)],
    )


def _shrink(file: Path, out: Path) -> None:
    """Do what scripts for ImageNet do: short side to 256 (bilinear, antialiased), the centre."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    scale = SIZE / min(image.size)
    size = round(image.width * scale), round(image.height * scale)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
    image.crop((left, top, left + SIZE, top + SIZE)).save(out, "JPEG", quality=JPEG_QUALITY)


def _imagenet(rows: Sequence[Row], made: dict[str, float]) -> dict[str, float]:
    """Estimate time and disk for ImageNet's 1,331,167 images of training and validation."""
    facts = {}
    for row, store in zip(rows, ("raw", "jpeg"), strict=False):
        if row.rate and store in made:
            facts[f"imagenet_{store}_core_hours"] = IMAGENET_ALL / row.rate / 3600
            facts[f"imagenet_{store}_gb"] = IMAGENET_ALL * made[store] / 1e9
    return facts


def _imagenet_notes(facts: dict[str, float]) -> list[str]:
    return [
        f"ImageNet, --store {store}: {days(facts[f'imagenet_{store}_core_hours'])} on one core, "
        f"{days(facts[f'imagenet_{store}_core_hours'] / 16)} on sixteen; "
        f"{facts[f'imagenet_{store}_gb']:,.0f} GB"
        for store in ("raw", "jpeg")
        if f"imagenet_{store}_gb" in facts
    ]


# Reading.


def data_table(feed: Feed, pace: Pace, progress: Progress) -> Table:
    """Measure how fast training images come: packed, and from folders behind a DataLoader."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        what = write_photos(work / "photos", feed.photos, feed.source, progress)
        (work / "small").mkdir()
        for file in sorted((work / "photos").rglob("*.jpg")):
            (work / "small" / file.parent.name).mkdir(exist_ok=True)
            _shrink(file, work / "small" / file.parent.name / file.name)
        for store in ("raw", "jpeg"):
            prepare_dataset(work / "photos", work / store, store=store, workers=1, val_fraction=0)
        rows = measure("data", _data_arms(work, feed), pace, progress)
    note = _torchvision_note()
    return Table(
        key="data",
        title=f"training images, batch {feed.batch}",
        unit="images/s",
        rows=rows,
        inside="reading, decoding, random crop of 224, mirror, colours, less the mean",
        notes=[what, f"DataLoader: {feed.workers} processes, {note}"],
    )


def _data_arms(work: Path, feed: Feed) -> list[Arm]:
    device = torch.device(feed.device)
    raw, jpeg = (Dataset(work / store).split("train") for store in ("raw", "jpeg"))
    place: Any = "device" if device.type == "cuda" else "host"
    needed = len(raw) * image_bytes(SIZE, "rgb")
    kept = Images(raw, device, CachePlan(place, "rgb", needed))
    halved = Images(raw, device, CachePlan(place, "yuv420", needed // 2))
    files, disk = Images(raw, device, CachePlan("none")), Images(jpeg, device, CachePlan("none"))
    ways: list[tuple[str, str, Callable[[], None]]] = [
        ("ours", f"packed, in {place} memory", partial(_read_all, kept, feed)),
        ("ours_yuv420", f"packed, in {place} memory, YUV 4:2:0", partial(_read_all, halved, feed)),
        ("ours_raw", "packed, raw, from files", partial(_read_all, files, feed)),
        ("ours_jpeg", "packed, JPEG, from files", partial(_read_all, disk, feed)),
    ]
    for key, text in (("small", "256-pixel JPEGs"), ("photos", "photographs")):
        step = partial(_load_all, folder_loader(work / key, feed), feed)
        ways.append((f"folder_{key}", f"ImageFolder of {text}", step))
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    return [Arm(key, name, partial(Here, step, wait), len(raw)) for key, name, step in ways]


def _read_all(images: Images, feed: Feed) -> None:
    """Go once through all images, as the training loop does."""
    settings, prepared = Settings(), preprocessing(images.device)
    order = np.random.default_rng(0).permutation(len(images))
    requests = [order[at : at + feed.batch] for at in range(0, len(order), feed.batch)]
    for indices, batch in zip(requests, images.batches(requests), strict=True):
        augment(batch, sample_augment(settings, prepared, 1, indices), prepared, settings)


class PeerTransform:
    """The same steps for one image, as they are written for torchvision: (3, 224, 224) float32."""

    def __init__(self) -> None:
        prepared = preprocessing(torch.device("cpu"))
        self.mean = prepared.mean
        self.colours = torch.tensor(prepared.color_vectors) * torch.tensor(prepared.color_std)

    def __call__(self, image: Image.Image) -> Tensor:
        """Scale the short side to 256 if need be, then crop, mirror, shift the colours."""
        if min(image.size) != SIZE:
            scale = SIZE / min(image.size)
            size = round(image.width * scale), round(image.height * scale)
            image = image.resize(size, Image.Resampling.BILINEAR)
        top = int(torch.randint(image.height - CROP + 1, ()))
        left = int(torch.randint(image.width - CROP + 1, ()))
        image = image.crop((left, top, left + CROP, top + CROP))
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels: NDArray[np.uint8] = np.array(image)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() - self.mean
        return tensor + (self.colours @ (torch.randn(3) * 0.1))[:, None, None]


class ImageFolder(TorchDataset[tuple[Tensor, int]]):
    """What torchvision's class of this name does, where that cannot be imported."""

    def __init__(self, folder: str, transform: PeerTransform) -> None:
        classes = sorted(path for path in Path(folder).iterdir())
        self.files = [(file, n) for n, place in enumerate(classes) for file in place.iterdir()]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, label = self.files[index]
        with Image.open(file) as image:
            return self.transform(image.convert("RGB")), label


def folder_loader(folder: Path, feed: Feed) -> Iterable[tuple[Tensor, Tensor]]:
    """Put a folder of class folders behind a DataLoader."""
    try:
        kind: Any = importlib.import_module("torchvision.datasets").ImageFolder
    except (ImportError, RuntimeError):
        kind = ImageFolder
    return DataLoader(
        kind(str(folder), PeerTransform()),
        feed.batch,
        shuffle=True,
        num_workers=feed.workers,
        persistent_workers=feed.workers > 0,
        multiprocessing_context="spawn" if feed.workers else None,
        pin_memory=feed.device != "cpu",
    )


def _torchvision_note() -> str:
    try:
        version = importlib.import_module("torchvision").__version__
    except (ImportError, RuntimeError):
        return "ImageFolder written here, torchvision cannot be imported"
    return f"torchvision {version}"


def _load_all(loader: Iterable[tuple[Tensor, Tensor]], feed: Feed) -> None:
    for images, _ in loader:
        images.to(feed.device, non_blocking=True)
