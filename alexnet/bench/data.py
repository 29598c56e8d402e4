"""`alexnet bench data` and `prepare`: reading and making packed data sets against the usual ways.

The usual way to read is a folder of class folders behind a DataLoader; the usual way to prepare is
to decode each photograph, scale it to 256 and save it. Reading into a GPU's memory has run on an
H200 as part of `alexnet train`; this table has not.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from alexnet.bench.made_up import write_photos
from alexnet.bench.network_tables import IMAGENET_IMAGES, days
from alexnet.bench.peers import Transform, folder_loader, import_torchvision, shrink
from alexnet.bench.report import Row, Table
from alexnet.bench.spec import SIZE
from alexnet.bench.steps import preprocessing
from alexnet.bench.timing import Candidate, LocalTimer, Rounds, measure
from alexnet.config import Settings
from alexnet.dataset import Dataset
from alexnet.images.decode import JPEG_QUALITY
from alexnet.prepare import prepare_dataset
from alexnet.progress import Progress
from alexnet.storage.dataset_manifest import read_manifest
from alexnet.train.image_cache import CachePlan, Images, image_bytes
from alexnet.transforms import augment, sample_augment

IMAGENET_ALL = IMAGENET_IMAGES + 50_000
"""With its validation images."""


@dataclass(frozen=True)
class PhotoSetup:
    """Which photographs are read, and how."""

    photos: int = 512
    """How many."""
    source: Path | None = None
    """Where they are taken from; None: they are made up."""
    device: str = "cpu"
    threads: int = 1
    batch: int = 128
    workers: int = 1
    """Worker processes of the DataLoader; 0: it reads in this process."""


# Preparing.


def prepare_table(setup: PhotoSetup, rounds: Rounds, progress: Progress) -> Table:
    """Measure how fast one core prepares photographs: packed, and as a folder of small files."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        what = write_photos(work / "photos", setup.photos, setup.source, progress)
        files = sorted((work / "photos").rglob("*.jpg"))
        bytes_per_image: dict[str, float] = {}

        def ours(store: str) -> None:
            with tempfile.TemporaryDirectory(dir=work) as folder:
                out = Path(folder, "data")
                prepare_dataset(work / "photos", out, store=store, workers=1, val_fraction=0)
                shards = read_manifest(out)["splits"]["train"]["shards"]
                bytes_per_image[store] = sum(shard["bytes"] for shard in shards) / len(files)

        def usual() -> None:
            with tempfile.TemporaryDirectory(dir=work) as folder:
                for file in files:
                    shrink(file, Path(folder, file.name), JPEG_QUALITY)

        candidates: list[tuple[str, str, Callable[[], None]]] = [
            ("ours_raw", "alexnet prepare", partial(ours, "raw")),
            ("ours_jpeg", "alexnet prepare --store jpeg", partial(ours, "jpeg")),
            ("usual", "Pillow: decode, scale, crop, save JPEG", usual),
        ]
        rows = measure("prepare", _on_one_core(candidates, len(files)), rounds, progress)
    facts = _imagenet(rows, bytes_per_image)
    return Table(
        key="prepare",
        title="preparing photographs, one core",
        unit="images/s of processor time",
        rows=rows,
        inside="reading, decoding, scaling to 256 x 256, statistics, checksums, writing",
        facts=facts,
        notes=[what, *_imagenet_notes(facts)],
    )


def _on_one_core(
    candidates: Sequence[tuple[str, str, Callable[[], None]]], images: int
) -> list[Candidate]:
    """Time by the processor's time, which the disk and other programs do not change."""
    return [
        Candidate(key, name, partial(LocalTimer, step, clock=time.process_time), images)
        for key, name, step in candidates
    ]


def _imagenet(rows: Sequence[Row], bytes_per_image: dict[str, float]) -> dict[str, float]:
    """Estimate time and disk for ImageNet's 1,331,167 images of training and validation."""
    facts = {}
    for row, store in zip(rows, ("raw", "jpeg"), strict=False):
        if row.rate and store in bytes_per_image:
            facts[f"imagenet_{store}_core_hours"] = IMAGENET_ALL / row.rate / 3600
            facts[f"imagenet_{store}_gb"] = IMAGENET_ALL * bytes_per_image[store] / 1e9
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


