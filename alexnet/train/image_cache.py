"""Caching images while a network trains: in device memory, in host memory, or not at all.

An image is cached when it is first read, so that a training starts at once. If 8-bit RGB does not
fit, the brightness of each pixel and the colour of each 2 x 2 pixels are cached (planar YUV 4:2:0,
as in most JPEG files). These take half the bytes: 126 GB for ImageNet at 256 x 256.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from alexnet.dataset import Split
from alexnet.errors import UsageError
from alexnet.images.yuv420 import to_yuv420
from alexnet.loader import read_ahead
from alexnet.train.state import DeviceBatch, Indices, PixelFormat

Cache = Literal["auto", "device", "host", "none"]
CacheLocation = Literal["device", "host", "none"]

DEVICE_ROOM, LEAST_DEVICE_ROOM = 0.1, 4 * 2**30
"""Device memory left for network and workspace: a share of it, and a minimum in bytes."""
HOST_SHARE = 0.5
"""Share of the free host memory that may be used."""


@dataclass(frozen=True)
class CachePlan:
    """Where the images of a split are cached, and in which format."""

    location: CacheLocation
    pixel_format: PixelFormat = "rgb"
    bytes: int = 0
    """Size of all of them."""

    def describe(self) -> str:
        """Return a phrase such as "images in device memory, 12.3 GB"."""
        if self.location == "none":
            return "images from the disk, read ahead"
        halved = ", colour halved (YUV 4:2:0)" if self.pixel_format == "yuv420" else ""
        return f"images in {self.location} memory{halved}, {_size(self.bytes)}"


@dataclass(frozen=True)
class FetchedBatch:
    """What a reading thread has fetched, in host memory or already on the device."""

    indices: Indices
    """(B,) of the whole batch."""
    new: Tensor
    """int64: the images in `rows`, those not yet on the device or the whole batch."""
    rows: Tensor
    """(len(new), bytes of an image) uint8."""

    def to(self, device: torch.device) -> "FetchedBatch":
        """Begin to copy it; pinned memory is copied while the program continues."""
        tensors = (tensor.to(device, non_blocking=True) for tensor in (self.new, self.rows))
        return FetchedBatch(self.indices, *tensors)


class Images:
    """Reads the images of a split and moves them to a device; get it from `open_images`."""

    def __init__(self, split: Split, device: torch.device, plan: CachePlan) -> None:
        self.split, self.device, self.plan = split, device, plan
        self.side = side_of(split)
        self._is_stored = np.zeros(len(split), np.bool_)
        rows = 0 if plan.location == "none" else len(split)
        # Pages of host memory take no room until they are written to.
        self._stored = torch.empty(
            (rows, image_bytes(self.side, plan.pixel_format)),
            dtype=torch.uint8,
            device=device if plan.location == "device" else "cpu",
        )

    def __len__(self) -> int:
        return len(self.split)

    def read(self, indices: Indices) -> Tensor:
        """Return the images at `indices` in that order, on the device: (B, S, S, 3) uint8."""
        return next(self.batches([indices])).pixels()

    def batches(self, requests: Sequence[Indices]) -> Iterator[DeviceBatch]:
        """Yield each requested batch, in order.

        Files are read in threads, a few batches ahead, and the next batch is copied to the device
        while the caller computes on this one. Once all images are on the device nothing is read.
        """
        side, pixel_format = self.side, self.plan.pixel_format
        if self.plan.location == "device" and self._is_stored.all():
            for indices in requests:
                yield DeviceBatch(self._stored, indices, side, pixel_format)
            return
        for batch in self._moved(read_ahead(self._fetch, requests)):
            if self.plan.location == "device":
                self._store(batch)
                yield DeviceBatch(self._stored, batch.indices, side, pixel_format)
            else:
                yield DeviceBatch(batch.rows, None, side, pixel_format)

    def _fetch(self, indices: Indices) -> FetchedBatch:
        """Read into host memory what is not on the device; runs in a reading thread."""
        if self.plan.location == "none":
            return self._fetched(indices, indices, self._pack(indices))
        missing = indices[~self._is_stored[indices]]
        if self.plan.location == "device":
            return self._fetched(indices, missing, self._pack(missing))
        if len(missing):
            self._stored[torch.from_numpy(missing)] = self._pack(missing)
            self._is_stored[missing] = True
        rows = torch.index_select(self._stored, 0, torch.from_numpy(indices))
        return self._fetched(indices, indices, rows)

    def _fetched(self, indices: Indices, new: Indices, rows: Tensor) -> FetchedBatch:
        return FetchedBatch(indices, self._pinned(torch.from_numpy(new)), self._pinned(rows))

    def _pack(self, indices: Indices) -> Tensor:
        """Read images from the disk as rows of bytes in the cached format."""
        pixels = torch.from_numpy(self.split.read(indices))
        return to_yuv420(pixels) if self.plan.pixel_format == "yuv420" else pixels.flatten(1)

    def _pinned(self, rows: Tensor) -> Tensor:
        """Move rows to memory from which a GPU can copy them while the program continues."""
        return rows.pin_memory() if self.device.type == "cuda" else rows

    def _moved(self, batches: Iterator[FetchedBatch]) -> Iterator[FetchedBatch]:
        """Move each batch to the device."""
        if self.device.type == "cuda":
            return _moved_by_stream(batches, self.device)
        return (batch.to(self.device) for batch in batches)

    def _store(self, batch: FetchedBatch) -> None:
        """Store on the device what is new there."""
        if len(batch.new):
            self._stored[batch.new] = batch.rows
            self._is_stored[batch.indices] = True


def _moved_by_stream(
    batches: Iterator[FetchedBatch], device: torch.device
) -> Iterator[FetchedBatch]:
    """Copy batches on their own stream; a copy starts before the previous batch is yielded."""
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: tuple[FetchedBatch, torch.cuda.Event] | None = None

    def wait_for(batch: FetchedBatch, done: torch.cuda.Event) -> FetchedBatch:
        computing = torch.cuda.current_stream(device)
        computing.wait_event(done)
        for tensor in (batch.new, batch.rows):
            tensor.record_stream(computing)  # its memory is not reused while the GPU needs it
        return batch

    for fetched in batches:
        with torch.cuda.stream(copying):
            batch, done = fetched.to(device), copying.record_event()
        if waiting is not None:
            yield wait_for(*waiting)
        waiting = batch, done
    if waiting is not None:
        yield wait_for(*waiting)


def open_images(
    split: Split, device: torch.device, cache: Cache = "auto", *, sharers: int = 1
) -> Images:
    """Open the images of `split` for training on `device`.

    `cache` is "device", "host", "none" (read from the disk each time) or "auto": the first of these
    with enough room. `sharers` processes of this machine each have a copy in host memory.
    Raises `UsageError` for a location without enough room.
    """
    free = {"device": free_device_memory(device), "host": free_host_memory() // sharers}
    if cache == "device" and device.type != "cuda":
        raise UsageError(
            f"--cache device: {device.type} has no memory of its own; use host or auto"
        )
    if cache == "host" and not free["host"]:
        raise UsageError("--cache host: this system does not say how much memory is free; use none")
    return Images(split, device, plan_cache(len(split), side_of(split), cache, free))


def plan_cache(images: int, side: int, cache: Cache, free: dict[str, int]) -> CachePlan:
    """Choose where to cache `images` squares of `side` pixels; `free` has the bytes by location.

    Colour is halved only if RGB does not fit. Raises `UsageError` if the location `cache` has not
    enough room, or does not exist.
    """
    if cache not in get_args(Cache):
        raise UsageError(f"cache is one of {', '.join(get_args(Cache))}, not {cache!r}")
    locations: tuple[CacheLocation, ...] = ("device", "host") if cache == "auto" else ()
    if cache in ("device", "host"):
        locations = (cache,)
    formats: tuple[PixelFormat, ...] = ("rgb",) if side % 2 else ("rgb", "yuv420")
    for location in locations:
        for pixel_format in formats:
            needed = images * image_bytes(side, pixel_format)
            if needed <= free[location]:
                return CachePlan(location, pixel_format, needed)
    if cache in ("device", "host"):
        least = images * image_bytes(side, formats[-1])
        raise UsageError(
            f"--cache {cache}: {images:,} images of {side} x {side} need at least "
            f"{_size(least)}, {_size(free[cache])} are free there; use auto or none"
        )
    return CachePlan("none")


def _size(count: int) -> str:
    """Write a number of bytes: "12.3 GB", "45.6 MB"."""
    return f"{count / 1e9:,.1f} GB" if count >= 5 * 10**7 else f"{count / 1e6:,.1f} MB"


def side_of(split: Split) -> int:
    """Return the side of a split's images in pixels."""
    return int(split.read([]).shape[1])


def image_bytes(side: int, pixel_format: PixelFormat) -> int:
    """Return the size of one image."""
    return side * side * 3 // (2 if pixel_format == "yuv420" else 1)


def free_device_memory(device: torch.device) -> int:
    """Return the bytes of a GPU's memory that images may use; 0 for other devices."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return max(0, free - max(LEAST_DEVICE_ROOM, int(total * DEVICE_ROOM)))


def free_host_memory(system: Path = Path("/")) -> int:
    """Return the bytes of host memory that images may use: half of what Linux reports as free.

    The limit of a container counts too. 0 where the system reports nothing.
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
    """Return what is left of a control group's limit; cached files do not count."""
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
