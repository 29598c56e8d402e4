"""Cut, damaged or oddly named sources are refused or counted; no label is wrong."""

import hashlib
import io
import json
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from data_makers import (
    Pixels,
    Recorder,
    cifar_binary_files,
    content,
    encode,
    picture,
    tree,
    write_tar,
    write_tree,
)
from fuzzing import SOAK_SECONDS, in_soak, mutations, write_soak_result
from PIL import Image

from alexnet.dataset import Dataset
from alexnet.doctor import diagnose
from alexnet.errors import DataError, StorageError
from alexnet.prepare import PrepareReport, prepare_dataset

SIZE = 8
RED, BLUE = 0, 2
"""The bright channel of all images of a class; it reveals a wrong label."""


def coloured(channel: int, seed: int) -> Pixels:
    image = picture(seed, 24, 30) // 4
    image[..., channel] += 160
    return image


def photos(count: int) -> dict[str, bytes]:
    """Make photographs of two classes that differ clearly."""
    return {
        f"{name}/{number}.jpg": encode(coloured(channel, 10 * number + channel), quality=90)
        for name, channel in (("blue", BLUE), ("red", RED))
        for number in range(count)
    }


def prepare(source: Path, out: Path, **options: object) -> PrepareReport:
    return prepare_dataset(source, out, size=SIZE, workers=1, val_fraction=0, **options)  # type: ignore[arg-type]


def check_labels(folder: Path) -> int:
    """Check that every stored image has the colour of its class."""
    dataset = Dataset(folder)
    split = dataset.split("train")
    means = split.read(range(len(split))).mean((1, 2))
    brightest = [("red", "", "blue")[channel] for channel in means.argmax(1)]
    assert brightest == [dataset.classes[label] for label in split.labels]
    return len(split)


@pytest.mark.fault(40)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_cut_anywhere_never_becomes_a_data_set(tmp_path: Path, mode: str) -> None:
    whole = write_tar(tmp_path / "whole.tar", photos(2), mode).read_bytes()
    refused, cut = 0, tmp_path / "cut.tar"
    lengths = np.linspace(1, min(len(whole.rstrip(b"\0")) + 900, len(whole) - 1), 20).astype(int)
    for length in lengths:
        cut.write_bytes(whole[:length])
        out = tmp_path / f"out-{length}"
        with suppress(DataError):
            prepare(cut, out)
        if out.exists():  # the zeros at the end of a tar are not needed
            assert mode == "w"
            assert not whole[length:].strip(b"\0")
            assert check_labels(out) == 4
        else:
            refused += 1
    assert refused >= 18


@pytest.mark.fault(43)
@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_damaged_photographs_are_counted_and_cost_no_label(tmp_path: Path, store: str) -> None:
    files = photos(40)
    damaged = mutations(list(files.values())[:1], 3, text=False)
    names = sorted(files)[::3]
    for name in names:  # damage a third of them in many ways
        files[name] = next(damaged)
    write_tree(tmp_path / "source", files)
    report = prepare(tmp_path / "source", tmp_path / "out", store=store, max_rejects=40)
    lines = (tmp_path / "out/rejects.jsonl").read_text().splitlines()
    rejects = [json.loads(line) for line in lines]
    assert {reject["name"] for reject in rejects} <= set(names)
    assert all(reject["name"].startswith(reject["class"] + "/") for reject in rejects)
    assert 5 < report.rejects == len(rejects)
    dataset = Dataset(tmp_path / "out")
    split = dataset.split("train")
    assert len(split) + len(rejects) == len(files)
    stored = [split.name(number) for number in range(len(split))]
    assert set(stored) == set(files) - {reject["name"] for reject in rejects}
    good = [number for number, name in enumerate(stored) if name not in names]
    means = split.read(good).mean((1, 2)).argmax(1)
    assert [("red", "", "blue")[channel] for channel in means] == [
        dataset.classes[split.labels[number]] for number in good
    ]
    assert diagnose(tmp_path / "out").sound


@pytest.mark.fault(44)
def test_every_kind_of_file_under_any_name_gives_its_pixels(tmp_path: Path) -> None:
    """As in ImageNet: a PNG named .JPEG, CMYK, grey and palettes among ordinary files."""
    red, blue = (Image.fromarray(coloured(channel, 5)) for channel in (RED, BLUE))
    kinds = {
        "n02105855_2933.JPEG": ("RGBA", "PNG", {}),
        "n01739381_1309.JPEG": ("CMYK", "JPEG", {"quality": 95}),
        "progressive.jpg": ("RGB", "JPEG", {"progressive": True}),
        "palette.bmp": ("P", "PNG", {}),
        "moving.jpg": ("P", "GIF", {}),
        "web": ("RGB", "WEBP", {}),
        "bits.gif": ("RGB", "BMP", {}),
    }
    files = {
        f"{label}/{name}": encode(image.convert(mode), kind, **options)  # type: ignore[arg-type]
        for label, image in (("red", red), ("blue", blue))
        for name, (mode, kind, options) in kinds.items()
    }
    write_tree(tmp_path / "source", files)
    assert prepare(tmp_path / "source", tmp_path / "out").rejects == 0
    assert check_labels(tmp_path / "out") == len(files)


