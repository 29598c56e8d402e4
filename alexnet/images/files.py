"""Image files by path: which files a folder holds, and reading them with errors that name them."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from alexnet.errors import DataError
from alexnet.images import Pixels
from alexnet.images.decode import ImageError, Resize, load_square


def raise_error(error: Exception) -> None:
    """Stop at the first bad file."""
    raise error


def find_files(paths: Iterable[str | Path]) -> list[Path]:
    """List the files that `paths` name: themselves, or what folders hold at any depth, sorted.

    Hidden files and folders are skipped. Raises `DataError` if there is no file.
    """
    named = [Path(path) for path in paths]
    files = [file for path in named for file in (walk(path) if path.is_dir() else [path])]
    if not files:
        raise DataError(f"there is no file in {', '.join(map(str, named)) or 'an empty list'}")
    return files


def walk(folder: Path) -> list[Path]:
    """List the files below `folder` by name, without hidden ones; links to folders stay closed."""
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if file.is_file())


def load_files(
    paths: list[Path], size: int, resize: Resize = "short"
) -> list[tuple[str, Pixels | DataError]]:
    """Read each image as `load_file` does, with its name."""
    return [(str(path), load_file(path, size, resize)) for path in paths]


def load_file(path: Path, size: int, resize: Resize = "short") -> Pixels | DataError:
    """Read one image, turned as its EXIF tag says: (size, size, 3) uint8.

    Returns the error, which names the file, for a file that cannot be read.
    """
    try:
        return load_square(path.read_bytes(), size, orient=True, resize=resize)
    except OSError as error:
        return DataError(f"{path}: {error.strerror}")
    except ImageError as error:
        return DataError(f"{path}: {error}")


def separate_errors(
    loaded: list[tuple[str, Pixels | DataError]], on_bad: Callable[[DataError], None]
) -> tuple[list[str], list[Pixels]]:
    """Return the names and pixels of the images; pass the errors to `on_bad`."""
    names, images = [], []
    for name, image in loaded:
        if isinstance(image, DataError):
            on_bad(image)
        else:
            names.append(name)
            images.append(image)
    return names, images
