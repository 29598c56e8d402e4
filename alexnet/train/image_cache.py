"""Where the images of a split are while a network trains: device memory, host memory, or the disk.

An image is kept when it is first read, so that a training begins at once; from then on it comes
from memory. Where 8-bit RGB does not fit, each pixel's brightness is kept and the colour of each
2 x 2 pixels (planar YUV 4:2:0, as in most JPEG files): half the bytes, so that all of ImageNet at
256 x 256 is 126 GB.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.dataset import Split
from alexnet.errors import UsageError
from alexnet.images.yuv420 import from_yuv420, to_yuv420
from alexnet.loader import read_ahead

Cache = Literal["auto", "device", "host", "none"]
CacheLocation = Literal["device", "host", "none"]
PixelFormat = Literal["rgb", "yuv420"]
Indices = NDArray[np.int64]

DEVICE_ROOM, LEAST_DEVICE_ROOM = 0.1, 4 * 2**30
"""What is left of a device's memory to network and workspace: a share, and bytes at least."""
HOST_SHARE = 0.5
"""Share of the free host memory that may be taken."""


@dataclass(frozen=True)
class CachePlan:
    """Where the images of a split are kept, and as what."""

    place: CacheLocation
    pixel_format: PixelFormat = "rgb"
    bytes: int = 0
    """What all of them take there."""

    def describe(self) -> str:
        """Say it for a person: "images in device memory, 12.3 GB"."""
        if self.place == "none":
            return "images from the disk, read ahead"
        form = ", colour halved (YUV 4:2:0)" if self.pixel_format == "yuv420" else ""
        return f"images in {self.place} memory{form}, {self.bytes / 1e9:,.1f} GB"


@dataclass(frozen=True)
class HostBatch:
    """What a reading thread hands over: rows of bytes in host memory, and where they belong."""

    indices: Indices
    """(B,) of the whole batch."""
    new: Indices
    """Which images `rows` are: those that the device lacks, or the whole batch."""
    rows: Tensor
    """(len(new), bytes of an image) uint8."""


@dataclass(frozen=True)
class DeviceBatch:
    """A batch that is on the device, as the bytes that are kept of each image."""

    rows: Tensor
    """(M, bytes of an image) uint8: all images that the device keeps, or those of the batch."""
    at: Indices
    """(B,) which rows the batch is."""


class Images:
    """The images of a split on their way to a device; get it from `open_images`."""

    def __init__(self, split: Split, device: torch.device, plan: CachePlan) -> None:
        self.split, self.device, self.plan = split, device, plan
        self.side = side_of(split)
        self._here = np.zeros(len(split), np.bool_)
        rows = 0 if plan.place == "none" else len(split)
        # Pages of host memory that nobody has written to take no room yet.
        self._kept = torch.empty(
            (rows, image_bytes(self.side, plan.pixel_format)),
            dtype=torch.uint8,
            device=device if plan.place == "device" else "cpu",
        )

    def __len__(self) -> int:
        return len(self.split)

    def read(self, indices: Indices) -> Tensor:
        """Return the images at `indices` in that order, on the device: (B, S, S, 3) uint8."""
        return next(self.batches([indices]))

    def batches(self, requests: Sequence[Indices]) -> Iterator[Tensor]:
        """Yield `read(indices)` for each request, in order; see `arrivals`."""
        for arrived in self.arrivals(requests):
            yield self.unpack(arrived)

    def arrivals(self, requests: Sequence[Indices]) -> Iterator[DeviceBatch]:
        """Yield the bytes of each request's images, in order, for who unpacks them or `unpack`.

        Files are read in threads, a few batches ahead, and the next batch is copied to the device
        while the caller computes on this one.
        """
        for fetched, rows in self._moved(read_ahead(self._fetch, requests)):
            if self.plan.place == "device":
                self._keep(fetched, rows)
                yield DeviceBatch(self._kept, fetched.indices)
            else:
                yield DeviceBatch(rows, np.arange(len(rows)))

    def unpack(self, arrived: DeviceBatch) -> Tensor:
        """Return the pixels of a batch: (B, S, S, 3) uint8."""
        rows = arrived.rows
        if self.plan.place == "device":
            rows = rows[torch.from_numpy(arrived.at).to(self.device)]
        if self.plan.pixel_format == "yuv420":
            return from_yuv420(rows, self.side)
        return rows.view(-1, self.side, self.side, 3)

    def batch_buffer(self, batch: int) -> Tensor:
        """Return where rows are found in each step: those that the device keeps, or a new place.

        The new place is for one batch, as (batch, bytes of an image) uint8 on the device.
        """
        if self.plan.place == "device":
            return self._kept
        size = image_bytes(self.side, self.plan.pixel_format)
        return torch.zeros(batch, size, dtype=torch.uint8, device=self.device)

    def _fetch(self, indices: Indices) -> HostBatch:
        """Bring to host memory what is not on the device; runs in a reading thread."""
        missing = indices[~self._here[indices]]
        if self.plan.place == "none":
            return HostBatch(indices, indices, self._pinned(self._pack(indices)))
        if self.plan.place == "device":
            return HostBatch(indices, missing, self._pinned(self._pack(missing)))
        if len(missing):
            self._kept[torch.from_numpy(missing)] = self._pack(missing)
            self._here[missing] = True
        rows = torch.index_select(self._kept, 0, torch.from_numpy(indices))
        return HostBatch(indices, indices, self._pinned(rows))

    def _pack(self, indices: Indices) -> Tensor:
        """Read images from the disk and write them as rows of bytes, in the form that is kept."""
        pixels = torch.from_numpy(self.split.read(indices))
        return to_yuv420(pixels) if self.plan.pixel_format == "yuv420" else pixels.flatten(1)

    def _pinned(self, rows: Tensor) -> Tensor:
        """Put rows where a GPU can fetch them by itself, while everybody else goes on."""
        return rows.pin_memory() if self.device.type == "cuda" else rows

    def _moved(self, batches: Iterator[HostBatch]) -> Iterator[tuple[HostBatch, Tensor]]:
        """Yield each batch with its rows on the device."""
        if self.device.type == "cuda":
            yield from _moved_by_stream(batches, self.device)
            return
        for fetched in batches:
            yield fetched, fetched.rows.to(self.device)

    def _keep(self, fetched: HostBatch, rows: Tensor) -> None:
        """Put on the device what is new there."""
        if len(fetched.new):
            self._kept[torch.from_numpy(fetched.new).to(self.device)] = rows
            self._here[fetched.new] = True


