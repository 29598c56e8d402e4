"""Zip archives: repacked once as a tar, whose members can be read in any order."""

import errno
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from alexnet.errors import DataError, StorageError
from alexnet.progress import Progress

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OverflowError)
_ENCRYPTED = 0x1  # a bit of the flags


def tar_from_zip(path: Path, out: Path, progress: Progress) -> None:
    """Write the files of the zip archive `path` as the tar `out`; nothing is written elsewhere.

    Raises DataError if the archive is cut off, damaged or encrypted, or has absolute paths, ".." or
    links; StorageError if its files need more space than there is.
    """
    try:
        with zipfile.ZipFile(path) as archive, tarfile.open(out, "w") as tar:
            infos = archive.infolist()
            total = sum(info.file_size for info in infos)
            free = shutil.disk_usage(out.parent).free
            if total > free:
                raise StorageError(
                    f"{out.parent}: {total / 1e9:,.1f} GB needed to unpack {path.name}, "
                    f"{free / 1e9:,.1f} GB free"
                )
            with progress.task(f"unpack {path.name}", total, "bytes") as advance:
                for info in infos:
                    _add(archive, info, tar, path)
                    advance(info.file_size)
    except _DAMAGE as error:
        raise DataError(f"{path}: cut off or damaged ({error}); download it again") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # what a wrong offset or size leads to
            raise
        raise DataError(f"{path}: cut off or damaged ({error}); download it again") from error
    except NotImplementedError as error:
        raise DataError(f"{path}: {error}; unpack it and give the folder") from error


def _add(archive: zipfile.ZipFile, info: zipfile.ZipInfo, tar: tarfile.TarFile, path: Path) -> None:
    name = info.filename if "/" in info.filename else info.filename.replace("\\", "/")
    if PurePosixPath(name).is_absolute() or ".." in name.split("/") or name[1:2] == ":":
        raise DataError(f"{path}: member {name!r} points outside; refused")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise DataError(f"{path}: member {name!r} is a link or device; refused")
    if info.flag_bits & _ENCRYPTED:
        raise DataError(f"{path}: {name} is encrypted; unpack it and give the folder")
    member = tarfile.TarInfo(name.rstrip("/"))
    if name.endswith("/"):
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
        return
    member.size = info.file_size
    with archive.open(info) as file:
        tar.addfile(member, file)
