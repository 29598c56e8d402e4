"""`alexnet export`: from a run directory to a file for other engines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from alexnet.cli.console import counted, percent, plain_table, print_json, progress, stdout
from alexnet.cli.options import Json, Weights, flag, option
from alexnet.storage.folders import check_run, named_run

if TYPE_CHECKING:
    from alexnet.convert import ExportReport

CHECK = "Check"

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="File to write, or folder for the format caffe.")
]
Format = Annotated[
    Literal["onnx", "torch-export", "safetensors", "caffe"] | None,
    option(
        "--format NAME",
        "onnx (any engine), torch-export (PyTorch without this package), safetensors (weights "
        "only) or caffe (a folder). Default: by the ending of OUT: .onnx, .pt2 or .safetensors; "
        "onnx for a name without ending.",
    ),
]
Force = Annotated[bool, flag("--force", "Replace OUT if it is an existing file.")]
WithPreprocessing = Annotated[
    bool,
    flag(
        "--with-preprocessing",
        "Include crop, mean and softmax: 8-bit RGB images in, probabilities out (onnx).",
    ),
]
Int8 = Annotated[
    bool,
    flag(
        "--int8",
        "Store fully connected layers in 8 bits, a quarter of the size (onnx; needs --check).",
    ),
]
Check = Annotated[
    Path | None,
    option(
        "--check DATA",
        "Packed data set on which file and run are compared. Default: synthetic images.",
        CHECK,
    ),
]
CheckImages = Annotated[
    int,
    option(
        "--check-images N",
        "Number of its validation images to use, evenly spread; 0: all.",
        CHECK,
        min=0,
    ),
]


def export(  # noqa: PLR0913 - typer makes an option of each parameter
    run: Run,
    out: Out,
    *,
    format: Format = None,  # noqa: A002 - the name of the option
    force: Force = False,
    with_preprocessing: WithPreprocessing = False,
    int8: Int8 = False,
    weights: Weights = "best",
    check: Check = None,
    check_images: CheckImages = 256,
    json: Json = False,
) -> None:
    """Export a run's network for other engines.

    The file is opened again, by another engine if there is one, and its
    outputs are compared with the run's on the same images. It gets its name
    only if they agree. The file includes classes and preprocessing.

    Examples:

      alexnet export runs/photos net.onnx --with-preprocessing
      alexnet export runs/photos net.onnx --check data/photos --check-images 0
      alexnet export runs/photos small.onnx --int8 --check data/photos
      alexnet export runs/photos net.pt2
      alexnet export runs/caffe caffe/ --format caffe
    """
    run = named_run(run)
    check_run(run)
    from alexnet.convert import export_run

    report = export_run(
        run,
        out,
        format,
        overwrite=force,
        checkpoint=weights,
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
    """Print the file, the largest difference from the run's outputs, and the errors of both."""
    compared = report.comparison
    console.print(
        f"{report.out}: {report.model} as {report.format}{', int8' if report.int8 else ''}, "
        f"{report.bytes / 1e6:,.1f} MB\n"
        f"checked on {counted(compared.images, 'image')} with {report.engine}: largest difference "
        f"{compared.largest_difference:.2g}, largest output {compared.largest_answer:.3g}",
        soft_wrap=True,
    )
    if errors := compared.errors:
        table = plain_table("", "top-1 error", "top-5 error", right=("top-1 error", "top-5 error"))
        table.add_row("run", percent(errors.run_top1_error), percent(errors.run_top5_error))
        table.add_row("file", percent(errors.file_top1_error), percent(errors.file_top5_error))
        console.print()
        console.print(table)
