"""Counting errors, and the file that keeps what was measured: metrics.jsonl."""

import importlib.util
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet.errors import StorageError, UsageError
from alexnet.progress import SILENT
from alexnet.storage.atomic import write_text


def ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes score at least as high as the right one: (N,), 0 is best.

    A tie or a NaN counts against the network: one that gives all classes the same score is always
    wrong.
    """
    right = scores.gather(1, labels[:, None])
    return (~(scores < right)).sum(1) - 1


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count images by true class (rows) and predicted class (columns): (classes, classes)."""
    cells = torch.bincount(labels * classes + predicted, minlength=classes**2)
    return cells.reshape(classes, classes)


class MetricsLog:
    """The file metrics.jsonl of a run, and the same for TensorBoard where that is asked for.

    Lines that the disk refuses wait in memory and are written, in their order, with the next ones;
    `tell` is given one sentence when that begins.
    """

    def __init__(
        self,
        run: Path,
        *,
        tensorboard: bool = False,
        tell: Callable[[str], None] = SILENT.note,
    ) -> None:
        self.path = run / "metrics.jsonl"
        self._waiting: list[str] = []
        self._tell = tell
        self._board_folder = run / "tensorboard" if tensorboard else None
        self._board: Any = None
        if tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise UsageError("tensorboard=true needs: pip install 'alexnet[tensorboard]'")

    def append(self, row: dict[str, Any]) -> None:
        """Add one line; it has an entry "step"."""
        self._waiting.append(json.dumps(row) + "\n")
        refused_before = len(self._waiting) > 1
        try:
            self._write()
        except OSError as error:
            if not refused_before:
                self._tell(f"cannot write {self.path}: {error.strerror}; its lines wait in memory")
        if self._board_folder:
            self._append_to_board(row)

    def flush(self) -> None:
        """Write what waits and see it to the disk. Raises `StorageError` if that is refused."""
        try:
            self._write(flush=True)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}") from None

    def cut(self, step: int, epoch: int | None = None) -> None:
        """Drop what was written after `step`, before training goes on from there.

        A checkpoint after an epoch's last step can be from before its evaluation: with `epoch`, the
        one under way, the lines of that epoch's end and of later ones go, too.
        """
        kept = [
            row
            for row in read_metrics(self.path)
            if row["step"] <= step
            and not (epoch and row.get("kind") == "epoch" and row["epoch"] >= epoch)
        ]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def close(self) -> None:
        """Let TensorBoard's file be finished."""
        if self._board:
            self._board.close()
            self._board = None

    def _write(self, *, flush: bool = False) -> None:
        """Write all waiting lines or none: a part of a line would be taken for the whole file."""
        with self.path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            text = "".join(self._waiting).encode()
            try:
                if file.write(text) != len(text):
                    file.write(text)  # a full disk takes a part, and says why only when asked again
                    raise OSError(None, "the disk took a part only")
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise
            self._waiting.clear()
            if flush:
                os.fsync(file.fileno())

    def _append_to_board(self, row: dict[str, Any]) -> None:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            # purge_step makes TensorBoard forget what a resumed run will write again.
            self._board = SummaryWriter(self._board_folder, purge_step=row["step"])
        kind = row.get("kind", "step")
        for name, value in row.items():
            if name not in ("step", "kind") and value is not None:
                self._board.add_scalar(f"{kind}/{name}", value, row["step"])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics file; lines that a crash left torn are passed over."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows
