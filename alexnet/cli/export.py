"""`alexnet export`: a run to the files of other engines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from alexnet.cli.console import counted, percent, plain_table, print_json, progress, stdout
from alexnet.cli.options import Json, Weights

if TYPE_CHECKING:
    from alexnet.convert import ExportReport

CHECK = "Check"


def export(  # noqa: PLR0913 - typer makes an option of each parameter
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write; for caffe a folder.")],
    *,
    format: Annotated[  # noqa: A002 - the word that everybody uses
        Literal["onnx", "torch-export", "safetensors", "caffe"],
        typer.Option(
            metavar="NAME",
            help="onnx (any engine), torch-export (PyTorch without this package), safetensors "
            "(weights alone) or caffe (a folder).",
        ),
    ] = "onnx",
    with_preprocessing: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing",
            metavar="",
            help="8-bit RGB images in, probabilities out: crop, mean and softmax in the file "
            "(onnx).",
        ),
    ] = False,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            metavar="",
            help="Fully connected layers in 8 bits, a quarter of the size (onnx; needs --check).",
        ),
    ] = False,
    weights: Weights = "best",
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Packed data set to compare file and run on; without it, made-up images.",
            rich_help_panel=CHECK,
        ),
    ] = None,
    check_images: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="How many of its validation images, evenly spread; 0 for all.",
            rich_help_panel=CHECK,
        ),
    ] = 256,
    json: Json = False,
) -> None:
    """Export a run's network for other engines.

    The file is opened again, by another engine where there is one, and answers
    the same images as the run; it gets its name only if the answers are equal.
    Classes and preprocessing are in the file.

    Examples:

      alexnet export runs/photos net.onnx --with-preprocessing
      alexnet export runs/photos net.onnx --check data/photos --check-images 0
      alexnet export runs/photos small.onnx --int8 --check data/photos
      alexnet export runs/caffe caffe/ --format caffe
    """
    from alexnet.convert import export_run

    report = export_run(
        run,
        out,
        format,
        which=weights,
        with_preprocessing=with_preprocessing,
        int8=int8,
        check=check,
        check_images=check_images,
        progress=progress(),
    )
    if json:
        print_json(report.as_json())
    else:
        show(report, stdout())


def show(report: "ExportReport", console: Console) -> None:
    """Print what was written, how far its answers are from the run's, and both errors."""
    compared = report.comparison
    console.print(
        f"{report.out}: {report.model} as {report.format}{', int8' if report.int8 else ''}, "
        f"{report.bytes / 1e6:,.1f} MB\n"
        f"checked on {counted(compared.images, 'image')} with {report.engine}: largest difference "
        f"{compared.largest_difference:.2g}, largest answer {compared.largest_answer:.3g}",
        soft_wrap=True,
    )
    if errors := compared.errors:
        table = plain_table("", "top-1 error", "top-5 error", right=("top-1 error", "top-5 error"))
        table.add_row("run", percent(errors.run_top1_error), percent(errors.run_top5_error))
        table.add_row("file", percent(errors.file_top1_error), percent(errors.file_top5_error))
        console.print()
        console.print(table)
