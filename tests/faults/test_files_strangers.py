"""Malicious files: they run no code, allocate no memory and write nothing elsewhere."""

import gzip
import io
import json
import os
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from convert_makers import lively, use_small
from data_makers import Recorder, photo, picture, write_tar
from fuzzing import comes_from_memory, limits
from PIL import Image

from alexnet.convert import import_weights
from alexnet.convert.read import read_weights
from alexnet.dataset import Dataset
from alexnet.errors import AlexnetError, CheckpointError, DataError, UsageError
from alexnet.images.decode import FORMATS, ImageError, load_square
from alexnet.prepare import prepare_dataset
from alexnet.prepare.sources import open_source
from alexnet.storage.run import Run

ROOT = Path(__file__).parents[2]


# Pickles. Each creates the file `sentinel` when pickle loads it.


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def corpus(sentinel: Path) -> dict[str, bytes]:
    command, code = f"touch {sentinel}", f"open({str(sentinel)!r}, 'w').close()"
    objects = {
        "os.system": Call(os.system, command),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "nested getattr": Call(Call(getattr, Call(__import__, "os"), "system"), command),
        "getattr of builtins": Call(Call(getattr, Call(__import__, "builtins"), "eval"), code),
        "path": Call(Path.touch, sentinel),
        "os.mknod": Call(os.mknod, str(sentinel)),
    }  # fmt: skip
    found = {}
    for name, value in objects.items():
        for protocol in (0, 2, 4):
            content = {"conv1.weight": [0.0], "x": value}
            found[f"{name}, {protocol}"] = dump(content, protocol)
    text = b"X" + struct.pack("<I", len(command)) + command.encode()
    found["names from the stack"] = b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + text + b"\x85R."
    found["old opcodes"] = f"cposix\nsystem\n(S'{command}'\ntR.".encode()
    found["instance"] = f"(S'{command}'\niposix\nsystem\n.".encode()
    return found


def dump(content: Any, protocol: int) -> bytes:
    """Pickle nested calls: the function of a call may itself be a call."""
    out = io.BytesIO()
    pickler: Any = pickle._Pickler(out, protocol)

    def save_reduce(function: Any, arguments: Any, *_: Any, **__: Any) -> None:
        pickler.save(function)
        pickler.save(arguments)
        pickler.write(pickle.REDUCE)

    pickler.save_reduce = save_reduce
    pickler.dump(content)
    return out.getvalue()


NAMES = list(corpus(Path("x")))


def as_zip(payload: bytes) -> bytes:
    """Replace the pickle in a file of torch.save by the payload."""
    whole, out = io.BytesIO(), io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(2)}, whole)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(out, "w") as changed:
        for entry in archive.infolist():
            pickled = entry.filename.endswith("data.pkl")
            changed.writestr(entry.filename, payload if pickled else archive.read(entry))
    return out.getvalue()


def as_old_file(payload: bytes) -> bytes:
    """Put the payload after the header of a file of torch.save before 1.6."""
    whole = io.BytesIO()
    torch.save({}, whole, _use_new_zipfile_serialization=False)
    whole.seek(0)
    for _ in range(3):  # a magic number, a version, facts about the system
        pickle.load(whole)
    return whole.getvalue()[: whole.tell()] + payload


@pytest.mark.fault(12)
@pytest.mark.parametrize("name", NAMES)
def test_pickles_in_the_place_of_weights_run_nothing(tmp_path: Path, name: str) -> None:
    sentinel = tmp_path / "sentinel"
    payload = corpus(sentinel)[name]
    files = {"zip": as_zip(payload), "old": as_old_file(payload), "bare": payload}
    for kind, data in files.items():
        path = tmp_path / kind
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=rf"{kind} (cannot be read|is in none)"):
            read_weights(path)
        assert not sentinel.exists()


@pytest.mark.fault(12)
@pytest.mark.parametrize("name", NAMES)
def test_pickles_in_the_place_of_arrays_run_nothing(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, name: str
) -> None:
    sentinel = tmp_path / "sentinel"
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    array = header.ljust(127) + b"\n" + corpus(sentinel)[name]
    for whole, opens, file in (
        (tiny_run, Run.open, "mean_image.npy"),
        (tiny_data, Dataset, "train-labels.npy"),
    ):
        copy = tmp_path / whole.name
        copy.mkdir()
        for path in whole.iterdir():
            if path.is_file():
                (copy / path.name).symlink_to(path)
        (copy / file).unlink()
        (copy / file).write_bytes(array)
        if opens is Dataset:
            write_size(copy, file, len(array))
        with pytest.raises(AlexnetError):
            opens(copy)
        assert not sentinel.exists()


def write_size(folder: Path, file: str, size: int) -> None:
    """Write the size of a file to the manifest."""
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").unlink()
    pattern = rf'("file": "{file}",\s*"bytes": )\d+'
    changed, count = re.subn(pattern, rf"\g<1>{size}", text)
    assert count == 1
    (folder / "dataset.json").write_text(changed)


