"""The packed data set: written here by hand with numpy, read by `Dataset`, and damaged."""

import hashlib
import io
import json
import re
import struct
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_makers import Pixels, Recorder, encode, load_script, picture, tree, write_tar, write_tree
from PIL import Image

from alexnet.config import Settings
from alexnet.dataset import Dataset
from alexnet.errors import DataError, UsageError
from alexnet.images import Orientation
from alexnet.prepare import prepare_dataset
from alexnet.train import train_model

DOCUMENT = Path(__file__).parents[1] / "docs/dataset.md"
SIZE = 8
NAMES = ["a/1", "a/ü\n2", "b/\udcff3", "b/4", "b/5"]
LABELS = [0, 0, 1, 1, 1]
IMAGES = np.stack([picture(seed, SIZE, SIZE) for seed in range(5)])


def entry(folder: Path, name: str, data: bytes, **more: Any) -> dict[str, Any]:
    (folder / name).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return {"file": name, "bytes": len(data), "sha256": digest, **more}


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def jpeg_tar(images: Pixels, first: int) -> tuple[bytes, list[tuple[int, int]]]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number, image in enumerate(images, first):
            info = tarfile.TarInfo(f"c/{number}.jpg")
            data = encode(image, quality=95)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        spans = [(info.offset_data, info.size) for info in archive]
    return out.getvalue(), spans


def write_dataset(folder: Path, store: str = "raw") -> Path:
    """Write five images in two shards as docs/dataset.md says, without the package."""
    folder.mkdir()
    shards, index = [], []
    for number, (first, last) in enumerate([(0, 3), (3, 5)]):
        part = IMAGES[first:last]
        if store == "raw":
            data, name = npy(part), f"train-{number:05d}.npy"
        else:
            data, spans = jpeg_tar(part, first)
            name = f"train-{number:05d}.tar"
            index += [(number, *span) for span in spans]
        shards.append(entry(folder, name, data, images=last - first))
    split = {
        "images": 5,
        "per_class": [2, 3],
        "labels": entry(folder, "train-labels.npy", npy(np.array(LABELS, np.int64))),
        "names": entry(
            folder, "train-names.txt", "".join(json.dumps(n) + "\n" for n in NAMES).encode()
        ),
        "shards": shards,
    }
    if store == "jpeg":
        split["index"] = entry(folder, "train-index.npy", npy(np.array(index, np.int64)))
    mean = IMAGES.mean(0).astype(np.float32)
    info = {
        "format": "alexnet-dataset",
        "version": 1,
        "size": SIZE,
        "store": store,
        "resize": "short",
        "classes": ["a", "b"],
        "titles": ["ants", "bees"],
        "splits": {"train": split},
        "mean_image": entry(folder, "mean_image.npy", npy(mean)),
        "color_std": [1.0, 2.0, 3.0],
        "color_vectors": np.eye(3).tolist(),
        "rejects": entry(folder, "rejects.jsonl", b"", count=0),
        "ignored": 0,
        "provenance": {},
        "fingerprint": "f" * 64,
    }
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_split(folder: Path, **changes: Any) -> None:
    info = json.loads((folder / "dataset.json").read_text())
    info["splits"]["train"] |= changes
    (folder / "dataset.json").write_text(json.dumps(info))


def test_a_data_set_written_by_hand_is_read(tmp_path: Path) -> None:
    dataset = Dataset(write_dataset(tmp_path / "d"))
    split = dataset.split("train")
    assert (dataset.size, dataset.store, dataset.split_names) == (SIZE, "raw", ["train"])
    assert (dataset.classes, dataset.titles) == (["a", "b"], ["ants", "bees"])
    assert dataset.fingerprint == "f" * 64
    assert len(split) == 5
    assert split.labels.tolist() == LABELS
    assert [split.name(i) for i in range(5)] == NAMES
    np.testing.assert_array_equal(split.read(range(5)), IMAGES)
    np.testing.assert_array_equal(dataset.mean_image, IMAGES.mean(0, dtype=np.float32))
    assert dataset.color_std.tolist() == [1, 2, 3]
    assert dataset.color_vectors.tolist() == np.eye(3).tolist()


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_images_come_in_the_order_asked_for(tmp_path: Path, store: str) -> None:
    split = Dataset(write_dataset(tmp_path / "d", store)).split("train")
    expected = IMAGES
    if store == "jpeg":
        files = [encode(image, quality=95) for image in IMAGES]
        expected = np.stack([np.array(Image.open(io.BytesIO(data))) for data in files])
    for wanted in ([4, 0, 3, 0], [2], []):
        np.testing.assert_array_equal(split.read(wanted), expected[wanted])
        assert split.read(np.array(wanted, np.int64)).shape == (len(wanted), SIZE, SIZE, 3)


