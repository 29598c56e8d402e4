"""`alexnet bench`: this package's speed beside others' on the same machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from alexnet.cli.console import (
    counted,
    fits,
    has_character,
    plain_table,
    print_json,
    progress,
    stdout,
)
from alexnet.cli.options import OUTPUT, Device, Json, flag, option
from alexnet.errors import UsageError

if TYPE_CHECKING:
    from alexnet.bench.report import BenchReport, Row, Table

MEASURE = "Measure"
WORK = ("train", "infer", "data", "prepare", "predict")

What = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="WHAT",
        help=f"{', '.join(WORK)}; without it all of them.",
        show_default=False,
    ),
]
BatchSizes = Annotated[
    str, option("--batch-sizes N,...", "Images in a step of train and infer: 1,32,128.", MEASURE)
]
Photos = Annotated[
    Path | None,
    option(
        "--photos SOURCE",
        "Photographs for data, prepare and predict, of any kind that prepare reads. "
        "Without it they are made up.",
        MEASURE,
    ),
]
Augment = Annotated[
    bool,
    option(
        "--augment/--no-augment",
        "Include crop, mirroring and colours in the time of a training step.",
        MEASURE,
    ),
]
Compiled = Annotated[
    bool | None,
    option(
        "--compiled/--no-compiled",
        "Measure the peers under torch.compile too, which takes minutes. Default: unless --quick.",
        MEASURE,
    ),
]
RoundCount = Annotated[
    int, option("--rounds N", "How often each is timed, in turn.", MEASURE, min=1)
]
Quick = Annotated[bool, flag("--quick", "One short round, to see that everything works.", MEASURE)]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"],
    option(
        "--precision NAME", "auto (bfloat16 on CUDA, else float32), float32 or bfloat16.", MEASURE
    ),
]
Out = Annotated[
    Path | None,
    option("--out FOLDER", "Write result.json there, with command, commit and versions.", OUTPUT),
]


def bench(  # noqa: PLR0913 - typer makes an option of each parameter
    what: What = None,
    *,
    batch_sizes: BatchSizes = "",
    photos: Photos = None,
    augment: Augment = True,
    compiled: Compiled = None,
    rounds: RoundCount = 5,
    quick: Quick = False,
    precision: Precision = "auto",
    device: Device = "auto",
    out: Out = None,
    json: Json = False,
) -> None:
    """Measure speed, beside others on the same machine.

    All ways of doing the same are timed in turn in the same run. A table has
    the median of the rounds, their spread, and how many times as fast as each
    other way ours is. Close other programs first.

    Examples:

      alexnet bench
      alexnet bench train --batch-sizes 64 --no-compiled
      alexnet bench prepare data --photos photos.tar --out results/speed
      alexnet bench infer --device cuda --json
    """
    if unknown := sorted(set(what or ()) - set(WORK)):
        raise UsageError(f"there is no benchmark {unknown[0]!r}: {', '.join(WORK)}")
    from alexnet.bench.run import BenchOptions, run_bench

    options = BenchOptions(
        what=tuple(what) if what else BenchOptions.what,
        batches=read_batches(batch_sizes),
        device=device,
        precision=precision,
        photos=photos,
        augment=augment,
        compiled=compiled,
        rounds=rounds,
        quick=quick,
    )
    report = run_bench(options, command=command_line(sys.argv[1:]), progress=progress())
    if out:
        report.save(out)
    if json:
        print_json(report.as_json())
    else:
        show(report, stdout())


def read_batches(text: str) -> tuple[int, ...]:
    """Read "1,32,128"; raises `UsageError` for what is no list of numbers."""
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise UsageError(f"--batch-sizes {text}: write numbers with commas, as 1,32,128") from None


def command_line(words: list[str]) -> str:
    """Return the command as it is recorded, without the folders of absolute paths."""
    return " ".join(["alexnet", *(Path(w).name if w.startswith("/") else w for w in words)])


def show(report: "BenchReport", console: Console) -> None:
    """Print the conditions and a table for each piece of work."""
    facts = report.conditions
    versions = facts["versions"]
    console.print(
        f"{facts['hardware']}, {facts['precision']}, torch {versions['torch']}, "
        f"Python {versions['python']}; median of {counted(facts['rounds'], 'round')}",
        soft_wrap=True,
    )
    for table in report.tables:
        console.print()
        show_table(table, console)


def show_table(table: "Table", console: Console) -> None:
    """Print one table, the limits of the device below it, and its notes."""
    value = "seconds" if table.seconds else table.unit.partition(" ")[0]
    limits = ["of limit"] if table.limits else []
    figures = (value, "spread", "ours is", *limits)
    grid = plain_table(table.title, *figures, right=figures, least=(*limits, "spread"))
    for row in table.rows:
        grid.add_row(row.name, *cells(table, row, len(figures)))
    if not fits(grid, console):  # the title has numbers, which would be cut off
        console.print(table.title, soft_wrap=True)
        grid.columns[0].header = ""
    console.print(grid)
    console.print(f"inside: {table.inside}", soft_wrap=True)
    if table.limits:
        rates = [
            f"{row.name} {row.rate / 1e9:,.0f} {'GB' if row.key == 'copy' else 'GFLOP'}/s"
            for row in table.limits
        ]
        console.print(f"limits: {', '.join(rates)}", soft_wrap=True)
    for note in dict.fromkeys(row.note for row in table.rows if row.note):
        names = [row.name for row in table.rows if row.note == note]
        console.print(f"{names[0]}{', ...' * (len(names) > 1)}: {note}", soft_wrap=True)
    for note in table.notes:
        console.print(note, soft_wrap=True)


def cells(table: "Table", row: "Row", count: int) -> list[str]:
    """Write a row's figures; "-" for what was not measured."""
    from alexnet.bench.report import ratio

    if not row.rates:
        return ["-"] * count
    faster, share = ratio(table.rows[0], row), table.share(row)
    value = 1 / row.rate if table.seconds else row.rate
    ours = "" if row is table.rows[0] else "-" if faster is None else f"{faster:.2f} x"
    sign = "±" if has_character("±") else "+-"
    figures = [digits(value), f"{sign}{row.spread:.0%}", ours]
    return [*figures, "-" if share is None else f"{share:.0%}"][:count]


def digits(value: float) -> str:
    """Write a figure with three digits or more: "1.23", "45.6", "7,890"."""
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{decimals}f}"
