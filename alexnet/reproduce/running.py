"""Run an experiment: tune each arm, train it with every seed, compare.

Each training is a run directory of its own, named by a digest of all that it depends on. So
experiments share equal trainings, and the same command continues where it was stopped.
"""

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from alexnet.analysis.summary import summarize
from alexnet.config import Settings
from alexnet.dataset import Dataset
from alexnet.device import pick_device
from alexnet.errors import UsageError, WorkerError
from alexnet.loader import available_cores
from alexnet.progress import SILENT, Progress
from alexnet.reproduce.experiments import experiment
from alexnet.reproduce.measuring import Figures, Training, measure_together, train_and_measure
from alexnet.reproduce.part import pack_part
from alexnet.reproduce.plan import Arm, Budget, BudgetName, Comparison, Experiment, Figure
from alexnet.reproduce.results import origin, write_result
from alexnet.reproduce.statistics import judge, paired_difference, paired_ratio
from alexnet.reproduce.transfer import Material, prepare_material
from alexnet.storage.atomic import expanded
from alexnet.storage.environment import describe_device, versions

TOGETHER: Figure = "test_error_averaged"


@dataclass(frozen=True)
class Machine:
    """Where trainings run."""

    device: str = "auto"
    jobs: int = 0
    """Trainings at a time; 0: one for each core of a CPU, four on a GPU."""
    plain: bool = False
    """Whether PyTorch's own layers compute."""

    @property
    def workers(self) -> int:
        """How many processes train at a time."""
        on_cpu = pick_device(self.device).type == "cpu"
        return self.jobs or (available_cores() if on_cpu else 4)


