"""Image files by path: which files a folder holds, and reading them with errors that name them."""

import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from alexnet.errors import DataError
from alexnet.images import Orientation, Pixels
from alexnet.images.decode import ImageError, Resize, load_square
from alexnet.storage.atomic import expanded


def raise_error(error: Exception) -> None:
    """Stop at the first bad file."""
    raise error


def find_files(paths: Iterable[str | Path]) -> list[Path]:
    """List the files that `paths` name: themselves, or what folders hold at any depth, sorted.

    Hidden files and folders are skipped. Links to files that do not exist and folders that cannot
    be opened are listed as well: reading them gives the error. Raises `DataError` if there is no
    file.
    """
    named = [expanded(path) for path in paths]
    files = [file for path in named for file in (walk(path) if path.is_dir() else [path])]
    if not files:
        raise DataError(f"there is no file in {', '.join(map(str, named)) or 'an empty list'}")
    return files


def walk(folder: Path, above: frozenset[Path] = frozenset()) -> list[Path]:
    """List the files below `folder` by name, without hidden ones.

    Links to folders are followed, except to those that contain them: the folders `above`.
    """
    above |= {folder.resolve()}
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return [folder]
    files = []
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError:
            files.append(path)
            continue
        if stat.S_ISREG(mode):
            files.append(path)
        elif stat.S_ISDIR(mode) and path.resolve() not in above:
            files += walk(path, above)
    return files


def load_files(
    size: int, resize: Resize, orientation: Orientation, paths: list[Path]
) -> list[tuple[str, Pixels | DataError]]:
    """Read each image as `load_file` does, with its name."""
    return [(str(path), load_file(path, size, resize, orientation)) for path in paths]


def load_file(
    path: Path, size: int, resize: Resize = "short", orientation: Orientation = "turn"
) -> Pixels | DataError:
    """Read one image as `load_square` does: (size, size, 3) uint8.

    Returns the error, which names the file, for a file that cannot be read.
    """
    try:
        return load_square(path.read_bytes(), size, resize=resize, orientation=orientation)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            target = path.readlink()
            return DataError(f"{path}: a link to {target}, which does not exist; fetch that file")
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
