"""The sources that `prepare` can read; `open_source` recognises them."""

import shlex
from pathlib import Path

from alexnet.errors import DataError, UsageError
from alexnet.prepare.sources.base import Source
from alexnet.prepare.sources.cifar10 import BINARY_FOLDER, PYTHON_FOLDER, Cifar10Source
from alexnet.prepare.sources.folder import FolderSource
from alexnet.prepare.sources.imagenet import ImageNetSource, find_devkit, find_imagenet
from alexnet.prepare.sources.labels import ValLabels, find_solution
from alexnet.prepare.sources.layout import LabelVal
from alexnet.prepare.sources.names import few, split_of
from alexnet.prepare.sources.tar import Archive, TarSource, decompress, first_member, is_tar, stamp
from alexnet.progress import Progress
from alexnet.storage.dataset_manifest import FORMAT, MANIFEST

_OTHER_ARCHIVES = {
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd FILE"),
    b"7z\xbc\xaf\x27\x1c": ("7z", "7z x FILE"),
    b"Rar!": ("RAR", "unrar x FILE"),
    b"\x04\x22\x4d\x18": ("LZ4", "unlz4 FILE"),
    b"LZIP": ("lzip", "lzip -dk FILE"),
    b"\x1f\x9d": ("compress", "uncompress FILE"),
    b"\x89HDF": ("HDF5", ""),
    b"PAR1": ("Parquet", ""),
}
_CIFAR_ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")


def open_source(
    path: Path,
    work: Path,
    progress: Progress,
    *,
    val_labels: Path | None = None,
    devkit: Path | None = None,
) -> Source:
    """Recognise a source by its content; decompress archives into the folder `work`.

    `val_labels` and `devkit` give the classes of ImageNet's validation images. Raises UsageError
    or DataError if `path` cannot be read as a source.
    """
    for needed in filter(None, (path, val_labels, devkit)):
        if not needed.exists():
            raise UsageError(f"{needed}: no such file or folder")
    devkit_path = devkit or find_devkit(path if path.is_dir() else path.parent)
    label_file = val_labels or (None if devkit_path else find_solution(path))
    labels = ValLabels(label_file, devkit_path)
    if (path / MANIFEST).is_file() and FORMAT in (path / MANIFEST).read_text("utf-8", "replace"):
        raise UsageError(f"{path} is a packed data set already; give the images it was made of")
    open_path = _open_folder if path.is_dir() else _open_archive
    source = open_path(path, work, progress, labels)
    if (val_labels or devkit) and isinstance(source, Cifar10Source):
        raise UsageError(f"{path} is not ImageNet: it needs no devkit and no label file")
    return source


def _open_folder(path: Path, work: Path, progress: Progress, labels: ValLabels) -> Source:
    for name in _CIFAR_ARCHIVES:
        if (path / name).is_file():
            return _open_archive(path / name, work, progress, labels)
    train, val = find_imagenet(path, "")
    if train or val:
        return ImageNetSource(str(path), train, val, labels)
    by_split = _archives_by_split(path)
    if by_split:
        archives = [
            Archive(_as_tar(file, work, progress), split) for split, file in by_split.items()
        ]
        return TarSource(str(path), tuple(archives), stamp(*by_split.values()), _label_val(labels))
    return FolderSource(path, labels if labels.file or labels.devkit else None)


def _open_archive(path: Path, work: Path, progress: Progress, labels: ValLabels) -> Source:
    tar = _as_tar(path, work, progress)
    first = first_member(tar)
    top = first.partition("/")[0]
    if top == PYTHON_FOLDER:
        return Cifar10Source(str(path), tar, work / "cifar10.pixels", stamp(path))
    if top == BINARY_FOLDER:
        return Cifar10Source(str(path), tar, None, stamp(path))
    train, val = find_imagenet(path, first)
    if train or val:
        version = stamp(*filter(None, (train, val)))
        train, val = (tar if each == path else each for each in (train, val))
        return ImageNetSource(str(path), train, val, labels, version=version)
    return TarSource(str(path), (Archive(tar),), stamp(path), _label_val(labels))


def _label_val(labels: ValLabels) -> LabelVal | None:
    return labels.label if labels.file or labels.devkit else None


def _archives_by_split(folder: Path) -> dict[str, Path]:
    """Find the archives in a folder that are named after splits: train.tar.gz, test.zip.

    Archives that lie beside the folders unpacked from them are not needed.
    """
    found: dict[str, Path] = {}
    unpacked: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem, _, suffix = path.name.partition(".")
        split, other = split_of(stem) or ("", None)
        if not split or other:
            continue
        if path.is_dir():
            unpacked[split] = path
        elif suffix.startswith(("tar", "tgz", "zip")):
            if split in found:
                raise DataError(f"{folder}: both {found[split].name} and {path.name} are {split}")
            found[split] = path
    packed = [path.name for split, path in found.items() if split not in unpacked]
    if packed and unpacked:
        folders = ", ".join(path.name for path in unpacked.values())
        raise DataError(f"{folder} has folders ({folders}) and archives; unpack {few(packed)} too")
    return {} if unpacked else found


def _as_tar(path: Path, work: Path, progress: Progress) -> Path:
    tar = decompress(path, work, progress)
    if not is_tar(tar):
        with tar.open("rb") as file:
            start = file.read(8)
        for magic, (kind, command) in _OTHER_ARCHIVES.items():
            if start.startswith(magic):
                how = f"unpack it ({command.replace('FILE', shlex.quote(path.name))}) and"
                remedy = f"{how if command else 'save its images as files and'} give the result"
                raise DataError(f"{path} is a {kind} file, which is not read; {remedy}")
        raise DataError(
            f"{path}: neither a folder nor a tar archive (plain, gzip, bzip2 or xz) nor a zip"
        )
    return tar
