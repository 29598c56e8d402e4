"""The sources that `prepare` can read; `open_source` recognises them."""

from pathlib import Path

from alexnet.errors import DataError, UsageError
from alexnet.prepare.sources.base import Source
from alexnet.prepare.sources.cifar10 import BINARY_FOLDER, PYTHON_FOLDER, Cifar10Source
from alexnet.prepare.sources.folder import FolderSource
from alexnet.prepare.sources.imagenet import ImageNetSource, find_devkit, find_imagenet
from alexnet.prepare.sources.labels import ValLabels
from alexnet.prepare.sources.layout import SPLIT_NAMES
from alexnet.prepare.sources.tar import Archive, TarSource, decompress, first_member, is_tar, stamp
from alexnet.progress import Progress

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
    labels = ValLabels(val_labels, devkit or find_devkit(path if path.is_dir() else path.parent))
    open_path = _open_folder if path.is_dir() else _open_archive
    source = open_path(path, work, progress, labels)
    if (val_labels or devkit) and not isinstance(source, ImageNetSource | FolderSource):
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
        return TarSource(str(path), tuple(archives), stamp(*by_split.values()))
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
        return ImageNetSource(str(path), train, val, labels)
    return TarSource(str(path), (Archive(tar),), stamp(path))


def _archives_by_split(folder: Path) -> dict[str, Path]:
    """Find the archives in a folder that are named after splits: train.tar.gz, test.tar."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem, _, suffix = path.name.partition(".")
        split = SPLIT_NAMES.get(stem.lower())
        if split and suffix.startswith(("tar", "tgz")) and path.is_file():
            if split in found:
                raise DataError(f"{folder}: both {found[split].name} and {path.name} are {split}")
            found[split] = path
    return found


def _as_tar(path: Path, work: Path, progress: Progress) -> Path:
    tar = decompress(path, work, progress)
    if not is_tar(tar):
        raise DataError(f"{path}: neither a folder nor a tar archive (plain, gzip, bzip2 or xz)")
    return tar