def data_table(setup: PhotoSetup, rounds: Rounds, progress: Progress) -> Table:
    """Measure how fast training images come: packed, and from folders behind a DataLoader."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        what = write_photos(work / "photos", setup.photos, setup.source, progress)
        for file in sorted((work / "photos").rglob("*.jpg")):
            small = work / "small" / file.parent.name
            small.mkdir(parents=True, exist_ok=True)
            shrink(file, small / file.name, JPEG_QUALITY)
        for store in ("raw", "jpeg"):
            prepare_dataset(work / "photos", work / store, store=store, workers=1, val_fraction=0)
        rows = measure("data", _reading_candidates(work, setup), rounds, progress)
    torchvision = import_torchvision("datasets")
    kind = (
        f"torchvision {torchvision.__version__}"
        if torchvision
        else "ImageFolder written here, torchvision cannot be imported"
    )
    return Table(
        key="data",
        title=f"training images, batch {setup.batch}",
        unit="images/s",
        rows=rows,
        inside="reading, decoding, random crop of 224, mirror, colours, less the mean",
        notes=[what, f"DataLoader: {setup.workers} processes, {kind}"],
    )


def _reading_candidates(work: Path, setup: PhotoSetup) -> list[Candidate]:
    device = torch.device(setup.device)
    raw, jpeg = (Dataset(work / store).split("train") for store in ("raw", "jpeg"))
    memory: Literal["device", "host"] = "device" if device.type == "cuda" else "host"
    needed = len(raw) * image_bytes(SIZE, "rgb")
    cached = Images(raw, device, CachePlan(memory, "rgb", needed))
    halved = Images(raw, device, CachePlan(memory, "yuv420", needed // 2))
    files, disk = Images(raw, device, CachePlan("none")), Images(jpeg, device, CachePlan("none"))
    candidates: list[tuple[str, str, Callable[[], None]]] = [
        ("ours", f"packed, in {memory} memory", partial(_read_all, cached, setup)),
        (
            "ours_yuv420",
            f"packed, in {memory} memory, YUV 4:2:0",
            partial(_read_all, halved, setup),
        ),
        ("ours_raw", "packed, raw, from files", partial(_read_all, files, setup)),
        ("ours_jpeg", "packed, JPEG, from files", partial(_read_all, disk, setup)),
    ]
    for key, text in (("small", "256-pixel JPEGs"), ("photos", "photographs")):
        step = partial(_load_all, _loader(work / key, setup), setup)
        candidates.append((f"folder_{key}", f"ImageFolder of {text}", step))
    return [
        Candidate(key, name, partial(LocalTimer, step, device), len(raw))
        for key, name, step in candidates
    ]


def _read_all(images: Images, setup: PhotoSetup) -> None:
    """Go once through all images, as the training loop does."""
    settings, prepared = Settings(), preprocessing(images.device)
    order = np.random.default_rng(0).permutation(len(images))
    requests = [order[at : at + setup.batch] for at in range(0, len(order), setup.batch)]
    for indices, batch in zip(requests, images.batches(requests), strict=True):
        augment(batch.pixels(), sample_augment(settings, prepared, 1, indices), prepared, settings)


def _loader(folder: Path, setup: PhotoSetup) -> Iterable[tuple[Tensor, Tensor]]:
    prepared = preprocessing(torch.device("cpu"))
    colours = torch.tensor(prepared.color_vectors) * torch.tensor(prepared.color_std)
    transform = Transform(prepared.mean, colours)
    on_gpu = setup.device != "cpu"
    return folder_loader(folder, transform, setup.batch, setup.workers, pin_memory=on_gpu)


def _load_all(loader: Iterable[tuple[Tensor, Tensor]], setup: PhotoSetup) -> None:
    for images, _ in loader:
        images.to(setup.device, non_blocking=True)
