"""`alexnet bench predict`: from a cold start to an answer, for one photograph and for many.

The peer is the script that one would write with PyTorch and Pillow alone (`peers.main`).
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from alexnet.bench.data import PhotoSetup
from alexnet.bench.made_up import write_photos, write_run
from alexnet.bench.report import Row, Table
from alexnet.bench.timing import Candidate, LocalTimer, Rounds, measure
from alexnet.progress import Progress

INSIDE = "starting Python, imports, reading the weights, decoding, answering"


def predict_tables(setup: PhotoSetup, rounds: Rounds, progress: Progress) -> list[Table]:
    """Measure the answer to one photograph, and to many, each in a new process."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        what = write_photos(work / "photos", setup.photos, setup.source, progress)
        files = [str(file) for file in sorted((work / "photos").rglob("*.jpg"))]
        run = write_run(work / "run")
        torch.save(run.load_model().state_dict(), work / "weights.pt")
        one, many = (
            measure(label, _candidates(work, chosen, setup), rounds, progress)
            for label, chosen in (("predict one", files[:1]), ("predict many", files))
        )
    facts = _seconds_per_image(one, many, len(files))
    each = [f"each further one: {value * 1000:,.1f} ms ({key})" for key, value in facts.items()]
    return [
        Table("predict_one", "one photograph, cold start", "s", one, INSIDE, seconds=True),
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


def _candidates(work: Path, files: Sequence[str], setup: PhotoSetup) -> list[Candidate]:
    command = ["-m", "alexnet", "predict", *files, "--run", str(work / "run"), "--json"]
    weights = str(work / "weights.pt")
    script = ["-m", "alexnet.bench.peers", str(setup.threads), setup.device, weights, *files]
    candidates: list[tuple[str, str, list[str]]] = [
        ("ours", "alexnet predict", [*command, "--device", setup.device]),
        ("script", "a script with PyTorch and Pillow", script),
    ]
    return [
        Candidate(key, name, partial(LocalTimer, _call(words, setup)))
        for key, name, words in candidates
    ]


def _call(words: Sequence[str], setup: PhotoSetup) -> Callable[[], object]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(setup.threads)}
    command = [sys.executable, *words]
    return partial(subprocess.run, command, check=True, capture_output=True, env=environment)


def _seconds_per_image(one: Sequence[Row], many: Sequence[Row], count: int) -> dict[str, float]:
    """Return the seconds for each image beyond the first, without the start."""
    return {
        first.key: (1 / all_.rate - 1 / first.rate) / (count - 1)
        for first, all_ in zip(one, many, strict=True)
        if first.rate and all_.rate and count > 1
    }
