"""All that `make bench-gpu` measures: the tables of `alexnet bench`, and what only a GPU needs.

Only: the self-check, `alexnet train` from files and from the device's memory, where a step's time
goes, losses against the reference network's, blocks and convolutions one by one.

On an H200 these ran when they were written in scripts/bench_gpu.py: self-check, `alexnet train`,
profile, losses; the others have run on a CPU in Triton's interpreter (`REHEARSAL`).
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from alexnet.bench import steps
from alexnet.bench.made_up import fill_dataset, write_dataset
from alexnet.bench.network_tables import Setup, block_table, convolution_table, network_table
from alexnet.bench.parts import BLOCKS, CONVOLUTION_SIDES
from alexnet.bench.report import Table
from alexnet.bench.spec import SIZE, Spec
from alexnet.bench.timing import Rounds, first_line
from alexnet.config import Settings
from alexnet.networks.initialization import he_initialize
from alexnet.networks.registry import create_model, input_shape
from alexnet.progress import SILENT, Silent
from alexnet.storage.run import Run

PATTERNS = 10
"""Classes of the images whose losses are compared."""

Result = dict[str, Any]
Measurement = Callable[[], Result]


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    setup: Setup
    rounds: Rounds
    train: tuple[int, ...]
    """Batch sizes of training, the most important first."""
    infer: tuple[int, ...]
    size: int
    """Side of the stored images in pixels."""
    loss_steps: int
    loss_batch: int
    epoch: int
    """Images of an epoch of `alexnet train`."""
    blocks: tuple[str, ...]
    block_batch: int
    convolutions: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        """The device."""
        return torch.device(self.setup.device)


GPU = Scale(
    setup=Setup("cuda", "bfloat16", torch.get_num_threads()),
    rounds=Rounds(seconds=0.4, warm_up=3),
    train=(1024, 128, 512),
    infer=(1024, 1, 32, 128, 512),
    size=SIZE,
    loss_steps=200,
    loss_batch=128,
    epoch=131_072,
    blocks=tuple(BLOCKS),
    block_batch=512,
    convolutions=tuple(CONVOLUTION_SIDES),
)
REHEARSAL = Scale(
    setup=Setup(
        "cpu",
        "bfloat16",
        torch.get_num_threads(),
        own_process=False,
        only=("ours", "ours_plain"),
        model="alexnet_small",
        captured=True,
    ),
    rounds=Rounds(1, 0.0, 1),
    train=(2,),
    infer=(2,),
    size=64,
    loss_steps=2,
    loss_batch=2,
    epoch=64,
    blocks=("block_5",),
    block_batch=1,
    convolutions=("conv5",),
)
"""A small network on a CPU, to see that everything works."""

COMPILED = ("ours", "modules_compiled", "torchvision_compiled")
"""Rows of the tables with peers under torch.compile, which takes most of the time."""


def measurements(scale: Scale) -> dict[str, dict[str, Measurement]]:
    """Return all measurements, each under its name in result.json, in groups."""
    eager = replace(scale.setup, compiled=False)
    compiled = eager if scale.setup.only else replace(scale.setup, only=COMPILED)
    return {
        "check": {"check": partial(self_check, scale)},
        "train": {f"train_batch_{n}": _network(scale, "train", n, eager) for n in scale.train},
        "train_command": {
            f"train_command_batch_{n}": partial(train_command, scale, n) for n in scale.train[:2]
        },
        "profile": {f"profile_batch_{n}": partial(profile, scale, n) for n in scale.train[:1]},
        "infer": {f"infer_batch_{n}": _network(scale, "infer", n, eager) for n in scale.infer},
        "losses": {"losses": partial(losses, scale)},
        "blocks": {
            f"{name}_{'both' if backward else 'forward'}": _table(
                scale, block_table, name, scale.block_batch, backward=backward
            )
            for name in scale.blocks
            for backward in (False, True)
        },
        "convolutions": {
            f"{name}_batch_{n}": _table(scale, convolution_table, name, n)
            for name in scale.convolutions
            for n in scale.train[:2]
        },
        "train_compiled": {
            f"train_compiled_batch_{n}": _network(scale, "train", n, compiled)
            for n in scale.train[:1]
        },
        "infer_compiled": {
            f"infer_compiled_batch_{n}": _network(scale, "infer", n, compiled)
            for n in scale.infer[:2]
        },
    }


def _network(scale: Scale, work: str, batch: int, setup: Setup) -> Measurement:
    return _table(replace(scale, setup=setup), network_table, work, batch)


def _table(
    scale: Scale, make: Callable[..., Table], name: str, batch: int, **options: Any
) -> Measurement:
    return lambda: table_result(make(name, batch, scale.setup, scale.rounds, SILENT, **options))


def table_result(table: Table) -> Result:
    """Return a table as JSON, an error if our own row could not be measured."""
    ours = table.rows[0]
    return table.as_json() if ours.rates else {"error": ours.note}


def result_of(work: Measurement) -> Result:
    """Return what `work` does, or its error as a result."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - the other measurements follow
        return {"error": f"{type(error).__name__}: {first_line(error)}"}


# Measurements.


def self_check(scale: Scale) -> Result:
    """Time the check of the device that comes before the first training of a network."""
    from alexnet.kernels import accelerate
    from alexnet.kernels.cuda.first_use import training_checks  # needs Triton
    from alexnet.kernels.cuda.self_check import check_blocks, run_check

    began = time.perf_counter()
    if scale.device.type == "cuda":
        network = accelerate(create_model(scale.setup.model).to(scale.device))
        for check in training_checks(network, input_shape(scale.setup.model), torch.bfloat16):
            run_check(check, scale.device)
    else:
        check_blocks(scale.device, shape=(1, 8, 7, 7))
    return {"passed": True, "seconds": time.perf_counter() - began}


def train_command(scale: Scale, batch: int) -> Result:
    """Train three epochs as `alexnet train` does, from files and then from the device's memory."""
    from alexnet.kernels import accelerate
    from alexnet.train import train_model

    settings = Settings(model=scale.setup.model, batch_size=batch, epochs=3)
    notes = Notes()
    with tempfile.TemporaryDirectory() as name:
        data, run = Path(name, "data"), Path(name, "run")
        write_dataset(data, scale.epoch, "raw", scale.size)
        fill_dataset(data)
        report = train_model(
            data, run, settings, device=scale.setup.device, accelerate=accelerate, progress=notes
        )
        rates = [row["images_per_second"] for row in Run.open(run).metrics() if "kind" in row]
    return {
        "rate": report.images_per_second,  # of the last epoch
        "epochs": rates,
        "waited_for_images": report.waited_for_images,
        "limit": report.limit,
        "notes": notes.lines,
    }


class Notes(Silent):
    """A progress that stores its notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        """Store `message`."""
        self.lines.append(message)


def profile(scale: Scale, batch: int) -> Result:
    """Profile our training step: the forty kernels that take most of the time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    step, _ = steps.build(scale.setup.spec("train", batch))
    step()
    on_gpu = scale.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with torch_profile(activities=[activity]) as profiler:
        for _ in range(3):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    amount = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, amount))[:40]
    return {"microseconds_per_step": {row.key[:160]: getattr(row, amount) / 3 for row in rows}}


def losses(scale: Scale) -> Result:
    """Compare losses: ours with the reference network's, and these with those of another seed."""
    cudnn = torch.backends.cudnn
    cudnn.benchmark, cudnn.deterministic = False, True
    ours = scale.setup.spec("train", scale.loss_batch)
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