@pytest.mark.parametrize("wrong", [[5], [0, -1]])
def test_images_that_are_not_there_are_refused(tmp_path: Path, wrong: list[int]) -> None:
    split = Dataset(write_dataset(tmp_path / "d")).split("train")
    with pytest.raises(IndexError, match="5 images"):
        split.read(wrong)
    with pytest.raises(IndexError, match="5 images"):
        split.name(wrong[-1])


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_reading_in_threads_gives_the_same(tmp_path: Path, store: str) -> None:
    split = Dataset(write_dataset(tmp_path / "d", store)).split("train")
    orders = [np.random.default_rng(i).permutation(5) for i in range(60)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(split.read, orders))
    alone = split.read(range(5))
    for order, images in zip(orders, found, strict=True):
        np.testing.assert_array_equal(images, alone[order])


def test_shards_are_not_held_open(tmp_path: Path) -> None:
    """ImageNet has more shards than a process may hold open."""
    split = Dataset(write_dataset(tmp_path / "d")).split("train")
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("counts the open files by /proc")
    before = len(list(descriptors.iterdir()))
    split.read(range(5))
    assert len(list(descriptors.iterdir())) == before


def test_unknown_split_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no split 'val'; it has train"):
        Dataset(write_dataset(tmp_path / "d")).split("val")


def test_a_folder_that_is_no_data_set_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="alexnet prepare SOURCE"):
        Dataset(tmp_path)


@pytest.mark.fault(52)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not an alexnet-dataset"),
        ({"version": 2}, "format version 2, this alexnet reads 1"),
        ({"store": "zip"}, "unknown store 'zip'"),
        ({"splits": {"train": {}}}, "malformed"),
        ({"splits": 3}, "malformed"),
        ({"size": 9}, r"mean_image.npy: shape \(8, 8, 3\)"),
        ({"classes": ["a"], "titles": ["A"]}, "labels differ from the counts"),
        ({"classes": ["a"]}, "classes and titles that are no names"),
        ({"classes": ["a", "a"]}, "classes and titles that are no names"),
        ({"classes": [1, 2]}, "classes and titles that are no names"),
        ({"color_std": "red"}, "malformed"),
        ({"mean_image": {"file": "../mean_image.npy", "bytes": 1}}, "not the name of a file"),
    ],
)
def test_wrong_manifests_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_dataset(tmp_path / "d")
    edit(folder, **changes)
    with pytest.raises(DataError, match=message):
        Dataset(folder)


@pytest.mark.fault(52)
@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_broken_manifests_are_refused(tmp_path: Path, text: str) -> None:
    folder = write_dataset(tmp_path / "d")
    (folder / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json"):
        Dataset(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 6}, "does not add up to 6"),
        ({"per_class": [3, 2]}, "labels differ from the counts"),
    ],
)
def test_wrong_counts_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_dataset(tmp_path / "d")
    edit_split(folder, **changes)
    with pytest.raises(DataError, match=message):
        Dataset(folder)


@pytest.mark.fault(52)
@pytest.mark.parametrize("name", ["train-00001.npy", "train-labels.npy", "mean_image.npy"])
def test_missing_and_cut_files_are_named(tmp_path: Path, name: str) -> None:
    folder = write_dataset(tmp_path / "d")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1])
    with pytest.raises(DataError, match=f"{name}: .* expected"):
        Dataset(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: missing"):
        Dataset(folder)


@pytest.mark.fault(52)
def test_labels_out_of_range_are_refused(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d")
    path = folder / "train-labels.npy"
    path.write_bytes(path.read_bytes()[:-8] + struct.pack("<q", 7))
    with pytest.raises(DataError, match="labels differ from the counts"):
        Dataset(folder)


def test_arrays_that_are_none_are_refused(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d")
    path = folder / "train-labels.npy"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match=r"train-labels\.npy: cannot be read"):
        Dataset(folder)


@pytest.mark.fault(52)
@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_verify_finds_a_flipped_bit_in_any_file(tmp_path: Path, store: str) -> None:
    folder = write_dataset(tmp_path / "d", store)
    recorder = Recorder()
    Dataset(folder).verify(recorder)
    total, *done = recorder.tasks["verify"]
    assert sum(done) == total
    files = [
        path for path in folder.iterdir() if path.name != "dataset.json" and path.stat().st_size
    ]
    for path in files:
        data = bytearray(path.read_bytes())
        dataset = Dataset(folder)
        data[-1] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(DataError, match=f"{path.name}: changed"):
            dataset.verify()
        data[-1] ^= 1
        path.write_bytes(bytes(data))
    assert len(files) == {"raw": 5, "jpeg": 6}[store]


@pytest.mark.fault(52)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.zeros((3, SIZE, SIZE, 3), np.float32)), "float32 of shape"),
        (npy(np.zeros((2, SIZE, SIZE, 3), np.uint8)), "uint8 of shape"),
        (b"no array", r"no \.npy file"),
    ],
)
def test_shards_that_are_not_what_the_manifest_says_are_named(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = write_dataset(tmp_path / "raw") / "train-00000.npy"
    manifest = path.with_name("dataset.json")
    info = json.loads(manifest.read_text())
    info["splits"]["train"]["shards"][0]["bytes"] = len(content)
    manifest.write_text(json.dumps(info))
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"train-00000\.npy: {message}"):
        Dataset(path.parent)


