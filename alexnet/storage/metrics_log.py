"""metrics.jsonl: the file of a run that records its losses, errors and times."""

import importlib.util
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import StorageError, UsageError
from alexnet.progress import SILENT
from alexnet.storage.atomic import write_text

COMPARED = {
    "loss": ["Multiline", ["epoch/train_loss", "epoch/val_loss"]],
    "error": ["Multiline", ["epoch/top1_error", "epoch/top5_error"]],
}
"""TensorBoard's cards with several curves, under Custom Scalars."""

Row = dict[str, Any]
"""One line; it has an entry "step"."""


class MetricsLog:
    """Appends to metrics.jsonl, and to TensorBoard's file where `tensorboard` is set.

    After a failed write, lines stay in memory and are written in order with the next ones; `warn`
    gets one sentence about it.
    """

    def __init__(
        self,
        run: Path,
        *,
        tensorboard: bool = False,
        warn: Callable[[str], None] = SILENT.note,
    ) -> None:
        self.path = run / "metrics.jsonl"
        self._pending: list[str] = []
        self._warn = warn
        self._board_folder = run / "tensorboard" if tensorboard else None
        self._board: Any = None
        if tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise UsageError("tensorboard=true needs: pip install 'alexnet[tensorboard]'")

    def append(self, row: Row) -> None:
        """Add one line."""
        self._pending.append(json.dumps(row) + "\n")
        has_failed_before = len(self._pending) > 1
        try:
            self._write()
        except OSError as error:
            if not has_failed_before:
                self._warn(
                    f"cannot write {self.path}: {error.strerror}; its lines stay in memory until "
                    f"a write succeeds"
                )
        if self._board_folder:
            self._append_to_board(row)

    def add_pictures(self, name: str, pictures: NDArray[np.uint8], step: int) -> None:
        """Show pictures (N, height, width, 3) side by side in TensorBoard, if it is written."""
        if self._board_folder:
            self._opened_board(step).add_images(name, pictures, step, dataformats="NHWC")

    def flush(self) -> None:
        """Write pending lines and flush them to the disk. Raises `StorageError` if that fails."""
        try:
            self._write(flush=True)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}") from None

    def cut(self, step: int, epoch: int | None = None) -> None:
        """Remove the lines written after `step`, before training continues from there.

        A checkpoint after an epoch's last step can precede its evaluation. So with `epoch`, the
        current one, the lines for the ends of that epoch and of later ones are removed too.
        """
        rows = [
            row
            for row in read_metrics(self.path)
            if row["step"] <= step
            and not (epoch and row.get("kind") == "epoch" and row["epoch"] >= epoch)
        ]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._board:
            self._board.close()
            self._board = None

    def _write(self, *, flush: bool = False) -> None:
        """Write all pending lines or none: a part of a line would corrupt the next one."""
        with self.path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            text = "".join(self._pending).encode()
            try:
                if file.write(text) != len(text):
                    file.write(text)  # a full disk writes a part; only a second try says why
                    raise OSError(None, "only a part was written")
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise
            self._pending.clear()
            if flush:
                os.fsync(file.fileno())

    def _append_to_board(self, row: Row) -> None:
        board, kind = self._opened_board(row["step"]), row.get("kind", "step")
        for name, value in row.items():
            if name not in ("step", "kind") and value is not None:
                board.add_scalar(f"{kind}/{name}", value, row["step"])

    def _opened_board(self, step: int) -> Any:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            # purge_step makes TensorBoard forget what a resumed run will write again.
            self._board = SummaryWriter(self._board_folder, purge_step=step)
            self._board.add_custom_scalars({"by epoch": COMPARED})
        return self._board


def read_metrics(path: Path) -> list[Row]:
    """Read a metrics file; lines that a crash left incomplete are skipped."""
    rows: list[Row] = []
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