def reproduce(
    name: str,
    data: str | Path,
    out: str | Path,
    *,
    budget: BudgetName = "quick",
    seeds: int | None = None,
    machine: Machine | None = None,
    init: str | Path | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Run the experiment `name` on the packed data set `data`; write and return its result.

    OUT/NAME.json receives it; OUT/runs has the trainings, OUT/data the part of the data set that a
    quick budget uses. Learning rates are chosen for each arm on validation images with the first
    seed; errors are those of test images after the last epoch. `init` is the run of ImageNet's
    convolutions that `transfer` needs, such as `alexnet.imagenet_convolutions()` returns.
    Raises `UsageError` for an unknown name, and for data that do not fit.
    """
    plan, machine = experiment(name), machine or Machine()
    source, folder = expanded(data), expanded(out)
    cost = plan.budgets[budget] if seeds is None else replace(plan.budgets[budget], seeds=seeds)
    _check_side(plan, plan.side_for(budget), source)
    parts, material = folder / "data", None
    if plan.has_draws:
        material = prepare_material(plan, cost, source, parts, init, machine.device, progress)
        part = material.draws[plan.arms[-1].images, 0]
    else:
        part = pack_part(
            source, parts, cost.images, cost.test_images, progress, holds_out=cost.holds_out
        )
    trainer = _Trainer(plan, cost, part, folder / "runs", machine, progress, material)
    tried = trainer.try_rates()
    chosen = {arm.name: best_rate(plan, tried[arm.name]) for arm in plan.arms}
    figures = trainer.train_seeds(chosen)
    trainer.measure_together(chosen, figures)
    trainer.discard_others(chosen)
    result = {
        **describe(plan, budget, cost, part, machine),
        **origin(name, source, budget, seeds),
        "arms": {
            arm.name: trainer.describe(arm, chosen[arm.name], tried[arm.name], figures[arm.name])
            for arm in plan.arms
        },
        "comparisons": [compare(each, figures, cost.epochs) for each in plan.comparisons],
    }  # fmt: skip
    return write_result(folder, name, result)


def _check_side(plan: Experiment, needed: int, data: Path) -> None:
    dataset = Dataset(data)
    if dataset.size < needed:
        raise UsageError(
            f"{plan.name} needs images of {needed} x {needed} or more, {data} has "
            f"{dataset.size} x {dataset.size}: prepare it with --size {needed}"
        )


def describe(
    plan: Experiment, budget: BudgetName, cost: Budget, part: Path, machine: Machine
) -> dict[str, Any]:
    """Return what was asked, and under which conditions, as plain JSON values."""
    dataset = Dataset(part)
    base = replace(plan.settings, **cost.changes, epochs=cost.epochs)
    return {
        "experiment": plan.name,
        "question": plan.question,
        "claims": list(plan.claims),
        "budget": budget,
        "seeds": cost.seeds,
        "data": {
            "classes": len(dataset.classes),
            "side": dataset.size,
            "images": {split: len(dataset.split(split)) for split in dataset.split_names},
            "fingerprint": dataset.fingerprint,
        },
        "settings": base.as_json(),
        "hardware": describe_device(pick_device(machine.device)),
        "jobs": machine.workers,
        "versions": versions(),
    }


Key = TypeVar("Key")


class _Trainer:
    """Does the trainings of an experiment, several at a time."""

    def __init__(
        self,
        plan: Experiment,
        cost: Budget,
        data: Path,
        runs: Path,
        machine: Machine,
        progress: Progress,
        material: Material | None = None,
    ) -> None:
        self.plan, self.cost, self.data, self.runs = plan, cost, data, runs
        self.machine, self.progress, self.material = machine, progress, material
        self.fingerprint = Dataset(data).fingerprint

    def try_rates(self) -> dict[str, dict[float, Figures]]:
        """Train each arm at each rate with the first seed."""
        wanted = {
            (arm.name, rate): self.training(arm, rate, 0)
            for arm in self.plan.arms
            for rate in self.rates(arm)
        }
        found = self.train(wanted, "learning rates")
        return {
            arm.name: {rate: found[arm.name, rate] for rate in self.rates(arm)}
            for arm in self.plan.arms
        }

    def train_seeds(self, rates: Mapping[str, float]) -> dict[str, list[Figures]]:
        """Train each arm at its rate with all seeds; the first is done already."""
        seeds = range(self.cost.seeds)
        wanted = {
            (arm.name, seed): self.training(arm, rates[arm.name], seed)
            for arm in self.plan.arms
            for seed in seeds
        }
        found = self.train(wanted, "seeds")
        return {arm.name: [found[arm.name, seed] for seed in seeds] for arm in self.plan.arms}

    def measure_together(
        self, rates: Mapping[str, float], figures: Mapping[str, Sequence[Figures]]
    ) -> None:
        """Add the error of the seeds' networks together to each one's figures, where asked for."""
        asked = {each.first for each in self.plan.comparisons if each.figure == TOGETHER}
        for arm in (self.plan.arm(name) for name in asked):
            seeds = [self.training(arm, rates[arm.name], seed) for seed in range(self.cost.seeds)]
            has_all = not any("diverged" in found for found in figures[arm.name])
            error = measure_together(seeds, self.progress) if has_all else 1.0
            for found in figures[arm.name]:
                found[TOGETHER] = error

    def describe(
        self, arm: Arm, rate: float, tried: Mapping[float, Figures], figures: Sequence[Figures]
    ) -> dict[str, Any]:
        """Return what an arm is and what was measured, as plain JSON values."""
        network = None
        if not arm.classifier:
            settings, classes = self.settings(arm), len(Dataset(self.data).classes)
            summary = summarize(settings.model, classes, ablate=settings.ablate)
            network = {
                "model": summary.model,
                "parameters": summary.parameters,
                "macs": summary.macs,
                "seconds_per_epoch": seconds_per_epoch(figures),
            }
        return {
            "changes": dict(arm.changes),
            "network": network,
            "rate": rate,
            "tried": [
                {"rate": each, **{name: found[name] for name in ("val_error", "epochs_to_25")}}
                for each, found in tried.items()
            ],
            "seeds": list(figures),
        }

    def discard_others(self, chosen: Mapping[str, float]) -> None:
        """Delete the weights of rates that were tried and not chosen: gigabytes, for large nets."""
        kept = {self.training(arm, chosen[arm.name], 0).run for arm in self.plan.arms}
        for arm in self.plan.arms:
            for rate in self.rates(arm):
                run = self.training(arm, rate, 0).run
                if run not in kept:
                    shutil.rmtree(run / "checkpoints", ignore_errors=True)

    def rates(self, arm: Arm) -> list[float]:
        """List the learning rates to try for an arm; one for a classifier, which has none."""
        if arm.classifier:
            return [0.0]
        base = self.settings(arm).lr
        return [float(f"{base * factor:.3g}") for factor in self.cost.rates]

    def settings(self, arm: Arm) -> Settings:
        """Return the settings of an arm, its rate and seed aside."""
        changes = {**self.cost.changes, **arm.changes, "epochs": self.cost.epochs}
        return replace(self.plan.settings, **changes)

    def training(self, arm: Arm, rate: float, seed: int) -> Training:
        """Describe one training."""
        settings = replace(self.settings(arm), lr=rate, seed=seed)
        data, fingerprint, features = self.data, self.fingerprint, None
        if self.material:
            data = self.material.draws[arm.images, seed]
            fingerprint, features = data.name, self.material.features.get(arm.weights)
        facts = [settings.as_json(), fingerprint, self.plan.training_error]
        if arm.classifier:
            facts = [arm.classifier, seed, fingerprint, *([features.name] if features else [])]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        return Training(
            data=data,
            run=self.runs / digest,
            settings=settings,
            training_error=self.plan.training_error,
            device=self.machine.device,
            threads=max(1, available_cores() // self.machine.workers),
            plain=self.machine.plain,
            classifier=arm.classifier,
            features=features,
        )

    def train(self, wanted: Mapping[Key, Training], label: str) -> dict[Key, Figures]:
        """Do the trainings, each but once, and return their figures."""
        once = {each.run: each for each in wanted.values()}
        done: dict[Path, Figures] = {}
        with self.progress.task(f"{self.plan.name}: {label}", len(once), "trainings") as advance:
            for run, figures in self.finish(once):
                done[run] = figures
                advance(1, f"test error {figures['test_error']:.1%}")
        return {key: done[each.run] for key, each in wanted.items()}

    def finish(self, trainings: Mapping[Path, Training]) -> Iterator[tuple[Path, Figures]]:
        """Yield the figures of each training when it is done; one worker means this process."""
        if self.machine.workers == 1:
            for run, training in trainings.items():
                yield run, train_and_measure(training)
            return
        pool = worker_pool(self.machine.workers)
        try:
            yield from finished(
                {pool.submit(train_and_measure, each): run for run, each in trainings.items()}
            )
        except BaseException:
            worker_pool.cache_clear()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@cache
def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Return processes for trainings, which stay: each takes seconds to get ready for a GPU."""
    # New interpreters (spawn): a forked copy could inherit locks held by torch's threads.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


def stop_workers() -> None:
    """Ask all processes that this one has started to save what they train, and to end."""
    for process in multiprocessing.active_children():
        process.terminate()


def finished(futures: Mapping["Future[Figures]", Path]) -> Iterator[tuple[Path, Figures]]:
    """Yield each result when it is there."""
    waiting: Iterable[Future[Figures]] = futures
    try:
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield futures[future], future.result()
    except BrokenProcessPool:
        raise WorkerError(
            "a training process died; memory may be short (--jobs 1), or a script must call "
            'reproduce under if __name__ == "__main__":'
        ) from None


def seconds_per_epoch(figures: Sequence[Figures]) -> float | None:
    """Return how long an epoch took on average, with its validation; None if all diverged."""
    each = [found["seconds"] / len(found["epochs"]) for found in figures if "seconds" in found]
    return fmean(each) if each else None


def best_rate(plan: Experiment, tried: Mapping[float, Figures]) -> float:
    """Return the rate of the lowest validation error, or of the fewest epochs if these count."""
    by_epochs = any(each.is_ratio for each in plan.comparisons) and plan.training_error

    def score(rate: float) -> tuple[float, float]:
        epochs = tried[rate]["epochs_to_25"] if by_epochs else 0.0
        return (float("inf") if epochs is None else epochs, tried[rate]["val_error"])

    return min(tried, key=score)


def compare(
    each: Comparison, figures: Mapping[str, Sequence[Figures]], epochs: int
) -> dict[str, Any]:
    """Compare two arms; return the difference with its interval, and what it means."""
    first = [found[each.figure] for found in figures[each.first]]
    second = [found[each.of_second or each.figure] for found in figures[each.second]]
    facts: dict[str, Any] = {
        "first": each.first,
        "second": each.second,
        "figure": each.figure,
        "of_second": each.of_second or each.figure,
        "published": each.published,
        "published_difference": each.effect,
        "values": {"first": first, "second": second},
    }
    try:
        difference = (
            paired_ratio(first, second, epochs)
            if each.is_ratio
            else paired_difference(first, second)
        )
    except ValueError:
        return {**facts, "difference": None, "outcome": "cannot tell"}
    outcome = judge(difference, float(each.is_ratio), is_claimed=each.is_claimed)
    if epochs < each.fewest_epochs:
        outcome = "cannot tell"
    return {**facts, "difference": difference.as_json(), "outcome": outcome}
