"""Measure everything that needs a GPU, in one visit of less than eight minutes.

    python scripts/bench_gpu.py results/gpu_h200

Each measurement is a process of its own with a time limit, so that one that fails costs no other,
and writes OUT/parts/NAME.json as it ends; result.json puts all together. The same command goes on
where it was stopped: what is there is not measured again, what failed is tried again. `--rehearse`
runs all of it on a CPU in Triton's interpreter, on a small network: for the script's sake, not for
numbers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.config import Settings
from alexnet.networks.registry import create_model, input_shape
from alexnet.optim import PaperSGD, he_initialize, make_optimizer
from alexnet.progress import Silent
from alexnet.storage.run import Run
from alexnet.transforms import Preprocessing, augment, sample_augment

Step = Callable[[], object]
Result = dict[str, Any]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    device: torch.device
    model: str
    size: int
    train: tuple[int, ...]
    infer: tuple[int, ...]
    stored: int
    """Images in the device's memory, of made-up content."""
    seconds: float
    """Of one measurement, after warming up."""
    loss_steps: int
    loss_batch: int
    epoch: int
    """Images of an epoch of the command `alexnet train`."""

    @property
    def crop(self) -> int:
        """Side of the network's input."""
        return input_shape(self.model)[1]


GPU = Scale(
    device=torch.device("cuda"),
    model="alexnet",
    size=256,
    train=(1024, 128, 512),
    infer=(1024, 1, 32, 128, 512),
    stored=4096,
    seconds=2.0,
    loss_steps=200,
    loss_batch=128,
    epoch=131_072,
)
REHEARSAL = Scale(
    device=torch.device("cpu"),
    model="alexnet_small",
    size=64,
    train=(2,),
    infer=(2,),
    stored=8,
    seconds=0.01,
    loss_steps=2,
    loss_batch=2,
    epoch=64,
)


# Timing.


def wait(scale: Scale) -> None:
    """Wait until the device has done all that it was given."""
    if scale.device.type == "cuda":
        torch.cuda.synchronize()


def timed(scale: Scale, step: Step, amount: float) -> Result:
    """Return the rate of `amount` per call: the median of five runs, the lowest and the highest."""
    for _ in range(3):
        step()
    wait(scale)
    began = time.perf_counter()
    step()
    wait(scale)
    calls = max(1, int(scale.seconds / 5 / (time.perf_counter() - began)))
    rates = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(calls):
            step()
        wait(scale)
        rates.append(calls * amount / (time.perf_counter() - began))
    return {"median": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}


def by_batch(
    scale: Scale, batches: tuple[int, ...], make: Callable[[int], Step]
) -> Iterator[tuple[str, Result]]:
    """Yield images per second for each size of batch, and an error's text where there was one."""
    for batch in batches:
        yield str(batch), result_of(lambda n=batch: timed(scale, make(n), n))  # type: ignore[misc]
        if scale.device.type == "cuda":
            torch.cuda.empty_cache()


def result_of(work: Callable[[], Result]) -> Result:
    """Return what `work` does, or its error as a result."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other measurements go on
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {str(error)[:1000]}"}


# What is trained and run.


def channels_last(network: Network) -> Network:
    """Put the weights of convolutions in that order, and return the network."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def preprocessing(scale: Scale) -> Preprocessing:
    """Return an even mean, and colours as ImageNet has them."""
    mean = torch.full((3, scale.size, scale.size), 118.0)
    vectors = ((-0.57, 0.72, 0.40), (-0.58, 0.0, -0.81), (-0.58, -0.69, 0.42))
    return Preprocessing(scale.size, scale.crop, mean, (70.0, 20.0, 9.0), vectors).to(scale.device)


