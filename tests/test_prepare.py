"""Preparing a data set: compared with Pillow, numpy and tarfile, and killed at any point."""

import errno
import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from data_makers import (
    Deadly,
    Drawn,
    Recorder,
    cifar_binary_files,
    cifar_python_files,
    content,
    encode,
    load_script,
    photo,
    picture,
    tree,
    write_tar,
    write_tree,
)
from PIL import Image

import alexnet.prepare
import alexnet.prepare.workers
from alexnet.cli import main
from alexnet.dataset import Dataset
from alexnet.errors import AlexnetError, DataError, StorageError, UsageError, WorkerError
from alexnet.images.decode import decode_jpeg, encode_jpeg
from alexnet.prepare import PrepareReport, prepare_dataset
from alexnet.prepare.shards import ShardTask, write_shard
from alexnet.prepare.sources.base import Item, Listing, Source
from alexnet.prepare.splits import plan_splits
from alexnet.prepare.statistics import ColorSums
from alexnet.prepare.workspace import open_workspace

SIZE = 16
SLOW = pytest.mark.slow
SPLIT_TREE = {"train/cat": 9, "train/dog": 6, "val/cat": 2, "val/dog": 3, "test/cat": 2}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a few images fill several shards."""
    monkeypatch.setattr(alexnet.prepare, "IMAGES_PER_SHARD", 4)


def prepare(source: Path | Source, out: Path, **options: Any) -> PrepareReport:
    return prepare_dataset(source, out, **({"size": SIZE, "workers": 1} | options))


def square_by_pillow(data: bytes) -> Any:
    """Scale the shorter side to SIZE and crop the centre, with Pillow alone, in one step."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.array(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box))


def all_images(dataset: Dataset, split: str) -> Any:
    found = dataset.split(split)
    return found.read(range(len(found)))


# The data set.


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_images_labels_and_names(tmp_path: Path, store: str) -> None:
    files = tree(SPLIT_TREE)
    report = prepare(write_tree(tmp_path / "pets", files), tmp_path / "out", store=store)
    dataset = Dataset(tmp_path / "out")
    dataset.verify()
    assert dataset.classes == dataset.titles == ["cat", "dog"]
    assert dataset.split_names == ["train", "val", "test"]
    for split_name in dataset.split_names:
        split = dataset.split(split_name)
        names = sorted(name for name in files if name.startswith(split_name))
        assert [split.name(i) for i in range(len(split))] == names
        assert split.labels.tolist() == ["/dog/" in name for name in names]
        expected = [square_by_pillow(files[name]) for name in names]
        if store == "jpeg":
            expected = [decode_jpeg(encode_jpeg(pixels)) for pixels in expected]
        np.testing.assert_array_equal(all_images(dataset, split_name), expected)
    assert report.splits == {
        "train": {"images": 15, "per_class": [9, 6]},
        "val": {"images": 5, "per_class": [2, 3]},
        "test": {"images": 2, "per_class": [2, 0]},
    }
    assert report.bytes == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    as_json = json.loads(json.dumps(report.as_json()))
    assert as_json["classes"] == ["cat", "dog"]
    assert (as_json["rejects"], as_json["ignored"]) == (0, 0)
    assert as_json["images_per_second"] > 0
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]


def test_statistics_are_those_of_all_training_pixels(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", tree(SPLIT_TREE))
    for store in ("raw", "jpeg"):
        prepare(tmp_path / "pets", tmp_path / store, store=store)
        dataset = Dataset(tmp_path / store)
        images = all_images(dataset, "train").astype(np.float64)
        np.testing.assert_array_equal(dataset.mean_image, images.mean(0).astype(np.float32))
        assert dataset.mean_image.dtype == np.float32
        covariance = np.cov(images.reshape(-1, 3).T, bias=True)
        deviations, vectors = dataset.color_std, dataset.color_vectors
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-7)
        np.testing.assert_allclose(vectors * deviations**2 @ vectors.T, covariance, rtol=1e-6)
        assert sorted(deviations) == deviations.tolist()
        assert (vectors[np.abs(vectors).argmax(0), range(3)] > 0).all()


def test_sums_stay_exact_where_floats_would_not() -> None:
    """The variance of very many, nearly equal bright pixels is a small difference of sums."""
    sums = ColorSums.empty(2)
    image = np.full((2, 2, 3), 255, np.uint8)
    image[0, 0] = 254
    sums.add(image)
    for _ in range(25):
        sums.add_sums(ColorSums(sums.images, sums.values.copy(), sums.products.copy()))
    deviations, _ = sums.principal_colors()
    np.testing.assert_allclose(deviations, [0, 0, (3 * 3 / 16) ** 0.5], atol=1e-8)
    assert sums.images == 2**25
    np.testing.assert_array_equal(sums.mean_image(), image)


def test_jpeg_shards_are_plain_tars_with_an_index(tmp_path: Path) -> None:
    long = "c" * 200
    files = tree({"train/cat": 5, f"train/{long}": 2, "train/dög": 3, "val/cat": 1})
    prepare(write_tree(tmp_path / "pets", files), tmp_path / "out", store="jpeg")
    info = json.loads((tmp_path / "out/dataset.json").read_text())
    split = info["splits"]["train"]
    index = np.load(tmp_path / "out/train-index.npy")
    assert [shard["images"] for shard in split["shards"]] == [4, 4, 2]
    names, row = [], 0
    for number, shard in enumerate(split["shards"]):
        with tarfile.open(tmp_path / "out" / shard["file"], "r:") as archive:
            for member in archive:
                assert index[row].tolist() == [number, member.offset_data, member.size]
                assert (member.mtime, member.uid, member.uname) == (0, 0, "")
                file = archive.extractfile(member)
                assert file is not None
                image = Image.open(file)
                assert (image.format, image.size) == ("JPEG", (SIZE, SIZE))
                expected = Dataset(tmp_path / "out").split("train").read([row])[0]
                np.testing.assert_array_equal(np.array(image), expected)
                names.append(member.name)
                row += 1
    classes = ["cat"] * 5 + [long] * 2 + ["dög"] * 3
    assert names == [f"{label}/{i:08d}.jpg" for i, label in enumerate(classes)]