def _moved_by_stream(
    batches: Iterator[HostBatch], device: torch.device
) -> Iterator[tuple[HostBatch, Tensor]]:
    """Copy each batch on a stream of its own, begun before the caller gets the one before."""
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: tuple[HostBatch, Tensor, torch.cuda.Event] | None = None

    def arrived(
        fetched: HostBatch, rows: Tensor, done: torch.cuda.Event
    ) -> tuple[HostBatch, Tensor]:
        computing = torch.cuda.current_stream(device)
        computing.wait_event(done)
        rows.record_stream(computing)  # its memory is not given away while it is in use there
        return fetched, rows

    for fetched in batches:
        with torch.cuda.stream(copying):
            rows = fetched.rows.to(device, non_blocking=True)
            done = copying.record_event()
        if waiting is not None:
            yield arrived(*waiting)
        waiting = fetched, rows, done
    if waiting is not None:
        yield arrived(*waiting)


def open_images(
    split: Split, device: torch.device, cache: Cache = "auto", *, sharers: int = 1
) -> Images:
    """Open the images of `split` for training on `device`.

    `cache` is "device", "host", "none" (from the disk each time) or "auto": the first of these with
    room for them. `sharers` processes of this machine do the same, each with a copy in host memory.
    Raises `UsageError` for a place without room.
    """
    free = {"device": free_device_memory(device), "host": free_host_memory() // sharers}
    return Images(split, device, plan_cache(len(split), side_of(split), cache, free))


def plan_cache(images: int, side: int, cache: Cache, free: dict[str, int]) -> CachePlan:
    """Choose where `images` squares of `side` pixels are kept; `free` has the bytes of each place.

    Half the colour is only kept where all of it does not fit. Raises `UsageError` where `cache`
    names a place with too little room, or no place.
    """
    if cache not in get_args(Cache):
        raise UsageError(f"cache is one of {', '.join(get_args(Cache))}, not {cache!r}")
    places: tuple[CacheLocation, ...] = ("device", "host") if cache == "auto" else ()
    if cache in ("device", "host"):
        places = (cache,)
    forms: tuple[PixelFormat, ...] = ("rgb",) if side % 2 else ("rgb", "yuv420")
    for place in places:
        for pixel_format in forms:
            needed = images * image_bytes(side, pixel_format)
            if needed <= free[place]:
                return CachePlan(place, pixel_format, needed)
    if cache in ("device", "host"):
        least = images * image_bytes(side, forms[-1])
        raise UsageError(
            f"--cache {cache}: {images:,} images of {side} x {side} need {least / 1e9:,.1f} GB at "
            f"least, {free[cache] / 1e9:,.1f} GB are to be had there; choose auto or none"
        )
    return CachePlan("none")


def side_of(split: Split) -> int:
    """Return the side of a split's images in pixels."""
    return int(split.read([]).shape[1])


def image_bytes(side: int, pixel_format: PixelFormat) -> int:
    """Return what one image takes."""
    return side * side * 3 // (2 if pixel_format == "yuv420" else 1)


def free_device_memory(device: torch.device) -> int:
    """Return the bytes of a GPU's own memory that images may take; 0 for other devices."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return max(0, free - max(LEAST_DEVICE_ROOM, int(total * DEVICE_ROOM)))


def free_host_memory(system: Path = Path("/")) -> int:
    """Return the bytes of host memory that images may take: half of what Linux says is free.

    What a container may use counts, too. 0 where the system does not tell.
    """
    limits = [limit(system) for limit in (_available_memory, _container_memory)]
    known = [limit for limit in limits if limit is not None]
    return int(min(known) * HOST_SHARE) if known else 0


def _available_memory(system: Path) -> int | None:
    try:
        lines = (system / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    facts = dict(line.split(":") for line in lines)
    return int(facts["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in facts else None


def _container_memory(system: Path) -> int | None:
    """Return what is left of a control group's limit; files that it has read can be dropped."""
    group = system / "sys/fs/cgroup"
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        used = int((group / "memory.current").read_text(encoding="ascii"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    files = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return max(0, int(limit) - used + files)
