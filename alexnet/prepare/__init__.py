"""Images to a packed data set: plan, write the shards in parallel, publish in one step.

All work is done in OUT.partial; OUT appears by a rename when everything is on the disk. A prepare
that was stopped is continued by the same command: shards that are finished and whole are kept.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import PIL

from alexnet.dataset import STORES, VERSION
from alexnet.errors import DataError, UsageError
from alexnet.imagenet_classes import imagenet_classes
from alexnet.images.decode import RESIZES, Resize
from alexnet.loader import available_cores
from alexnet.prepare.manifest import Contents
from alexnet.prepare.shards import IMAGES_PER_SHARD, ShardTask
from alexnet.prepare.sources import open_source
from alexnet.prepare.sources.base import Item, Listing, Source
from alexnet.prepare.splits import SplitPlan, plan_splits
from alexnet.prepare.statistics import ColorSums
from alexnet.prepare.workers import write_shards
from alexnet.prepare.workspace import Workspace, hold
from alexnet.progress import SILENT, Progress


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare_dataset` made; `splits` has "images" and "per_class" for each split."""

    out: str
    size: int
    store: str
    classes: list[str]
    splits: dict[str, dict[str, Any]]
    rejects: int
    rejected: list[dict[str, str]]  # the first ten
    ignored: int  # files passed over: hidden ones, texts, files outside the class folders
    seconds: float
    images_per_second: float  # of those that this call went through
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Options:
    """What decides the content of a data set, beside its source."""

    size: int
    store: str
    val_fraction: float
    seed: int
    resize: Resize

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096:
            raise UsageError(f"size {self.size}: give 1 to 4096 (pixels)")
        if self.store not in STORES:
            raise UsageError(f"store {self.store!r}: give {' or '.join(STORES)}")
        if self.resize not in RESIZES:
            raise UsageError(f"resize {self.resize!r}: give {' or '.join(RESIZES)}")
        if not 0 <= self.val_fraction < 1:
            raise UsageError(f"val_fraction {self.val_fraction}: give 0 or more, below 1")


def prepare_dataset(  # noqa: PLR0913 - the options of the command, each by its name
    source: str | Path | Source,
    out: str | Path,
    *,
    size: int = 256,
    resize: Resize = "short",
    store: str = "raw",
    val_fraction: float = 0.1,
    seed: int = 0,
    max_rejects: int | None = None,
    workers: int | None = None,
    val_labels: str | Path | None = None,
    devkit: str | Path | None = None,
    progress: Progress = SILENT,
) -> PrepareReport:
    """Pack the images of a source into the data set `out`; docs/prepare.md says what is read.

    Images become `size` x `size`, of their centre (`resize="short"`) or of the whole with its
    proportions changed ("warp"), kept as they are (`store="raw"`) or as JPEG. Where the source
    has no validation split, `val_fraction` of each class's training images becomes one, drawn
    with `seed`. More than `max_rejects` unusable images are an error (by default 0 for ImageNet's
    archives, 100 else). `val_labels` or `devkit` tell the classes of ImageNet's validation images.
    The result does not depend on `workers` (by default one for each core).
    Raises UsageError, DataError, StorageError or WorkerError.
    """
    began = time.monotonic()
    options = Options(size, store, val_fraction, seed, resize)
    if (workers is not None and workers < 1) or (max_rejects is not None and max_rejects < 0):
        raise UsageError(f"workers {workers}, max_rejects {max_rejects}: too small")
    with hold(Path(out)) as place:
        if isinstance(source, str | Path):
            _refuse_inside(Path(source), Path(out))
            source = open_source(
                Path(source),
                place.unpacked,
                progress,
                val_labels=None if val_labels is None else Path(val_labels),
                devkit=None if devkit is None else Path(devkit),
            )
        job = _plan(source, options, place, progress)
        try:
            gone_through = job.write_shards(workers, max_rejects)
            info = job.write_manifest()
            place.publish()
        except BaseException:
            if place.has_begun():
                progress.note(f"finished work is kept in {place.folder}; the same command goes on")
            raise
    return _report(Path(out), info, time.monotonic() - began, gone_through)


def _refuse_inside(source: Path, out: Path) -> None:
    if out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{out} lies inside {source}; choose another place")


def _plan(source: Source, options: Options, place: Workspace, progress: Progress) -> "_Job":
    listing = source.listing(progress)
    plan = plan_splits(listing.items, options.val_fraction, options.seed)
    for note in [*listing.notes, *plan.notes]:
        progress.note(note)
    if not place.begin(_fingerprint(options, listing)):
        progress.note("source or options differ from the work that was begun: starting afresh")
    return _Job(source, listing, plan, options, place, progress)


def _fingerprint(options: Options, listing: Listing) -> str:
    """Return a digest of all that decides the content of the shards and their names."""
    made_by = (VERSION, version("alexnet"), PIL.__version__)
    digest = hashlib.sha256(repr((asdict(options), listing.version, made_by)).encode())
    for item in listing.items:
        digest.update(repr(tuple(item)).encode())
    return digest.hexdigest()


