"""The doctor calls sound things sound and reports every kind of damage."""

import fcntl
import hashlib
import io
import json
import shutil
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_makers import Pixels, Recorder, encode, load_script, picture, tree, write_tree
from PIL import Image
from safetensors.torch import load_file, save_file

from alexnet.cli import main
from alexnet.doctor import Diagnosis, diagnose, published, signatures
from alexnet.doctor.findings import Report
from alexnet.doctor.published import CIFAR10, IMAGENET, compare_counts, published_counts
from alexnet.errors import UsageError
from alexnet.prepare import prepare_dataset
from alexnet.prepare.manifest import fingerprint
from alexnet.prepare.sources.base import Item, Listing
from alexnet.progress import Progress

SIZE = 16
Harm = Callable[[Path], object]


def found(diagnosis: Diagnosis, weight: str) -> dict[str, str]:
    """The findings of one weight: by check, what was found with its examples."""
    return {
        finding.check: " ".join([finding.what, *finding.examples])
        for finding in diagnosis.findings
        if finding.weight == weight
    }


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reseal(folder: Path) -> None:
    """Make the manifest agree with the files, as a forger would."""
    info = json.loads((folder / "dataset.json").read_text())

    def agree(content: Any) -> None:
        if isinstance(content, dict):
            if "sha256" in content:
                data = (folder / content["file"]).read_bytes()
                content |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            content = list(content.values())
        for value in content if isinstance(content, list) else ():
            agree(value)

    agree(info)
    info["fingerprint"] = fingerprint(info)
    (folder / "dataset.json").write_text(json.dumps(info))


