"""Measure everything that needs a GPU in one visit of seven minutes, and judge the predictions.

    python scripts/bench_gpu.py results/gpu_h200
    python scripts/bench_gpu.py results/gpu_h200 --cifar10 data/cifar32 --minutes 15

What is not timed (tests, resume, losses, memory) runs side by side, the other groups one after the
other, each in a process of its own. OUT/parts/GROUP.json is written after each measurement, and
GROUP.log has what the process printed. OUT/result.json has all of them with the predictions of
results/gpu_predictions.toml, which are also the table at the end.

A measurement that fails or takes too long costs no other. Run the same command again to continue:
what is there is not measured again, what failed is tried again, a training on CIFAR-10 goes on.
`--rehearse` runs everything on a CPU in Triton's interpreter, on a small network, to see that it
works.

On an H200 an earlier form of this script has run; this one has run as a rehearsal only.
"""

import argparse
import faulthandler
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from alexnet.bench.gpu.commands import cache_variables
from alexnet.bench.gpu.plan import Group, plan, seconds_of, summary
from alexnet.bench.gpu.predictions import figure, judge, read_predictions, table
from alexnet.bench.gpu.scale import GPU, REHEARSAL, Scale
from alexnet.bench.report import conditions, save_json

Result = dict[str, Any]

PREDICTIONS = Path(__file__).parents[1] / "results/gpu_predictions.toml"
LEAST_SECONDS = 15
"""A group is not begun with less time."""


class Visit:
    """A visit to a GPU: what is to be measured, until when, and where the results are."""

    def __init__(self, groups: Sequence[Group], options: argparse.Namespace) -> None:
        self.groups, self.options = groups, options
        self.out: Path = options.out
        self.deadline: float = time.monotonic() + options.minutes * 60

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.deadline - time.monotonic()

    def run(self) -> Result:
        """Measure what is missing, and return all that there is."""
        only = self.options.only
        wanted = [group for group in self.groups if not only or group.name in only]
        self.run_together([group for group in wanted if not group.is_timed])
        for group in wanted:
            if group.is_timed:
                self.run_together([group])
        return {key: value for group in self.groups for key, value in self.results(group)}

    def run_together(self, groups: Iterable[Group]) -> None:
        """Measure what groups lack, side by side; again without what ended a process."""
        todo = {group.name: (group, missing(group, part_of(self.out, group))) for group in groups}
        while any(keys for _, keys in todo.values()) and self.left >= LEAST_SECONDS:
            self.wait([self.start(group, keys) for group, keys in todo.values() if keys])
            for name, (group, keys) in todo.items():
                left = [key for key in keys if key not in read(part_of(self.out, group))]
                todo[name] = group, left if left != keys else []

    def start(self, group: Group, keys: Sequence[str]) -> subprocess.Popen[bytes]:
        """Begin to measure `keys` in a process of its own, after removing earlier errors."""
        path, options = part_of(self.out, group), self.options
        save_json(path, {key: value for key, value in read(path).items() if key not in keys})
        seconds = sum(each.seconds for each in group.measurements if each.key in keys)
        about = "" if options.rehearse else f", about {seconds:.0f} s"
        print(f"{group.name}{about}: {', '.join(keys)}", flush=True)
        command = [sys.executable, __file__, str(self.out), "--one", group.name, "--keys", *keys]
        command += ["--rehearse"] if options.rehearse else []
        command += ["--cifar10", str(options.cifar10)] if options.cifar10 else []
        # What is not timed chooses the forms of convolutions while other work disturbs it. The
        # choices are kept in a folder of its own, so that no other process takes them.
        timed = caches(self.out)
        folder = timed if group.is_timed else timed.with_name(group.name)
        environment = os.environ if options.rehearse else os.environ | cache_variables(folder)
        with path.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, running: Sequence[subprocess.Popen[bytes]]) -> None:
        """Wait for processes, at most until the visit ends; then end them and all they started."""
        try:
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(self.left, 0))
        finally:
            for process in running:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def results(self, group: Group) -> Iterable[tuple[str, Result]]:
        """Yield each measurement of a group, with a reason for what is missing."""
        found = read(part_of(self.out, group))
        log = part_of(self.out, group).with_suffix(".log")
        text = "not reached: the same command continues"
        if self.left >= LEAST_SECONDS:
            text = f"not asked for (--only), or its process did not start: see {log}"
        for each in group.measurements:
            yield each.key, found.get(each.key, {"error": text})


