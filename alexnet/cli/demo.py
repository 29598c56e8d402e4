"""`alexnet demo`: every stage on generated drawings."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from alexnet.cli.console import (
    counted,
    duration,
    percent,
    plain_table,
    print_json,
    progress,
    stdout,
)
from alexnet.cli.options import Device, Epochs, Json, Plain, Seed, accelerator

if TYPE_CHECKING:
    from alexnet.demo import DemoReport
    from alexnet.evaluate import Evaluation

Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder for the data, the run and the report.")
]


def demo(
    out: Out = Path("runs/demo"),
    *,
    epochs: Epochs = None,
    seed: Seed = None,
    device: Device = "auto",
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Run every stage on generated drawings, in a few minutes.

    Makes the drawings, trains a small AlexNet on them, evaluates it with one
    view and with ten, predicts some pictures and writes a report page.

    Examples:

      alexnet demo
      alexnet demo runs/quick --epochs 2
    """
    from alexnet.demo import run_demo

    shown = progress()
    report = run_demo(
        out,
        epochs=epochs,
        seed=seed or 0,
        device=device,
        progress=shown,
        accelerate=accelerator(plain, shown),
    )
    if json:
        print_json(report.as_json())
    else:
        show(report, stdout())


def show(report: "DemoReport", console: Console) -> None:
    """Print a summary of one screen and the path of the page."""
    train = report.train
    console.print(
        f"{train.model}: {counted(train.epochs, 'epoch')} in {duration(train.seconds)}, "
        f"{train.images_per_second:,.0f} images/s, {train.device}\n",
        soft_wrap=True,
    )
    views = [counted(each.views, "view") for each in report.evaluations]
    table = plain_table(f"{report.evaluations[0].images:,} test images", *views, right=tuple(views))
    for name, figures in measures(report.evaluations).items():
        table.add_row(name, *figures)
    console.print(table)
    table = plain_table("picture of", "most probable class")
    table.columns[1].no_wrap = False
    for truth, predictions in predictions_by_class(report).items():
        table.add_row(truth, ", ".join(predictions))
    console.print()
    console.print(table)
    run, pictures = shlex.quote(report.run), shlex.quote(f"{report.out}/pictures")
    console.print(
        f"\nreport: {report.report}  (a page for the browser)\n"
        f"next:   alexnet predict {pictures} --run {run}\n"
        f"        alexnet predict PHOTO  (a net that comes with the package, for ten classes of "
        f"photographs)",
        soft_wrap=True,
    )


def measures(evaluations: "list[Evaluation]") -> dict[str, list[str]]:
    """Return each measure as text, for one view and for ten."""
    return {
        "top-1 error": [percent(each.top1_error) for each in evaluations],
        "top-5 error": [percent(each.top5_error) for each in evaluations],
        "loss": [f"{each.loss:.4f}" for each in evaluations],
    }


def predictions_by_class(report: "DemoReport") -> dict[str, list[str]]:
    """Group the best prediction for each picture, such as "star 98%", by its true class."""
    grouped: dict[str, list[str]] = {}
    for truth, prediction in zip(report.truths, report.predictions, strict=True):
        name, probability = prediction.predictions[0]
        grouped.setdefault(truth, []).append(f"{name} {probability:.0%}")
    return grouped
