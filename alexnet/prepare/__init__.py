"""Prepare a source of images as a packed data set.

The steps: list the source, plan the splits, write shards in parallel, write the manifest, publish.
All files are written in OUT.partial, which is renamed to OUT when they are complete. The same
command continues a stopped prepare: it checks the finished shards and reuses them.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import PIL

from alexnet.dataset import CHOICES
from alexnet.errors import DataError, UsageError
from alexnet.images import Orientation
from alexnet.images.decode import Resize
from alexnet.loader import available_cores
from alexnet.prepare.manifest import ManifestBuilder
from alexnet.prepare.shards import IMAGES_PER_SHARD, ShardTask
from alexnet.prepare.sources import open_source
from alexnet.prepare.sources.base import Item, Listing, Source
from alexnet.prepare.sources.imagenet_classes import imagenet_classes
from alexnet.prepare.splits import SplitPlan, plan_splits
from alexnet.prepare.workers import ONE_PROCESS, can_start_workers, write_shards
from alexnet.prepare.workspace import Workspace, open_workspace
from alexnet.progress import SILENT, Progress
from alexnet.storage.atomic import expanded
from alexnet.storage.dataset_manifest import VERSION
from alexnet.storage.environment import package_version
from alexnet.storage.folders import refuse_address


@dataclass(frozen=True)
class PrepareReport:
    """The result of `prepare_dataset`; `splits` has "images" and "per_class" for each split."""

    out: str
    size: int
    store: str
    classes: list[str] = field(repr=False)
    class_images: dict[str, int] = field(repr=False)  # the images of each class, in all splits
    splits: dict[str, dict[str, Any]] = field(repr=False)
    rejects: int
    rejected: list[dict[str, str]] = field(repr=False)  # the first ten
    ignored: int  # skipped files: hidden files, texts, files outside the class folders
    seconds: float
    images_per_second: float  # of the images that this call processed
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Options:
    """The options that decide the content of a data set."""

    size: int
    store: str
    val_fraction: float
    seed: int
    resize: Resize
    orientation: Orientation

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096:
            raise UsageError(f"size {self.size}: give 1 to 4096 (pixels)")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise UsageError(f"{name} {value!r}: give {' or '.join(choices)}")
        if not 0 <= self.val_fraction < 1:
            raise UsageError(f"val_fraction {self.val_fraction}: give 0 or more, below 1")


def prepare_dataset(  # noqa: PLR0913 - the options of the command
    source: str | Path | Source,
    out: str | Path,
    *,
    size: int = 256,
    resize: Resize = "short",
    orientation: Orientation | None = None,
    store: str = "raw",
    val_fraction: float = 0.1,
    seed: int = 0,
    max_rejects: int | None = None,
    workers: int | None = None,
    val_labels: str | Path | None = None,
    devkit: str | Path | None = None,
    progress: Progress = SILENT,
) -> PrepareReport:
    """Pack the images of a source into the data set `out`; docs/prepare.md lists the sources.

    Images become `size` x `size`: the centre (`resize="short"`) or the whole image with changed
    proportions ("warp"), stored as pixels (`store="raw"`) or as JPEG. `orientation="turn"` first
    turns a photograph as its EXIF tag says, "ignore" does not; None ignores it for ImageNet's
    archives, as the published results did, and turns all others. A source without validation
    split gets one: `val_fraction` of the training images of each class, drawn with `seed`. More
    than `max_rejects` unusable images are an error (default: 0 for ImageNet's archives, else 100).
    `val_labels` or `devkit` give the classes of ImageNet's validation images. The result does not
    depend on `workers` (default: one per core).
    Raises UsageError, DataError, StorageError or WorkerError.
    """
    start = time.monotonic()
    options = Options(size, store, val_fraction, seed, resize, orientation or "turn")
    if (workers is not None and workers < 1) or (max_rejects is not None and max_rejects < 0):
        raise UsageError(f"workers {workers}, max_rejects {max_rejects}: too small")
    out = expanded(out)
    with open_workspace(out, progress.note) as workspace:
        if isinstance(source, str | Path):
            refuse_address(source)
            _refuse_inside(expanded(source), out)
            source = open_source(
                expanded(source),
                workspace.unpacked,
                progress,
                val_labels=None if val_labels is None else expanded(val_labels),
                devkit=None if devkit is None else expanded(devkit),
            )
        if orientation is None and source.kind == "imagenet":
            options = replace(options, orientation="ignore")
        preparation = _plan(source, options, workspace, progress)
        try:
            images = preparation.write_shards(workers, max_rejects)
            info = preparation.write_manifest()
            workspace.publish()
        except BaseException:
            if workspace.has_begun():
                progress.note(
                    f"finished work is saved in {workspace.folder}; the same command continues it"
                )
            raise
    return _report(out, info, time.monotonic() - start, images)


def _refuse_inside(source: Path, out: Path) -> None:
    if out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{out} lies inside {source}; choose another folder")


def _plan(
    source: Source, options: Options, workspace: Workspace, progress: Progress
) -> "_Preparation":
    listing = source.listing(progress)
    plan = plan_splits(listing.items, options.val_fraction, options.seed)
    for note in [*listing.notes, *plan.notes]:
        progress.note(note)
    if not workspace.begin(_fingerprint(options, listing)):
        progress.note("the source or the options have changed: starting from the beginning")
    return _Preparation(source, listing, plan, options, workspace, progress)


def _fingerprint(options: Options, listing: Listing) -> str:
    """Return a digest of everything that decides the content and the names of the shards."""
    made_by = (VERSION, package_version(), PIL.__version__)
    digest = hashlib.sha256(repr((asdict(options), listing.version, made_by)).encode())
    for item in listing.items:
        digest.update(repr(tuple(item)).encode())
    return digest.hexdigest()


@dataclass
class _Preparation:
    """One call of `prepare_dataset` after its plan is made."""

    source: Source
    listing: Listing
    plan: SplitPlan
    options: Options
    workspace: Workspace
    progress: Progress

    def write_shards(self, workers: int | None, max_rejects: int | None) -> int:
        """Write the shards that do not exist yet; return how many images they hold."""
        counter = _RejectCounter(self.listing.max_rejects if max_rejects is None else max_rejects)
        missing = self._missing(counter)
        images = sum(missing.values())
        self._check_space(images)
        workers = min(workers or available_cores(), max(1, len(missing)))
        if workers > 1 and not can_start_workers(self.source):
            self.progress.note(ONE_PROCESS)
            workers = 1
        tasks = (
            task
            for split in self.plan.splits
            for task in self._tasks(split)
            if task.name in missing
        )
        with self.progress.task("prepare", self._total, "images") as advance:
            advance(self._total - images)

            def report(count: int, rejects: Sequence[tuple[str, str]]) -> None:
                advance(count)
                counter.add(rejects)

            for result in write_shards(self.source, tasks, workers, report):
                self.workspace.add(result)
        return images

    def write_manifest(self) -> dict[str, Any]:
        """Write all files but the shards; return the content of dataset.json."""
        builder = ManifestBuilder(
            self.workspace, self.plan.classes, self.options.store, self.options.size
        )
        for split in self.plan.splits:
            count_colors = split == "train" or "train" not in self.plan.splits
            builder.add_split(split, self._tasks(split), count_colors=count_colors)
        titles = {**imagenet_classes(), **self.listing.titles}
        facts = {
            "size": self.options.size,
            "resize": self.options.resize,
            "orientation": self.options.orientation,
            "titles": [titles.get(key, key) for key in self.plan.classes],
            "ignored": self.listing.ignored,
        }
        provenance = {
            "source": self.source.location,
            "source_kind": self.source.kind,
            "options": asdict(self.options),
        }
        return builder.write(facts, provenance)

    @property
    def _total(self) -> int:
        return sum(map(len, self.plan.splits.values()))

    def _missing(self, counter: "_RejectCounter") -> dict[str, int]:
        """Return the images in each shard that an earlier prepare has not finished."""
        shards = [shard for split in self.plan.splits for shard in self._shards(split)]
        missing = {name: len(numbers) for name, _, numbers in shards}
        if not self.workspace.has_results():
            return missing
        items = self.listing.items
        with self.progress.task("check finished shards", self._total, "images") as advance:
            for name, _, numbers in shards:
                result = self.workspace.checked_result(name)
                if result is not None:
                    del missing[name]
                    counter.add([(items[numbers[i]].name, reason) for i, reason in result.rejects])
                advance(len(numbers))
        return missing

    def _tasks(self, split: str) -> Iterator[ShardTask]:
        """Yield a task for each shard of a split."""
        for name, first, numbers in self._shards(split):
            items = [self.listing.items[number] for number in numbers]
            items = [Item(split, item.label, item.name, item.at) for item in items]
            path = self.workspace.shard_path(name)
            options = self.options
            yield ShardTask(
                name, items, first, options.size, options.store, path,
                options.resize, options.orientation,
            )  # fmt: skip

    def _shards(self, split: str) -> Iterator[tuple[str, int, Sequence[int]]]:
        """Yield the name, the first image and the item numbers of each shard of a split."""
        numbers = self.plan.splits[split]
        for first in range(0, len(numbers), IMAGES_PER_SHARD):
            name = f"{split}-{first // IMAGES_PER_SHARD:05d}"
            yield name, first, numbers[first : first + IMAGES_PER_SHARD]

    def _check_space(self, images: int) -> None:
        raw = images * self.options.size**2 * 3
        # Measured on photographs: quality 95 takes 0.14 of the pixels at 256, 0.23 at 64.
        jpeg = raw // 4 + images * 1024
        if self.options.store == "raw":
            self.workspace.check_space(raw, f'; store="jpeg" needs about {jpeg / 1e9:,.1f} GB')
        else:
            self.workspace.check_space(jpeg, "")


class _RejectCounter:
    """Counts the rejected images and raises DataError when there are too many."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.rejects: list[tuple[str, str]] = []

    def add(self, rejects: Sequence[tuple[str, str]]) -> None:
        self.rejects += rejects
        if len(self.rejects) > self.allowed:
            first = "; ".join(f"{name}: {reason}" for name, reason in self.rejects[:3])
            raise DataError(
                f"more than {self.allowed} images cannot be used ({first}); "
                "repair or remove them, or allow more with --max-rejects N (max_rejects=N)"
            )


def _report(out: Path, info: dict[str, Any], seconds: float, images: int) -> PrepareReport:
    counts = {
        split: {"images": facts["images"], "per_class": facts["per_class"]}
        for split, facts in info["splits"].items()
    }
    totals = [sum(each) for each in zip(*(c["per_class"] for c in counts.values()), strict=True)]
    rejected = (out / info["rejects"]["file"]).read_text().splitlines()[:10]
    return PrepareReport(
        out=str(out),
        size=info["size"],
        store=info["store"],
        classes=info["classes"],
        class_images=dict(zip(info["classes"], totals, strict=True)),
        splits=counts,
        rejects=info["rejects"]["count"],
        rejected=[json.loads(line) for line in rejected],
        ignored=info["ignored"],
        seconds=round(seconds, 3),
        images_per_second=round(images / seconds, 1),
        bytes=sum(path.stat().st_size for path in out.iterdir()),
    )
