"""`alexnet bench`: run the benchmarks that were asked for."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch

from alexnet.bench.data import PhotoSetup, data_table, prepare_table
from alexnet.bench.network_tables import Setup, network_table
from alexnet.bench.predict import predict_tables
from alexnet.bench.report import BenchReport, Table, conditions
from alexnet.bench.timing import Rounds
from alexnet.device import pick_device
from alexnet.errors import UsageError
from alexnet.progress import SILENT, Progress

Benchmark = Literal["train", "infer", "data", "prepare", "predict"]
ALL: tuple[Benchmark, ...] = get_args(Benchmark)
BATCHES = {"train": (32, 64, 128), "infer": (1, 32, 128)}
QUICK = "quick: each was run once, so nothing is compared; for that leave out --quick"
NOT_COMPILED = "the networks under torch.compile are left out, a minute each; --compiled has them"
GPU_BATCHES = {"train": (128, 512, 1024), "infer": (1, 32, 128, 1024)}


@dataclass(frozen=True)
class BenchOptions:
    """What to measure."""

    what: tuple[str, ...] = ALL
    batches: tuple[int, ...] = ()
    """Images in a step of training and inference; empty: some that suit the device."""
    device: str = "auto"
    precision: str = "auto"
    photos: Path | None = None
    """Where photographs come from, of any kind that `prepare` reads; None: they are made up."""
    augment: bool = True
    """Whether a training step's crop, mirroring and colours are inside the timing."""
    compiled: bool | None = None
    """Whether the peers are also measured under torch.compile, which takes a minute for each row;
    None: unless `quick`."""
    rounds: int = 5
    quick: bool = False
    """Seconds instead of minutes, to see that it works: no figure is compared with another."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        unknown = [word for word in self.what if word not in ALL]
        if unknown:
            raise UsageError(f"there is no benchmark {unknown[0]!r}: {', '.join(ALL)}")
        if self.rounds < 1 or any(batch < 1 for batch in self.batches):
            raise UsageError("rounds and batch sizes must be at least 1")

    def batches_on(self, device: str, work: Literal["train", "infer"]) -> tuple[int, ...]:
        """Return the batch sizes to measure."""
        usual = (BATCHES if device == "cpu" else GPU_BATCHES)[work]
        return self.batches or ((2,) if self.quick else usual)


def run_bench(
    options: BenchOptions | None = None, *, command: str = "", progress: Progress = SILENT
) -> BenchReport:
    """Measure what `options` say, all of it by default; `command` is recorded in the report.

    Raises `UsageError` for a device that is not there.
    """
    options = options or BenchOptions()
    device = pick_device(options.device)
    facts = conditions(device)
    rounds = Rounds(1, 0.0, 1) if options.quick else Rounds(options.rounds)
    precision = options.precision
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    compiled = not options.quick if options.compiled is None else options.compiled
    setup = Setup(str(device), precision, torch.get_num_threads(), options.augment, compiled)
    tables = [
        table
        for what in ALL
        if what in options.what
        for table in _measure(what, options, setup, rounds, progress)
    ]
    if options.quick:
        left_out = options.compiled is None
        tables = [_rough(table, left_out=left_out and bool(table.limits)) for table in tables]
    return BenchReport(command, {**facts, "precision": precision, "rounds": rounds.count}, tables)


def _rough(table: Table, *, left_out: bool) -> Table:
    """Return the table without all that follows from its rates, and whether rows are left out."""
    rows = [replace(row, is_rough=True) for row in table.rows]
    return replace(table, rows=rows, facts={}, notes=[QUICK, *[NOT_COMPILED] * left_out])


def _measure(
    what: Benchmark, options: BenchOptions, setup: Setup, rounds: Rounds, progress: Progress
) -> list[Table]:
    if what in ("train", "infer"):
        batches = options.batches_on(setup.device, what)
        return [network_table(what, batch, setup, rounds, progress) for batch in batches]
    count, threads = (12 if options.quick else 512), setup.threads
    photos = PhotoSetup(count, options.photos, setup.device, threads, workers=threads)
    if what == "predict":
        return predict_tables(replace(photos, photos=count // 8 + 1), rounds, progress)
    return [(data_table if what == "data" else prepare_table)(photos, rounds, progress)]