@pytest.mark.fault(12)
def test_the_corpus_does_run_elsewhere(tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    for payload in corpus(sentinel).values():
        pickle.loads(payload)
        assert sentinel.exists()
        sentinel.unlink()


@pytest.mark.fault(12)
def test_nothing_asks_for_pickles() -> None:
    asks = re.compile(r"weights_only\s*=\s*False|allow_pickle\s*=\s*True|pickle\.loads?\(")
    files = [path for top in ("alexnet", "scripts") for path in (ROOT / top).rglob("*.py")]
    assert len(files) > 50
    assert not [path for path in files if asks.search(path.read_text(encoding="utf-8"))]
    assert asks.search("np.load(x, allow_pickle=True)")


# False sizes.


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin: int, end: int, *shape: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


CLAIMS: dict[str, bytes] = {
    "a header longer than memory": safetensors({}, length=1 << 50),
    "a header longer than the file": safetensors({"a": tensor(0, 4, 1)}, bytes(4), length=1 << 20),
    "a negative length": b"\xff" * 8 + b"{}" + bytes(8),
    "no JSON": safetensors(b"{" * 4000, bytes(16)),
    "another encoding": safetensors(b'{"\xff\xfe": 1}', bytes(16)),
    "a list": safetensors([1, 2], bytes(16)),
    "out of the file": safetensors({"a": tensor(0, 1 << 40, 1 << 38)}, bytes(16)),
    "begins after the file": safetensors({"a": tensor(1 << 40, (1 << 40) + 4, 1)}, bytes(16)),
    "overlapping": safetensors({"a": tensor(0, 8, 2), "b": tensor(4, 12, 2)}, bytes(12)),
    "a hole": safetensors({"a": tensor(0, 4, 1), "b": tensor(8, 12, 1)}, bytes(12)),
    "more data than tensors": safetensors({"a": tensor(0, 4, 1)}, bytes(400)),
    "ends before it begins": safetensors({"a": tensor(8, 4, 1)}, bytes(12)),
    "wrong size of a number": safetensors({"a": tensor(0, 4, 1, dtype="F64")}, bytes(4)),
    "unknown numbers": safetensors({"a": tensor(0, 4, 1, dtype="F3")}, bytes(4)),
    "a shape that overflows": safetensors({"a": tensor(0, 4, 1 << 33, 1 << 33)}, bytes(4)),
    "a negative shape": safetensors({"a": tensor(0, 4, -1, -1)}, bytes(4)),
}


@pytest.mark.fault(13)
@pytest.mark.parametrize("name", CLAIMS)
def test_claims_of_safetensors_are_refused_within_bounds(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(CLAIMS[name])
    with limits(), pytest.raises(CheckpointError, match=f"^{path} ") as caught:
        read_weights(path)
    assert not comes_from_memory(caught.value)


@pytest.mark.fault(13)
def test_arrays_that_claim_to_be_huge(tiny_run: Path, tmp_path: Path) -> None:
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 100000, 3), }"
    data = b"\x93NUMPY\x01\x00v\x00" + head.ljust(117) + b"\n" + bytes(64)
    (tmp_path / "mean.npy").write_bytes(data)
    with limits(), pytest.raises(UsageError, match=r"mean\.npy is not a mean image") as caught:
        import_weights(
            weights_file(tmp_path), tmp_path / "run", model="alexnet_small",
            mean=tmp_path / "mean.npy",
        )  # fmt: skip
    assert not comes_from_memory(caught.value)


def weights_file(folder: Path) -> Path:
    """Write weights of the network alexnet_small."""
    path = folder / "weights.pt"
    torch.save(lively("alexnet_small").state_dict(), path)
    return path


# Weights for another network.


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("name", "other"), [("alexnet", "alexnet_one_tower"), ("alexnet_one_tower", "alexnet")]
)
def test_weights_of_one_tower_do_not_get_into_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, other: str
) -> None:
    use_small(monkeypatch, "alexnet", "alexnet_one_tower")
    model = lively(name)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    options: dict[str, Any] = {"mean": "1,2,3", "size": 256}
    with pytest.raises(CheckpointError, match=r"does not fit the network: .*conv2\.weight \(\d+x"):
        import_weights(tmp_path / "weights.pt", tmp_path / "run", model=other, **options)
    assert not (tmp_path / "run").exists()
    report = import_weights(tmp_path / "weights.pt", tmp_path / "run", model=name, **options)
    assert report.model == name


@pytest.mark.fault(17)
@pytest.mark.parametrize("version", [2, 99, "1", None, [1]])
def test_versions_that_this_package_does_not_know(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, version: Any
) -> None:
    for whole, name, opens in (
        (tiny_run, "run.json", Run.open),
        (tiny_data, "dataset.json", Dataset),
    ):
        folder = tmp_path / name
        folder.mkdir()
        text = (whole / name).read_text()
        (folder / name).write_text(json.dumps(json.loads(text) | {"version": version}))
        with pytest.raises((CheckpointError, DataError)) as caught:
            opens(folder)
        if version in (2, 99):
            assert f"version {version}" in str(caught.value)
            assert re.search("update it|use the alexnet that wrote it", str(caught.value))


