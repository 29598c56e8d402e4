"""The sources of prepare: folders, tars, ImageNet's and CIFAR-10's archives; what is refused."""

import gzip
import io
import os
import pickle
import socket
import struct
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_makers import (
    CIFAR_NAMES,
    Recorder,
    cifar_batches,
    cifar_binary_files,
    cifar_python_files,
    load_script,
    photo,
    python2_batch,
    tree,
    write_folders,
    write_special,
    write_tar,
    write_tree,
)
from scipy.io import loadmat

from alexnet.errors import DataError, UsageError
from alexnet.images.decode import ImageError
from alexnet.prepare.sources import base as sources_base
from alexnet.prepare.sources import open_source
from alexnet.prepare.sources import tar as sources_tar
from alexnet.prepare.sources.base import Item, ItemTable, Listing, Source
from alexnet.prepare.sources.folder import FolderSource
from alexnet.prepare.sources.imagenet import ImageNetSource
from alexnet.prepare.sources.labels import ValLabels, read_devkit
from alexnet.prepare.sources.tar import TarSource


def opened(path: Path, **options: Path) -> Source:
    return open_source(path, path.parent / "work", Recorder(), **options)


def listing(path: Path, **options: Path) -> Listing:
    return opened(path, **options).listing(Recorder())


def splits_and_labels(found: Listing) -> dict[str, tuple[str, str]]:
    return {item.name: (item.split, item.label) for item in found.items}


def as_folder(folder: Path, files: dict[str, bytes]) -> Path:
    return write_tree(folder / "source", files)


def as_tar(folder: Path, files: dict[str, bytes]) -> Path:
    return write_tar(folder / "source.tar", files)


both = pytest.mark.parametrize("make", [as_folder, as_tar])
Make = Callable[[Path, dict[str, bytes]], Path]


# Class folders.

LAYOUTS: dict[str, dict[str, tuple[str, str]]] = {
    "classes": {"cat/1.jpg": ("", "cat"), "dog/1.jpg": ("", "dog")},
    "splits": {
        "train/cat/1.jpg": ("train", "cat"),
        "train/dog/1.jpg": ("train", "dog"),
        "validation/cat/1.jpg": ("val", "cat"),
        "test/dog/1.jpg": ("test", "dog"),
    },
    "valid": {
        "train/cat/1": ("train", "cat"),
        "train/dog/1": ("train", "dog"),
        "valid/cat/1": ("val", "cat"),
    },
    "other case": {
        "Train/cat/1.jpg": ("train", "cat"),
        "Train/dog/1.jpg": ("train", "dog"),
        "VAL/cat/1.jpg": ("val", "cat"),
    },
    "classes below leading folders": {
        "a/b/cat/1.jpg": ("", "cat"),
        "a/b/dog/1.jpg": ("", "dog"),
    },
    "splits below a leading folder": {
        "pets/train/cat/1.jpg": ("train", "cat"),
        "pets/train/dog/1.jpg": ("train", "dog"),
    },
    "folders inside the classes": {
        "train/cat/images/1.jpg": ("train", "cat"),
        "train/dog/images/more/1.jpg": ("train", "dog"),
    },
    "a class named train": {
        "bus/1.jpg": ("", "bus"),
        "car/1.jpg": ("", "car"),
        "train/1.jpg": ("", "train"),
    },
    "odd names": {
        "c a t/ü\n.jpg": ("", "c a t"),
        "dög/" + "x" * 250: ("", "dög"),
    },
}


@both
@pytest.mark.parametrize("name", LAYOUTS)
def test_class_and_split_come_from_the_folders(tmp_path: Path, make: Make, name: str) -> None:
    expected = LAYOUTS[name]
    files = {path: photo(number) for number, path in enumerate(expected)}
    source = opened(make(tmp_path, files))
    found = source.listing(Recorder())
    assert splits_and_labels(found) == expected
    assert found.ignored == 0
    assert {item.name: source.read(item) for item in found.items} == files


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tars_are_decompressed_once_and_read(tmp_path: Path, mode: str) -> None:
    files = tree({"./train/cat": 2, "./train/dog": 2})
    path = write_tar(tmp_path / "pets.bin", files, mode)
    recorder = Recorder()
    source = open_source(path, tmp_path / "work", recorder)
    assert isinstance(source, TarSource)
    found = source.listing(recorder)
    total, *done = recorder.tasks["decompress pets.bin"]
    assert sum(done) == total == path.stat().st_size
    assert {f"./{item.name}": source.read(item) for item in found.items} == files
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["pets.bin.tar"]


