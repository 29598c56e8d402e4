"""`alexnet report`: one page about a trained network."""

from pathlib import Path
from typing import Annotated

import typer

from alexnet.cli.console import counted, percent, plain_table, print_json, progress, stdout
from alexnet.cli.options import Device, Json, Plain, Weights, accelerator, option
from alexnet.storage.folders import check_evaluation

TrainedRun = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
Data = Annotated[Path, typer.Argument(metavar="DATA", help="Packed data set.")]
Out = Annotated[Path | None, option("--out FILE", "The page. Default: RUN/report.html.")]
Split = Annotated[
    str | None, option("--split NAME", "train, val or test. Default: test, or else val.")
]


def report(
    run: TrainedRun,
    data: Data,
    *,
    out: Out = None,
    split: Split = None,
    weights: Weights = "best",
    device: Device = "auto",
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Write one page about a trained network, for the browser.

    It has errors with one view and with ten, curves, predictions, where the
    network looks, the confusion matrix, filters, what excites units, and all
    settings. It is one file that asks for nothing, to mail, print or publish.

    Examples:

      alexnet report runs/photos data/photos
      alexnet report runs/photos data/photos --split val --out photos.html
    """
    check_evaluation([run], data)
    from alexnet.analysis.report import report_run

    shown = progress()
    result = report_run(
        run,
        data,
        out,
        split=split,
        checkpoint=weights,
        device=device,
        progress=shown,
        accelerate=accelerator(plain, shown),
    )
    if json:
        print_json(result.as_json())
        return
    first = result.evaluations[0]
    error = "top-1 error"
    table = plain_table(f"{first.images:,} {first.split} images", error, right=(error,))
    for each in result.evaluations:
        table.add_row(counted(each.views, "view"), percent(each.top1_error))
    stdout().print(table)
    stdout().print(f"\nreport: {result.report}  (a page for the browser)", soft_wrap=True)