def flip(path: Path, offset: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@dataclass
class Given:
    """A source of the images that a test gives, by "split/class/name" or deeper names."""

    images: Mapping[str, Pixels]
    kind: str = "given"
    location: str = ""

    def listing(self, progress: Progress) -> Listing:
        parts = ((name, name.split("/")) for name in self.images)
        return Listing([Item(split, label, name) for name, (split, label, *_) in parts])

    def read(self, item: Item) -> Pixels:
        return self.images[item.name]


def prepared(folder: Path, images: Mapping[str, Pixels], **options: Any) -> Path:
    prepare_dataset(Given(images), folder, workers=1, **{"size": SIZE} | options)
    return folder


def plain_images(size: int = SIZE) -> dict[str, Pixels]:
    names = [
        f"{split}/{label}/{number}"
        for split in ("train", "val")
        for label in ("cat", "dog")
        for number in range(3)
    ]
    return {name: picture(seed, size, size) for seed, name in enumerate(names)}


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


OPENING = {"data set": "structure", "run": "description"}
"""The check that finds what does not even open."""


# Data sets.


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_a_sound_data_set(tmp_path: Path, store: str) -> None:
    images = plain_images() | {"train/cat/more": picture(99, SIZE, SIZE)}
    recorder = Recorder()
    diagnosis = diagnose(prepared(tmp_path / "d", images, store=store), progress=recorder)
    assert diagnosis.findings == ()
    assert (diagnosis.kind, diagnosis.sound, diagnosis.exit_code) == ("data set", True, 0)
    assert diagnosis.facts["splits"] == {
        "train": {
            "images": 7,
            "classes": 2,
            "smallest_class": {"class": "dog", "images": 3},
            "largest_class": {"class": "cat", "images": 4},
        },
        "val": {
            "images": 6,
            "classes": 2,
            "smallest_class": {"class": "cat", "images": 3},
            "largest_class": {"class": "cat", "images": 3},
        },
    }
    for label in ("checksums", "images"):  # the pieces add up to the whole, so time left is right
        total, *pieces = recorder.tasks[label]
        assert sum(pieces) == total
    assert recorder.tasks["images"][0] == 13
    assert recorder.tasks["checksums"][0] == diagnosis.facts["bytes"]


@pytest.mark.fault(52)
def test_every_damaged_file_is_listed_not_only_the_first(data: Path) -> None:
    flip(data / "train-00000.npy")
    flip(data / "val-labels.npy", 3)
    (data / "test-names.txt").unlink()
    (data / "mean_image.npy").write_bytes(b"")
    diagnosis = diagnose(data)
    what = found(diagnosis, "damage")["checksums"]
    assert what.startswith("4 of 11 files")
    assert "train-00000.npy: its SHA256 is" in what
    assert "val-labels.npy: its SHA256 is" in what
    assert "test-names.txt: cannot be read (No such file" in what
    assert "mean_image.npy: 0 bytes, not 12,416" in what
    assert diagnosis.exit_code == 3


def write_labels(data: Path, change: Callable[[Any], Any]) -> None:
    path = data / "train-labels.npy"
    path.write_bytes(npy(change(np.load(path))))
    reseal(data)


def write_names(data: Path, change: Callable[[list[str]], list[str]]) -> None:
    path = data / "train-names.txt"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    reseal(data)


def write_mean(data: Path, mean: Any) -> None:
    (data / "mean_image.npy").write_bytes(npy(mean))
    reseal(data)


DAMAGED_DATA: dict[str, tuple[Harm, str, str]] = {
    "no JSON": (
        lambda data: (data / "dataset.json").write_text("{"),
        "manifest",
        "not JSON",
    ),
    "newer": (
        lambda data: edit(data / "dataset.json", version=99),
        "manifest",
        "format version 99",
    ),
    "a class renamed": (
        lambda data: edit(data / "dataset.json", classes=["across", "down", "up"]),
        "manifest",
        "dataset.json was changed: its fingerprint does not match",
    ),
    "no colours": (
        lambda data: edit(data / "dataset.json", color_std="red"),
        "structure",
        "dataset.json",
    ),
    "no count of rejects": (
        lambda data: edit(
            data / "dataset.json",
            rejects={
                "file": "rejects.jsonl",
                "bytes": 0,
                "sha256": hashlib.sha256(b"").hexdigest(),
            },
        ),
        "structure",
        "KeyError('count')",
    ),
    "a title too few": (
        lambda data: edit(data / "dataset.json", titles=["a", "b"]),
        "classes",
        "titles",
    ),
    "a class twice": (
        lambda data: edit(data / "dataset.json", classes=["across", "down", "down"]),
        "classes",
        "classes",
    ),
    "labels exchanged": (
        lambda data: write_labels(data, lambda labels: labels[::-1].copy()),
        "labels",
        "26 images of train have a label that contradicts their name train/across/0 is labelled",
    ),
    "a name too few": (
        lambda data: write_names(data, lambda names: names[:-1]),
        "names",
        "train has 39 images, 38 names",
    ),
    "a name that is none": (
        lambda data: write_names(data, lambda names: [*names[:-1], "7\n"]),
        "names",
        "the names of train cannot be read (7 is not a name)",
    ),
    "another mean": (
        lambda data: write_mean(data, np.full((32, 32, 3), 128, np.float32)),
        "mean image",
        "mean_image.npy differs from the mean of the images by",
    ),
}


@pytest.mark.parametrize("name", DAMAGED_DATA)
def test_damaged_data_sets(data: Path, name: str) -> None:
    harm, check, says = DAMAGED_DATA[name]
    harm(data)
    diagnosis = diagnose(data)
    damage = found(diagnosis, "damage")
    assert says in " ".join([damage.get(check, ""), damage.get(OPENING[diagnosis.kind], "")])
    assert diagnosis.exit_code == 3
    assert all(f.remedy for f in diagnosis.findings if f.weight != "note")


@pytest.mark.fault(43)
def test_images_that_do_not_decode_are_named_and_the_others_checked(tmp_path: Path) -> None:
    images = plain_images()
    images["train/dog/2"] = images["train/cat/0"]  # a duplicate, in the same batch as the bad one
    folder = prepared(tmp_path / "d", images, store="jpeg")
    _, offset, length = np.load(folder / "train-index.npy")[4].tolist()
    shard = folder / "train-00000.tar"
    shard.write_bytes(shard.read_bytes()[:offset] + bytes(length)
                      + shard.read_bytes()[offset + length :])  # fmt: skip
    reseal(folder)
    diagnosis = diagnose(folder)
    assert found(diagnosis, "damage") == {
        "images": "1 images cannot be decoded train: train/dog/1 (dog)"
    }
    assert (
        "train: train/cat/0 (cat) = train: train/dog/2 (dog)"
        in (found(diagnosis, "warning")["duplicates"])
    )


def test_copies_are_found_within_and_across_splits_and_classes(tmp_path: Path) -> None:
    images = plain_images(size=64)
    cat, dog = images["train/cat/0"], images["train/dog/0"]
    images |= {"train/cat/again": cat, "val/dog/leaked": dog}
    images |= {"val/cat/of dog 2": images["train/dog/2"]}
    brighter = (images["train/dog/1"].clip(0, 245) + 10).astype(np.uint8)
    images["val/dog/brighter"] = np.asarray(Image.open(io.BytesIO(encode(brighter, quality=80))))
    images["train/cat/scaled"] = np.asarray(Image.fromarray(cat).resize((40, 40)))
    diagnosis = diagnose(prepared(tmp_path / "d", images, size=64))
    assert diagnosis.facts["equal"] == {
        "groups": 3,
        "images": 3,
        "across_splits": 2,
        "across_classes": 1,
    }
    assert diagnosis.facts["similar"]["across_splits"] == 1
    listed = {e for f in diagnosis.findings if f.check == "duplicates" for e in f.examples}
    assert listed > {
        "train: train/cat/0 (cat) = train: train/cat/again (cat)",
        "train: train/dog/0 (dog) = val: val/dog/leaked (dog)",
        "train: train/dog/2 (dog) = val: val/cat/of dog 2 (cat)",
        "train: train/dog/1 (dog) ~ val: val/dog/brighter (dog)",
    }
    more = {e for e in listed if "~" in e and "brighter" not in e}
    assert all("train/cat/scaled" in e and ("cat/0" in e or "cat/again" in e) for e in more)
    assert more
    assert diagnosis.exit_code == 0  # warnings do not fail


def test_flat_dark_and_cut_images_are_named(tmp_path: Path) -> None:
    images = plain_images()
    rng = np.random.default_rng(0)
    images["train/cat/fog"] = rng.integers(110, 113, (SIZE, SIZE, 3), np.uint8)
    images["train/dog/low bits"] = picture(52, SIZE, SIZE) // 16
    images["train/dog/night"] = picture(53, SIZE, SIZE) // 16
    images["train/dog/night"][3, 3] = 255  # a lamp
    images["val/dog/half"] = picture(50, SIZE, SIZE)
    images["val/dog/half"][SIZE // 2 :] = 128
    images["val/dog/dark below"] = picture(51, SIZE, SIZE)
    images["val/dog/dark below"][SIZE // 2 :] = 20
    diagnosis = diagnose(prepared(tmp_path / "d", images))
    assert [f.examples for f in diagnosis.findings if f.check == "images"] == [
        ("train: train/cat/fog (cat)",),
        ("train: train/dog/low bits (dog)",),
        ("val: val/dog/half (dog)",),
    ]
    assert [diagnosis.facts[check] for check in ("flat", "dark", "cut")] == [1, 1, 1]


@pytest.mark.fault(43)
@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_jpegs_that_another_decoder_filled_with_grey_are_named(tmp_path: Path, store: str) -> None:
    """Data sets prepared elsewhere: Pillow with LOAD_TRUNCATED_IMAGES fills a cut JPEG so."""
    images, size = plain_images(64), 64
    noise = np.random.default_rng(7).integers(0, 100, (256, 256, 3))
    file = encode((picture(7, 256, 256) // 2 + noise).astype(np.uint8), quality=90)
    for kept in (0.3, 0.5, 0.7):
        cut = Image.open(io.BytesIO(file[: int(kept * len(file))] + b"\xff\xd9"))
        images[f"train/cat/{kept}"] = np.asarray(cut.resize((size, size)))
    diagnosis = diagnose(prepared(tmp_path / "d", images, size=size, store=store))
    says = found(diagnosis, "warning")["images"]
    assert says.startswith("3 images end in uniform grey")
    assert all(f"train: train/cat/{kept} (cat)" in says for kept in (0.3, 0.5, 0.7))


def test_images_without_colours_are_damage_and_no_copies(tmp_path: Path) -> None:
    """A 16-bit PNG whose values fill its low byte only, as it was read once: all black."""
    images = dict.fromkeys(plain_images(), np.zeros((SIZE, SIZE, 3), np.uint8))
    diagnosis = diagnose(prepared(tmp_path / "d", images))
    assert found(diagnosis, "damage") == {
        "colours": "the training images have no spread of colours: color_std is 0"
    }
    assert set(found(diagnosis, "warning")) == {"images"}
    assert "12 images are nearly black (nothing above 63" in found(diagnosis, "warning")["images"]


def in_classes(*names: str) -> dict[str, Pixels]:
    """Make three images for each "class" or "class/folder"."""
    paths = [f"train/{name}/{number}" for name in names for number in range(3)]
    return {path: picture(seed, SIZE, SIZE) for seed, path in enumerate(paths)}


@pytest.mark.parametrize(
    ("names", "weight", "says"),
    [
        (
            [f"{s}/{s}/{c}" for s in ("test_set", "training_set") for c in ("cats", "dogs")],
            "damage",
            "test_set, training_set test_set: cats, dogs training_set: cats, dogs",
        ),
        (["seg_pred", "seg_test/sea", "seg_train/ice"], "damage", "all classes are named like"),
        (["cat", "dog", "Test", "val2017"], "warning", "named like splits: Test, val2017"),
        (["cat", "dog", "test"], "warning", "some classes are named like splits: test"),
        (["bus", "train/a", "train/b"], "warning", "named like splits: train train: a, b"),
        (
            ["animal/cat", "animal/dog", "vehicle/car"],
            "warning",
            "1 of 2 classes lie in several folders, which may be the classes animal: cat, dog",
        ),
        (["bus", "train", "car"], "", ""),  # vehicles
        (["cat/images", "dog/images"], "", ""),  # as in Tiny ImageNet
        (["contest", "evaluation forms", "valley"], "", ""),
    ],
)
def test_classes_that_are_none(
    tmp_path: Path, names: Sequence[str], weight: str, says: str
) -> None:
    folder = prepared(tmp_path / "d", in_classes(*names), val_fraction=0)
    diagnosis = diagnose(folder)
    if weight:
        assert says in found(diagnosis, weight)["classes"]
    assert [f.weight for f in diagnosis.findings if f.check == "classes"] == [weight] * bool(weight)
    assert all(f.remedy for f in diagnosis.findings if f.weight != "note")
    assert diagnosis.exit_code == (3 if weight == "damage" else 0)


@pytest.mark.parametrize(
    ("rule", "notes", "line"),
    [
        ("turn", set(), "photographs are turned as their EXIF tags say"),
        ("ignore", set(), "photographs are as stored: their EXIF orientation is ignored"),
        (None, {"orientation"}, "note: orientation: dataset.json has no rule for turned photograp"),
    ],
)
def test_the_rule_for_turned_photographs_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rule: str | None,
    notes: set[str],
    line: str,
) -> None:
    write_tree(tmp_path / "s", tree({f"{s}/{c}": 2 for s in ("train", "val") for c in "ab"}))
    folder = tmp_path / "d"
    prepare_dataset(tmp_path / "s", folder, size=SIZE, workers=1)
    info = json.loads((folder / "dataset.json").read_text())
    info.pop("orientation", None)
    (folder / "dataset.json").write_text(json.dumps(info | ({"orientation": rule} if rule else {})))
    diagnosis = diagnose(folder)
    assert diagnosis.facts["orientation"] == rule
    assert set(found(diagnosis, "note")) == notes
    assert main(["doctor", str(folder)]) == 0
    assert any(found.startswith(line) for found in capsys.readouterr().out.splitlines())


def test_classes_that_are_rare_or_missing_are_warned_of(tmp_path: Path) -> None:
    images = {f"train/cat/{n}": picture(n, SIZE, SIZE) for n in range(11)}
    images |= {"train/dog/0": picture(90, SIZE, SIZE), "val/cat/0": picture(91, SIZE, SIZE)}
    diagnosis = diagnose(prepared(tmp_path / "d", images))
    says = [f.what for f in diagnosis.findings if f.check == "balance"]
    assert says == [
        "train: the largest class has 11 images, the smallest 1",
        "val has no image of 1 of 2 classes",
    ]


def test_many_rejects_are_warned_of(tmp_path: Path) -> None:
    write_tree(tmp_path / "s", tree({"cat": 6, "dog": 6}) | {"cat/bad.jpg": b"text"})
    prepare_dataset(tmp_path / "s", tmp_path / "d", size=SIZE, workers=1)
    warnings = found(diagnose(tmp_path / "d"), "warning")
    assert warnings["rejects"] == "1 of 13 images could not be used"


def test_strange_files_and_lacking_splits_are_noted(tmp_path: Path) -> None:
    images = {name: image for name, image in plain_images().items() if "train" in name}
    folder = prepared(tmp_path / "d", images, val_fraction=0)
    (folder / "notes.txt").touch()
    notes = found(diagnose(folder), "note")
    assert notes == {
        "files": "not part of the data set: notes.txt (1 in all)",
        "splits": "there is no val split",
    }


def test_memory_does_not_grow_with_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.doctor.images.BATCH_BYTES", 100_000)
    monkeypatch.setattr("alexnet.doctor.checksums.CHUNK_BYTES", 100_000)
    peaks = []
    for count in (200, 800):
        images = {f"train/{'cd'[n % 2]}/{n:04d}": picture(n, 32, 32) for n in range(count)}
        folder = tmp_path / str(count)
        prepare_dataset(Given(images), folder, size=32, workers=1, val_fraction=0)
        del images
        tracemalloc.start()
        diagnose(folder)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    more = (peaks[1] - peaks[0]) / 600
    assert more < 300, "the doctor stores more than the signature of each image"  # of 3,072 bytes


# Signatures of single images.


def test_means_of_cells_are_those_of_the_slices() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    cells = signatures.cell_means(images, 4, 4)
    np.testing.assert_allclose(cells[1, 2, 3], images[1, 16:24, 24:32].mean((0, 1)), rtol=1e-5)
    uneven = signatures.cell_means(images, 3, 3)
    np.testing.assert_allclose(uneven[0, 0, 1], images[0, :10, 10:21].mean((0, 1)), rtol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 8, 32])
def test_gradient_hashes_say_where_an_image_gets_brighter(size: int) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, size)[:, None], (size, size, 3))
    images = np.stack([ramp, ramp.transpose(1, 0, 2)]).astype(np.uint8)
    across, down = np.bitwise_count(signatures.gradient_hashes(images)).tolist()
    assert down == 0
    assert across == (64 if size >= 9 else 8 * (size - 1))


def test_equal_groups_are_those_of_a_dictionary() -> None:
    digests = np.random.default_rng(1).integers(0, 3, (50, 2)).astype(np.uint64)
    order, begins = signatures.equal_groups(digests)
    groups: dict[tuple[int, ...], set[int]] = {}
    for number, digest in enumerate(digests.tolist()):
        groups.setdefault(tuple(digest), set()).add(number)
    split = np.split(order, begins[1:])
    assert {frozenset(group.tolist()) for group in split} == set(map(frozenset, groups.values()))


# Published numbers and archives.


def compared(counts: Mapping[str, Sequence[int]], known: Any, *, drawn: bool = False) -> list[str]:
    report = Report()
    compare_counts(known, counts, report, drawn=drawn)
    return [f"{finding.weight}: {finding.what}" for finding in report.findings]


# 732 to 1,300 in a class, 1,281,167 in all: 895 full classes, and the rest shared by 105.
TRAIN = [1300] * 895 + [1120] * 104 + [1187]


def test_imagenets_published_counts() -> None:
    assert sum(TRAIN) == 1_281_167
    whole = {"train": TRAIN, "val": [50] * 1000}
    assert compared(whole, IMAGENET) == [
        "note: train has the 1,281,167 images of ILSVRC-2012",
        "note: val has the 50,000 images of ILSVRC-2012",
    ]
    drawn = {"train": [n - 5 for n in TRAIN], "val": [5] * 1000}
    assert compared(drawn, IMAGENET, drawn=True) == [
        "note: train has the 1,281,167 images of ILSVRC-2012"
    ]
    short = {"train": [TRAIN[0] - 1, *TRAIN[1:]], "val": [49, 51, *[50] * 998]}
    assert compared(short, IMAGENET) == [
        f"warning: {found} in a class; ILSVRC-2012 has {published} in a class"
        for found, published in (
            ("train has 1,281,166 images, 1,120 to 1,300", "1,281,167, 732 to 1,300"),
            ("val has 50,000 images, 49 to 51", "50,000, 50"),
        )
    ]


def test_data_sets_are_recognised() -> None:
    wnids = [f"n{number:08d}" for number in range(1000)]
    assert published_counts(wnids, "folder") is IMAGENET
    assert published_counts(wnids[:999], "imagenet") is None
    assert published_counts([*wnids[:999], "cat"], "imagenet") is None
    assert published_counts(list("abcdefghij"), "cifar10") is CIFAR10
    cifar = {"train": [4500] * 10, "val": [500] * 10, "test": [1000] * 10}
    assert [line[:4] for line in compared(cifar, CIFAR10, drawn=True)] == ["note", "note"]
    assert [line[:4] for line in compared(cifar, CIFAR10)] == ["warn", "note"]


@pytest.fixture(scope="module")
def made_imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    counts = {f"{split}/{name}": 3 for split in ("train", "val") for name in ("cat", "dog")}
    write_tree(folder / "source", tree(counts))
    layout = load_script("make_imagenet_layout")
    layout.make_imagenet_layout(folder / "source", folder / "imagenet")
    return folder / "imagenet"


@pytest.mark.fault(40)
def test_archives_that_are_not_the_published_ones(made_imagenet: Path) -> None:
    diagnosis = diagnose(made_imagenet)
    damage = [f.what for f in diagnosis.findings if f.weight == "damage"]
    assert (diagnosis.kind, diagnosis.exit_code, len(damage)) == ("archives", 3, 3)
    name = "ILSVRC2012_img_val.tar"
    digest = hashlib.md5((made_imagenet / name).read_bytes()).hexdigest()
    official = "29b22e2961454d5413ddabcf34fc5622"
    assert (
        f"{made_imagenet}/{name} is not the published archive: its MD5 is {digest}, not {official}"
        in damage
    )


def test_archives_with_the_right_digests_are_counted(
    made_imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(published.ARCHIVES)
    for name in names:
        data = (made_imagenet / name).read_bytes()
        monkeypatch.setitem(published.ARCHIVES, name, hashlib.md5(data).hexdigest())
    diagnosis = diagnose(made_imagenet)
    assert diagnosis.sound
    assert diagnosis.facts == {
        "archives": dict.fromkeys(names, True),
        "members": {"train": 6, "val": 6},
    }
    assert "published counts" in found(diagnosis, "warning")
    prepare_dataset(made_imagenet, tmp_path / "d", size=SIZE, workers=1)
    together = diagnose(tmp_path / "d", source=made_imagenet)
    assert together.kind == "data set"
    assert together.facts["members"] == {"train": 6, "val": 6}
    # Without the devkit the classes of the validation images are unknown, which is no damage.
    shutil.copytree(made_imagenet, tmp_path / "less")
    (tmp_path / "less" / names[2]).unlink()
    less = diagnose(tmp_path / "less")
    assert (less.sound, less.facts["members"]) == (True, {"train": 6})
    assert found(less, "note")["archives"].endswith("has no ILSVRC2012_devkit_t12.tar.gz")


def test_a_cut_archive_is_named_with_the_offset(made_imagenet: Path, tmp_path: Path) -> None:
    shutil.copytree(made_imagenet, tmp_path / "cut")
    path = tmp_path / "cut/ILSVRC2012_img_train.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    damage = [f.what for f in diagnose(tmp_path / "cut").findings if f.weight == "damage"]
    assert any(what.startswith(f"{path}: cut off at byte") for what in damage)


# Runs.


def test_a_sound_run(run: Path, tiny_data: Path) -> None:
    diagnosis = diagnose(run)
    assert diagnosis.findings == ()
    assert (diagnosis.kind, diagnosis.exit_code) == ("run", 0)
    listed = json.loads((run / "checkpoints.json").read_text())["checkpoints"]
    assert diagnosis.facts["checkpoints"] == {entry["file"]: "sound" for entry in listed}
    rows = (run / "metrics.jsonl").read_text().splitlines()
    assert diagnosis.facts["metrics"] == {
        "rows": len(rows),
        "last_step": json.loads(rows[-1])["step"],
    }
    assert (diagnosis.facts["model"], diagnosis.facts["classes"]) == ("cifar10_11", 3)


def last(run: Path) -> Path:
    return run / "checkpoints" / str(json.loads((run / "checkpoints.json").read_text())["last"])


def change_weights(run: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change a checkpoint and let checkpoints.json agree with it."""
    tensors = load_file(last(run))
    change(tensors)
    save_file(tensors, last(run), metadata={"position": "{}"})
    agree(run)


def agree(run: Path) -> None:
    """Let checkpoints.json say what the files are."""
    manifest = json.loads((run / "checkpoints.json").read_text())
    for entry in manifest["checkpoints"]:
        data = (run / "checkpoints" / entry["file"]).read_bytes()
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (run / "checkpoints.json").write_text(json.dumps(manifest))


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.conv1.weight"][0, 0, 0, 0] = torch.nan


def add_lines(run: Path, *lines: str) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write("".join(lines))


def garble_checkpoint(run: Path) -> None:
    last(run).write_bytes(b"\xff" * 100)
    agree(run)


ROW = '{"step": 99, "loss": 1.0}\n'
DAMAGED_RUNS: dict[str, tuple[Harm, str, str]] = {
    "a flipped bit": (lambda run: flip(last(run)), "checkpoints", "its SHA256 is"),
    "a cut checkpoint": (
        lambda run: last(run).write_bytes(b"x"),
        "checkpoints",
        "safetensors: 1 bytes, not",
    ),
    "no checkpoint": (lambda run: last(run).unlink(), "checkpoints", "No such file"),
    "numbers that are none": (
        lambda run: change_weights(run, poison),
        "checkpoints",
        "model.conv1.weight holds numbers that are not finite",
    ),
    "another network": (
        lambda run: change_weights(run, lambda t: t.pop("model.fc10.bias")),
        "checkpoints",
        "does not fit the network in model.fc10.bias",
    ),
    "no safetensors": (garble_checkpoint, "checkpoints", "cannot be read ("),
    "no list": (
        lambda run: (run / "checkpoints.json").write_text("[]"),
        "checkpoints",
        "checkpoints.json",
    ),
    "a list of numbers": (
        lambda run: edit(run / "checkpoints.json", checkpoints=[1]),
        "checkpoints",
        "checkpoints.json is",
    ),
    "last is unknown": (
        lambda run: edit(run / "checkpoints.json", last="gone"),
        "checkpoints",
        "checkpoints.json",
    ),
    "no JSON": (lambda run: (run / "run.json").write_text("{"), "description", "cannot be read"),
    "no network": (
        lambda run: edit(run / "run.json", model="resnet"),
        "description",
        "there is no model 'resnet'",
    ),
    "no classes": (lambda run: edit(run / "run.json", classes=7), "description", "run"),
    "no run.json": (lambda run: (run / "run.json").unlink(), "description", "no run.json"),
    "a mean that is none": (
        lambda run: np.save(run / "mean_image.npy", np.full((32, 32, 3), np.nan, np.float32)),
        "mean image",
        "from nan to nan",
    ),
    "a mean of another size": (
        lambda run: np.save(run / "mean_image.npy", np.zeros((32, 31, 3), np.float32)),
        "mean image",
        "mean",
    ),
}


@pytest.mark.fault(16)
@pytest.mark.parametrize("name", DAMAGED_RUNS)
def test_damaged_runs(run: Path, name: str) -> None:
    harm, check, says = DAMAGED_RUNS[name]
    harm(run)
    diagnosis = diagnose(run)
    damage = found(diagnosis, "damage")
    assert says in " ".join([damage.get(check, ""), damage.get(OPENING[diagnosis.kind], "")])
    assert diagnosis.exit_code == 4
    assert all(f.remedy for f in diagnosis.findings if f.weight != "note")


def forget_data(run: Path, **data: str) -> None:
    edit(run / "run.json", data=data)


WARNED_RUNS: dict[str, tuple[Harm, str, str, str]] = {
    "a torn line": (lambda run: add_lines(run, '{"st'), "warning", "metrics", "is incomplete"),
    "a broken line": (
        lambda run: add_lines(run, "torn\n", ROW),
        "warning",
        "metrics",
        "1 lines of metrics.jsonl are not rows, from line",
    ),
    "steps that fall": (
        lambda run: add_lines(run, ROW, '{"step": 1}\n'),
        "warning",
        "metrics",
        "the steps decrease",
    ),
    "numbers lost": (
        lambda run: add_lines(run, '{"step": 99, "loss": NaN}\n'),
        "warning",
        "metrics",
        "1 measured numbers are not finite loss at step 99",
    ),
    "left by a crash": (
        lambda run: (run / "checkpoints/step-00000009.tmp").touch(),
        "warning",
        "files",
        "1 unfinished files were left by a crash checkpoints/step-00000009.tmp",
    ),
    "a stray checkpoint": (
        lambda run: (run / "checkpoints/mine.safetensors").touch(),
        "note",
        "checkpoints",
        "never used: mine.safetensors",
    ),
    "no checkpoint yet": (
        lambda run: edit(run / "checkpoints.json", checkpoints=[], last=None, best=None),
        "warning",
        "checkpoints",
        "there are none yet",
    ),
    "data gone": (
        partial(forget_data, path="/nowhere", fingerprint="a"),
        "note",
        "data",
        "cannot be opened",
    ),
    "no data": (partial(forget_data, path="imported", fingerprint=""), "note", "data", "not say"),
    "no metrics": (lambda run: (run / "metrics.jsonl").unlink(), "note", "metrics", "no metrics"),
}


@pytest.mark.parametrize("name", WARNED_RUNS)
def test_runs_that_are_sound_with_a_warning_or_note(run: Path, name: str) -> None:
    harm, weight, check, says = WARNED_RUNS[name]
    harm(run)
    diagnosis = diagnose(run)
    assert says in found(diagnosis, weight)[check]
    assert diagnosis.exit_code == 0


def test_other_data_under_the_same_path(run: Path, tmp_path: Path) -> None:
    other = prepared(tmp_path / "other", plain_images())
    edit(run / "run.json", data={"path": str(other), "fingerprint": "0" * 64})
    assert "another data set" in found(diagnose(run), "warning")["data"]


def test_a_run_in_training(run: Path) -> None:
    (run / "checkpoints/step-00000009.tmp").touch()  # it is being written, not left over
    with (run / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert found(diagnose(run), "warning") == {"lock": "a training is running in it now"}


# Its arguments.


def test_what_is_none_of_the_three(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gone does not exist"):
        diagnose(tmp_path / "gone")
    with pytest.raises(UsageError, match="is not a packed data set, a run directory or a f"):
        diagnose(tmp_path)
    (tmp_path / "d.partial").mkdir()
    with pytest.raises(UsageError, match=r"d is unfinished: .* to continue .*d\.partial"):
        diagnose(tmp_path / "d")


def test_a_source_without_archives(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds none of ImageNet's archives"):
        diagnose(tiny_data, source=tmp_path)


def test_the_command(
    data: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["doctor", str(data)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[2].split() == ["train", "39", "3", "13", "13"]
    assert out[-1].startswith(f"data set {data}: sound, 0 warnings (0:0")
    flip(data / "train-00000.npy")
    assert main(["doctor", str(data)]) == 3
    out = capsys.readouterr().out.splitlines()
    line = out.index("damaged: checksums: 1 of 11 files are not as they were written")
    assert out[line + 1].startswith("    train-00000.npy: its SHA256 is ")
    assert out[line + 2].startswith("  > prepare the data set again")
    flip(last(run))
    assert main(["doctor", str(run), "--json"]) == 4
    document = json.loads(capsys.readouterr().out)
    assert (document["sound"], document["kind"]) == (False, "run")
    assert document["findings"][0]["check"] == "checkpoints"