@pytest.mark.fault(54)
def test_names_of_any_kind_come_back(tmp_path: Path) -> None:
    odd = [b"two\nlines.jpg", b"sp ace", b"\xff\xfe latin", "ü".encode(), b"x" * 255]
    folder = os.fsencode(tmp_path / "pets")
    for label in (b"a", b"b"):
        (tmp_path / "pets" / os.fsdecode(label)).mkdir(parents=True)
        for number, name in enumerate(odd):
            with open(b"/".join([folder, label, name]), "wb") as file:  # noqa: PTH123 - bytes
                file.write(photo(number))
    prepare(tmp_path / "pets", tmp_path / "out", val_fraction=0)
    split = Dataset(tmp_path / "out").split("train")
    names = [os.fsencode(split.name(i)) for i in range(10)]
    assert sorted(names) == sorted(
        b"/".join([label, name]) for label in (b"a", b"b") for name in odd
    )


@pytest.mark.parametrize("store", ["raw", pytest.param("jpeg", marks=SLOW)])
def test_any_number_of_workers_gives_the_same(tmp_path: Path, store: str) -> None:
    files = tree(SPLIT_TREE) | {"train/cat/bad.jpg": b"bad", "train/dog/bad.jpg": photo(1)[:99]}
    write_tree(tmp_path / "pets", files)
    recorder = Recorder()
    prepare(tmp_path / "pets", tmp_path / "one", store=store)
    prepare(tmp_path / "pets", tmp_path / "many", store=store, workers=3, progress=recorder)
    assert content(tmp_path / "one") == content(tmp_path / "many")
    total, *done = recorder.tasks["prepare"]
    assert sum(done) == total == len(files)
    assert multiprocessing.active_children() == []


def test_a_source_may_draw_its_images(tmp_path: Path) -> None:
    for workers in (1, 2):
        report = prepare(Drawn({"a": 6, "b": 5}), tmp_path / f"{workers}", workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "2")
    assert report.splits["val"]["per_class"] == [1, 1]
    dataset = Dataset(tmp_path / "1")
    assert dataset.titles == ["ants", "b"]
    assert dataset.info["provenance"]["source_kind"] == "drawn"
    split = dataset.split("train")
    seed = {f"a-{i:03d}": i for i in range(6)} | {f"b-{i:03d}": i + 6 for i in range(5)}
    for i in range(len(split)):
        expected = square_by_pillow(encode(picture(seed[split.name(i)]), "PNG"))
        np.testing.assert_array_equal(split.read([i])[0], expected)


def test_progress_notes_the_plan(tmp_path: Path) -> None:
    recorder = Recorder()
    prepare(write_tree(tmp_path / "p", tree({"a": 10, "b": 10})), tmp_path / "o", progress=recorder)
    assert recorder.notes[-1] == "2 classes; images: train 18, val 2 (drawn from train)"


def test_a_shard_is_never_whole_in_memory(tmp_path: Path) -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    source = Drawn({"a": 100})
    items = source.listing(Recorder()).items
    task = ShardTask("train-00000", items, 0, 64, "raw", tmp_path / "part")
    write_shard(source, task, lambda *_: None)  # load everything that is loaded once
    tracemalloc.start()
    try:
        result = write_shard(source, task, lambda *_: None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.bytes == 128 + 100 * 64 * 64 * 3
    assert peak < result.bytes / 2


# Splits.


def items(split: str = "", **counts: int) -> list[Item]:
    return [
        Item(split, label, f"{split}/{label}/{i}") for label, n in counts.items() for i in range(n)
    ]


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.1, [10, 2, 1, 1, 0]), (0.5, [50, 8, 2, 1, 0]), (0, None), (0.99, [99, 16, 3, 1, 0])],
)
def test_validation_is_drawn_from_every_class(fraction: float, expected: list[int] | None) -> None:
    found = items(a=100, b=17, c=4, d=2, e=1)
    plan = plan_splits(found, fraction, seed=0)
    val = Counter(found[i].label for i in plan.splits.get("val", []))
    assert expected is None or [val[label] for label in plan.classes] == expected
    assert ("val" in plan.splits) == (expected is not None)
    planned = [number for numbers in plan.splits.values() for number in numbers]
    assert sorted(planned) == list(range(len(found)))