def test_archives_named_by_split_are_read_together(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    write_tar(folder / "train.tar.gz", tree({"./cat": 2, "./dog": 1}), "w:gz")
    write_tar(folder / "validation.tar", tree({"validation/cat": 1, "validation/dog": 1}))
    write_tar(folder / "test.tgz", tree({"a/b/cat": 1, "a/b/dog": 1}, seed=50), "w:gz")
    (folder / "README.md").write_text("about")
    source = opened(folder)
    found = source.listing(Recorder())
    assert splits_and_labels(found) == {
        "train/cat/0.jpg": ("train", "cat"),
        "train/cat/1.jpg": ("train", "cat"),
        "train/dog/0.jpg": ("train", "dog"),
        "val/validation/cat/0.jpg": ("val", "cat"),
        "val/validation/dog/0.jpg": ("val", "dog"),
        "test/a/b/cat/0.jpg": ("test", "cat"),
        "test/a/b/dog/0.jpg": ("test", "dog"),
    }
    tests = [item for item in found.items if item.split == "test"]
    assert [source.read(item) for item in tests] == [photo(50), photo(51)]
    write_tar(folder / "val.tar", tree({"cat": 1, "dog": 1}))
    with pytest.raises(DataError, match=r"both val\.tar and validation\.tar are val"):
        opened(folder)


WRONG_LEVEL = {
    "one class": ({"cat/1.jpg": b"", "cat/2.jpg": b""}, r"one class only \(cat\).*folder above"),
    "inside a class": ({"1.jpg": b"", "2.jpg": b""}, "2 files but no class folders.*folder above"),
    "nothing": ({"README.md": b""}, "holds no images"),
    "only hidden files": ({"cat/.1.jpg": b"", "dog/.DS_Store": b""}, "holds no images"),
    "flat train": (
        {"train/1.jpg": b"", "test/1.jpg": b""},
        r"/train holds 1 files but no class folders; .*remove that folder, .* labels\.csv",
    ),
    "flat val": (
        {"train/cat/1": b"", "train/dog/1": b"", "val/1.jpg": b""},
        "/val holds 1 files but no class folders; .*devkit or a label file",
    ),
    "two data sets": (
        {"pets/train/cat/1": b"", "pets/train/dog/1": b"", "cars/train/a/1": b""},
        "/cars holds splits of its own; give that folder",
    ),
    "too high": (
        {"x/cat/1": b"", "x/dog/1": b"", "y/ant/1": b"", "y/bee/1": b""},
        "folders x, y hold folders, not images",
    ),
    "a split twice": (
        {"train/a/1": b"", "train/b/1": b"", "val/a/1": b"", "validation/a/1": b""},
        "same split twice: train, val, validation",
    ),
}


@pytest.mark.fault(49)
@both
@pytest.mark.parametrize("name", WRONG_LEVEL)
def test_trees_of_another_shape_are_refused(tmp_path: Path, make: Make, name: str) -> None:
    files, message = WRONG_LEVEL[name]
    with pytest.raises(DataError, match=message):
        listing(make(tmp_path, files))


@pytest.mark.fault(49)
@pytest.mark.parametrize(
    ("empty", "message"),
    [
        ("train/emu", "train: class folders without images: emu"),
        ("val", "val holds no images"),
    ],
)
def test_empty_class_folders_are_listed(tmp_path: Path, empty: str, message: str) -> None:
    folder = as_folder(tmp_path, tree({"train/cat": 1, "train/dog": 1}))
    if empty != "val":
        write_tree(folder, tree({"val/cat": 1}))
    (folder / empty).mkdir(parents=True)
    with pytest.raises(DataError, match=message):
        listing(folder)
    if empty != "val":
        (folder / empty / ".hidden").write_text("still empty")
        with pytest.raises(DataError, match=message):
            listing(folder)
        (folder / empty / "1.jpg").write_bytes(photo(0))
        assert len(listing(folder).items) == 4


@pytest.mark.fault(49)
@both
def test_what_is_no_image_is_ignored_and_counted(tmp_path: Path, make: Make) -> None:
    files = tree({"data/train/cat": 2, "data/train/dog": 2})
    extra = [
        "LICENSE",
        "data/README.md",
        "data/train/cat/.DS_Store",
        "data/train/cat/._0.jpg",
        "data/train/dog/boxes.txt",
        "data/.git/train/cat/0.jpg",
        "__MACOSX/data/train/cat/0.jpg",
        "data/train/preview.jpg",
        "data/extra/unsorted.jpg",
    ]
    source = make(tmp_path, files | dict.fromkeys(extra, b"x"))
    found = listing(source)
    assert set(splits_and_labels(found)) == set(files)
    assert found.ignored == len(extra)
    assert len(found.notes) == 1
    assert "skipped 3 files outside the class folders" in found.notes[0]


@pytest.mark.fault(44)
def test_files_in_class_folders_are_judged_by_content_not_name(tmp_path: Path) -> None:
    names = ["cat/1.tiff", "cat/2", "cat/3.JPEG", "dog/4.heic"]
    found = listing(as_folder(tmp_path, dict.fromkeys(names, photo(0))))
    assert set(splits_and_labels(found)) == set(names)


# Odd things in folders.


@pytest.mark.fault(49)
def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    folder = as_folder(tmp_path, tree({"cat": 1, "dog": 1}))
    elsewhere = write_tree(tmp_path / "elsewhere", {"9.jpg": photo(9)})
    (folder / "emu").symlink_to(elsewhere)
    (folder / "cat/2.jpg").symlink_to(elsewhere / "9.jpg")
    (folder / "cat/up").symlink_to(folder)
    (folder / "dog/self").symlink_to(folder / "dog")
    (folder / "dog/nowhere.jpg").symlink_to(tmp_path / "missing")
    source = opened(folder)
    found = source.listing(Recorder())
    names = ["cat/0.jpg", "cat/2.jpg", "dog/0.jpg", "dog/nowhere.jpg", "emu/9.jpg"]
    assert [item.name for item in found.items] == names
    assert found.ignored == 2
    assert [note.split(" ")[0].rsplit("/", 2)[1:] for note in found.notes] == [
        ["cat", "up"],
        ["dog", "self"],
    ]
    assert source.read(found.items[4]) == photo(9)
    with pytest.raises(OSError, match="No such file"):
        source.read(found.items[3])


@pytest.mark.fault(49)
def test_pipes_and_sockets_are_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = as_folder(tmp_path, tree({"cat": 1, "dog": 1}))
    os.mkfifo(folder / "cat/pipe.jpg")
    monkeypatch.chdir(folder / "dog")  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        found = listing(folder)
    assert len(found.items) == 2
    assert found.ignored == 2


@pytest.mark.fault(49)
def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = as_folder(tmp_path, tree({"cat": 1, "dog": 1}))
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # as chmod 0 would, which does not bind root
        if str(path).rstrip("/").endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"dog/?: cannot be read \(Permission denied\)"):
        listing(folder)


