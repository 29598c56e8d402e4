"""Measure the CPU kernels against PyTorch's layers, forward and backward, in turns.

python scripts/cpu_kernels.py OUT.json [--batch 32] [--threads 2] [--rounds 7]

The plain layers run in a process that hands memory back to the system after every layer, as
PyTorch does by itself, and again in one that keeps it (`alexnet.device.keep_memory`), as ours do.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from alexnet.device import cpu_name, keep_memory
from alexnet.kernels.blocks import step_of
from alexnet.kernels.cpu.blocks import run_block
from alexnet.networks.layers import LocalResponseNorm
from alexnet.storage.run import versions

TORCH_NORM = nn.LocalResponseNorm(5, 5e-4, 0.75, 2)
CASES: dict[str, tuple[tuple[int, int, int], list[nn.Module]]] = {
    "lrn_1": ((96, 55, 55), [LocalResponseNorm()]),
    "block_1": ((96, 55, 55), [nn.ReLU(), LocalResponseNorm(), nn.MaxPool2d(3, 2)]),
    "block_2": ((256, 27, 27), [nn.ReLU(), LocalResponseNorm(), nn.MaxPool2d(3, 2)]),
    "block_5": ((256, 13, 13), [nn.ReLU(), nn.MaxPool2d(3, 2)]),
}


def seconds(run: Callable[[Tensor], Tensor], x: Tensor, rounds: int) -> list[float]:
    """Time a forward and a backward pass, so many times after the first."""
    x.requires_grad_()
    gradient = torch.randn_like(run(x))
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        torch.autograd.grad(run(x), x, gradient)
        times.append(time.perf_counter() - began)
    return times[1:]


def measure(way: str, batch: int, rounds: int) -> dict[str, list[float]]:
    """Time all cases: ours, or "torch" with its own normalisation."""
    found = {}
    for name, (shape, layers) in CASES.items():
        torch.manual_seed(0)
        x = torch.randn(batch, *shape) * 60
        if way == "ours":
            block = tuple(step for step in map(step_of, layers) if step)
            x = x.contiguous(memory_format=torch.channels_last)
            found[name] = seconds(lambda x, block=block: run_block(x, block), x, rounds)  # type: ignore[misc]
        else:
            norms = [TORCH_NORM if isinstance(row, LocalResponseNorm) else row for row in layers]
            found[name] = seconds(nn.Sequential(*norms), x, rounds)
    return found


def main() -> None:
    """Run the three ways in turn, each in a process of its own; write medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", choices=["ours", "torch", "torch-keep"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    options = [f"--{name}={getattr(given, name)}" for name in ("batch", "threads", "rounds")]
    if given.one:
        if given.one != "torch":
            keep_memory()
        torch.set_num_threads(given.threads)
        print(json.dumps(measure(given.one, given.batch, given.rounds)))
        return
    medians: dict[str, dict[str, float]] = {}
    for way in ("torch", "torch-keep", "ours"):
        command = [sys.executable, __file__, str(given.out), *options, "--one", way]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        times = json.loads(output.splitlines()[-1])
        medians[way] = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "command": " ".join(["python scripts/cpu_kernels.py OUT.json", *options]),
        "what": "forward and backward in float32, median seconds; ours channels-last",
        "hardware": cpu_name(),
        "versions": versions(),
        "seconds": medians,
        "ratios": {
            way: {name: medians[way][name] / ours for name, ours in medians["ours"].items()}
            for way in ("torch", "torch-keep")
        },
        "norm_blocks_ratio": {
            way: sum(medians[way][block] for block in ("block_1", "block_2"))
            / sum(medians["ours"][block] for block in ("block_1", "block_2"))
            for way in ("torch", "torch-keep")
        },
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