def test_reading_parses_no_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # numpy does so with `ast`, which is not safe in threads in CPython 3.11: reads failed there
    # now and then with "SystemError: AST constructor recursion depth mismatch".
    split = Dataset(write_dataset(tmp_path / "raw")).split("train")
    monkeypatch.delattr(np.lib.format, "read_array_header_1_0")
    assert len(split.read(range(5))) == 5


@pytest.mark.fault(53)
def test_shards_that_vanish_or_break_later_are_named(tmp_path: Path) -> None:
    raw = Dataset(write_dataset(tmp_path / "raw"))
    first, second = (raw.path / f"train-0000{number}.npy" for number in range(2))
    split = raw.split("train")
    split.read([4])
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"train-00001\.npy: cut off"):
        split.read([4])
    first.unlink()
    with pytest.raises(DataError, match=r"train-00000\.npy: No such file"):
        split.read([0])
    jpeg = Dataset(write_dataset(tmp_path / "jpeg", "jpeg"))
    path = jpeg.path / "train-00001.tar"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match="image 4 of split train does not decode"):
        jpeg.split("train").read([4])


@pytest.mark.fault(52)
def test_the_index_must_fit(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", "jpeg")
    edit_split(folder, index=entry(folder, "train-index.npy", npy(np.zeros((4, 3), np.int64))))
    with pytest.raises(DataError, match=r"train-index\.npy: not 5 rows"):
        Dataset(folder)


@pytest.mark.fault(52)
@pytest.mark.parametrize(
    "wrong", [(0, 0, 1 << 62), (0, -1, 9), (0, 9, -1), (1, 0, 9), (0, 1 << 40, 9)]
)
def test_places_outside_of_the_shards_are_refused(
    tmp_path: Path, wrong: tuple[int, int, int]
) -> None:
    """They would be read, and memory taken for them, before anything could be noticed."""
    folder = write_dataset(tmp_path / "d", "jpeg")
    index = np.load(folder / "train-index.npy")
    index[2] = wrong
    edit_split(folder, index=entry(folder, "train-index.npy", npy(index)))
    with pytest.raises(DataError, match=r"train-index\.npy: images that lie outside"):
        Dataset(folder)


@pytest.mark.fault(52)
def test_exchanged_labels_are_noticed_when_the_data_set_is_opened(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d")
    labels = np.array(LABELS)[[4, 1, 2, 3, 0]]
    (folder / "train-labels.npy").write_bytes(npy(labels))  # the same counts, the same size
    with pytest.raises(DataError, match=r"train-labels\.npy: changed since it was written"):
        Dataset(folder)


def test_a_name_that_is_none_is_named(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d")
    path = folder / "train-names.txt"
    path.write_bytes(path.read_bytes().replace(b'"b/4"', b'"b/4_'))
    split = Dataset(folder).split("train")
    assert split.name(2) == NAMES[2]
    with pytest.raises(DataError, match=r"train-names\.txt: line 4 is no name"):
        split.name(3)


def code_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def test_the_lines_in_the_document_read_a_prepared_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "pets", tree({"cat": 60, "dog": 40}))
    for store in ("raw", "jpeg"):
        out = "data/pets" if store == "raw" else "data/pets-jpeg"
        prepare_dataset("pets", out, size=SIZE, store=store, workers=1)
    by_numpy, one_jpeg, by_package = ({}, {}, {})  # type: ignore[var-annotated]
    for block, names in zip(code_blocks(), (by_numpy, one_jpeg, by_package), strict=True):
        exec(block, names)
    split = Dataset("data/pets").split("val")
    np.testing.assert_array_equal(by_numpy["images"], split.read(range(len(split))))
    assert by_numpy["names"] == ["cat"] * 6 + ["dog"] * 4
    jpeg = Dataset("data/pets-jpeg").split("val")
    np.testing.assert_array_equal(one_jpeg["image"], jpeg.read([7])[0])
    np.testing.assert_array_equal(by_package["images"], by_numpy["images"][[7, 0]])


def test_the_document_has_the_keys_of_the_manifest(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", tree({"cat": 3, "dog": 3}))
    prepare_dataset(tmp_path / "pets", tmp_path / "out", size=SIZE, workers=1)
    keys = set(json.loads((tmp_path / "out/dataset.json").read_text()))
    rows = DOCUMENT.read_text().split("## The manifest")[1].split("\n\n")[1].splitlines()[2:]
    documented = {key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert documented == keys


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_the_made_up_set_of_imagenets_size_opens_and_reads(tmp_path: Path, store: str) -> None:
    """What scripts/full_size.py measures the reader with, and scripts/bench_gpu.py trains on."""
    load_script("full_size").write_dataset(tmp_path / "data", 1500, store, 64)
    split = Dataset(tmp_path / "data").split("train")
    assert len(split) == 1500
    assert split.read([0]).shape == (1, 64, 64, 3)
    assert not (store == "raw" and split.read([1499]).any()), "a hole"


def turned_png(pixels: Pixels) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(np.rot90(pixels).copy(), "PNG", exif=exif)


@pytest.mark.parametrize("orientation", [None, "turn", "ignore"])
def test_photographs_are_turned_as_their_exif_tag_says(
    tmp_path: Path, orientation: Orientation | None
) -> None:
    pixels = [picture(seed, SIZE, SIZE) for seed in range(8)]
    files = {f"{'ab'[i % 2]}/{i}.png": turned_png(pixels[i]) for i in range(8)}
    source = write_tree(tmp_path / "photos", files)
    prepare_dataset(source, tmp_path / "o", size=SIZE, orientation=orientation, workers=1)
    dataset = Dataset(tmp_path / "o")
    assert dataset.orientation == dataset.info["orientation"] == (orientation or "turn")
    for name in dataset.split_names:
        split = dataset.split(name)
        for index in range(len(split)):
            expected = pixels[int(split.name(index)[2])]
            if orientation == "ignore":
                expected = np.rot90(expected)
            np.testing.assert_array_equal(split.read([index])[0], expected)


def test_photographs_of_imagenets_archives_are_not_turned(tmp_path: Path) -> None:
    """The published protocols read the stored pixels."""
    pixels = picture(1, SIZE, SIZE)
    inner = [
        write_tar(tmp_path / f"n0000000{c}.tar", {f"n0000000{c}_1.JPEG": turned_png(pixels)})
        for c in (1, 2)
    ]
    tars = {path.name: path.read_bytes() for path in inner}
    source = write_tar(tmp_path / "ILSVRC2012_img_train.tar", tars)
    expectations: list[tuple[Orientation | None, Any]] = [
        (None, np.rot90(pixels)),
        ("turn", pixels),
    ]
    for orientation, expected in expectations:
        out = tmp_path / f"{orientation}"
        prepare_dataset(source, out, size=SIZE, val_fraction=0, orientation=orientation, workers=1)
        dataset = Dataset(out)
        assert dataset.orientation == (orientation or "ignore")
        np.testing.assert_array_equal(dataset.split("train").read([0])[0], expected)


@pytest.mark.parametrize(("value", "says"), [(None, "ignore"), ("turn", "turn"), ("left", None)])
def test_a_data_set_without_the_key_is_one_that_was_not_turned(
    tmp_path: Path, value: str | None, says: str | None
) -> None:
    folder = write_dataset(tmp_path / "data")
    info = json.loads((folder / "dataset.json").read_text())
    info = {key: info[key] for key in info if key != "orientation"}
    (folder / "dataset.json").write_text(
        json.dumps(info | ({"orientation": value} if value else {}))
    )
    if says:
        assert Dataset(folder).orientation == says
    else:
        with pytest.raises(DataError, match="unknown orientation 'left'"):
            Dataset(folder)


def test_training_on_images_of_one_colour_is_refused(tmp_path: Path) -> None:
    black = encode(np.zeros((SIZE, SIZE, 3), np.uint8), "PNG")
    source = write_tree(tmp_path / "p", {f"{c}/{i}.png": black for c in "ab" for i in range(4)})
    prepare_dataset(source, tmp_path / "o", size=64, workers=1)
    with pytest.raises(DataError, match=r"o: all pixels of the training images have the same co"):
        train_model(tmp_path / "o", tmp_path / "run", Settings(epochs=1), device="cpu")
    assert not (tmp_path / "run/run.json").exists()
