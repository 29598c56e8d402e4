"""What must be right on a GPU: the tests, exact resume, losses, and how much memory is taken.

Nothing here is timed, so these run side by side. The losses ran on an H200; the others have run on
a CPU only.
"""

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from alexnet.bench import steps
from alexnet.bench.gpu.commands import Notes, run_command, train_words
from alexnet.bench.gpu.scale import Scale
from alexnet.bench.made_up import fill_dataset, write_dataset
from alexnet.bench.spec import Spec
from alexnet.config import Settings
from alexnet.kernels import accelerate
from alexnet.networks.initialization import he_initialize
from alexnet.parallel.comm_stats import peak_memory
from alexnet.storage import checkpoint_store
from alexnet.storage.metrics_log import read_metrics
from alexnet.train import train_model

Result = dict[str, Any]

ROOT = Path(__file__).parents[3]
"""The checkout, which has the tests."""
PATTERNS = 10
"""Classes of the images whose losses are compared."""
GIGABYTES_2012 = 3.0
"""Memory of a GTX 580 (P 3.2), in units of 2^30 bytes."""

# Tests.


def run_tests(scale: Scale, report: Path) -> Result:
    """Run the tests of the checkout that use a GPU; pytest writes its JUnit file to `report`."""
    has_workers = importlib.util.find_spec("xdist") is not None
    options = scale.tests if has_workers or "-n" not in scale.tests else ()
    files = sorted(path for path in (ROOT / "tests").glob("test_*.py") if uses_gpu(path))
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", f"--junitxml={report}"]
    done = subprocess.run(  # noqa: S603 - this package's tests
        [*command, *options, *map(str, files)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if not report.exists():
        raise RuntimeError(f"pytest ended with exit code {done.returncode} and wrote no report")
    return {"files": [path.name for path in files], **read_junit(report)}


def uses_gpu(test: Path) -> bool:
    """Tell whether a file of tests has some that use a GPU where there is one."""
    text = test.read_text(encoding="utf-8")
    return "torch.cuda.is_available()" in text or "from test_kernels_cuda import" in text


def read_junit(report: Path) -> Result:
    """Count the tests in a JUnit file, and name those that failed with their messages."""
    cases = list(ET.parse(report).iter("testcase"))  # noqa: S314 - pytest wrote it
    failed, skipped = {}, 0
    for case in cases:
        skipped += case.find("skipped") is not None
        for kind in ("failure", "error"):
            if (problem := case.find(kind)) is not None:
                name = f"{case.get('classname')}::{case.get('name')}"
                failed[name] = (problem.get("message") or "").partition("\n")[0]
    return {"tests": len(cases), "skipped": skipped, "failed": len(failed), "failures": failed}


# Exact resume.


def resume(scale: Scale, recipe: str, model: str) -> Result:
    """Kill a training at a random step, continue it, and compare it with an undisturbed one."""
    batch, steps_in_epoch = scale.batch(128), 12 if scale.is_rehearsal else 60
    kill_after = random.randrange(steps_in_epoch // 2, steps_in_epoch * 3 // 2)  # noqa: S311
    words = ["--recipe", recipe, "--model", model, "--epochs", "2"]
    words += ["--set", f"log_steps={steps_in_epoch // 12}"]
    words += ["--set", f"checkpoint_steps={steps_in_epoch // 6}"]
    with tempfile.TemporaryDirectory() as name:
        data, whole, killed = (Path(name, each) for each in ("data", "whole", "killed"))
        write_dataset(data, batch * steps_in_epoch, "raw", scale.side(model))
        fill_dataset(data)
        run_command(train_words(scale, data, whole, *words, batch=batch))
        command = train_words(scale, data, killed, *words, batch=batch)
        reached = kill_at_step(command, killed, kill_after)
        run_command(train_words(scale, data, killed, "--resume", batch=batch))
        tensors, others = (checkpoint_store.load(run, "last").tensors for run in (whole, killed))
    differ = [key for key in tensors if not torch.equal(tensors[key], others[key])]
    return {
        "steps": 2 * steps_in_epoch,
        "killed_after_step": reached,
        "tensors": len(tensors),
        "tensors_that_differ": len(differ),
        "names": differ,
    }


def kill_at_step(command: Sequence[str], run: Path, step: int) -> int:
    """Start a training and kill it once its metrics have `step`; return the last step they have.

    Raises `RuntimeError` if the training ends before.
    """
    with subprocess.Popen(  # noqa: S603 - this package itself
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while last_step(run) < step:
            if process.poll() is not None:
                raise RuntimeError(f"the training ended before step {step}: {process.returncode}")
            time.sleep(0.01)
        process.kill()
    if process.returncode == 0:
        raise RuntimeError(f"the training ended before it was killed at step {step}")
    return last_step(run)


def last_step(run: Path) -> int:
    """Return the last step that a run's metrics have; 0 before the first."""
    return max((row["step"] for row in read_metrics(run / "metrics.jsonl")), default=0)


# Memory.


def memory(scale: Scale, *, plain: bool) -> Result:
    """Return the most memory that a training of the paper's network takes, at its batch size.

    It is that of `alexnet train`, or with `plain` that of PyTorch's own operations in float32, the
    type of 2012. Images come from files, so none are stored on the device.
    """
    settings = Settings(
        model=scale.setup.model,
        batch_size=scale.batch(128),
        epochs=1,
        precision="float32" if plain else "auto",
    )
    notes = Notes()
    with tempfile.TemporaryDirectory() as name:
        data = Path(name, "data")
        write_dataset(data, 4 * settings.batch_size, "raw", scale.size)
        if scale.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        train_model(
            data, Path(name, "run"), settings, device=scale.device, progress=notes, cache="none",
            accelerate=None if plain else accelerate,
        )  # fmt: skip
    return memory_result(peak_memory(scale.device)) | {"notes": notes.lines}


def tower_memory(scale: Scale) -> Result:
    """Return the same for one of the paper's two towers: two processes share the device."""
    device = "cuda:0" if scale.device.type == "cuda" else "cpu"
    batch = scale.batch(128)
    with tempfile.TemporaryDirectory() as name:
        data = Path(name, "data")
        write_dataset(data, 4 * batch, "raw", scale.size)
        words = ["--recipe", "paper", "--model", scale.setup.model, "--epochs", "1", "--json"]
        words += ["--set", "precision=float32", "--cache", "none", "--parallel", "towers"]
        words += ["--processes", "2", "--report-communication", "--max-restarts", "0"]
        command = train_words(scale, data, Path(name, "run"), *words, batch=batch)
        command[command.index("--device") + 1] = device
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    ranks = json.loads(done.stdout)["communication"]
    return memory_result(max(rank["peak_memory_bytes"] for rank in ranks))


def memory_result(peak: int) -> Result:
    """Return bytes and whether a GPU of 2012 has as many: tensors alone, without CUDA's own."""
    gigabytes = peak / 2**30
    return {"peak_bytes": peak, "gigabytes": gigabytes, "fits_2012": gigabytes <= GIGABYTES_2012}


# Losses.


def losses(scale: Scale) -> Result:
    """Compare losses: ours with the reference network's, and these with those of another seed."""
    cudnn = torch.backends.cudnn
    cudnn.benchmark, cudnn.deterministic = False, True
    ours = scale.setup.spec("train", scale.batch(128))
    reference = replace(ours, net="reference", mode="eager", captured=False)
    curves = {
        "reference": _loss_curve(scale, reference, 0),
        "reference, another seed": _loss_curve(scale, reference, 1),
        "ours": _loss_curve(scale, ours, 0),
        "ours again": _loss_curve(scale, ours, 0),
    }
    return {
        "ours_from_reference": _distance(curves["ours"], curves["reference"]),
        "reference_from_reference": _distance(
            curves["reference"], curves["reference, another seed"]
        ),
        "same_bits_again": curves["ours"] == curves["ours again"],
        "curves": curves,
    }


def _loss_curve(scale: Scale, spec: Spec, seed: int) -> list[float]:
    """Train from the same initial weights; return the loss of every step."""
    settings = Settings(batch_size=spec.batch, seed=seed, lr=0.001)
    torch.manual_seed(0)
    net, _ = steps.new_network(spec, PATTERNS)
    assert isinstance(net, torch.nn.Sequential)  # noqa: S101 - it comes from create_model
    he_initialize(net, pixel_std=70.0)
    make_step = steps.captured_step if spec.captured else steps.training_step
    data = steps.TrainingData(spec, settings)
    count, size = data.images.shape[:2]
    data.images, data.labels = learnable_images(count, size, scale.device)
    step = make_step(spec, settings, steps.on_device(spec, net), data)
    curve: list[float] = torch.stack([step().clone() for _ in range(scale.loss_steps)]).tolist()
    return curve


def learnable_images(
    count: int, size: int, device: torch.device
) -> tuple[Tensor, NDArray[np.int64]]:
    """Make images (count, size, size, 3) uint8: a coarse pattern for each label, and noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(PATTERNS, 3, 4, 4, generator=generator)
    patterns = F.interpolate(coarse, (size, size), mode="bilinear").permute(0, 2, 3, 1).to(device)
    images = torch.empty(count, size, size, 3, dtype=torch.uint8, device=device)
    labels = np.arange(count) % PATTERNS
    for number, label in enumerate(labels):
        noise = torch.rand(size, size, 1, device=device)
        images[number] = ((patterns[label] + noise) * 127.5).to(torch.uint8)
    return images, labels


def _distance(first: list[float], second: list[float]) -> float:
    """Return the mean distance of two curves, each smoothed over twenty steps."""
    width = min(20, len(first))
    a, b = (np.convolve(curve, np.ones(width) / width, "valid") for curve in (first, second))
    return float(np.abs(a - b).mean())
