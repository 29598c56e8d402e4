"""Where images are kept: the same pixels from every place, chosen by what there is room for."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alexnet.dataset import Dataset, Split
from alexnet.errors import UsageError
from alexnet.images import yuv420
from alexnet.images.yuv420 import from_yuv420, to_yuv420
from alexnet.train import image_cache
from alexnet.train.image_cache import (
    CachePlan,
    Images,
    free_device_memory,
    free_host_memory,
    image_bytes,
    open_images,
    plan_cache,
)

CPU = torch.device("cpu")
GB = 10**9


@pytest.fixture
def train(tiny_data: Path) -> Split:
    return Dataset(tiny_data).split("train")


def count_reads(split: Split, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note every image that is read from the disk."""
    seen: list[int] = []
    read = split.read

    def noting(indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        seen.extend(np.asarray(indices).tolist())
        return read(indices)

    monkeypatch.setattr(split, "read", noting)
    return seen


# Places.


@pytest.mark.parametrize("place", ["none", "host", "device"])
def test_every_place_gives_the_images_asked_for(train: Split, place: str) -> None:
    # On a CPU "device memory" is ordinary memory, but what runs is the same.
    plan = CachePlan(place, "rgb", 0)  # type: ignore[arg-type]
    images = Images(train, CPU, plan)
    order = np.random.default_rng(0).permutation(len(train))
    for _ in range(2):  # from the disk, then from memory
        requests = [order[:16], order[16:32], order[32:]]
        for indices, batch in zip(requests, images.batches(requests), strict=True):
            assert batch.pixels().dtype == torch.uint8
            assert np.array_equal(batch.pixels().numpy(), train.read(indices))


@pytest.mark.parametrize("place", ["host", "device"])
def test_an_image_is_read_from_the_disk_once(
    train: Split, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Images(train, CPU, CachePlan(place, "rgb", 0))  # type: ignore[arg-type]
    seen = count_reads(train, monkeypatch)
    images.read(np.array([3, 5]))
    images.read(np.array([5, 7, 3]))
    assert seen == [3, 5, 7]


def test_what_the_device_has_is_not_fetched_again(
    train: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Images(train, CPU, CachePlan("device", "rgb", 0))
    images.read(np.arange(len(train)))
    requests = [np.array([3, 5]), np.array([5, 0, 5])]
    expected = [train.read(indices) for indices in requests]
    seen = count_reads(train, monkeypatch)
    monkeypatch.setattr(image_cache, "read_ahead", None)  # no threads either
    for pixels, batch in zip(expected, images.batches(requests), strict=True):
        assert np.array_equal(batch.pixels().numpy(), pixels)
    assert seen == []


def test_without_a_cache_images_are_read_each_time(
    train: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Images(train, CPU, CachePlan("none"))
    seen = count_reads(train, monkeypatch)
    images.read(np.array([3, 5]))
    images.read(np.array([3]))
    assert seen == [3, 5, 3]


def test_an_image_twice_in_a_batch_comes_twice(train: Split) -> None:
    images = Images(train, CPU, CachePlan("device", "rgb", 0))
    batch = images.read(np.array([2, 2, 1]))
    assert np.array_equal(batch.numpy(), train.read([2, 2, 1]))


def test_threads_end_when_batches_are_left_early(train: Split) -> None:
    images, before = Images(train, CPU, CachePlan("none")), set(threading.enumerate())
    batches = images.batches([np.array([i]) for i in range(20)])
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    ours = [each for each in set(threading.enumerate()) - before if each.name.startswith("read")]
    assert not ours


def test_halved_colour_is_what_a_place_with_half_the_room_gives(train: Split) -> None:
    indices = np.arange(8)
    pixels = torch.from_numpy(train.read(indices))
    for place in ("host", "device"):
        images = Images(train, CPU, CachePlan(place, "yuv420", 0))
        assert torch.equal(images.read(indices), from_yuv420(to_yuv420(pixels), 32))


@pytest.mark.parametrize("pixel_format", ["rgb", "yuv420"])
@pytest.mark.parametrize("location", ["device", "host", "none"])
def test_a_batch_gives_bytes_as_they_are_cached_and_pixels(
    train: Split, location: str, pixel_format: str
) -> None:
    images = Images(train, CPU, CachePlan(location, pixel_format, 0))  # type: ignore[arg-type]
    requests = [np.array([4, 1]), np.array([1, 9, 2])]
    stores = []
    for indices, batch in zip(requests, images.batches(requests), strict=True):
        pixels = torch.from_numpy(train.read(indices))
        expected = pixels.flatten(1) if pixel_format == "rgb" else to_yuv420(pixels)
        assert torch.equal(batch.rows if batch.at is None else batch.rows[batch.at], expected)
        assert torch.equal(batch.pixels(), images.read(indices))
        assert (batch.at is None) == (location != "device")
        stores.append(batch.rows)
    assert (stores[0] is stores[1]) == (location == "device")


# The choice.


def test_the_first_place_with_room_is_taken() -> None:
    def chosen(device: float, host: float, cache: str = "auto", side: int = 256) -> CachePlan:
        free = {"device": int(device * GB), "host": int(host * GB)}
        return plan_cache(1_281_167, side, cache, free)  # type: ignore[arg-type]

    # ImageNet: 1,281,167 x 256 x 256 x 3 = 251,887,681,536 bytes, and half of that.
    assert chosen(252, 0) == CachePlan("device", "rgb", 251_887_681_536)
    assert chosen(251, 999) == CachePlan("device", "yuv420", 125_943_840_768)
    assert chosen(125, 252) == CachePlan("host", "rgb", 251_887_681_536)
    assert chosen(125, 126) == CachePlan("host", "yuv420", 125_943_840_768)
    assert chosen(125, 125) == CachePlan("none")
    assert chosen(999, 999, "host").location == "host"
    assert chosen(999, 999, "none") == CachePlan("none")
    # An odd side has no 2 x 2 pixels at its edge.
    assert chosen(200, 0, side=255) == CachePlan("none")


def test_a_place_that_is_asked_for_and_too_small_is_an_error() -> None:
    says = r"--cache device: 1,000 images of 256 x 256 need at least 0\.1 GB"
    with pytest.raises(UsageError, match=says):
        plan_cache(1000, 256, "device", {"device": 10**7, "host": 10**12})


def test_a_place_that_does_not_exist_is_not_called_full(
    train: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="--cache device: cpu has no memory of its own; use host"):
        open_images(train, CPU, "device")
    monkeypatch.setattr(image_cache, "free_host_memory", lambda: 0)
    with pytest.raises(UsageError, match="--cache host: this system does not say how much"):
        open_images(train, CPU, "host")
    assert open_images(train, CPU, "auto").plan == CachePlan("none")


def test_small_sizes_are_not_written_as_nothing() -> None:
    with pytest.raises(UsageError, match=r"need at least 15\.4 MB, 10\.0 MB are free there"):
        plan_cache(10_000, 32, "host", {"device": 0, "host": 10**7})
    assert CachePlan("host", "rgb", 119_808).describe() == "images in host memory, 0.1 MB"


def test_an_unknown_place_is_an_error() -> None:
    with pytest.raises(UsageError, match="cache is one of auto, device, host, none, not 'disk'"):
        plan_cache(1, 2, "disk", {"device": 1, "host": 1})  # type: ignore[arg-type]


def test_plans_say_what_they_are() -> None:
    assert CachePlan("none").describe() == "images from the disk, read ahead"
    assert CachePlan("host", "rgb", 2 * GB).describe() == "images in host memory, 2.0 GB"
    text = CachePlan("device", "yuv420", 126 * GB).describe()
    assert text == "images in device memory, colour halved (YUV 4:2:0), 126.0 GB"


def test_a_small_set_is_kept_in_host_memory_on_a_cpu(train: Split) -> None:
    images = open_images(train, CPU)
    assert images.plan == CachePlan("host", "rgb", 39 * 32 * 32 * 3)
    assert len(images) == 39
    assert free_device_memory(CPU) == 0


def system(folder: Path, *, available: int, limit: str, current: int, files: int) -> Path:
    """Make the files in which Linux tells of its memory (bytes)."""
    (folder / "proc").mkdir()
    group = folder / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (folder / "proc/meminfo").write_text(
        f"MemTotal:  999999 kB\nMemAvailable:  {available // 1024} kB\n"
    )
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{current}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {files}\nactive_file 7\n")
    return folder


def test_half_of_the_free_memory_may_be_taken(tmp_path: Path) -> None:
    free = system(tmp_path, available=2**30, limit="max", current=0, files=0)
    assert free_host_memory(free) == 2**29


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    # 1000 of 4096 are used, 400 of them for files that can be read again.
    free = system(tmp_path, available=2**30, limit="4096", current=1000, files=400)
    assert free_host_memory(free) == (4096 - 1000 + 400) // 2


def test_a_system_that_does_not_tell_has_no_free_memory(tmp_path: Path) -> None:
    assert free_host_memory(tmp_path) == 0


# YUV 4:2:0.


def test_bytes_of_an_image() -> None:
    assert image_bytes(256, "rgb") == 196_608
    assert image_bytes(256, "yuv420") == 98_304
    assert to_yuv420(torch.zeros((1, 4, 4, 3), dtype=torch.uint8)).shape == (1, 24)


def test_colours_of_jpeg() -> None:
    # ITU-T T.871 for pure red: Y = 76.245, Cb = 128 - 43.03, Cr = 255.5, which does not fit.
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(1, 2, 2, 3)
    assert to_yuv420(red).tolist() == [[76, 76, 76, 76, 85, 255]]
    # One of four pixels blue, the others black: Y = 29.07, Cb = 128 + 127.5 / 4, Cr = 128 - 20.73/4
    one = torch.zeros((1, 2, 2, 3), dtype=torch.uint8)
    one[0, 0, 0, 2] = 255
    assert to_yuv420(one).tolist() == [[29, 0, 0, 0, 160, 123]]


def test_greys_come_back_exactly() -> None:
    grey = torch.randint(0, 256, (2, 8, 8, 1), dtype=torch.uint8).expand(2, 8, 8, 3)
    assert torch.equal(from_yuv420(to_yuv420(grey), 8), grey)


def test_even_colours_come_back_within_two_levels() -> None:
    values = torch.tensor([0, 1, 37, 90, 128, 200, 254, 255], dtype=torch.uint8)
    colours = torch.cartesian_prod(values, values, values)
    pixels = colours[:, None, None, :].expand(-1, 4, 4, 3)
    back = from_yuv420(to_yuv420(pixels), 4)
    assert (back.int() - pixels.int()).abs().max() <= 2


def test_an_image_whose_colour_changes_slowly_keeps_it() -> None:
    row, column = np.mgrid[:64, :64] / 64
    waves = [np.sin(6 * row + k) * np.cos(5 * column - k) for k in range(3)]
    image = (128 + 100 * np.stack(waves, 2)).astype(np.uint8)[None]
    back = from_yuv420(to_yuv420(torch.from_numpy(image)), 64).numpy()
    error = (back.astype(float) - image) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 45  # dB


def test_the_planes_are_pillows() -> None:
    """Pillow's own conversion of the same planes, with colour that is constant in 2 x 2 pixels."""
    from PIL import Image

    small = torch.randint(0, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    pixels = small.repeat_interleave(2, 2).repeat_interleave(2, 3).permute(0, 2, 3, 1).byte()
    rows = to_yuv420(pixels)[0].numpy()
    theirs = np.array(Image.fromarray(pixels[0].numpy()).convert("YCbCr"))
    ours = [rows[:256].reshape(16, 16), rows[256:320].reshape(8, 8), rows[320:].reshape(8, 8)]
    for plane, own in enumerate(ours):
        step = 1 if plane == 0 else 2
        assert np.abs(theirs[::step, ::step, plane].astype(int) - own).max() <= 1


def rows_of(kind: str, side: int) -> torch.Tensor:
    """Rows as `to_yuv420` writes them, and such as it does not: any bytes, or 0 and 255."""
    generator = torch.Generator().manual_seed(side)
    shape = (3, image_bytes(side, "yuv420"))
    if kind == "extreme":
        return torch.randint(0, 2, shape, generator=generator).mul(255).byte()
    return torch.randint(0, 256, shape, generator=generator).byte()


@pytest.mark.parametrize("kind", ["random", "extreme"])
@pytest.mark.parametrize("side", [2, 4, 6, 30, 64, 256])
def test_on_a_cpu_compiled_loops_give_the_same_bits(kind: str, side: int) -> None:
    rows = rows_of(kind, side)
    pixels = from_yuv420(rows, side)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, yuv420._from_yuv420_by_torch(rows, side))
    colours = rows_of(kind, 2 * side)[:, : side * side * 3].reshape(3, side, side, 3)
    for given in (pixels, colours, colours.transpose(1, 2)):
        assert torch.equal(to_yuv420(given), yuv420._to_yuv420_by_torch(given))


def test_compiled_loops_take_what_lies_in_memory_with_gaps() -> None:
    wide = torch.cat([rows_of("random", 8), rows_of("extreme", 8)], 1)
    rows = wide[:, :96]
    assert torch.equal(from_yuv420(rows, 8), yuv420._from_yuv420_by_torch(rows, 8))
    assert from_yuv420(rows[:0], 8).shape == (0, 8, 8, 3)
    assert to_yuv420(torch.empty((0, 8, 8, 3), dtype=torch.uint8)).shape == (0, 96)


@pytest.mark.parametrize("there", [True, False])
def test_compiled_loops_are_taken_where_they_can_be_imported(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(yuv420, "_to_yuv420_by_torch", lambda _: calls.append("to"))
    monkeypatch.setattr(yuv420, "_from_yuv420_by_torch", lambda *_: calls.append("from"))
    if not there:
        monkeypatch.setitem(sys.modules, "alexnet.images.yuv420_loops", None)
    to_yuv420(torch.zeros((1, 4, 4, 3), dtype=torch.uint8))
    from_yuv420(torch.zeros((1, 24), dtype=torch.uint8), 4)
    assert calls == ([] if there else ["to", "from"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("place", ["none", "host", "device"])
@pytest.mark.parametrize("pixel_format", ["rgb", "yuv420"])
def test_a_gpu_gets_the_same_pixels(train: Split, place: str, pixel_format: str) -> None:
    plan = CachePlan(place, pixel_format, 0)  # type: ignore[arg-type]
    here, there = (Images(train, torch.device(name), plan) for name in ("cpu", "cuda:0"))
    requests = [np.arange(start, start + 13) for start in (0, 13, 26)]
    for _ in range(2):
        for ours, theirs in zip(here.batches(requests), there.batches(requests), strict=True):
            assert torch.equal(ours.pixels(), theirs.pixels().cpu())