def test_the_draw_depends_on_seed_and_name_only() -> None:
    few, more = items(a=40, b=40), items(b=40, a=40, c=9)

    def drawn(found: list[Item], seed: int) -> set[str]:
        return {found[i].name for i in plan_splits(found, 0.25, seed).splits["val"]}

    assert drawn(few, 0) == drawn(few[::-1], 0) < drawn(more, 0)
    assert drawn(few, 0) != drawn(few, 1)
    by_digest = sorted(  # written here again because it must never change
        (f"/a/{i}" for i in range(40)),
        key=lambda name: hashlib.sha256(f"0/'{name}'".encode()).hexdigest(),
    )
    assert {name for name in drawn(few, 0) if name.startswith("/a/")} == set(by_digest[:10])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["train", "val"], {"train": 20, "val": 20}),
        (["train", "test"], {"train": 18, "val": 2, "test": 20}),
        (["train"], {"train": 18, "val": 2}),
        (["val", "test"], {"val": 20, "test": 20}),
    ],
)
def test_given_splits_are_kept(given: list[str], expected: dict[str, int]) -> None:
    found = [item for split in given for item in items(split, a=10, b=10)]
    plan = plan_splits(found, 0.1, 0)
    assert {split: len(numbers) for split, numbers in plan.splits.items()} == expected
    for split in set(given) - {"train"}:
        assert {found[i].split for i in plan.splits[split]} == {split}


def test_classes_that_differ_between_splits() -> None:
    train = items("train", a=2, b=2, c=2)
    notes = plan_splits(train + items("val", b=1) + items("test", a=1, b=1, c=1), 0.1, 0).notes
    assert notes[0] == "val has no images of 2 classes: a, c"
    assert len(notes) == 2
    with pytest.raises(DataError, match="test has classes that train lacks: d, e"):
        plan_splits(train + items("test", d=1, a=1, e=1), 0.1, 0)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "no images"),
        (items(a=5), r"one class only \(a\)"),
        (items(a=2, b=2) + items(a=1), "train has '/a/0' twice"),
    ],
)
def test_lists_that_cannot_be_used(found: list[Item], message: str) -> None:
    with pytest.raises(DataError, match=message):
        plan_splits(found, 0.1, 0)


def test_a_data_set_for_evaluation_only(tmp_path: Path) -> None:
    recorder = Recorder()
    source = write_tree(tmp_path / "p", tree({"test/a": 3, "test/b": 2}))
    report = prepare(source, tmp_path / "o", progress=recorder)
    assert list(report.splits) == ["test"]
    assert any("no training images" in note for note in recorder.notes)
    dataset = Dataset(tmp_path / "o")
    images = all_images(dataset, "test")
    np.testing.assert_array_equal(dataset.mean_image, images.mean(0).astype(np.float32))


# Images that cannot be used.

BAD = {
    "train/cat/empty.jpg": (b"", "empty file"),
    "train/cat/text.jpg": (b"hello", "not a JPEG"),
    "train/dog/cut.jpg": (photo(3)[:200], "damaged"),
    "val/dog/large.png": (encode(np.zeros((1, 1, 3), np.uint8), "TIFF"), "not a JPEG"),
}


@pytest.mark.fault(43)
@pytest.mark.parametrize("workers", [1, 2])
def test_rejects_are_left_out_and_listed(tmp_path: Path, workers: int) -> None:
    good = tree(SPLIT_TREE)
    source = write_tree(tmp_path / "p", good | {name: data for name, (data, _) in BAD.items()})
    (source / "test/cat/gone.jpg").symlink_to(tmp_path / "nowhere")
    report = prepare(source, tmp_path / "o", workers=workers)
    lines = (tmp_path / "o/rejects.jsonl").read_text().splitlines()
    rejects = {reject.pop("name"): reject for reject in map(json.loads, lines)}
    assert set(rejects) == {*BAD, "test/cat/gone.jpg"}
    for name, (_, reason) in BAD.items():
        split, label, _ = name.split("/")
        assert rejects[name]["split"] == split
        assert rejects[name]["class"] == label
        assert reason in rejects[name]["reason"]
    assert rejects["test/cat/gone.jpg"]["reason"] == "cannot be read: No such file or directory"
    assert report.rejects == 5
    assert report.rejected == [json.loads(line) for line in lines]
    dataset = Dataset(tmp_path / "o")
    for split in dataset.split_names:
        names = sorted(name for name in good if name.startswith(split))
        assert [dataset.split(split).name(i) for i in range(len(names))] == names
        expected = [square_by_pillow(good[name]) for name in names]
        np.testing.assert_array_equal(all_images(dataset, split), expected)


def test_a_shard_of_rejects_only_leaves_no_file(tmp_path: Path) -> None:
    files = tree({"train/a": 12, "train/b": 4, "val/a": 1})
    for name in sorted(files)[4:8]:
        files[name] = b"bad"
    for store in ("raw", "jpeg"):
        source = write_tree(tmp_path / "p", files)
        prepare(source, tmp_path / store, store=store)
        dataset = Dataset(tmp_path / store)
        dataset.verify()
        shards = [shard["file"] for shard in dataset.info["splits"]["train"]["shards"]]
        end = {"raw": "npy", "jpeg": "tar"}[store]
        assert shards == [f"train-0000{i}.{end}" for i in (0, 2, 3)]
        assert not (tmp_path / store / f"train-00001.{end}").exists()
        assert all_images(dataset, "train").shape[0] == 12


@pytest.mark.fault(43)
def test_too_many_rejects_stop_and_can_be_allowed(tmp_path: Path) -> None:
    files = tree(SPLIT_TREE) | {name: data for name, (data, _) in BAD.items()}
    source = write_tree(tmp_path / "p", files)
    for workers in (1, 2):
        with pytest.raises(DataError, match=r"more than 3 images .*\.jpg: .*; .*; .*allow") as info:
            prepare(source, tmp_path / "o", max_rejects=3, workers=workers)
        assert info.value.exit_code == 3
        assert not (tmp_path / "o").exists()
    recorder = Recorder()
    report = prepare(source, tmp_path / "o", max_rejects=4, progress=recorder)
    assert report.rejects == 4
    assert recorder.tasks["prepare"][1] > 0  # the shards that were finished count already