def part_of(out: Path, group: Group) -> Path:
    """Return the file of a group's results."""
    return out / "parts" / f"{group.name}.json"


def caches(out: Path) -> Path:
    """Return the folder of code compiled for the timed groups; the others have one beside it."""
    return out / "cache/timed"


def missing(group: Group, part: Path) -> list[str]:
    """List the measurements of a group that have no result yet."""
    found, none = read(part), {"error": "missing"}
    keys = [each.key for each in group.measurements]
    return [key for key in keys if {"error", "skipped"} & found.get(key, none).keys()]


def read(path: Path) -> Result:
    """Return what has been measured of a group."""
    found: Result = json.loads(path.read_text()) if path.is_file() else {}
    return found


def measure(group: Group, keys: Sequence[str], path: Path, scale: Scale) -> None:
    """Measure in this process, and write each result as it comes.

    A measurement that ends the process leaves an error, which is written before it begins.
    """
    if scale.is_rehearsal:
        from alexnet.kernels.cuda import update

        update.BLOCK = 2**20  # the interpreter takes long for each program, not for each number
    for each in group.measurements:
        if each.key not in keys:
            continue
        limit = "" if scale.is_rehearsal else f", or it took more than {each.limit:.0f} s"
        save_json(path, read(path) | {each.key: {"error": f"its process ended during it{limit}"}})
        if not scale.is_rehearsal:
            faulthandler.dump_traceback_later(each.limit, exit=True)
        began = time.perf_counter()
        result = each.result() | {"wall_seconds": round(time.perf_counter() - began, 1)}
        faulthandler.cancel_dump_traceback_later()
        if not scale.is_rehearsal:
            result = {"peak_bytes": torch.cuda.max_memory_allocated()} | result
            gc.collect()  # steps and their graphs refer to each other
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.empty_cache()
        save_json(path, read(path) | {each.key: result})


def report(found: Result, options: argparse.Namespace, scale: Scale) -> None:
    """Write result.json with the predictions, and print them as a table."""
    found = found | {"summary": summary(found)}
    judged = [judge(each, found) for each in read_predictions(PREDICTIONS)]
    command = f"python scripts/bench_gpu.py OUT{' --rehearse' * scale.is_rehearsal}"
    facts = {"command": command, **conditions(scale.device)}
    predictions = [each.as_json() for each in judged]
    save_json(options.out / "result.json", facts | found | {"predictions": predictions})
    if options.json:
        print((options.out / "result.json").read_text())
        return
    if scale.is_rehearsal:
        print("A rehearsal on a CPU: its figures and verdicts mean nothing.")
    print(f"predicted for an NVIDIA H200, measured on {facts['hardware']}")
    print(*table(judged), sep="\n")
    for key, value in found["summary"].items():
        print(f"{key.replace('_', ' ')}: {figure(value)}")
    for key, value in found.items():
        if text := value.get("error") or value.get("skipped"):
            print(f"{key}: {text}")


def main() -> None:
    """Make a visit, or, in a process of its own, some measurements of one group."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--only", nargs="*", metavar="GROUP", help="measure these groups alone")
    parser.add_argument(
        "--cifar10", type=Path, help="CIFAR-10, prepared with --size 32: train on it"
    )
    parser.add_argument("--json", action="store_true", help="print result.json, not the table")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, to see that it works")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--keys", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out = options.out.resolve()
    scale = REHEARSAL if options.rehearse else GPU
    if options.rehearse:
        os.environ |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}  # several run side by side
    elif not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --rehearse runs the script without one")
    groups = plan(scale, options.out, caches(options.out), options.cifar10)
    named = {group.name: group for group in groups}
    if unknown := set(options.only or ()) - named.keys():
        sys.exit(f"there is no group {', '.join(unknown)}; there are {', '.join(named)}")
    if options.one:
        group = named[options.one]
        measure(group, options.keys, part_of(options.out, group), scale)
        return
    if not options.rehearse:
        print(f"about {seconds_of(groups) / 60:.1f} minutes on an H200", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))  # ends what it started
    try:
        found = Visit(groups, options).run()
    finally:
        shutil.rmtree(caches(options.out).parent, ignore_errors=True)
    report(found, options, scale)


if __name__ == "__main__":
    main()
