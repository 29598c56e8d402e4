"""`alexnet bench`: this package's speed beside what others make of the same machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from alexnet.cli.console import counted, plain_table, print_json, progress, stdout
from alexnet.cli.options import OUTPUT, Device, Json
from alexnet.errors import UsageError

if TYPE_CHECKING:
    from alexnet.bench import BenchReport
    from alexnet.bench.tables import Row, Table

MEASURE = "Measure"


def bench(  # noqa: PLR0913 - typer makes an option of each parameter
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WHAT",
            help="train, infer, data, prepare or predict; without it all of them.",
            show_default=False,
        ),
    ] = None,
    *,
    batch_sizes: Annotated[
        str,
        typer.Option(
            metavar="N,...",
            help="Images in a step of train and infer: 1,32,128.",
            rich_help_panel=MEASURE,
        ),
    ] = "",
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="SOURCE",
            help="Photographs for data, prepare and predict, of any kind that prepare reads; "
            "without it, made-up ones.",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    augment: Annotated[
        bool,
        typer.Option(
            "--augment/--no-augment",
            help="Crop, mirror and colours inside a training step's timing.",
            rich_help_panel=MEASURE,
        ),
    ] = True,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compiled/--no-compiled",
            help="Measure the peers under torch.compile, too: minutes more.",
            rich_help_panel=MEASURE,
        ),
    ] = True,
    rounds: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="How often each is timed, in turn.", rich_help_panel=MEASURE
        ),
    ] = 5,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            metavar="",
            help="One round of very little, to see that it works.",
            rich_help_panel=MEASURE,
        ),
    ] = False,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(
            metavar="NAME",
            help="auto (bfloat16 on CUDA, else float32), float32 or bfloat16.",
            rich_help_panel=MEASURE,
        ),
    ] = "auto",
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write result.json there, with command, commit and versions.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure speed, beside others on the same machine.

    All ways of doing the same are timed in turn in the same run; a table has
    the median of the rounds, how far they spread, and how many times as fast
    ours is. Close everything else first: whoever works beside it spoils it.

    Examples:

      alexnet bench
      alexnet bench train --batch-sizes 64 --no-compiled
      alexnet bench prepare data --photos photos.tar --out results/speed
      alexnet bench infer --device cuda --json
    """
    from alexnet.bench import BenchPlan, run_bench

    plan = BenchPlan(
        what=tuple(what) if what else BenchPlan.what,
        batches=read_batches(batch_sizes),
        device=device,
        precision=precision,
        photos=photos,
        augment=augment,
        compiled=compiled,
        rounds=rounds,
        quick=quick,
    )
    report = run_bench(plan, command=command_line(sys.argv[1:]), progress=progress())
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
    """Write down the command with short paths: where a result was measured is no matter."""
    return " ".join(["alexnet", *(Path(w).name if w.startswith("/") else w for w in words)])


def show(report: "BenchReport", console: Console) -> None:
    """Print a table for each piece of work, and the conditions that they share."""
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
    grid = plain_table(table.title, *figures, right=figures)
    for row in table.rows:
        grid.add_row(row.name, *cells(table, row, len(figures)))
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
    from alexnet.bench.tables import ratio

    if not row.rates:
        return ["-"] * count
    faster, share = ratio(table.rows[0], row), table.share(row)
    value = 1 / row.rate if table.seconds else row.rate
    ours = "" if row is table.rows[0] else "-" if faster is None else f"{faster:.2f} x"
    figures = [digits(value), f"±{row.spread:.0%}", ours]
    return [*figures, "-" if share is None else f"{share:.0%}"][:count]


def digits(value: float) -> str:
    """Write a figure with three digits or more: "1.23", "45.6", "7,890"."""
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{decimals}f}"
