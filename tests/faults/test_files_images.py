"""Images that are cut, or of any kind and shape: the right pixels or a refusal, never grey."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_makers import Pixels, encode, picture, tree, write_tree
from PIL import Image

from alexnet.dataset import Dataset
from alexnet.images.decode import ImageError, load_square
from alexnet.prepare import prepare_dataset

SIDE = 96


def detailed(seed: int) -> Pixels:
    """Make a picture with detail everywhere, so that its data are spread over the whole file."""
    noise = np.random.default_rng(seed).integers(0, 96, (SIDE, SIDE, 3))
    return (picture(seed, SIDE, SIDE) // 2 + noise).astype(np.uint8)


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("RGB", {}),
    "all colours whole": ("RGB", {"subsampling": "4:4:4"}),
    "progressive": ("RGB", {"progressive": True}),
    "restart markers": ("RGB", {"restart_marker_rows": 1}),
    "progressive with restart markers": ("RGB", {"progressive": True, "restart_marker_rows": 1}),
    "grey": ("L", {}),
    "grey progressive": ("L", {"progressive": True}),
    "CMYK": ("CMYK", {}),
    "with EXIF": ("RGB", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}),
}


def jpeg(kind: str) -> bytes:
    mode, options = KINDS[kind]
    return encode(Image.fromarray(detailed(3)).convert(mode), quality=90, **options)


@pytest.mark.fault(43)
@pytest.mark.parametrize("size", [32, SIDE])  # decoded at half and at full size
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("ending", [b"", b"\xff\xd9"], ids=["cut", "with an end marker"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_part_of_a_cut_jpeg_is_taken_for_the_whole(
    kind: str, ending: bytes, many: bool, size: int
) -> None:
    """Cut every kind of JPEG at many places, close to its end as well."""
    data = jpeg(kind)
    assert load_square(data, size, many=many).shape == (size, size, 3)
    body = data.rindex(b"\xff\xd9")
    first = data.index(b"\xff\xda")  # of the first scan
    lengths = {first + int((body - first) * share / 20) for share in range(1, 20)}
    accepted = []
    for length in sorted({*lengths, body - 400, body - 20}):
        try:
            load_square(data[:length] + ending, size, many=many)
        except ImageError:
            continue
        accepted.append(f"{length / body:.0%}")
    assert accepted == []


WHOLE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "grey.JPEG": ("L", "PNG", {}),
    "bilevel.jpg": ("1", "PNG", {}),
    "palette.bmp": ("P", "PNG", {}),
    "palette.gif": ("P", "GIF", {}),
    "colour.jpg": ("RGB", "PNG", {}),
    "alpha.JPEG": ("RGBA", "PNG", {}),
    "grey alpha.jpg": ("LA", "PNG", {}),
    "web": ("RGB", "WEBP", {"lossless": True}),
    "bits.gif": ("RGB", "BMP", {}),
    "ordinary.png": ("RGB", "JPEG", {"quality": 90}),
    "progressive.jpg": ("RGB", "JPEG", {"quality": 90, "progressive": True}),
    "print.jpg": ("CMYK", "JPEG", {"quality": 90}),
}


@pytest.mark.fault(44)
def test_data_sets_hold_the_pixels_of_every_kind_of_file(tmp_path: Path) -> None:
    """Compare every stored pixel with Pillow's decoding of the file, which has the same size."""
    files, expected = dict[str, bytes](), dict[str, Pixels]()
    for number, (name, (mode, kind, options)) in enumerate(WHOLE.items()):
        path = f"{'ab'[number % 2]}/{name}"
        files[path] = encode(Image.fromarray(detailed(number)).convert(mode), kind, **options)
        expected[path] = np.asarray(Image.open(io.BytesIO(files[path])).convert("RGB"))
    deep = np.random.default_rng(1).integers(0, 1 << 16, (SIDE, SIDE)).astype(np.uint16)
    files["a/deep.jpg"] = encode(Image.fromarray(deep), "PNG")
    expected["a/deep.jpg"] = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=2)
    write_tree(tmp_path / "s", files)
    prepare_dataset(tmp_path / "s", tmp_path / "d", size=SIDE, workers=1, val_fraction=0)
    split = Dataset(tmp_path / "d").split("train")
    assert {split.name(index) for index in range(len(split))} == set(files)
    for index, stored in enumerate(split.read(range(len(split)))):
        name = split.name(index)
        difference = np.abs(stored.astype(int) - expected[name].astype(int)).max()
        assert difference <= 1, name  # the high byte, or rounded