def test_rejects_of_an_earlier_run_count(tmp_path: Path) -> None:
    files = tree(SPLIT_TREE) | {f"val/dog/{i}x.jpg": b"bad" for i in range(4)}
    source = write_tree(tmp_path / "p", files)
    with pytest.raises(DataError, match="more than 3"):
        prepare(source, tmp_path / "o", max_rejects=3)
    with pytest.raises(DataError, match="more than 0"):
        prepare(source, tmp_path / "o", max_rejects=0)


@pytest.mark.fault(43)
def test_imagenets_archives_allow_no_rejects(tmp_path: Path) -> None:
    files = {f"n0000000{c}_{i}.JPEG": photo(i) for c in (1, 2) for i in range(4)}
    files["n00000002_9.JPEG"] = b"bad"
    for c in (1, 2):
        part = {name: data for name, data in files.items() if name.startswith(f"n0000000{c}")}
        write_tar(tmp_path / f"n0000000{c}.tar", part)
    tars = {path.name: path.read_bytes() for path in sorted(tmp_path.glob("n*.tar"))}
    source = write_tar(tmp_path / "ILSVRC2012_img_train.tar", tars)
    with pytest.raises(DataError, match="more than 0 images"):
        prepare(source, tmp_path / "o")
    assert prepare(source, tmp_path / "o", max_rejects=1).rejects == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [("train/dog", "all training images of dog were rejected"), ("val/", "not one image of val")],
)
def test_a_class_or_split_that_loses_all_its_images(tmp_path: Path, bad: str, message: str) -> None:
    files = {n: b"x" if n.startswith(bad) else data for n, data in tree(SPLIT_TREE).items()}
    with pytest.raises(DataError, match=message):
        prepare(write_tree(tmp_path / "p", files), tmp_path / "o")
    assert not (tmp_path / "o").exists()


# Every kind of source gives the same data set.


def by_name(dataset: Dataset, split: str) -> dict[str, tuple[int, bytes]]:
    found = dataset.split(split)
    return {
        found.name(i): (int(found.labels[i]), found.read([i]).tobytes()) for i in range(len(found))
    }


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_imagenets_layout_gives_what_the_class_folders_give(tmp_path: Path, store: str) -> None:
    source = write_tree(tmp_path / "pets", tree(SPLIT_TREE | {"val/dog": 5, "val/cat": 4}))
    shutil.rmtree(source / "test")
    load_script("make_imagenet_layout").make_imagenet_layout(source, tmp_path / "imagenet")
    plain = prepare(source, tmp_path / "plain", store=store)
    report = prepare(tmp_path / "imagenet", tmp_path / "in", store=store)
    assert report.splits == plain.splits
    origins = json.loads((tmp_path / "imagenet/origins.json").read_text())
    one, other = Dataset(tmp_path / "in"), Dataset(tmp_path / "plain")
    assert one.titles == other.titles == ["cat", "dog"]
    assert one.classes == ["n01440764", "n01444863"]
    for split in ("train", "val"):
        found = {origins[name]: image for name, image in by_name(one, split).items()}
        assert found == by_name(other, split)
    np.testing.assert_array_equal(one.mean_image, other.mean_image)
    np.testing.assert_array_equal(one.color_std, other.color_std)


def test_folder_tar_and_archives_by_split_give_the_same(tmp_path: Path) -> None:
    files = tree(SPLIT_TREE)
    folder = write_tree(tmp_path / "pets", files)
    prefixed = {f"./pets/{name}": data for name, data in files.items()}
    tar = write_tar(tmp_path / "pets.tar", prefixed)
    packed = write_tar(tmp_path / "pets.tar.xz", prefixed, "w:xz")
    (tmp_path / "by-split").mkdir()
    for split in ("train", "val", "test"):
        part = {n.removeprefix(split): d for n, d in files.items() if n.startswith(split)}
        part = {f".{name}": data for name, data in part.items()}
        write_tar(tmp_path / f"by-split/{split}.tar.gz", part, "w:gz")
    fingerprints = set()
    for number, source in enumerate([folder, tar, packed, tmp_path / "by-split"]):
        prepare(source, tmp_path / f"out{number}")
        fingerprints.add(Dataset(tmp_path / f"out{number}").fingerprint)
    assert len(fingerprints) == 1
    assert not list(tmp_path.glob("*.partial"))


def test_both_archives_of_cifar_give_the_same(tmp_path: Path) -> None:
    for name, files in [("py", cifar_python_files()), ("bin", cifar_binary_files())]:
        write_tar(tmp_path / f"{name}.tar.gz", files, "w:gz")
        prepare(tmp_path / f"{name}.tar.gz", tmp_path / name, size=32, workers=2)
    one, other = Dataset(tmp_path / "py"), Dataset(tmp_path / "bin")
    assert one.fingerprint == other.fingerprint
    assert {name: len(one.split(name)) for name in one.split_names} == {
        "train": 27,
        "val": 3,
        "test": 6,
    }


# Stopped and continued.

