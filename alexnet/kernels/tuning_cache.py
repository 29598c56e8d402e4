"""What was found out on this machine, kept from one process to the next in the person's cache."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from alexnet.errors import StorageError
from alexnet.storage.atomic import atomic_write
from alexnet.storage.untrusted import parse_json


def cache_folder() -> Path:
    """Name the folder for compiled kernels: where this system keeps a person's caches."""
    home = Path.home()
    named = {"win32": "LOCALAPPDATA"}.get(sys.platform, "XDG_CACHE_HOME")
    usual = {"win32": home / "AppData/Local", "darwin": home / "Library/Caches"}
    base = os.environ.get(named) or usual.get(sys.platform, home / ".cache")
    return Path(base) / "alexnet" / "kernels"


class TuningCache:
    """Values by name in a JSON file; without a file that can be read or written, in memory only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = self._read()

    def get(self, name: str) -> Any:
        """Return what is kept under `name`; None if nothing is."""
        return self.values.get(name)

    def put(self, name: str, value: Any) -> None:
        """Keep a plain JSON value under `name`, beside what other processes have kept meanwhile."""
        self.values = self._read() | self.values | {name: value}
        with suppress(StorageError), atomic_write(self.path) as aside:
            aside.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        try:
            values = parse_json(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}