def stored_images(scale: Scale, classes: int = 10) -> tuple[Tensor, np.ndarray[Any, Any]]:
    """Make images that can be learned: a coarse pattern for each class, and noise."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(classes, 3, 4, 4, generator=generator)
    labels = np.arange(scale.stored) % classes
    smooth = F.interpolate(patterns, (scale.size, scale.size), mode="bilinear").to(scale.device)
    images = torch.empty(scale.stored, scale.size, scale.size, 3, dtype=torch.uint8)
    images = images.to(scale.device)
    for number, label in enumerate(labels):
        noise = torch.rand(scale.size, scale.size, 1, device=scale.device)
        pixels = (smooth[label].permute(1, 2, 0) * 0.5 + noise * 0.5) * 255
        images[number] = pixels.to(torch.uint8)
    return images, labels


class PlainTraining:
    """The training step as the loop without kernels does it, on images in the device's memory."""

    def __init__(self, scale: Scale, settings: Settings, network: nn.Module, *, fast: bool) -> None:
        self.scale, self.settings, self.network = scale, settings, network.train()
        self.preprocessing = preprocessing(scale)
        self.images, self.labels = stored_images(scale)
        self.channels_last = fast
        parameters = list(network.parameters())
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(parameters, settings.lr, 0.9, weight_decay=5e-4, fused=True)
            if fast
            else PaperSGD(parameters, settings.lr, 0.9, 5e-4)
        )
        self.count = 0

    def step(self) -> Tensor:
        """Make one step; return its loss."""
        self.count += 1
        numbers = next_numbers(self.settings, self.count, len(self.images))
        draws = sample_augment(self.settings, self.preprocessing, self.count, numbers)
        chosen = self.images[torch.from_numpy(numbers).to(self.scale.device)]
        inputs = augment(chosen, draws, self.preprocessing, self.settings)
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        labels = torch.from_numpy(self.labels[numbers]).to(self.scale.device)
        torch.manual_seed(self.count)
        with torch.autocast(self.scale.device.type, torch.bfloat16):
            logits = self.network(inputs)
        loss = F.cross_entropy(logits.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()


class FastTraining:
    """The same with everything that this package has: kernels, one graph for the whole step."""

    def __init__(self, scale: Scale, settings: Settings, network: nn.Sequential) -> None:
        from alexnet.kernels import accelerate
        from alexnet.kernels.cuda.captured_step import CapturedStep

        self.settings, self.preprocessing = settings, preprocessing(scale)
        self.images, self.labels = stored_images(scale)
        self.model = channels_last(network.train())
        optimizer = make_optimizer(self.model, settings)
        assert isinstance(optimizer, PaperSGD)
        self.captured = CapturedStep(
            self.model,
            optimizer,
            self.preprocessing,
            settings,
            self.images.flatten(1),
            accelerate=accelerate,
        )
        self.count = 0

    def step(self) -> Tensor:
        """Make one step; return its loss."""
        self.count += 1
        numbers = next_numbers(self.settings, self.count, len(self.images))
        draws = sample_augment(self.settings, self.preprocessing, self.count, numbers)
        return self.captured(numbers, draws, self.labels[numbers], self.count)[0]


def next_numbers(settings: Settings, count: int, images: int) -> np.ndarray[Any, Any]:
    """Choose a step's images by the seed."""
    return np.random.default_rng([settings.seed, count]).integers(0, images, settings.batch_size)


def new_model(scale: Scale, classes: int = 1000) -> nn.Sequential:
    """Build the network, always with the same weights."""
    torch.manual_seed(0)
    classes = classes if scale.device.type == "cuda" else 10
    return create_model(scale.model, classes).to(scale.device)


def torchvision_model(scale: Scale) -> tuple[nn.Module, str]:
    """Return torchvision's alexnet, or its layers from our table, and which it was."""
    if scale.device.type == "cuda":
        try:
            from torchvision.models import alexnet  # type: ignore[import-untyped,unused-ignore]
        except (ImportError, OSError, RuntimeError):
            return create_model("one_weird_trick").to(scale.device), "its layers in plain modules"
        return alexnet().to(scale.device), "torchvision.models.alexnet"
    return new_model(scale), "rehearsal: another network"


# The measurements.


def limits(scale: Scale) -> Result:
    """Measure the device's matrix products and copies: what nothing can be faster than."""
    side, length = (8192, 2**31) if scale.device.type == "cuda" else (64, 2**12)
    a, b = (torch.randn(side, side, device=scale.device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(length, device=scale.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return {
        "matmul_flops": timed(scale, lambda: a @ b, 2 * side**3),
        "copy_bytes": timed(scale, lambda: target.copy_(source), 2 * length),
    }


def check(scale: Scale) -> Result:
    """Run the start-up check of the device; an error here is a result."""
    from alexnet.kernels.cuda import self_check as cuda_check

    began = time.perf_counter()
    if scale.device.type == "cuda":
        cuda_check.check_device(scale.device)
    else:
        cuda_check.check_blocks(scale.device, shape=(1, 8, 7, 7))
    return {"passed": True, "seconds": time.perf_counter() - began}


def train_ours(scale: Scale) -> Result:
    """Train with all kernels, everything of the paper's recipe inside the timing."""

    def make(batch: int) -> Step:
        return FastTraining(scale, Settings(batch_size=batch), new_model(scale)).step

    return dict(by_batch(scale, scale.train, make))


def train_ours_uncaptured(scale: Scale) -> Result:
    """Train with kernels for the blocks only: no graph, PyTorch's update and preparation."""
    from alexnet.kernels import accelerate

    def make(batch: int) -> Step:
        network = accelerate(channels_last(new_model(scale)))
        return PlainTraining(scale, Settings(batch_size=batch), network, fast=True).step

    return dict(by_batch(scale, scale.train, make))


def made_up_data(folder: Path, scale: Scale) -> Path:
    """Write a packed data set of noise; all its shards are one file under many names."""
    from full_size import write_dataset

    write_dataset(folder, scale.epoch, "raw", scale.size)
    first, *others = sorted(folder.glob("train-0*.npy"))
    generator = np.random.default_rng(0)
    with first.open("r+b") as file:
        file.seek(-(first.stat().st_size // 4096) * 4096, os.SEEK_END)
        while rest := first.stat().st_size - file.tell():
            file.write(generator.bytes(min(rest, 2**24)))
    for path in others:
        if path.stat().st_size == first.stat().st_size:
            path.unlink()
            os.link(first, path)
    return folder


def train_command(scale: Scale) -> Result:
    """Train as `alexnet train` does, from files into the device's memory and from there."""
    from alexnet.kernels import accelerate
    from alexnet.train import train_model

    def fit(data: Path, batch: int) -> Result:
        settings = Settings(model=scale.model, batch_size=batch, epochs=3)
        heard = Heard()
        run = data.parent / f"run-{batch}"
        report = train_model(
            data, run, settings, device=scale.device.type, accelerate=accelerate, progress=heard
        )
        rates = [row["images_per_second"] for row in Run.open(run).metrics() if "kind" in row]
        return {
            "median": report.images_per_second,  # of the last epoch
            "epochs": rates,
            "waited_for_images": report.waited_for_images,
            "limit": report.limit,
            "notes": heard.notes,
        }

    with tempfile.TemporaryDirectory() as name:
        data = made_up_data(Path(name, "data"), scale)
        return {str(batch): result_of(partial(fit, data, batch)) for batch in scale.train[:2]}


class Heard(Silent):
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        """Keep `message`."""
        self.notes.append(message)


def train_plain(scale: Scale) -> Result:
    """Train the same network in plain modules, eager, under autocast."""

    def make(batch: int) -> Step:
        return PlainTraining(scale, Settings(batch_size=batch), new_model(scale), fast=False).step

    return dict(by_batch(scale, scale.train, make))


def train_plain_channels_last(scale: Scale) -> Result:
    """Train the same, channels-last and with PyTorch's fused update."""

    def make(batch: int) -> Step:
        network = channels_last(new_model(scale))
        return PlainTraining(scale, Settings(batch_size=batch), network, fast=True).step

    return dict(by_batch(scale, scale.train, make))


def compiled(scale: Scale, network: nn.Module) -> nn.Module:
    """Compile a network; the rehearsal leaves it as it is."""
    if scale.device.type != "cuda":
        return network
    result: nn.Module = torch.compile(network)  # type: ignore[assignment]
    return result


def train_compiled(scale: Scale) -> Result:
    """Train the same network under torch.compile, largest batch."""

    def make(batch: int) -> Step:
        network = compiled(scale, channels_last(new_model(scale)))
        return PlainTraining(scale, Settings(batch_size=batch), network, fast=True).step

    return dict(by_batch(scale, scale.train[:1], make))


def train_torchvision(scale: Scale) -> Result:
    """Train torchvision's network (no normalisation), channels-last, eager and compiled."""
    kind = ""

    def make(batch: int) -> Step:
        nonlocal kind
        network, kind = torchvision_model(scale)
        network = channels_last(network)
        return PlainTraining(scale, Settings(batch_size=batch), network, fast=True).step

    def make_compiled(batch: int) -> Step:
        network = compiled(scale, channels_last(torchvision_model(scale)[0]))
        return PlainTraining(scale, Settings(batch_size=batch), network, fast=True).step

    eager = dict(by_batch(scale, scale.train, make))
    return {"network": kind, "eager": eager} | {
        "compiled": dict(by_batch(scale, scale.train[:1], make_compiled))
    }


def graphed(scale: Scale, step: Step) -> Step:
    """Record `step` as a CUDA graph."""
    if scale.device.type != "cuda":
        return step
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(beside):
        for _ in range(3):
            step()
    wait(scale)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def inference(scale: Scale, network: nn.Module, batch: int, *, graph: bool) -> Step:
    """Return the forward pass on a batch in bfloat16, channels-last, already on the device."""
    shape = (batch, 3, scale.crop, scale.crop)
    images = torch.randn(shape, device=scale.device, dtype=torch.bfloat16) * 60
    images = images.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def step() -> object:
        return network(images)

    return graphed(scale, step) if graph else step


def infer_ours(scale: Scale) -> Result:
    """Classify with all kernels, recorded as a graph."""
    from alexnet.kernels import accelerate

    model = channels_last(new_model(scale).eval().bfloat16())
    network = accelerate(model)
    return dict(by_batch(scale, scale.infer, lambda n: inference(scale, network, n, graph=True)))


def infer_plain(scale: Scale) -> Result:
    """Classify with plain modules: eager, compiled, and torchvision's network."""
    plain = channels_last(new_model(scale).eval().bfloat16())
    other, kind = torchvision_model(scale)
    other = channels_last(other.eval().bfloat16())
    results: Result = {"torchvision_is": kind}
    for name, network, batches in (
        ("eager", plain, scale.infer),
        ("torchvision", other, scale.infer),
        ("compiled", compiled(scale, plain), scale.infer[:2]),
        ("torchvision_compiled", compiled(scale, other), scale.infer[:1]),
    ):
        make = lambda n, net=network: inference(scale, net, n, graph=False)  # noqa: E731
        results[name] = dict(by_batch(scale, batches, make))
    return results


def blocks(scale: Scale) -> Result:
    """Run the blocks forward and backward, with our kernels and with PyTorch's layers."""
    from alexnet.kernels.cuda.blocks import plain_block, run_block
    from alexnet.kernels.cuda.self_check import BLOCKS

    large = scale.device.type == "cuda"
    shapes = ((512, 96, 55, 55), (512, 256, 27, 27)) if large else ((1, 8, 5, 5),)
    return {
        f"{shape}: {name}, {kind}": result_of(partial(block_rates, scale, shape, block, run))
        for shape in shapes
        for name, block in BLOCKS.items()
        for kind, run in (("ours", run_block), ("plain", plain_block))
    }


def block_rates(scale: Scale, shape: tuple[int, ...], block: Any, run: Any) -> Result:
    """Return images per second of one block, forward alone and with the backward pass."""
    x = torch.randn(shape, device=scale.device, dtype=torch.bfloat16) * 30
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.ones_like(run(x, block))

    @torch.no_grad()
    def forward() -> object:
        return run(x, block)

    def both() -> object:
        return torch.autograd.grad(run(x, block), x, gradient)

    count = shape[0]
    return {"forward": timed(scale, forward, count), "both": timed(scale, both, count)}


def convolutions(scale: Scale) -> Result:
    """Run conv1 and the grouped convolutions forward and backward, in each form there is."""
    from alexnet.kernels.convolutions import ConvAlgorithm

    model = channels_last(new_model(scale).bfloat16())
    large = scale.device.type == "cuda"
    sides = {"conv1": 227, "conv2": 27, "conv4": 13, "conv5": 13} if large else {"conv2": 13}
    common = {"as it is": ConvAlgorithm(channels_last=True), "contiguous": ConvAlgorithm()}
    first = {"rearranged": ConvAlgorithm(channels_last=True, unshuffle=True)}
    grouped = {
        "split": ConvAlgorithm(channels_last=True, groups="split"),
        "filled": ConvAlgorithm(channels_last=True, groups="filled"),
    }
    return {
        f"{name}, batch {batch}, {kind}": result_of(
            partial(convolution_rate, scale, model.get_submodule(name), form, (batch, side))
        )
        for name, side in sides.items()
        for batch in scale.train[:2]
        for kind, form in (common | (first if name == "conv1" else grouped)).items()
    }


def convolution_rate(scale: Scale, layer: Any, pixel_format: Any, sizes: tuple[int, int]) -> Result:
    """Return images per second of one convolution, forward and backward; conv1 gives no gradient
    to its input."""
    from alexnet.kernels.convolutions import convolve

    batch, side = sizes
    shape = (batch, layer.in_channels, side, side)
    x = torch.randn(shape, device=scale.device, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(layer.in_channels > 3)
    wanted = [layer.weight, x] if x.requires_grad else [layer.weight]
    gradient = torch.randn_like(convolve(x, layer, pixel_format))
    return timed(
        scale,
        lambda: torch.autograd.grad(convolve(x, layer, pixel_format), wanted, gradient),
        batch,
    )


def parts(scale: Scale) -> Result:
    """Profile our training step: which kernels take the time."""
    from torch.profiler import ProfilerActivity, profile

    training = FastTraining(scale, Settings(batch_size=scale.train[0]), new_model(scale))
    training.step()
    wait(scale)
    on_gpu = scale.device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        for _ in range(3):
            training.step()
        wait(scale)
    rows = profiler.key_averages()
    amount = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = sorted(rows, key=lambda row: -getattr(row, amount))[:40]
    return {
        "batch": scale.train[0],
        "microseconds_per_step": {row.key[:160]: getattr(row, amount) / 3 for row in rows},
    }


def losses(scale: Scale) -> Result:
    """Compare losses: fast against plain, plain against plain with another seed."""
    curves: dict[str, list[float]] = {}
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    for name, seed in (("plain", 0), ("plain, another seed", 1), ("fast", 0), ("fast again", 0)):
        settings = Settings(batch_size=scale.loss_batch, seed=seed, lr=0.001)
        model = new_model(scale, 10)
        he_initialize(model, pixel_std=70.0)
        training: PlainTraining | FastTraining = (
            FastTraining(scale, settings, model)
            if name.startswith("fast")
            else PlainTraining(scale, settings, model, fast=False)
        )
        steps = [training.step().clone() for _ in range(scale.loss_steps)]
        curves[name] = torch.stack(steps).tolist()

    def apart(first: str, second: str) -> float:
        """Return how far two curves are apart on average, each smoothed over twenty steps."""
        kernel = np.ones(min(20, scale.loss_steps)) / min(20, scale.loss_steps)
        a, b = (np.convolve(curves[name], kernel, "valid") for name in (first, second))
        return float(np.abs(a - b).mean())

    return {
        "fast_from_plain": apart("fast", "plain"),
        "plain_from_plain": apart("plain", "plain, another seed"),
        "same_bits_again": curves["fast"] == curves["fast again"],
        "curves": curves,
    }


MEASUREMENTS: dict[str, tuple[Callable[[Scale], Result], float]] = {
    "check": (check, 60),
    "limits": (limits, 40),
    "train_ours": (train_ours, 90),
    "train_command": (train_command, 120),
    "parts": (parts, 60),
    "infer_ours": (infer_ours, 60),
    "train_plain": (train_plain, 60),
    "blocks": (blocks, 90),
    "convolutions": (convolutions, 90),
    "losses": (losses, 60),
    "train_compiled": (train_compiled, 120),
    "train_torchvision": (train_torchvision, 120),
    "infer_plain": (infer_plain, 120),
    "train_ours_uncaptured": (train_ours_uncaptured, 60),
    "train_plain_channels_last": (train_plain_channels_last, 60),
}
"""What is measured, the most important first, and its limit in seconds."""


# Running them.


def measure_one(name: str, scale: Scale, path: Path) -> None:
    """Measure here, in this process, and write what came of it."""
    began = time.perf_counter()
    torch.backends.cudnn.benchmark = True
    if scale.device.type != "cuda":
        from alexnet.kernels.cuda import sgd as cuda_sgd

        cuda_sgd.BLOCK = 2**20  # the interpreter takes long for each program, not for each number
    result = result_of(partial(MEASUREMENTS[name][0], scale))
    result |= {"wall_seconds": round(time.perf_counter() - began, 1)}
    if scale.device.type == "cuda":
        result |= {"peak_bytes": torch.cuda.max_memory_allocated()}
    save(path, result)


def save(path: Path, value: Result) -> None:
    """Write JSON so that the name never stands for half of it."""
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps(value, indent=1) + "\n")
    aside.replace(path)


def is_done(path: Path) -> bool:
    """Tell whether a measurement is there and no part of it has failed."""
    return path.is_file() and '"error"' not in path.read_text()


def measure_all(given: argparse.Namespace) -> None:
    """Run what is not there yet, each in its process, until the time is up."""
    folder: Path = given.out / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + given.minutes * 60
    for name, (_, limit) in MEASUREMENTS.items():
        path = folder / f"{name}.json"
        left = deadline - time.monotonic()
        if is_done(path) or (given.only and name not in given.only) or left < 15:
            continue
        command = [sys.executable, __file__, str(given.out), "--one", name]
        command += ["--rehearse"] if given.rehearse else []
        try:
            print(f"{name} ...", flush=True)
            seconds = left if given.rehearse else min(limit, left)
            subprocess.run(command, check=True, timeout=seconds)
        except subprocess.SubprocessError as error:
            save(path, {"error": f"{type(error).__name__}: {error}"})
    found = {name: json.loads((folder / f"{name}.json").read_text())
             for name in MEASUREMENTS if (folder / f"{name}.json").is_file()}  # fmt: skip
    save(given.out / "result.json", facts(given) | found | {"summary": summary(found)})
    print(json.dumps(summary(found), indent=1))


def facts(given: argparse.Namespace) -> Result:
    """Say how it was measured."""
    from alexnet.device import describe_device
    from alexnet.storage.run import versions

    scale = REHEARSAL if given.rehearse else GPU
    return {
        "command": "python scripts/bench_gpu.py OUT",
        "what": "images/s: median, lowest and highest of five runs; training in bfloat16 on "
        "made-up images in the device's memory, with crop, flip, colour, dropout and update inside "
        "the timing; inference in bfloat16 on images already on the device",
        "hardware": describe_device(scale.device),
        "versions": versions() | {"cuda": torch.version.cuda, "torch": torch.__version__},
    }


def summary(found: Result) -> Result:
    """Put the targets' figures beside each other; what is not there is None."""

    def rate(*keys: str) -> float | None:
        value: Any = found
        for key in (*keys, "median"):
            value = value.get(key) if isinstance(value, dict) else None
        return None if value is None else float(value)

    def ratio(first: float | None, second: float | None) -> float | None:
        return first / second if first and second else None

    ours, ended = rate("train_ours", "1024"), rate("train_command", "1024")
    return {
        "train_1024": ours,
        "train_512": rate("train_ours", "512"),
        "train_128": rate("train_ours", "128"),
        "infer_1024": rate("infer_ours", "1024"),
        "command_1024": ended,
        "command_128": rate("train_command", "128"),
        "command_over_steps_alone": ratio(ended, ours),
        "train_1024_over_plain": ratio(ours, rate("train_plain", "1024")),
        "train_1024_over_compiled": ratio(ours, rate("train_compiled", "1024")),
        "train_1024_over_torchvision_compiled": ratio(
            ours, rate("train_torchvision", "compiled", "1024")
        ),
        "epochs_90_minutes": 90 * 1281167 / ours / 60 if ours else None,
        "share_of_matmul": ratio(ours and ours * 4.136e9, rate("limits", "matmul_flops")),
    }


def main() -> None:
    """Measure all, or, in a process of its own, one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--only", nargs="*", choices=list(MEASUREMENTS))
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, for the script's sake")
    parser.add_argument("--one", choices=list(MEASUREMENTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
    if not given.rehearse and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --rehearse runs the script without one")
    if given.one:
        scale = REHEARSAL if given.rehearse else GPU
        measure_one(given.one, scale, given.out / "parts" / f"{given.one}.json")
    else:
        measure_all(given)


if __name__ == "__main__":
    main()