# Archives.


def evil_tar(path: Path, change: Callable[[tarfile.TarInfo], None]) -> Path:
    """Write a tar of two valid images and a third member that `change` makes malicious."""
    with tarfile.open(path, "w") as archive:
        for name in ("a/0.jpg", "b/0.jpg", "a/1.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(photo(0))
            if name == "a/1.jpg":
                change(info)
            archive.addfile(info, io.BytesIO(photo(0)))
    return path


def named(name: str) -> Callable[[tarfile.TarInfo], None]:
    return lambda info: setattr(info, "name", name)


def special(kind: bytes, target: str = "") -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, target, 0

    return change


def headers(**values: str) -> Callable[[tarfile.TarInfo], None]:
    """Add an extended header that contradicts the header."""
    return lambda info: setattr(info, "pax_headers", values)


EVIL: dict[str, Callable[[tarfile.TarInfo], None]] = {
    "above": named("../../outside.jpg"),
    "absolute": named("/tmp/outside.jpg"),
    "in between": named("a/../../outside.jpg"),
    "above by extended header": headers(path="../outside.jpg"),
    "link": special(tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": special(tarfile.LNKTYPE, "../outside.jpg"),
    "character device": special(tarfile.CHRTYPE),
    "block device": special(tarfile.BLKTYPE),
    "pipe": special(tarfile.FIFOTYPE),
}


@pytest.mark.fault(42)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", EVIL)
def test_archives_write_nothing_outside(tmp_path: Path, name: str, packed: bool) -> None:
    path = evil_tar(tmp_path / "evil.tar", EVIL[name])
    if packed:
        path = write_packed(path)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="refused"):
        prepare_dataset(path, tmp_path / "out", size=8, workers=1)
    assert set(tmp_path.rglob("*")) == before


def write_packed(path: Path) -> Path:
    packed = path.with_suffix(".tar.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


@pytest.mark.fault(42)
def test_an_archive_that_claims_huge_members(tmp_path: Path) -> None:
    path = evil_tar(tmp_path / "evil.tar", headers(size=str(1 << 60)))
    source = open_source(path, tmp_path / "work", Recorder())
    with limits(), pytest.raises(DataError, match="cut off at byte") as caught:
        source.listing(Recorder())
    assert not comes_from_memory(caught.value)
    files = {"a/" * 2000 + "1.jpg": photo(0), "b/1.jpg": photo(1)}
    source = open_source(write_tar(tmp_path / "deep.tar", files), tmp_path / "work", Recorder())
    with limits(), pytest.raises(DataError, match="is 2,000 folders deep"):
        source.listing(Recorder())


# Images.


@pytest.mark.fault(43)
def test_only_the_formats_on_the_list_are_opened() -> None:
    """Pillow opens some seventy formats; those not on our list are not opened."""
    Image.init()
    refused = 0
    for kind in sorted(Image.SAVE):
        out = io.BytesIO()
        try:
            with warnings.catch_warnings(action="ignore"):
                Image.fromarray(picture(1, 16, 16)).save(out, kind)
        except (KeyError, OSError, ValueError, AttributeError, ImportError):
            continue  # Pillow cannot write such an image
        if kind in (*FORMATS, "MPO"):  # MPO is a JPEG with more data at the end
            assert load_square(out.getvalue(), 8).shape == (8, 8, 3)
        else:
            with pytest.raises(ImageError, match="not a JPEG"):
                load_square(out.getvalue(), 8)
            refused += 1
    assert refused > 10


@pytest.mark.fault(47)
@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "JPEG"])
def test_huge_images_are_refused_by_their_header(kind: str) -> None:
    """A small file claims the size in its header: nothing is decoded."""
    small = np.zeros((16, 16, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).save(out, kind, **({"lossless": True} if kind == "WEBP" else {}))
    data = bytearray(out.getvalue())
    if kind == "PNG":
        data[16:24] = struct.pack(">II", 60_000, 60_000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", 60_000, 60_000)
        offset = data.index(b"\x2c")
        data[offset + 5 : offset + 9] = struct.pack("<HH", 60_000, 60_000)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", 60_000, 60_000)
    elif kind == "JPEG":
        offset = data.index(b"\xff\xc0")
        data[offset + 5 : offset + 9] = struct.pack(">HH", 60_000, 60_000)
    else:  # 14 bits each for width and height less one
        offset = data.index(b"VP8L") + 9
        data[offset : offset + 4] = struct.pack("<I", 16_000 | 16_000 << 14)
    with limits(), pytest.raises(ImageError, match="pixels"):  # and not "damaged: MemoryError"
        load_square(bytes(data), 8)