ODD = {
    "spaces": "my photos of  pets",
    "unicode": "Füße-写真-🐈",
    "newline": "two\nlines",
    "quotes": 'it\'s "quoted" $HOME `x` %s {0}',
    "dash": "-rf",
    "dots": "...",
    "long": "l" * 240,
}


@pytest.mark.fault(54)
@pytest.mark.parametrize("name", ODD)
def test_odd_names_of_folders_classes_and_files(tmp_path: Path, name: str) -> None:
    odd = ODD[name]
    label = f"c{odd}"  # a leading dot would hide it
    source = write_tree(tmp_path / odd / "in", tree({label: 2, "other": 2}))
    (source / label / f"i{odd}"[:250]).write_bytes(encode(picture(9)))
    out = tmp_path / odd / f"o{odd}"
    prepare(source, out)
    dataset = Dataset(out)
    assert dataset.classes == sorted([label, "other"])
    names = [dataset.split("train").name(number) for number in range(5)]
    assert f"{label}/i{odd}"[: len(label) + 251] in names
    assert diagnose(out).sound


@pytest.mark.fault(54)
def test_a_name_that_leaves_no_room_for_the_unfinished_one(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "in", tree({"a": 2, "b": 2}))
    with pytest.raises(StorageError, match="File name too long") as caught:
        prepare(source, tmp_path / ("o" * 250))
    assert caught.value.exit_code == 6
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.fault(41)
@in_soak
def test_killed_at_any_time_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """Kill the command after random times and repeat it until it is finished; many times."""
    script = (
        "import sys, alexnet.prepare as p\n"
        "p.IMAGES_PER_SHARD = 8\n"
        "p.prepare_dataset('in', sys.argv[1], size=32, workers=1, store='jpeg')\n"
    )
    (tmp_path / "driver.py").write_text(script)
    write_tree(tmp_path / "in", tree({"a": 60, "b": 60}))
    command = [sys.executable, "driver.py"]
    began = time.monotonic()
    subprocess.run([*command, "whole"], cwd=tmp_path, check=True)
    duration, kills, rounds = time.monotonic() - began, 0, 0
    until = began + 0.1 * SOAK_SECONDS
    rng = random.Random(time.time_ns())
    while rounds < 2 or time.monotonic() < until:
        out = tmp_path / f"out-{rounds}"
        while not out.exists():
            process = subprocess.Popen([*command, out.name], cwd=tmp_path)
            try:
                process.wait(rng.uniform(0.3 * duration, 1.1 * duration))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        assert content(out) == content(tmp_path / "whole")
        rounds += 1
    counts = {"kills": kills, "data_sets": rounds, "different": 0}
    write_soak_result("prepare_kills.json", counts)


@pytest.mark.fault(49)
def test_classes_keep_their_numbers_whatever_lies_between_them(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", photos(3))
    prepare(source, tmp_path / "before")
    write_tree(
        source, {".hidden/x.jpg": b"", "__MACOSX/x.jpg": b"", "notes.txt": b"", "red/n.txt": b""}
    )
    (source / "red/loop").symlink_to(source)
    (source / "blue/gone.jpg").symlink_to(source / "nowhere")
    report = prepare(source, tmp_path / "after", progress=Recorder())
    assert report.rejects == 1
    before, after = Dataset(tmp_path / "before"), Dataset(tmp_path / "after")
    assert before.classes == after.classes
    assert before.fingerprint == after.fingerprint


@pytest.mark.fault(50)
def test_the_same_labels_whatever_the_ends_of_lines(tmp_path: Path) -> None:
    """CIFAR-10's class names with the line ends of other systems."""
    files = cifar_binary_files(2)
    meta = "cifar-10-batches-bin/batches.meta.txt"
    found = set()
    for number, text in enumerate((files[meta], files[meta].replace(b"\n", b"\r\n"))):
        archive = write_tar(tmp_path / f"{number}.tar", files | {meta: text})
        prepare(archive, tmp_path / f"out{number}")
        found.add(Dataset(tmp_path / f"out{number}").fingerprint)
    assert len(found) == 1


@pytest.mark.fault(52)
def test_labels_that_were_exchanged_are_found(tmp_path: Path) -> None:
    """Exchange two labels: all counts are right, but not the digest of the file."""
    out = tmp_path / "out"
    prepare(write_tree(tmp_path / "source", photos(3)), out)
    path = out / "train-labels.npy"
    labels = np.load(path)
    labels[[0, -1]] = labels[[-1, 0]]
    file = io.BytesIO()
    np.save(file, labels)
    assert len(file.getvalue()) == path.stat().st_size
    path.write_bytes(file.getvalue())
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    diagnosis = diagnose(out)
    assert diagnosis.exit_code == 3
    assert any(digest in example for f in diagnosis.findings for example in f.examples)
    with pytest.raises(DataError, match=r"train-labels\.npy: changed"):
        Dataset(out).verify()
