"""What was asked to be measured, and what came out, as one report.

What measures is imported when it is needed: the scripts that `predict` is compared with live in
this package, too, and should not start more slowly for it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from alexnet.errors import UsageError
from alexnet.progress import SILENT, Progress
from alexnet.storage.atomic import atomic_write

if TYPE_CHECKING:
    from alexnet.bench.arms import Pace
    from alexnet.bench.tables import Table

What = Literal["train", "infer", "data", "prepare", "predict"]
EVERYTHING: tuple[What, ...] = get_args(What)
BATCHES = {"train": (32, 64, 128), "infer": (1, 32, 128)}
GPU_BATCHES = {"train": (128, 512, 1024), "infer": (1, 32, 128, 1024)}


@dataclass(frozen=True)
class BenchPlan:
    """What to measure."""

    what: tuple[str, ...] = EVERYTHING
    batches: tuple[int, ...] = ()
    """Images in a step of training and inference; empty: some that suit the device."""
    device: str = "auto"
    precision: str = "auto"
    photos: Path | None = None
    """Where photographs come from, of any kind that `prepare` reads; None: they are made up."""
    augment: bool = True
    """Whether a training step's crop, mirroring and colours are inside the timing."""
    compiled: bool = True
    """Whether the peers are also measured under torch.compile, which takes its time."""
    rounds: int = 5
    quick: bool = False
    """Seconds rather than minutes, to see that it works: the figures are worth little."""
    processes: bool = True
    """Whether each way of doing the same on a CPU has a process of its own."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        unknown = [word for word in self.what if word not in EVERYTHING]
        if unknown:
            raise UsageError(f"there is no benchmark {unknown[0]!r}: {', '.join(EVERYTHING)}")
        if self.rounds < 1 or any(batch < 1 for batch in self.batches):
            raise UsageError("rounds and batch sizes must be at least 1")


@dataclass(frozen=True)
class BenchReport:
    """What was measured, and under what conditions."""

    command: str
    conditions: dict[str, Any]
    """Commit, hardware, threads, versions, precision."""
    tables: "Sequence[Table]"

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; a table is found by its key."""
        tables = {table.key: table.as_json() for table in self.tables}
        return {"command": self.command, **self.conditions, **tables}

    def save(self, folder: Path) -> None:
        """Write `folder`/result.json. Raises `StorageError` where that cannot be done."""
        with atomic_write(folder / "result.json") as aside:
            aside.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")


def run_bench(
    plan: BenchPlan | None = None, *, command: str = "", progress: Progress = SILENT
) -> BenchReport:
    """Measure what `plan` says, all of it by default; `command` is kept in the report.

    Raises `UsageError` for a device that is not there.
    """
    from alexnet.bench.arms import Pace
    from alexnet.bench.conditions import conditions
    from alexnet.device import pick_device

    plan = plan or BenchPlan()
    device = pick_device(plan.device)
    facts = conditions(device)
    pace = Pace(1, 0.0, 1) if plan.quick else Pace(plan.rounds)
    precision = plan.precision
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    tables = [
        table
        for what in EVERYTHING
        if what in plan.what
        for table in _measure(what, plan, str(device), precision, pace, progress)
    ]
    return BenchReport(command, {**facts, "precision": precision, "rounds": pace.rounds}, tables)


def _measure(
    what: What, plan: BenchPlan, device: str, precision: str, pace: "Pace", progress: Progress
) -> "list[Table]":
    import torch

    threads, photos = torch.get_num_threads(), 12 if plan.quick else 512
    if what in ("train", "infer"):
        from alexnet.bench.network import Where, network_tables

        usual = (BATCHES if device == "cpu" else GPU_BATCHES)[what]
        batches = plan.batches or ((2,) if plan.quick else usual)
        where = Where(device, precision, threads, plan.augment, plan.compiled, plan.processes)
        work: Literal["train", "infer"] = "train" if what == "train" else "infer"
        return network_tables(work, batches, where, pace, progress)
    if what == "predict":
        from alexnet.bench.predicting import Asked, predict_tables

        return predict_tables(Asked(photos // 8 + 1, plan.photos, device, threads), pace, progress)
    from alexnet.bench.feeding import Feed, data_table, prepare_table

    workers = threads if plan.processes else 0
    feed = Feed(photos, plan.photos, workers=workers, device=device)
    return [(data_table if what == "data" else prepare_table)(feed, pace, progress)]