@pytest.mark.fault(48)
@pytest.mark.parametrize("long", [5000, 333])
def test_the_middle_of_a_long_image_is_taken(long: int) -> None:
    """A line that gets brighter from one end to the other: its middle pixel fills the square."""
    line = np.linspace(0, 255, long).astype(np.uint8)
    row = np.repeat(line[None, :, None], 3, axis=2)
    for pixels in (row, row.transpose(1, 0, 2)):
        square = load_square(encode(np.ascontiguousarray(pixels), "PNG"), 16)
        np.testing.assert_allclose(square.astype(int), 127, atol=2)


# A whole image that memory does not suffice for is not a damaged one.

SPARE = 100_000_000
"""Bytes that a command may take after its imports: less than the large image needs."""

# numba loads SciPy with its first kernel; OpenBLAS in it waits for ever where memory is short.
LIMITED = f"""
import resource, sys
import scipy.linalg
import torch, alexnet.evaluate, alexnet.prepare
from alexnet.cli import main
from alexnet.images.decode import load_square
torch.set_num_threads(1)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {SPARE}, used + {SPARE}))
sys.exit(main(sys.argv[1:]))
"""


def limited(*arguments: object) -> tuple[int, str]:
    """Run a command in a process with little memory; return its exit code and stderr."""
    command = [sys.executable, "-c", LIMITED, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of two classes; one of them, a/huge.png, takes 192 MB when it is decoded."""
    folder = write_tree(tmp_path_factory.mktemp("memory") / "in", tree({"a": 2, "b": 3}))
    Image.new("RGB", (8000, 8000), (90, 120, 30)).save(folder / "a/huge.png")
    return folder


OTHER_KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "PNG": ("RGB", "PNG", {}),
    "palette PNG": ("P", "PNG", {}),
    "GIF": ("P", "GIF", {"interlace": 0}),
    "interlaced GIF": ("P", "GIF", {"interlace": 1}),
    "BMP": ("RGB", "BMP", {}),
    "WebP": ("RGB", "WEBP", {}),
    "lossless WebP": ("RGBA", "WEBP", {"lossless": True}),
}


@pytest.mark.fault(43)
@pytest.mark.parametrize("name", OTHER_KINDS)
def test_no_part_of_a_cut_file_of_another_kind_is_taken_for_the_whole(name: str) -> None:
    """Cut anywhere, each part is refused, or has all pixels; also with its length corrected."""
    mode, kind, options = OTHER_KINDS[name]
    data = encode(Image.fromarray(detailed(3)).convert(mode), kind, **options)
    whole = load_square(data, SIDE)
    refused = 0
    for cut in np.linspace(20, len(data) - 1, 60).astype(int):
        parts = [data[:cut]]
        if kind == "WEBP":
            parts.append(data[:4] + int(cut - 8).to_bytes(4, "little") + data[8:cut])
        if kind == "GIF":
            parts.append(data[:cut] + b"\0;")
        for part in parts:
            try:
                found = load_square(part, SIDE)
            except ImageError:
                refused += 1
                continue
            np.testing.assert_array_equal(found, whole, f"cut after {cut} bytes")
    assert refused > 55


@pytest.mark.fault(31)
@pytest.mark.fault(43)
def test_memory_that_runs_out_in_prediction_is_no_damage(tiny_run: Path, photographs: Path) -> None:
    code, stderr = limited("predict", photographs, "--run", tiny_run, "--device", "cpu")
    assert code == 6, stderr
    assert "out of memory" in stderr
    assert "damaged" not in stderr


@pytest.mark.fault(31)
@pytest.mark.fault(43)
def test_memory_that_runs_out_in_preparation_loses_no_image(
    photographs: Path, tmp_path: Path
) -> None:
    code, stderr = limited("prepare", photographs, tmp_path / "out", "--size", 32, "--workers", 1)
    assert code == 6, stderr
    assert "out of memory" in stderr
    assert "damaged" not in stderr
    assert not (tmp_path / "out").exists()