DRIVER = """
import os, resource, signal, sys
import alexnet.prepare
from alexnet.errors import AlexnetError
from alexnet.prepare import shards, workspace
from alexnet.prepare.workspace import Workspace

alexnet.prepare.IMAGES_PER_SHARD = 4
source, out, workers, point, count = sys.argv[1:]


def die_at(owner, name):
    left, original = [int(count)], getattr(owner, name)

    def deadly(*arguments, **options):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, deadly)


if __name__ == "__main__":
    owners = {
        "part": (shards, "sync"),                    # a shard is written, not yet on the disk
        "add": (Workspace, "add"),                   # it is, but not in data/
        "save": (shards.ShardResult, "save"),        # in data/, without its result
        "begin": (Workspace, "begin"),
        "array": (Workspace, "write_array"),         # among labels and statistics
        "write": (Workspace, "write"),
        "publish": (Workspace, "publish"),           # all is there but the rename
        "clean": (workspace, "flush"),               # at its second call, after the rename
    }
    if point == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(count), resource.RLIM_INFINITY))
    elif point != "none":
        die_at(*owners[point])
    try:
        alexnet.prepare.prepare_dataset(source, out, size=16, workers=int(workers))
    except AlexnetError as error:
        print(type(error).__name__, error)
        sys.exit(error.exit_code)
"""


