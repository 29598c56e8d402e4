"""Measure everything that needs a GPU, in visits of less than eight minutes.

    python scripts/bench_gpu.py results/gpu_h200

Each group of measurements runs in a process of its own with a time limit, so that a failure costs
no other. It writes OUT/parts/GROUP.json after each measurement; OUT/result.json has all of them.
Run the same command again to continue: what is there is not measured again, what failed is tried
again. `--rehearse` runs everything on a CPU in Triton's interpreter, on a small network, to see
that it works.

On an H200 an earlier form of this script has run; this one has run as a rehearsal only.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from alexnet.bench.gpu import GPU, REHEARSAL, Scale, measurements, result_of
from alexnet.bench.network_tables import operations
from alexnet.bench.report import conditions, save_json

Result = dict[str, Any]

SECONDS = {
    "check": 60,
    "train": 150,
    "train_command": 120,
    "profile": 60,
    "infer": 150,
    "losses": 60,
    "blocks": 90,
    "convolutions": 90,
    "train_compiled": 150,
    "infer_compiled": 150,
}
"""The groups, the most important first, and their limits."""


def measure_group(name: str, scale: Scale, path: Path) -> None:
    """Measure in this process what is missing of a group, and write each result as it comes."""
    torch.backends.cudnn.benchmark = True
    if scale is REHEARSAL:
        from alexnet.kernels.cuda import update

        update.BLOCK = 2**20  # the interpreter takes long for each program, not for each number
    found = read(path)
    for key, work in measurements(scale)[name].items():
        if "error" in found.get(key, {"error": "missing"}):
            began = time.perf_counter()
            found[key] = result_of(work) | {"wall_seconds": round(time.perf_counter() - began, 1)}
            if scale is GPU:
                found[key] |= {"peak_bytes": torch.cuda.max_memory_allocated()}
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.empty_cache()
            save_json(path, found)


def read(path: Path) -> Result:
    """Return what has been measured of a group."""
    found: Result = json.loads(path.read_text()) if path.is_file() else {}
    return found


def measure_all(given: argparse.Namespace, scale: Scale) -> None:
    """Run the groups in order until the time is up, then put all results together."""
    deadline = time.monotonic() + given.minutes * 60
    found: Result = {}
    for name, limit in SECONDS.items():
        path = given.out / "parts" / f"{name}.json"
        keys, left = measurements(scale)[name].keys(), deadline - time.monotonic()
        missing = [key for key in keys if "error" in read(path).get(key, {"error": "missing"})]
        if missing and (not given.only or name in given.only) and left >= 15:
            print(f"{name}: {', '.join(missing)} ...", flush=True)
            run_group(name, given, left if given.rehearse else min(limit, left))
        found |= {key: value for key, value in read(path).items() if key in keys}
    facts = {"command": "python scripts/bench_gpu.py OUT", **conditions(scale.device)}
    save_json(given.out / "result.json", facts | found | {"summary": summary(found)})
    print(json.dumps(summary(found), indent=1))


def run_group(name: str, given: argparse.Namespace, seconds: float) -> None:
    """Measure a group in a process of its own."""
    command = [sys.executable, __file__, str(given.out), "--one", name]
    command += ["--rehearse"] if given.rehearse else []
    try:
        subprocess.run(command, check=True, timeout=seconds)
    except subprocess.SubprocessError as error:
        print(f"{name}: {error}", flush=True)


def summary(found: Result) -> Result:
    """Return the figures that have targets; None for what is missing."""

    def rate(key: str, row: str = "ours", rows: str = "rows") -> float | None:
        value: float | None = found.get(key, {}).get(rows, {}).get(row, {}).get("rate")
        return value or None

    def ratio(first: float | None, second: float | None) -> float | None:
        return first / second if first and second else None

    ours, train, compiled = (
        rate("train_batch_1024"),
        "train_batch_1024",
        "train_compiled_batch_1024",
    )
    command = found.get("train_command_batch_1024", {}).get("rate")
    return {
        "train_1024": ours,
        "train_512": rate("train_batch_512"),
        "train_128": rate("train_batch_128"),
        "infer_1024": rate("infer_batch_1024"),
        "infer_1": rate("infer_batch_1"),
        "command_1024": command,
        "command_128": found.get("train_command_batch_128", {}).get("rate"),
        "command_over_steps_alone": ratio(command, ours),
        "train_1024_over_reference": ratio(ours, rate(train, "ours_plain")),
        "train_1024_over_compiled": ratio(rate(compiled), rate(compiled, "modules_compiled")),
        "train_1024_over_torchvision_compiled": ratio(
            rate(compiled), rate(compiled, "torchvision_compiled")
        ),
        "epochs_90_minutes": 90 * 1281167 / ours / 60 if ours else None,
        "share_of_matmul": ratio(
            ours and ours * operations("train"), rate(train, "matmul", rows="limits")
        ),
    }


def main() -> None:
    """Measure all, or, in a process of its own, one group."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--only", nargs="*", choices=list(SECONDS))
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, to see that it works")
    parser.add_argument("--one", choices=list(SECONDS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --rehearse runs the script without one")
    scale = REHEARSAL if given.rehearse else GPU
    if given.one:
        measure_group(given.one, scale, given.out / "parts" / f"{given.one}.json")
    else:
        measure_all(given, scale)


if __name__ == "__main__":
    main()
