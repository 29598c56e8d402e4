"""`alexnet bench predict`: from a cold start to an answer, for one photograph and for many.

Beside it the script that one would write with PyTorch and Pillow alone (`script.py`).
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from alexnet.bench.arms import Arm, Here, Pace, measure
from alexnet.bench.photos import write_photos
from alexnet.bench.steps import CLASSES, preprocessing
from alexnet.bench.tables import Row, Table
from alexnet.config import Settings
from alexnet.progress import Progress
from alexnet.storage import checkpoint
from alexnet.storage.checkpoint import Position
from alexnet.storage.run import Run

INSIDE = "starting Python, imports, reading the weights, decoding, answering"


@dataclass(frozen=True)
class Asked:
    """What is predicted, and where."""

    photos: int = 64
    source: Path | None = None
    device: str = "cpu"
    threads: int = 1


def predict_tables(asked: Asked, pace: Pace, progress: Progress) -> list[Table]:
    """Measure the answer to one photograph, and to many, each in a new process."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        what = write_photos(work / "photos", asked.photos, asked.source, progress)
        files = [str(file) for file in sorted((work / "photos").rglob("*.jpg"))]
        run = made_up_run(work / "run")
        torch.save(run.load_model().state_dict(), work / "weights.pt")
        once, many = (
            measure(label, _arms(work, chosen, asked), pace, progress)
            for label, chosen in (("predict one", files[:1]), ("predict many", files))
        )
    facts = _seconds_per_image(once, many, len(files))
    each = [f"each further one: {value * 1000:,.1f} ms ({key})" for key, value in facts.items()]
    return [
        Table("predict_one", "one photograph, cold start", "s", once, INSIDE, seconds=True),
        Table(
            "predict_many",
            f"{len(files)} photographs, cold start",
            "s",
            many,
            INSIDE,
            seconds=True,
            facts=facts,
            notes=[what, *each],
        ),
    ]


def _arms(work: Path, files: Sequence[str], asked: Asked) -> list[Arm]:
    module = ["-m", "alexnet", "predict", *files, "--run", str(work / "run"), "--json"]
    weights = str(work / "weights.pt")
    script = ["-m", "alexnet.bench.script", str(asked.threads), asked.device, weights, *files]
    ways: list[tuple[str, str, list[str]]] = [
        ("ours", "alexnet predict", [*module, "--device", asked.device]),
        ("script", "a script with PyTorch and Pillow", script),
    ]
    return [Arm(key, name, partial(Here, _call(words, asked))) for key, name, words in ways]


def _call(words: Sequence[str], asked: Asked) -> Callable[[], object]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(asked.threads)}
    command = [sys.executable, *words]
    return partial(subprocess.run, command, check=True, capture_output=True, env=environment)


def _seconds_per_image(once: Sequence[Row], many: Sequence[Row], count: int) -> dict[str, float]:
    """Take the start away: the seconds for each image beyond the first."""
    return {
        one.key: (1 / all_.rate - 1 / one.rate) / (count - 1)
        for one, all_ in zip(once, many, strict=True)
        if one.rate and all_.rate and count > 1
    }


def made_up_run(path: Path) -> Run:
    """Write a run directory for the paper's network with its start weights."""
    settings, prepared = Settings(), preprocessing(torch.device("cpu"))
    classes = [f"class {number}" for number in range(CLASSES)]
    note = {"data": {"path": "none", "fingerprint": ""}}
    run = Run.write(path, settings, classes, classes, prepared, note)
    network = run.new_model()
    checkpoint.save(run.path, network, torch.optim.SGD(network.parameters()), Position())
    return run