def drive(folder: Path, point: str, count: int = 1, workers: int = 1) -> "subprocess.Popen[str]":
    (folder / "driver.py").write_text(DRIVER)
    arguments = [folder / "pets", folder / "out", workers, point, count]
    command = [sys.executable, "driver.py", *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with pets/, some images bad, and the data set of an undisturbed prepare."""
    folder = tmp_path_factory.mktemp("clean")
    files = tree(SPLIT_TREE) | {name: data for name, (data, _) in BAD.items()}
    write_tree(folder / "pets", files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alexnet.prepare, "IMAGES_PER_SHARD", 4)
        prepare(folder / "pets", folder / "undisturbed")
    return folder


@pytest.fixture
def folder(clean: Path) -> Iterator[Path]:
    yield clean
    for path in clean.glob("out*"):
        shutil.rmtree(path)


def check_resumed(folder: Path, **options: Any) -> Recorder:
    recorder = Recorder()
    prepare(folder / "pets", folder / "out", progress=recorder, **options)
    assert content(folder / "out") == content(folder / "undisturbed")
    assert not (folder / "out.partial").exists()
    return recorder


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    ("point", "count", "kept"),
    [
        ("begin", 1, 0),
        ("part", 1, 0),
        ("part", 4, 4),
        ("add", 3, 8),
        ("save", 3, 8),
        ("array", 2, 26),
        ("write", 3, 26),
        ("publish", 1, 26),
    ],
)
def test_killed_anywhere_it_continues_to_the_same_bytes(
    folder: Path, point: str, count: int, kept: int
) -> None:
    process = drive(folder, point, count)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "out").exists()
    recorder = check_resumed(folder)
    assert recorder.tasks["prepare"][1] == kept
    assert not any("from the beginning" in note for note in recorder.notes)


@pytest.mark.fault(41)
def test_killed_after_the_rename_the_data_set_is_whole(folder: Path) -> None:
    process = drive(folder, "clean", 2)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert content(folder / "out") == content(folder / "undisturbed")
    with pytest.raises(UsageError, match="is a finished data set"):
        prepare(folder / "pets", folder / "out")


@pytest.mark.fault(41)
@pytest.mark.parametrize("shards", [0, pytest.param(1, marks=SLOW), pytest.param(3, marks=SLOW)])
def test_killed_from_outside_with_its_workers_at_work(folder: Path, shards: int) -> None:
    process = drive(folder, "none", workers=2)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        finished = len(list((folder / "out.partial").glob("*.npz")))
        if (folder / "out.partial/plan.json").exists() and finished >= shards:
            break
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=60)
    if not (folder / "out").exists():  # prepare may have finished before the kill
        check_resumed(folder, workers=2)
    assert content(folder / "out") == content(folder / "undisturbed")


def stopped(folder: Path) -> Path:
    """Leave a prepare of `folder` that was killed after three shards."""
    with pytest.MonkeyPatch.context() as patch:
        calls = iter([None, None, None])
        add = alexnet.prepare.workspace.Workspace.add

        def add_three(self: Any, result: Any) -> None:
            if next(calls, "end") == "end":
                raise KeyboardInterrupt
            add(self, result)

        patch.setattr(alexnet.prepare.workspace.Workspace, "add", add_three)
        with pytest.raises(KeyboardInterrupt):
            prepare(folder / "pets", folder / "out")
    return folder / "out.partial"


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    "damage", ["cut shard", "flipped bit", "no shard", "cut result", "empty result", "stray part"]
)
def test_finished_shards_are_checked_before_they_are_kept(folder: Path, damage: str) -> None:
    partial = stopped(folder)
    shard, result = partial / "data/train-00001.npy", partial / "train-00001.npz"
    if damage == "cut shard":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "flipped bit":
        shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    elif damage == "no shard":
        shard.unlink()
    elif damage == "cut result":
        result.write_bytes(result.read_bytes()[:-100])
    elif damage == "empty result":
        result.write_bytes(b"")
    else:
        (partial / "train-00001.77.part").write_bytes(b"of a process that was killed")
    recorder = check_resumed(folder)
    assert recorder.tasks["prepare"][1] == (12 if damage == "stray part" else 8)


@pytest.mark.parametrize("change", ["option", "source", "plan cut"])
def test_another_plan_starts_from_the_beginning_and_says_so(folder: Path, change: str) -> None:
    partial = stopped(folder)
    extra = folder / "pets/train/cat/new.jpg"
    options: dict[str, Any] = {}
    if change == "option":
        options = {"store": "jpeg"}
    elif change == "source":
        extra.write_bytes(photo(5))
    else:
        (partial / "plan.json").write_text('{"finger')
    recorder = Recorder()
    try:
        prepare(folder / "pets", folder / "out", progress=recorder, **options)
        prepare(folder / "pets", folder / "out-clean", **options)
    finally:
        extra.unlink(missing_ok=True)
    assert recorder.tasks["prepare"][1] == 0
    assert any("from the beginning" in note for note in recorder.notes)
    assert content(folder / "out") == content(folder / "out-clean")


class Interrupting(Recorder):
    """Presses Ctrl-C while the second shard is written."""

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Any]:
        left = [6]

        def advance(count: int, text: str = "") -> None:
            left[0] -= count
            if left[0] < 0:
                raise KeyboardInterrupt

        yield advance


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_what_can_be_continued_and_says_so(folder: Path, workers: int) -> None:
    interrupting = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        prepare(folder / "pets", folder / "out", workers=workers, progress=interrupting)
    assert interrupting.notes[-1] == (
        f"finished work is saved in {folder / 'out.partial'}; the same command continues it"
    )
    assert multiprocessing.active_children() == []
    assert not (folder / "out").exists()
    check_resumed(folder)


# Workers that die, disks that are full, folders that exist.


@pytest.mark.fault(27)
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("kill", r"worker process \d+ was killed by SIGKILL; .*\(shard train-00001\)"),
        pytest.param("exit", r"ended with status 3.*\(shard train-00001\)", marks=SLOW),
        pytest.param(
            "raise",
            r"shard train-00001: ZeroDivisionError\('a mistake in the source'\)",
            marks=SLOW,
        ),
    ],
)
def test_a_dead_worker_is_named_with_its_shard(tmp_path: Path, how: str, message: str) -> None:
    fuse = tmp_path / "fuse"
    fuse.touch()
    source = Deadly({"a": 9, "b": 7}, fuse=fuse, how=how)
    with pytest.raises(WorkerError, match=message) as info:
        prepare(source, tmp_path / "o", workers=2, val_fraction=0)
    assert info.value.exit_code == 7
    assert multiprocessing.active_children() == []
    prepare(source, tmp_path / "o", workers=2, val_fraction=0)
    prepare(Drawn(source.counts), tmp_path / "clean", val_fraction=0)
    assert Dataset(tmp_path / "o").fingerprint == Dataset(tmp_path / "clean").fingerprint


def test_no_more_workers_than_this_process_has_cores() -> None:
    assert 1 <= alexnet.loader.available_cores() <= (os.cpu_count() or 1)


def test_the_messages_of_a_worker(tmp_path: Path) -> None:
    """Run the loop of a worker in this process: a shard, two errors, and the end of the tasks."""
    source = Deadly({"a": 9}, fuse=tmp_path / "fuse", how="raise")
    found = source.listing(Recorder()).items
    inbox, questions = multiprocessing.Pipe(duplex=False)
    answers, outbox = multiprocessing.Pipe(duplex=False)
    source.fuse.touch()
    with inbox, answers, outbox:
        with questions:
            for part in ("part", "part", "no folder/part"):
                questions.send(ShardTask("train-00000", found, 0, SIZE, "raw", tmp_path / part))
        line: Any = SimpleNamespace(recv=inbox.recv, send=outbox.send)
        before = signal.getsignal(signal.SIGINT)
        try:
            alexnet.prepare.workers._serve(line, source)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        finally:
            signal.signal(signal.SIGINT, before)
        mistake, news, shard, no_folder = (answers.recv() for _ in range(4))
    assert isinstance(mistake, WorkerError)
    assert news == (9, [])
    assert shard.accepted.tolist() == list(range(9))
    assert isinstance(no_folder, StorageError)


def test_a_script_without_a_main_guard_gets_a_clear_error(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", tree({"a": 5, "b": 5}))
    lines = [
        "import alexnet.prepare",
        "alexnet.prepare.IMAGES_PER_SHARD = 4",
        "alexnet.prepare.prepare_dataset('pets', 'out', size=8, workers=2)",
    ]
    (tmp_path / "script.py").write_text("\n".join(lines))
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 'under if __name__ == "__main__":' in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.fault(54)
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=SLOW)])
def test_a_file_size_limit_or_full_disk_in_the_middle(folder: Path, workers: int) -> None:
    process = drive(folder, "limit", 3000, workers)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == StorageError.exit_code
    assert "StorageError" in output
    assert "File too large" in output
    check_resumed(folder)


@pytest.mark.fault(54)
def test_no_space_while_the_last_files_are_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "mean_image.npy")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(StorageError, match=r"mean_image\.npy: No space left on device"):
            prepare(folder / "pets", folder / "out")
    check_resumed(folder)


@pytest.mark.fault(54)
def test_space_is_checked_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_tree(tmp_path / "p", tree({"a": 3, "b": 3}))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(StorageError, match=r'0\.0 GB free; store="jpeg" needs about 0\.0 GB'):
        prepare(source, tmp_path / "o", size=256)
    with pytest.raises(StorageError, match=r"about 0\.1 GB needed") as info:
        prepare(source, tmp_path / "o", size=4096, store="jpeg")
    assert "store=" not in str(info.value)
    prepare(source, tmp_path / "o", size=128)


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "p", tree({"a": 3, "b": 3}))
    prepare(source, tmp_path / "o")
    before = content(tmp_path / "o")
    with pytest.raises(UsageError, match="is a finished data set"):
        prepare(source, tmp_path / "o")
    assert content(tmp_path / "o") == before
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="exists and is not a data set"):
        prepare(source, tmp_path / "other")
    with pytest.raises(UsageError, match="lies inside"):
        prepare(source, source / "packed")
    assert not list(tmp_path.rglob("*.partial"))


def test_two_at_once_on_one_folder(folder: Path) -> None:
    with (
        open_workspace(folder / "out"),
        pytest.raises(UsageError, match="another prepare is working"),
    ):
        prepare(folder / "pets", folder / "out")
    assert not (folder / "out.partial").exists()
    prepare(folder / "pets", folder / "out")
    with pytest.raises(UsageError, match="finished"), open_workspace(folder / "out"):
        pass


FOREIGN: dict[str, dict[str, bytes]] = {
    "photographs": {"data/holiday.jpg": b"x", "more.npz": b"x", "old.part": b"x"},
    "its own plan": {"plan.json": b'{"goals": 3}', "data/x": b"x"},
    "its own lock": {"lock": b"combination 1-2-3"},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_folder_called_partial_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    source = write_tree(tmp_path / "p", tree({"a": 3, "b": 3}))
    foreign = write_tree(tmp_path / "o.partial", FOREIGN[kind])
    with pytest.raises(
        UsageError, match=r"o\.partial, needed for unfinished work, holds .*move it"
    ):
        prepare(source, tmp_path / "o")
    files = {path.relative_to(foreign).as_posix(): path for path in foreign.rglob("*")}
    files = {name: path for name, path in files.items() if path.is_file()}
    assert {name: path.read_bytes() for name, path in files.items()} == FOREIGN[kind]
    assert not (tmp_path / "o").exists()
    (tmp_path / "q.partial").write_text("a file")
    with pytest.raises(UsageError, match=r"q\.partial, .* is no folder"):
        prepare(source, tmp_path / "q")


def test_what_others_put_into_our_unfinished_folder_stays(folder: Path) -> None:
    partial = stopped(folder)
    (partial / "notes.txt").write_text("mine")
    prepare(folder / "pets", folder / "out", store="jpeg")  # another plan starts again
    assert [path.name for path in partial.iterdir()] == ["notes.txt"]


@pytest.mark.fault(41)
def test_killed_while_an_archive_is_unpacked_it_starts_again(folder: Path) -> None:
    with open_workspace(folder / "out") as workspace:
        workspace.unpacked.mkdir()
        (workspace.unpacked / "x.tar").write_bytes(b"half")
        shutil.copytree(workspace.folder, folder / "out2.partial")
    (folder / "out2.partial").rename(folder / "out.partial")
    recorder = check_resumed(folder)
    assert not any("from the beginning" in note for note in recorder.notes)


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "home/p", tree({"a": 3, "b": 3}))
    report = prepare_dataset("~/p", "~/o", size=SIZE, workers=1)
    assert report.out == str(tmp_path / "home/o")
    prepare(Path("~/p"), Path("~/q"))
    with pytest.raises(UsageError, match="home/none: no such file"):
        prepare_dataset("~/p", "~/r", devkit="~/none")
    assert {path.name for path in (tmp_path / "home").glob("[!.]*")} == {"p", "o", "q"}
    assert not (tmp_path / "~").exists()


PROGRAM = """
import alexnet.prepare
from alexnet.progress import Silent

class Notes(Silent):
    def note(self, message):
        print(message)

alexnet.prepare.IMAGES_PER_SHARD = 4
alexnet.prepare.prepare_dataset('pets', 'out', size=8, workers=2, progress=Notes())
"""


@pytest.mark.parametrize("how", ["-", "-c"])
def test_a_program_from_standard_input_can_prepare(tmp_path: Path, how: str) -> None:
    write_tree(tmp_path / "pets", tree({"a": 5, "b": 5}))
    command = [sys.executable, "-", "x"] if how == "-" else [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, input=PROGRAM, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ("one process does the work" in done.stdout) == (how == "-")
    assert len(Dataset(tmp_path / "out").split("train")) == 8


@pytest.mark.parametrize(
    ("splits", "options", "expected"),
    [
        ({"": 4}, [], "train DATA RUN"),
        ({"": 4}, ["--val-fraction", "0"], "train DATA RUN"),
        ({"val/": 2, "test/": 2}, [], "evaluate RUN DATA"),
        ({"test/": 2}, [], "evaluate RUN DATA --split test"),
    ],
)
def test_the_next_command_fits_the_splits(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    splits: dict[str, int],
    options: list[str],
    expected: str,
) -> None:
    counts = {f"{split}{label}": n for split, n in splits.items() for label in ("a", "b")}
    source, out = write_tree(tmp_path / "p", tree(counts)), tmp_path / "o"
    options = ["--size", "8", "--workers", "1", *options]
    assert main(["prepare", str(source), str(out), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"next: alexnet {expected}".replace("DATA", str(out))
    assert f"classes: a {sum(splits.values())}, b {sum(splits.values())}" in lines


def test_the_first_classes_are_shown_and_all_are_counted_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {f"class{number:02d}": 2 + number % 2 for number in range(12)}
    source = str(write_tree(tmp_path / "p", tree(counts)))
    options = ["--size", "8", "--workers", "1"]
    assert main(["prepare", source, str(tmp_path / "o"), *options]) == 0
    out = capsys.readouterr().out
    assert "\nclasses: class00 2, class01 3, class02 2," in out
    assert "class09 3, ... and 2 more\n" in out
    assert main(["prepare", source, str(tmp_path / "j"), "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["class_images"] == counts


def test_rejects_that_end_a_prepare_name_the_option(tmp_path: Path) -> None:
    files = tree({"a": 3, "b": 3}) | {"a/bad.jpg": b"x"}
    with pytest.raises(DataError, match="--max-rejects N"):
        prepare(write_tree(tmp_path / "p", files), tmp_path / "o", max_rejects=0)


@pytest.mark.fault(54)
def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "p", tree({"a": 3, "b": 3}))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"file/o\.partial: Not a directory") as info:
        prepare(source, tmp_path / "file/o")
    assert info.value.exit_code == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size 0"),
        ({"size": 5000}, "size 5000"),
        ({"store": "png"}, "store 'png': give raw or jpeg"),
        ({"val_fraction": 1.0}, "val_fraction 1.0"),
        ({"val_fraction": -0.1}, "val_fraction -0.1"),
        ({"workers": 0}, "workers 0"),
        ({"max_rejects": -1}, "max_rejects -1"),
    ],
)
def test_wrong_options_are_refused(
    tmp_path: Path, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        prepare(Drawn({"a": 3, "b": 3}), tmp_path / "o", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(40)
@pytest.mark.parametrize(
    ("files", "error"),
    [({"a/1.jpg": photo(0)}, DataError), (None, UsageError), ({"x.txt": b""}, DataError)],
)
def test_a_source_that_cannot_be_read_leaves_nothing(
    tmp_path: Path, files: dict[str, bytes] | None, error: type[AlexnetError]
) -> None:
    if files:
        write_tree(tmp_path / "p", files)
    with pytest.raises(error):
        prepare(tmp_path / "p", tmp_path / "o")
    assert [path.name for path in tmp_path.iterdir()] == (["p"] if files else [])


def test_decompressed_archives_are_deleted_after_a_failure_too(tmp_path: Path) -> None:
    files = tree({"a": 3, "b": 3}) | {"a/bad.jpg": b"bad"}
    source = write_tar(tmp_path / "p.tar.gz", files, "w:gz")
    with pytest.raises(DataError, match="more than 0"):
        prepare(source, tmp_path / "o", max_rejects=0)
    assert not (tmp_path / "o.partial/unpacked").exists()
    recorder = Recorder()
    assert prepare(source, tmp_path / "o", progress=recorder).rejects == 1
    assert not any("from the beginning" in note for note in recorder.notes)


def test_the_listing_of_a_source_decides_the_default_of_rejects(tmp_path: Path) -> None:
    class Strict(Drawn):
        def listing(self, progress: Any) -> Listing:
            found = super().listing(progress)
            return Listing(found.items, max_rejects=0)

        def read(self, item: Item) -> Any:
            return b"" if item.at[0] == 1 else super().read(item)

    with pytest.raises(DataError, match="more than 0 images"):
        prepare(Strict({"a": 3, "b": 3}), tmp_path / "o")


def test_the_lines_of_the_document_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = Path(__file__).parents[1] / "docs/prepare.md"
    (block,) = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "pets", tree({"cat": 10, "dog": 10}))
    exec(block, {})
    assert capsys.readouterr().out == "18 0\n"


def test_the_comparison_of_the_recorded_result_finds_differences(tmp_path: Path) -> None:
    load_script("make_imagenet_layout")
    compare = load_script("check_imagenet_layout").compare
    for number in (0, 1):
        files = tree({"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 1}, seed=number)
        files |= {"val/a/0.jpg": photo(5), "train/b/2.jpg": photo(6)}  # the same in both
        prepare(write_tree(tmp_path / f"p{number}", files), tmp_path / f"o{number}")
    one, other = Dataset(tmp_path / "o0"), Dataset(tmp_path / "o1")
    origins = {name: name for split in ("train", "val") for name in by_name(one, split)}
    same = compare(one, one, origins)
    assert (same["images"], same["labels_that_differ"], same["pixels_that_differ"]) == (9, 0, 0)
    assert same["mean_image_equal"]
    found = compare(one, other, origins)
    assert 6 * SIZE**2 < found["pixels_that_differ"] <= 7 * SIZE**2
    assert not found["mean_image_equal"]
    origins["val/a/0.jpg"], origins["val/b/0.jpg"] = "val/b/0.jpg", "val/a/0.jpg"
    assert compare(one, one, origins)["labels_that_differ"] == 2


def test_warp_keeps_the_whole_image(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, :20], wide[:, 40:] = (200, 0, 0), (0, 0, 200)  # red, black, blue from left to right
    for label in ("a", "b"):
        (tmp_path / "source" / "train" / label).mkdir(parents=True)
        Image.fromarray(wide).save(tmp_path / "source" / "train" / label / "wide.png")
    squares = {}
    for resize in ("short", "warp"):
        prepare(tmp_path / "source", tmp_path / resize, size=30, resize=resize, val_fraction=0)
        data = Dataset(tmp_path / resize)
        assert data.resize == resize
        squares[resize] = data.split("train").read([0])[0]
    assert (squares["short"][:, 3:-3] == 0).all()
    middle = squares["warp"][15].astype(int)
    assert abs(middle[3] - [200, 0, 0]).max() <= 1
    assert abs(middle[15]).max() <= 1
    assert abs(middle[26] - [0, 0, 200]).max() <= 1


def test_an_unknown_resize_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="resize 'stretch': give short or warp"):
        prepare(tmp_path, tmp_path / "o", resize="stretch")


def test_folders_called_by_wordnet_ids_get_imagenets_titles(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "p", tree({"n01440764": 2, "n01443537": 2, "other": 2}))
    prepare(source, tmp_path / "o")
    data = Dataset(tmp_path / "o")
    assert data.titles == ["tench, Tinca tinca", "goldfish, Carassius auratus", "other"]