@dataclass
class _Job:
    """One prepare: what is to be made of what, and where."""

    source: Source
    listing: Listing
    plan: SplitPlan
    options: Options
    place: Workspace
    progress: Progress

    def tasks(self, split: str) -> Iterator[ShardTask]:
        """Yield the shards of a split."""
        for name, first, numbers in self._shards(split):
            items = [self.listing.items[number] for number in numbers]
            items = [Item(split, item.label, item.name, item.at) for item in items]
            part = self.place.part(name)
            options = self.options
            yield ShardTask(name, items, first, options.size, options.store, part, options.resize)

    def _shards(self, split: str) -> Iterator[tuple[str, int, Sequence[int]]]:
        """Yield the name of each shard of a split, its first image, and its items' numbers."""
        numbers = self.plan.splits[split]
        for first in range(0, len(numbers), IMAGES_PER_SHARD):
            name = f"{split}-{first // IMAGES_PER_SHARD:05d}"
            yield name, first, numbers[first : first + IMAGES_PER_SHARD]

    def write_shards(self, workers: int | None, max_rejects: int | None) -> int:
        """Write the shards that are not there yet; return how many images they had."""
        allowed = self.listing.max_rejects if max_rejects is None else max_rejects
        tally = _Tally(allowed)
        missing = self._missing(tally)
        todo = sum(missing.values())
        self._check_space(todo)
        total = sum(map(len, self.plan.splits.values()))
        workers = min(workers or available_cores(), max(1, len(missing)))
        tasks = (task for task in self._all_tasks() if task.name in missing)
        with self.progress.task("prepare", total, "images") as advance:
            advance(total - todo)

            def report(images: int, rejects: Sequence[tuple[str, str]]) -> None:
                advance(images)
                tally.add(rejects)

            for result in write_shards(self.source, tasks, workers, report):
                self.place.keep(result)
        return todo

    def _missing(self, tally: "_Tally") -> dict[str, int]:
        """Return the shards to write, with their images; an earlier prepare may have left some."""
        if not self.place.has_results():
            return {
                name: len(numbers)
                for split in self.plan.splits
                for name, _, numbers in self._shards(split)
            }
        missing = {}
        total = sum(map(len, self.plan.splits.values()))
        with self.progress.task("check what is finished", total, "images") as advance:
            for task in self._all_tasks():
                result = self.place.finished(task.name)
                if result is None:
                    missing[task.name] = len(task.items)
                else:
                    tally.add([(task.items[i].name, reason) for i, reason in result.rejects])
                advance(len(task.items))
        return missing

    def write_manifest(self) -> dict[str, Any]:
        """Write everything but the shards; return what is in dataset.json."""
        sums = ColorSums.empty(self.options.size)
        contents = Contents(self.place, self.plan.classes, self.options.store, sums)
        for split in self.plan.splits:
            count_colors = split == "train" or "train" not in self.plan.splits
            contents.add_split(split, self.tasks(split), count_colors=count_colors)
        titles = {**imagenet_classes(), **self.listing.titles}
        facts = {
            "size": self.options.size,
            "resize": self.options.resize,
            "titles": [titles.get(key, key) for key in self.plan.classes],
            "ignored": self.listing.ignored,
        }
        provenance = {
            "source": self.source.location,
            "source_kind": self.source.kind,
            "options": asdict(self.options),
        }
        return contents.write(facts, provenance)

    def _all_tasks(self) -> Iterator[ShardTask]:
        for split in self.plan.splits:
            yield from self.tasks(split)

    def _check_space(self, images: int) -> None:
        raw = images * self.options.size**2 * 3
        # Measured on photographs: quality 95 takes 0.14 of the pixels at 256, 0.23 at 64.
        jpeg = raw // 4 + images * 1024
        if self.options.store == "raw":
            self.place.check_space(raw, f'; store="jpeg" needs about {jpeg / 1e9:,.1f} GB')
        else:
            self.place.check_space(jpeg, "")


class _Tally:
    """Counts the rejected images, and stops when they are too many."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.rejects: list[tuple[str, str]] = []

    def add(self, rejects: Sequence[tuple[str, str]]) -> None:
        self.rejects += rejects
        if len(self.rejects) > self.allowed:
            listed = "; ".join(f"{name}: {reason}" for name, reason in self.rejects[:3])
            raise DataError(
                f"more than {self.allowed} images cannot be used ({listed}); "
                "mend or remove them, or allow more rejects"
            )


def _report(out: Path, info: dict[str, Any], seconds: float, images: int) -> PrepareReport:
    counts = {
        split: {"images": facts["images"], "per_class": facts["per_class"]}
        for split, facts in info["splits"].items()
    }
    rejected = (out / info["rejects"]["file"]).read_text().splitlines()[:10]
    return PrepareReport(
        out=str(out),
        size=info["size"],
        store=info["store"],
        classes=info["classes"],
        splits=counts,
        rejects=info["rejects"]["count"],
        rejected=[json.loads(line) for line in rejected],
        ignored=info["ignored"],
        seconds=round(seconds, 3),
        images_per_second=round(images / seconds, 1),
        bytes=sum(path.stat().st_size for path in out.iterdir()),
    )
