"""`alexnet convert`: a run's network with another number of towers."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from alexnet.cli.console import counted, one_line, print_json, stdout
from alexnet.cli.options import Json, Weights, check_model, option
from alexnet.storage.folders import check_run

if TYPE_CHECKING:
    from alexnet.convert import ConvertReport

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="Run directory to create.")]
To = Annotated[
    str,
    option("--to NAME", "Network that differs in its groups alone: alexnet, alexnet_one_tower."),
]
Ablate = Annotated[
    list[str] | None,
    option(
        "--ablate PART=KIND", "Change of that network. Can be repeated. Default: those of the run."
    ),
]


def convert(
    run: Run,
    out: Out,
    *,
    to: To,
    ablate: Ablate = None,
    weights: Weights = "best",
    json: Json = False,
) -> None:
    """Join a network's two towers, or separate them again.

    OUT answers exactly as RUN. Joined, the weights between the towers are 0;
    they can be separated as long as they are.

    Examples:

      alexnet convert runs/paper runs/joined --to alexnet_one_tower
      alexnet convert runs/joined runs/towers --to alexnet
    """
    check_run(run)
    check_model(to)
    from alexnet.convert import convert_run

    changes = dict(text.partition("=")[::2] for text in ablate) if ablate else None
    report = convert_run(run, out, to, ablate=changes, checkpoint=weights)
    if json:
        print_json(report.as_json())
    else:
        show(report, stdout())


def show(report: "ConvertReport", console: Console) -> None:
    """Print what changed and the command that can follow."""
    change = counted(abs(report.zeros), "weight")
    what = f"{change} of 0 {'added' if report.zeros > 0 else 'removed'}"
    folder = shlex.quote(report.run)
    console.print(
        f"{one_line(report.converted_from)} as {report.model}: {report.parameters:,} parameters, "
        f"{what} in {', '.join(report.layers)}\n"
        f"run: {report.run}\n"
        f"next: alexnet predict IMAGE... --run {folder}",
        soft_wrap=True,
    )
