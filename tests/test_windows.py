"""Without what Windows lacks, every module is imported, and the package prepares, trains, predicts.

This is Linux that hides the POSIX modules, functions and signals and says that it is Windows.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet.storage import atomic

PREAMBLE = """
import multiprocessing.connection, multiprocessing.spawn, os, signal, sys, types
import numba, PIL.Image, torch._dynamo, torch.distributed.elastic.multiprocessing
import torch.distributed.launcher.api, torch.optim, typer, rich.console

def refuse(*_):
    raise PermissionError(13, "Permission denied")  # as the C library on Windows

for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
for name in ("fork", "pread", "setpgrp", "killpg", "getuid", "geteuid", "sched_getaffinity"):
    delattr(os, name)
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTSTP", "SIGQUIT", "SIGALRM", "pthread_kill"):
    delattr(signal, name)
held = []
msvcrt = types.SimpleNamespace(
    LK_NBLCK=2,
    locking=lambda descriptor, mode, count: held.append((mode, count)) if not held else refuse(),
)
sys.modules["msvcrt"] = msvcrt
sys.platform = "win32"
"""

IMPORT_ALL = """
import importlib, pkgutil, alexnet
for module in pkgutil.walk_packages(alexnet.__path__, "alexnet."):
    optional = module.name.startswith("alexnet.kernels.cuda") or module.name.endswith("__main__")
    if not optional:
        importlib.import_module(module.name)
"""

USE_IT = """
from dataclasses import replace
from pathlib import Path
import alexnet
from alexnet.demo.drawings import Drawings, draw_picture
from alexnet.storage.locks import locked
from alexnet.errors import UsageError
from alexnet.networks import registry
from alexnet.storage import atomic

assert atomic.WINDOWS
folder = Path(sys.argv[1])
counts = {"train": 20, "val": 10}
alexnet.prepare_dataset(Drawings(counts=counts), folder / "data", size=64, workers=1)
held.clear()
settings = replace(alexnet.recipe("small"), model="alexnet_small", epochs=1)
report = alexnet.train_model(folder / "data", folder / "run", settings, device="cpu")
assert held == [(2, 1)], held
alexnet.evaluate_run(folder / "run", folder / "data", device="cpu")
PIL.Image.fromarray(draw_picture(0, "val", 0)).save(folder / "a.png")
(prediction,) = alexnet.predict_images(folder / "a.png", folder / "run", device="cpu")
assert len(prediction.predictions) == 5
try:
    with locked(folder / "run", "busy"):
        raise AssertionError
except UsageError as error:
    assert str(error).startswith("busy"), error
try:
    from alexnet.parallel import TrainingSpec, launch
    launch(TrainingSpec("data", folder / "data", folder / "two", settings, "cpu"), 2)
except UsageError as error:
    assert "needs Linux or macOS" in str(error), error
"""


def run(script: str, *arguments: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_module_is_imported() -> None:
    run(IMPORT_ALL)


@pytest.mark.slow
def test_it_prepares_trains_and_predicts(tmp_path: Path) -> None:
    run(USE_IT, tmp_path)


def test_files_are_flushed_by_handles_that_can_write_and_folders_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[Path, int]] = []
    original = os.open

    def record(path: Path, flags: int) -> int:
        opened.append((path, flags))
        return original(path, flags)

    (tmp_path / "file").touch()
    monkeypatch.setattr(atomic, "WINDOWS", True)
    monkeypatch.setattr(os, "open", record)
    atomic.flush(tmp_path / "file")
    atomic.flush(tmp_path)
    assert opened == [(tmp_path / "file", os.O_RDWR)]
