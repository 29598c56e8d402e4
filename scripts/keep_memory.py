"""Measure what keeping freed memory does to training steps on a CPU, in pairs of processes.

python scripts/keep_memory.py OUT.json [--pairs 5] [--batch 64] [--threads 2]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path


def steps_per_process(keep: bool, batch: int, threads: int, steps: int = 6) -> float:
    """Time training steps of the paper's network here; return the median's images per second."""
    import torch

    from alexnet.device import keep_memory
    from alexnet.networks.registry import create_model

    if keep:
        keep_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = create_model("alexnet", 10)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, 0.9, fused=True)
    images, labels = torch.randn(batch, 3, 224, 224) * 60, torch.randint(10, (batch,))
    seconds = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return batch / statistics.median(seconds[1:])


def main() -> None:
    """Run the two ways in turn, each in a process of its own, and write rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", choices=["keep", "plain"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(steps_per_process(given.one == "keep", given.batch, given.threads))
        return
    options = ["--batch", str(given.batch), "--threads", str(given.threads)]
    rates: dict[str, list[float]] = {"plain": [], "keep": []}
    for _ in range(given.pairs):
        for way, measured in rates.items():
            command = [sys.executable, __file__, str(given.out), *options, "--one", way]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            measured.append(float(output))
    ratios = [keep / plain for keep, plain in zip(rates["keep"], rates["plain"], strict=True)]
    result = facts(given) | {
        "images_per_second": rates,
        "ratios": ratios,
        "ratio_median": statistics.median(ratios),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")


def facts(given: argparse.Namespace) -> dict[str, object]:
    """Say how it was measured."""
    from alexnet.device import cpu_name
    from alexnet.storage.run import versions

    return {
        "command": f"python scripts/keep_memory.py OUT.json --pairs {given.pairs} "
        f"--batch {given.batch} --threads {given.threads}",
        "what": "training steps of alexnet (float32, fused SGD), no augmentation, in images/s",
        "hardware": cpu_name(),
        "versions": versions(),
    }


if __name__ == "__main__":
    main()
