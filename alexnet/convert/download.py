"""Downloading published weights, which are checked by their SHA-256."""

import hashlib
import http.client
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alexnet.errors import CheckpointError, StorageError, UsageError
from alexnet.progress import Progress

CHUNK = 1 << 20
MAX_CHUNKS = 1024
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Published:
    """A published file of weights."""

    address: str
    """The address of its folder, with a slash at the end."""
    file: str
    sha256_prefix: str
    """The beginning of the published SHA-256."""


PUBLISHED = {
    # torchvision, models/alexnet.py, AlexNet_Weights.IMAGENET1K_V1: the hash is in the name.
    "torchvision": Published(
        "https://download.pytorch.org/models/", "alexnet-owt-7be5be79.pth", "7be5be79"
    )
}


@contextmanager
def download(file: Published, mirror: str | None, progress: Progress) -> Iterator[Path]:
    """Download a file, from `mirror` if given, and delete it at the end of the context.

    Raises `StorageError` if the download fails, `CheckpointError` for a wrong SHA-256.
    """
    address = (mirror or file.address).rstrip("/") + "/" + file.file
    if not address.startswith(("https://", "http://")):
        raise UsageError(f"--mirror takes an address that begins with https://, not {mirror}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, file.file)
        digest = _fetch(address, path, progress)
        if not digest.startswith(file.sha256_prefix):
            raise CheckpointError(
                f"{address} is not the published file: its SHA-256 begins with {digest[:8]}, "
                f"not {file.sha256_prefix}"
            )
        yield path


def _fetch(address: str, path: Path, progress: Progress) -> str:
    """Download `address` to `path` and return its SHA-256."""
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - http
            chunks = -(-int(answer.headers.get("Content-Length") or 0) // CHUNK)
            with path.open("wb") as file, progress.task("download", chunks, "MiB") as advance:
                while data := answer.read(CHUNK):
                    file.write(data)
                    digest.update(data)
                    if file.tell() > MAX_CHUNKS * CHUNK:
                        raise CheckpointError(f"{address} has more than {MAX_CHUNKS} MiB")
                    advance(1)
                if answer.length:  # the bytes still missing according to the header
                    raise StorageError(f"cannot fetch {address}: the connection ended early")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise StorageError(f"cannot fetch {address}: {reason}") from None
    return digest.hexdigest()