@both
def test_files_too_large_for_an_image_are_rejected_unread(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(make(tmp_path, tree({"cat": 1, "dog": 1})))
    item = source.listing(Recorder()).items[0]
    for module in ("alexnet.prepare.sources.folder", "alexnet.prepare.sources.tar"):
        monkeypatch.setattr(sys.modules[module], "MAX_FILE_BYTES", 100)
    with pytest.raises(ImageError, match=r"a file of [0-9,]+ bytes"):
        source.read(item)


KINDS = {
    b"": "neither a folder nor a tar archive",
    b"text" * 400: "neither a folder nor a tar archive",
    bytes(2048): "neither a folder nor a tar archive",
    b"PK\x03\x04zip": "cut off or damaged",
    b"\x28\xb5\x2f\xfd more": r"a Zstandard file, which is not read; unpack it \(unzstd",
    b"7z\xbc\xaf\x27\x1c more": r"a 7z file, which is not read; unpack it \(7z x",
    b"Rar!\x1a\x07\x00": "a RAR file, which is not read; unpack it",
    b"\x89HDF\r\n": "a HDF5 file, which is not read; save its images as files",
}


@pytest.mark.parametrize("content", KINDS)
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "source.zip"
    path.write_bytes(content)
    with pytest.raises(DataError, match=KINDS[content]):
        opened(path)


def test_paths_that_do_not_exist_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no such file"):
        opened(tmp_path / "nowhere")
    folder = as_folder(tmp_path, tree({"cat": 1, "dog": 1}))
    with pytest.raises(UsageError, match="kit: no such file"):
        opened(folder, devkit=tmp_path / "kit")
    path = write_tar(tmp_path / "source.tar", cifar_binary_files())
    with pytest.raises(UsageError, match="is not ImageNet"):
        opened(path, val_labels=folder / "cat/0.jpg")


# Tars that are cut off, damaged or hostile.


def test_members_are_read_where_tarfile_finds_them(tmp_path: Path) -> None:
    files = tree({"cat": 3, "dog": 2}) | {"dog/" + "y" * 200 + ".jpg": photo(77)}
    path = write_tar(tmp_path / "a.tar", files)
    with tarfile.open(path) as archive:
        expected = {info.name: (info.offset_data, info.size) for info in archive}
    assert {m.name: (m.offset, m.size) for m in sources_tar.members(path)} == expected


@pytest.mark.fault(40)
@pytest.mark.parametrize("point", ["header", "body", "last body", "end"])
def test_cut_tars_are_refused_with_the_place(tmp_path: Path, point: str) -> None:
    path = as_tar(tmp_path, tree({"cat": 3, "dog": 3}))
    with tarfile.open(path) as archive:
        infos = archive.getmembers()
    cut = {
        "header": infos[3].offset + 100,
        "body": infos[3].offset_data + 100,
        "last body": infos[-1].offset_data + 10,
        "end": infos[-1].offset_data + 512 * (1 + (infos[-1].size - 1) // 512),
    }[point]
    with path.open("r+b") as file:
        file.truncate(cut)
    with pytest.raises(DataError, match=r"source\.tar: (cut off|damaged).* byte [0-9,]+"):
        listing(path)


@pytest.mark.fault(40)
def test_a_damaged_header_is_no_end(tmp_path: Path) -> None:
    path = as_tar(tmp_path, tree({"cat": 3, "dog": 3}))
    with tarfile.open(path) as archive:
        offset = archive.getmembers()[3].offset
    data = bytearray(path.read_bytes())
    data[offset + 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=f"damaged at byte {offset:,}"):
        listing(path)


@pytest.mark.fault(40)
@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_cut_compressed_tars_are_refused(tmp_path: Path, mode: str, keep: float) -> None:
    path = write_tar(tmp_path / "source.tar.x", tree({"cat": 3, "dog": 3}), mode)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match=r"source\.tar\.x: cut off or damaged"):
        opened(path)


@pytest.mark.fault(40)
def test_damaged_gzip_data_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "source.tar.gz"
    write_tar(path, tree({"cat": 3, "dog": 3}), "w:gz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="cut off or damaged"):
        opened(path)


@pytest.mark.fault(42)
@pytest.mark.parametrize("name", ["../evil.jpg", "/tmp/evil.jpg", "cat/../../evil.jpg", "cat/.."])
def test_paths_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    path = as_tar(tmp_path, tree({"cat": 1, "dog": 1}) | {name: b"x"})
    with pytest.raises(DataError, match="points outside; refused"):
        listing(path)
    assert not Path("/tmp/evil.jpg").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"source.tar"}


@pytest.mark.fault(42)
@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_links_and_devices_in_tars_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = write_special(tmp_path / "source.tar", "a/1.jpg", kind, "/etc/passwd")
    with pytest.raises(DataError, match=r"a/1\.jpg' is a link or device; refused"):
        listing(path)


@pytest.mark.fault(42)
def test_sparse_members_are_refused(tmp_path: Path) -> None:
    path = write_special(tmp_path / "source.tar", "a/1.jpg", tarfile.GNUTYPE_SPARSE)
    with pytest.raises(DataError, match="refused"):
        listing(path)


@pytest.mark.fault(40)
def test_a_tar_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = as_tar(tmp_path, tree({"cat": 1, "dog": 1}))
    source = opened(path)
    item = source.listing(Recorder()).items[1]
    with path.open("r+b") as file:
        file.truncate(item.at[1] + 10)
    with pytest.raises(DataError, match="changed while it was read"):
        source.read(item)


@pytest.mark.fault(42)
def test_a_tar_of_many_members_needs_little_memory(tmp_path: Path) -> None:
    """tarfile itself would store an object of more than a kilobyte for each member."""
    tracemalloc = pytest.importorskip("tracemalloc")
    count = 1000
    header = tarfile.TarInfo("a/0000.jpg")
    with (tmp_path / "many.tar").open("wb") as out:
        for number in range(count):
            header.name = f"a/{number:05d}.jpg"
            out.write(header.tobuf())
        out.write(bytes(1024))
    tracemalloc.start()
    try:
        names = sum(1 for _ in sources_tar.members(tmp_path / "many.tar"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert names == count
    assert peak < 150_000


def test_folders_in_tars_count_as_folders(tmp_path: Path) -> None:
    folders = ["./", "./train", "./train/cat", "./train/dog"]
    files = tree({"./train/cat": 1, "./train/dog": 1})
    found = listing(write_folders(tmp_path / "a.tar", folders, files))
    assert set(splits_and_labels(found)) == {"train/cat/0.jpg", "train/dog/0.jpg"}
    with pytest.raises(DataError, match="class folders without images: emu"):
        listing(write_folders(tmp_path / "b.tar", [*folders, "./train/emu"], files))


# The table of items.


def test_the_table_returns_its_items() -> None:
    items = [Item("train", f"c{i % 3}", f"n{i}", (i, 2**40 + i, -i)) for i in range(3000)]
    table = ItemTable()
    for item in items:
        table.append(item)
    assert list(table) == items
    assert table[7] == items[7]
    assert table[10:20:3] == items[10:20:3]
    with pytest.raises(IndexError):
        table[3000]


def test_the_table_takes_about_140_bytes_an_item() -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    count = 2**12
    tracemalloc.start()
    try:
        table = ItemTable()
        for i in range(count):
            label = f"n{i % 1000:08d}"
            table.append(Item("train", label, f"{label}/{label}_{i}.JPEG", (0, i, i)))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / count < 160


# CIFAR-10.


def check_cifar(path: Path, kind: str) -> None:
    source = opened(path)
    assert source.kind == "cifar10"
    found = source.listing(Recorder())
    assert len(found.items) == 36
    by_name = {item.name: item for item in found.items}
    for batch, (data, labels) in cifar_batches().items():
        for number, label in enumerate(labels):
            item = by_name[f"{batch}/{number:05d}"]
            assert (item.split, item.label) == (
                "test" if batch == "test_batch" else "train",
                CIFAR_NAMES[label],
            )
            pixels = source.read(item)
            assert isinstance(pixels, np.ndarray)
            for y, x, channel in [(0, 0, 0), (0, 31, 1), (31, 0, 2), (17, 5, 0)]:
                # "The first 1024 bytes are the red channel values, the next 1024 the green"
                assert pixels[y, x, channel] == data[number, channel * 1024 + y * 32 + x]


def test_cifar_python_archive(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "any name", cifar_python_files(), "w:gz")
    check_cifar(path, "python")


def test_cifar_binary_archive(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "any name", cifar_binary_files(), "w:gz")
    check_cifar(path, "binary")


def test_cifar_is_found_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    write_tree(folder, {"cifar-10-batches-py/data_batch_1": b"unpacked too"})
    write_tar(folder / "cifar-10-python.tar.gz", cifar_python_files(), "w:gz")
    check_cifar(folder, "python")


def test_the_made_pickles_are_what_numpy_reads_too() -> None:
    """The tests' own writer of Python 2 pickles, against the standard library."""
    files = cifar_python_files()
    for name, (data, labels) in cifar_batches().items():
        content = pickle.loads(files[f"cifar-10-batches-py/{name}"], encoding="bytes")
        np.testing.assert_array_equal(content[b"data"], data)
        assert content[b"labels"] == labels


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_cifar_pickles_written_by_this_numpy_are_read(tmp_path: Path, protocol: int) -> None:
    files = cifar_python_files()
    for name, (data, labels) in cifar_batches().items():
        content = {"data": data, "labels": labels}
        files[f"cifar-10-batches-py/{name}"] = pickle.dumps(content, protocol=protocol)
    check_cifar(write_tar(tmp_path / "c.tar.gz", files, "w:gz"), "python")


class Evil:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def evil_pickles(sentinel: Path) -> dict[str, bytes]:
    command = f"touch {sentinel}"
    write = f"open({str(sentinel)!r}, 'w').close()"
    data = np.zeros((6, 3072), np.uint8)
    objects = {
        "os.system": Evil(os.system, command),
        "eval": Evil(eval, write),
        "exec": Evil(exec, write),
        "getattr": Evil(getattr, "", "join"),
        "numpy.load": Evil(np.load, "x"),
        "dtype of objects": np.array([Evil(os.system, command)], dtype=object),
        "another class": Path("x"),
    }
    pickles = {
        name: pickle.dumps({"data": data, "labels": [0] * 6, "x": value}, protocol=2)
        for name, value in objects.items()
    }
    text = b"X" + struct.pack("<I", len(command)) + command.encode()  # BINUNICODE
    pickles["names from the stack"] = b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text + b"\x85R."
    pickles["old opcodes"] = f"cposix\nsystem\n(S'{command}'\ntR.".encode()
    pickles["instance"] = f"(S'{command}'\niposix\nsystem\n.".encode()
    pickles["state on a stand-in"] = b"cnumpy\nndarray\n}S'x'\nI1\nsb."
    pickles["an array never filled"] = b"}S'data'\n" + b"cnumpy\nndarray\n)RsS'labels'\n]s."
    shape = struct.pack("<i", 3072) + b"\x86"  # as in python2_batch
    pickles["a shape that lies"] = python2_batch(data, [0] * 6).replace(
        shape, struct.pack("<i", 30720) + b"\x86"
    )
    pickles["floats"] = pickle.dumps({"data": np.zeros((6, 3072)), "labels": [0] * 6}, protocol=2)
    pickles["no dictionary"] = pickle.dumps([1, 2], protocol=2)
    pickles["cut"] = pickle.dumps({"data": data, "labels": [0] * 6}, protocol=2)[:-1000]
    pickles["empty"] = b""
    return pickles


@pytest.mark.fault(12)
@pytest.mark.parametrize("name", evil_pickles(Path("x")))
@pytest.mark.parametrize("where", ["data_batch_3", "batches.meta"])
def test_hostile_pickles_are_refused_and_run_nothing(tmp_path: Path, name: str, where: str) -> None:
    sentinel = tmp_path / "sentinel"
    files = cifar_python_files()
    files[f"cifar-10-batches-py/{where}"] = evil_pickles(sentinel)[name]
    path = write_tar(tmp_path / "c.tar.gz", files, "w:gz")
    with pytest.raises(DataError):
        listing(path)
    assert not sentinel.exists()


def test_the_hostile_pickles_do_run_elsewhere(tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    for name in ("os.system", "eval", "old opcodes", "instance", "names from the stack"):
        pickle.loads(evil_pickles(sentinel)[name])
        assert sentinel.exists()
        sentinel.unlink()


def without(files: dict[str, bytes], end: str) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if not name.endswith(end)}


def batch(data: Any, labels: Any) -> bytes:
    return pickle.dumps({"data": data, "labels": labels}, protocol=2)


ROWS = np.zeros((6, 3072), np.uint8)
PY = "cifar-10-batches-py"
BIN = "cifar-10-batches-bin"
BAD_CIFAR = {
    "no batch 4": (without(cifar_python_files(), "data_batch_4"), "no data_batch_4"),
    "no test": (without(cifar_binary_files(), "test_batch.bin"), "no test_batch"),
    "no names": (without(cifar_python_files(), ".meta"), "no batches.meta"),
    "empty names": (
        cifar_python_files() | {f"{PY}/batches.meta": pickle.dumps({}, protocol=2)},
        "does not name the classes",
    ),
    "a name twice": (
        cifar_binary_files() | {f"{BIN}/batches.meta.txt": b"cat\ncat\n"},
        "does not name the classes",
    ),
    "too few labels": (
        cifar_python_files() | {f"{PY}/data_batch_2": batch(ROWS, [0])},
        r"1 labels for \(6, 3072\)",
    ),
    "label out of range": (
        cifar_python_files() | {f"{PY}/data_batch_2": batch(ROWS, [0, 1, 2, 3, 0, 0])},
        "data_batch_2, image 3: label 3",
    ),
    "label of another kind": (
        cifar_python_files() | {f"{PY}/data_batch_2": batch(ROWS, ["0"] * 6)},
        "data_batch_2, image 0: label",
    ),
    "no array": (
        cifar_python_files() | {f"{PY}/data_batch_2": batch([0], [0])},
        "data_batch_2 is not a CIFAR-10 batch",
    ),
    "binary of half a record": (
        cifar_binary_files() | {f"{BIN}/data_batch_2.bin": bytes(5000)},
        "is not a row of CIFAR-10 records",
    ),
    "binary label out of range": (
        cifar_binary_files() | {f"{BIN}/data_batch_2.bin": bytes([9]) + bytes(3072)},
        "data_batch_2, image 0: label 9",
    ),
}


@pytest.mark.parametrize("name", BAD_CIFAR)
def test_wrong_cifar_archives_are_refused(tmp_path: Path, name: str) -> None:
    files, message = BAD_CIFAR[name]
    with pytest.raises(DataError, match=message):
        listing(write_tar(tmp_path / "c.tar.gz", files, "w:gz"))


# ImageNet.

layout = load_script("make_imagenet_layout")
TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"
KIT = "ILSVRC2012_devkit_t12.tar.gz"
COUNTS = {"train/ant": 3, "train/bee": 2, "train/cat": 4, "train/dog": 2}
VAL_COUNTS = {"val/ant": 2, "val/bee": 1, "val/cat": 2, "val/dog": 3}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three archives of a small ImageNet, and origins.json."""
    folder = tmp_path_factory.mktemp("made")
    write_tree(folder / "source", tree(COUNTS | VAL_COUNTS))
    layout.make_imagenet_layout(folder / "source", folder / "imagenet")
    return folder / "imagenet"


def copy(imagenet: Path, folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes((imagenet / name).read_bytes())
    return folder


def truth(imagenet: Path) -> dict[str, str]:
    """The WordNet id of each validation image, straight from the devkit by scipy and tarfile."""
    with tarfile.open(imagenet / KIT) as archive:
        files = {info.name: archive.extractfile(info) for info in archive}
        data = {name.rpartition("/")[2]: file.read() for name, file in files.items() if file}
    synsets = loadmat(io.BytesIO(data["meta.mat"]))["synsets"]
    assert synsets.shape == (len(COUNTS) + 1, 1)
    wnids = {int(row["ILSVRC2012_ID"].item()): str(row["WNID"].item()) for row in synsets[:, 0]}
    numbers = data["ILSVRC2012_validation_ground_truth.txt"].decode().split()
    return {
        f"ILSVRC2012_val_{i:08d}.JPEG": wnids[int(number)] for i, number in enumerate(numbers, 1)
    }


def test_the_made_layout_is_imagenets(imagenet: Path) -> None:
    with tarfile.open(imagenet / TRAIN) as archive:
        names = archive.getnames()
        inner = archive.extractfile(names[0])
        assert inner is not None
        with tarfile.open(fileobj=inner) as class_tar:
            members = class_tar.getnames()
    assert all(name.startswith("n0") and name.endswith(".tar") for name in names)
    assert members == [f"{names[0][:-4]}_{10000 + i}.JPEG" for i in range(3)]
    with tarfile.open(imagenet / VAL) as archive:
        assert archive.getnames() == sorted(truth(imagenet))
    wnids = list(read_devkit(imagenet / KIT).wnids.items())
    assert [wnid for _, wnid in sorted(wnids)] != sorted(wnid for _, wnid in wnids)


def test_imagenet_archives_are_read_in_place(imagenet: Path) -> None:
    source = opened(imagenet)
    assert isinstance(source, ImageNetSource)
    found = source.listing(Recorder())
    origins = layout.json.loads((imagenet / "origins.json").read_text())
    assert set(splits_and_labels(found)) == set(origins)
    titles = dict(found.titles)
    for item in found.items:
        split, folder, _ = origins[item.name].split("/")
        assert (item.split, titles[item.label]) == (split, folder)
        original = imagenet.parent / "source" / origins[item.name]
        assert source.read(item) == original.read_bytes()
    labels = {item.name: item.label for item in found.items if item.split == "val"}
    assert labels == truth(imagenet)
    assert found.max_rejects == 0
    assert "entity" not in titles.values()


@pytest.mark.parametrize("given", [TRAIN, VAL])
def test_the_archive_itself_can_be_given(imagenet: Path, given: str) -> None:
    found = listing(imagenet / given)
    expected = {TRAIN: {"train", "val"}, VAL: {"val"}}[given]
    assert {item.split for item in found.items} == expected


def test_an_archive_under_another_name_is_known_by_its_content(
    imagenet: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.tar").write_bytes((imagenet / TRAIN).read_bytes())
    found = listing(tmp_path / "x.tar")
    assert len(found.items) == sum(COUNTS.values())
    assert not found.titles


@pytest.mark.fault(51)
def test_validation_without_labels_says_what_is_needed(imagenet: Path, tmp_path: Path) -> None:
    folder = copy(imagenet, tmp_path / "i", TRAIN, VAL)
    with pytest.raises(DataError, match=f"holds no labels: put {KIT} beside it"):
        listing(folder)
    assert len(listing(folder, devkit=imagenet / KIT).items) == 19
    kit = tmp_path / "kit"
    with tarfile.open(imagenet / KIT) as archive:
        archive.extractall(kit, filter="data")
    assert len(listing(folder, devkit=kit / "ILSVRC2012_devkit_t12").items) == 19
    (kit / "ILSVRC2012_devkit_t12").rename(folder / "ILSVRC2012_devkit_t12")
    assert len(listing(folder).items) == 19


@pytest.mark.fault(51)
def test_unpacked_imagenet_with_a_flat_validation_folder(imagenet: Path, tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "i", tree({"train/n01440764": 1, "train/n01444863": 1}))
    with tarfile.open(imagenet / VAL) as archive:
        archive.extractall(folder / "val", filter="data")
    with pytest.raises(DataError, match="devkit or a label file"):
        listing(folder)
    found = opened(folder, devkit=imagenet / KIT).listing(Recorder())
    labels = {i.name.rpartition("/")[2]: i.label for i in found.items if i.split == "val"}
    assert labels == truth(imagenet)
    assert found.titles["n01440764"] == "ant"


@pytest.mark.fault(40)
@pytest.mark.parametrize("part", ["outer", "inner"])
def test_cut_imagenet_archives_are_refused(imagenet: Path, tmp_path: Path, part: str) -> None:
    folder = copy(imagenet, tmp_path / "i", TRAIN)
    path = folder / TRAIN
    with tarfile.open(path) as archive:
        third = archive.getmembers()[2]
    if part == "outer":
        with path.open("r+b") as file:
            file.truncate(third.offset_data + 700)
        message = f"{TRAIN}: cut off at byte {third.offset_data + 700:,}"
    else:  # the outer tar is whole, a class's tar lost its end before it was packed
        data = bytearray(path.read_bytes())
        start = third.offset_data + 512  # in the first image
        data[start : third.offset_data + third.size] = b"\1" * (third.size - 512)
        path.write_bytes(bytes(data))
        message = f"{TRAIN}: damaged at byte"
    with pytest.raises(DataError, match=message):
        listing(folder)


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w"):
        pass
    path = write_tar(tmp_path / TRAIN, {"n00000001.tar": empty.getvalue()})
    with pytest.raises(DataError, match=r"n00000001\.tar holds no images"):
        listing(path)


def test_class_tars_that_are_none_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / TRAIN, {"n00000001.tar": b"no tar at all" * 99})
    with pytest.raises(DataError, match=f"{TRAIN}: damaged near byte 1,024"):
        listing(path)


def test_folders_and_texts_in_class_tars_are_passed_over(tmp_path: Path) -> None:
    inner = write_folders(tmp_path / "x.tar", ["more"], {"more/a.JPEG": photo(0), "b.txt": b"x"})
    path = write_tar(tmp_path / TRAIN, {"./n00000001.tar": inner.read_bytes()})
    found = listing(path)
    assert splits_and_labels(found) == {"n00000001/more/a.JPEG": ("train", "n00000001")}
    assert found.ignored == 1


def test_other_members_among_the_class_tars_are_refused(imagenet: Path, tmp_path: Path) -> None:
    inner = write_tar(tmp_path / "x.tar", {"a.JPEG": photo(0)}).read_bytes()
    path = write_tar(tmp_path / TRAIN, {"n00000001.tar": inner, "cats.tar": inner})
    with pytest.raises(DataError, match=r"'cats\.tar' is not the tar of a WordNet id"):
        listing(path)


# Label files.


def read_with(imagenet: Path, folder: Path, text: bytes, *, devkit: bool = False) -> dict[str, str]:
    (folder / "labels.txt").write_bytes(text)
    labels = ValLabels(folder / "labels.txt", imagenet / KIT if devkit else None)
    return dict(labels.label(sorted(truth(imagenet))))


def named(imagenet: Path) -> list[str]:
    return [f"{name} {wnid}" for name, wnid in truth(imagenet).items()]


GOOD_FILES: dict[str, Callable[[list[str]], str]] = {
    "name and id": lambda lines: "\n".join(lines) + "\n",
    "another order": lambda lines: "\n".join(reversed(lines)),
    "tabs": lambda lines: "\n".join(lines).replace(" ", "\t"),
    "commas": lambda lines: "\n".join(lines).replace(" ", ","),
    "with folders": lambda lines: "\n".join(f"val/{line}" for line in lines),
    "ids only": lambda lines: "\n".join(line.split()[1] for line in lines),
    "carriage returns": lambda lines: "\r\n".join(lines) + "\r\n",
    "byte order mark": lambda lines: "\ufeff" + "\n".join(lines),
    "blank lines at the end": lambda lines: "\n".join(lines) + "\n\n\n",
}


@pytest.mark.fault(50)
@pytest.mark.parametrize("name", GOOD_FILES)
def test_label_files(imagenet: Path, tmp_path: Path, name: str) -> None:
    text = GOOD_FILES[name](named(imagenet)).encode()
    assert read_with(imagenet, tmp_path, text) == truth(imagenet)


BAD_FILES: dict[str, tuple[Callable[[list[str]], str], str]] = {
    "one line too few": (lambda lines: "\n".join(lines[1:]), "7 labels for 8 validation images"),
    "one id too many": (
        lambda lines: "\n".join(line.split()[1] for line in [*lines, lines[0]]),
        "9 labels for 8",
    ),
    "empty": (lambda lines: "", "0 labels for 8"),
    "a name twice": (
        lambda lines: "\n".join([*lines[:-1], lines[0]]),
        "txt:8: ILSVRC2012_val_00000001.JPEG is already on line 1",
    ),
    "unknown name": (
        lambda lines: "\n".join(lines).replace("00000003", "00000033"),
        "txt:3: no validation image is named ILSVRC2012_val_00000033.JPEG",
    ),
    "no id": (
        lambda lines: "\n".join([*lines[:2], lines[2] + "x", *lines[3:]]),
        "txt:3: 'n[0-9]+x' is not a WordNet id",
    ),
    "three columns": (lambda lines: "\n".join(f"{line} 1" for line in lines), "txt:1: not"),
    "columns that change": (
        lambda lines: "\n".join([*lines[:4], lines[4].split()[1], *lines[5:]]),
        "txt:5: not",
    ),
    "blank line within": (lambda lines: "\n".join([*lines[:4], "", *lines[4:]]), "txt:5: not"),
    "numbers": (lambda lines: "\n".join("1" for _ in lines), "bare numbers: .* devkit"),
    "names and numbers, as in Caffe": (
        lambda lines: "\n".join(f"{line.split()[0]} 3" for line in lines),
        "bare numbers",
    ),
    "no text": (lambda lines: "\udcff\udcfe", "not a text file"),
}


@pytest.mark.fault(50)
@pytest.mark.parametrize("name", BAD_FILES)
def test_wrong_label_files_are_refused(imagenet: Path, tmp_path: Path, name: str) -> None:
    make, message = BAD_FILES[name]
    text = make(named(imagenet)).encode("utf-8", "surrogateescape")
    with pytest.raises(DataError, match=message):
        read_with(imagenet, tmp_path, text)


def ids(imagenet: Path) -> list[int]:
    with tarfile.open(imagenet / KIT) as archive:
        file = archive.extractfile(
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
        )
        assert file is not None
        return [int(line) for line in file.read().split()]


@pytest.mark.fault(50)
def test_numbers_are_mapped_by_the_devkit(imagenet: Path, tmp_path: Path) -> None:
    plain = "\n".join(str(number) for number in ids(imagenet))
    assert read_with(imagenet, tmp_path, plain.encode(), devkit=True) == truth(imagenet)
    pairs = zip(sorted(truth(imagenet)), ids(imagenet), strict=True)
    text = "\n".join(f"{name} {number}" for name, number in reversed(list(pairs)))
    assert read_with(imagenet, tmp_path, text.encode(), devkit=True) == truth(imagenet)


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda numbers: [n - 1 for n in numbers], "'0' is not an ILSVRC2012_ID|contradict"),
        (lambda numbers: [n + 1 for n in numbers], "is not an ILSVRC2012_ID|contradict"),
        (lambda numbers: [*numbers[1:], numbers[0]], "contradict the ground truth"),
        (lambda numbers: [*numbers[:-1], 77], "txt:8: '77' is not an ILSVRC2012_ID"),
        (lambda numbers: [*numbers[:-1], 5], "txt:8: '5' is not an ILSVRC2012_ID"),  # not a leaf
        (lambda numbers: [*numbers[:-1], -1], "txt:8: '-1' is not an ILSVRC2012_ID"),
    ],
)
def test_numbers_that_do_not_fit_the_devkit_are_refused(
    imagenet: Path, tmp_path: Path, change: Callable[[list[int]], list[int]], message: str
) -> None:
    text = "\n".join(str(number) for number in change(ids(imagenet)))
    with pytest.raises(DataError, match=message):
        read_with(imagenet, tmp_path, text.encode(), devkit=True)


def kit_with(folder: Path, meta: bytes | None, numbers: str) -> Path:
    top = "ILSVRC2012_devkit_t12/data"
    files = {f"{top}/ILSVRC2012_validation_ground_truth.txt": numbers.encode()}
    if meta is not None:
        files[f"{top}/meta.mat"] = meta
    return write_tar(folder / KIT, files, "w:gz")


def meta_mat(imagenet: Path) -> bytes:
    with tarfile.open(imagenet / KIT) as archive:
        file = archive.extractfile("ILSVRC2012_devkit_t12/data/meta.mat")
        assert file is not None
        return file.read()


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ("1\n2\n9\n", "ground_truth.txt:3: '9' is not an ILSVRC2012_ID"),
        ("1\nx\n", "ground_truth.txt:2: 'x' is not an ILSVRC2012_ID"),
        ("1\n2\n", "2 labels for 8 validation images"),
    ],
)
def test_wrong_ground_truths_are_refused(
    imagenet: Path, tmp_path: Path, numbers: str, message: str
) -> None:
    kit = kit_with(tmp_path, meta_mat(imagenet), numbers)
    with pytest.raises(DataError, match=message):
        listing(imagenet / VAL, devkit=kit)


@pytest.mark.fault(50)
def test_wrong_devkits_are_refused(imagenet: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data/meta\.mat in it"):
        read_devkit(kit_with(tmp_path, None, "1\n"))
    with pytest.raises(DataError, match=r"meta\.mat cannot be read"):
        read_devkit(kit_with(tmp_path, b"not matlab", "1\n"))
    (tmp_path / "cut.tar.gz").write_bytes((imagenet / KIT).read_bytes()[:300])
    with pytest.raises(DataError, match="cannot be read as the devkit"):
        read_devkit(tmp_path / "cut.tar.gz")
    (tmp_path / "text").write_bytes(gzip.compress(b"text"))
    with pytest.raises(DataError, match="cannot be read as the devkit"):
        read_devkit(tmp_path / "text")


def test_a_devkit_needs_no_scipy(imagenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    assert len(read_devkit(imagenet / KIT).wnids) == len(COUNTS)


# All of them.


def test_sources_travel_to_workers_small(imagenet: Path, tmp_path: Path) -> None:
    many = tree({f"train/{c}": 5 for c in "abcdefgh"})
    sources = [
        opened(as_folder(tmp_path, many)),
        opened(as_tar(tmp_path, many)),
        opened(imagenet),
        opened(write_tar(tmp_path / "c.tar.gz", cifar_python_files(), "w:gz")),
    ]
    for source in sources:
        items = source.listing(Recorder()).items
        data = pickle.dumps(source)
        assert len(data) < 2000
        copied: Source = pickle.loads(data)
        np.testing.assert_array_equal(copied.read(items[3]), source.read(items[3]))
        assert copied.kind == source.kind
        assert copied.location == source.location
    assert isinstance(sources[0], FolderSource)
    assert sources_base.MAX_FILE_BYTES >= 2**27
