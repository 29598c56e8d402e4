"""`alexnet features`: the outputs of a network's layers for images."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from alexnet.cli.console import counted, plain_table, print_error, print_json, progress, stdout
from alexnet.cli.options import Device, Json, Weights, flag, option
from alexnet.errors import DataError, UsageError
from alexnet.storage.folders import check_run, named_run

if TYPE_CHECKING:
    from alexnet.analysis.dissimilarity import DissimilarityReport
    from alexnet.analysis.feature_files import FeatureReport

Images = Annotated[
    Path | None, typer.Argument(metavar="IMAGES", help="An image file, or a folder of them.")
]
Out = Annotated[
    Path | None,
    typer.Argument(metavar="OUT", help="File to write: .npy or .parquet; .npz with --rdm."),
]
TrainedRun = Annotated[Path, option("--run RUN", "Run directory.")]
Layers = Annotated[
    list[str] | None, option("--layer NAME", "A layer, such as fc7. Can be repeated.")
]
Size = Annotated[
    int | None,
    option(
        "--size N",
        "Side of the network's input, for layers before the first fully connected one: images are "
        "scaled to it and used whole. Default: the run's own size.",
    ),
]
Rdm = Annotated[
    bool,
    flag("--rdm", "Write how much each two images differ to each layer, and how alike layers are."),
]
Other = Annotated[
    Path | None, option("--other RUN", "With --rdm, compare the layers with those of this run.")
]
List = Annotated[bool, flag("--list", "Show the layers with their sizes, and stop.")]


def features(  # noqa: PLR0913 - typer makes an option of each parameter
    images: Images = None,
    out: Out = None,
    *,
    run: TrainedRun,
    layer: Layers = None,
    size: Size = None,
    rdm: Rdm = False,
    other: Other = None,
    show_list: List = False,
    weights: Weights = "best",
    device: Device = "auto",
    json: Json = False,
) -> int:
    """Write the outputs of a network's layers for images.

    OUT.npy is an array with one row per image; OUT-images.txt has the names
    of the images. With several layers, each has its own array. OUT.parquet
    is a table of names and layers.

    With --rdm, OUT.npz has dissimilarities instead: 1 - correlation and
    Euclidean, for each layer and each two images, and the layers' linear CKA.

    conv5 is the layer before its activation, relu5 the same after it.
    A file that cannot be read as an image is reported on stderr and makes
    the exit code 3; the others are used.

    Examples:

      alexnet features --run runs/photos --list
      alexnet features photos/ fc7.npy --run runs/photos --layer fc7
      alexnet features photos/ x.npy --run runs/photos --layer conv5 --layer fc6
      alexnet features photos/ rdm.npz --run runs/a --layer fc7 --rdm
        --other runs/b
    """
    run = named_run(run)
    check_run(run)
    if other is not None:
        if not rdm:
            raise UsageError("--other compares two runs: add --rdm")
        check_run(other)
    from alexnet.analysis.dissimilarity import write_dissimilarities
    from alexnet.analysis.feature_files import write_features
    from alexnet.analysis.features import Tapped, layer_shapes
    from alexnet.storage.run import Run

    if show_list:
        show_layers(layer_shapes(Run.open(run).new_model()), stdout(), as_json=json)
        return 0
    if images is None or out is None or not layer:
        raise UsageError(
            "features takes IMAGES, OUT and at least one --layer; --list shows the layers"
        )
    bad: list[DataError] = []
    runs = [run] if other is None else [run, other]
    taps = [Tapped(each, layer, size=size, checkpoint=weights, device=device) for each in runs]
    shown = progress()
    if rdm:
        compared = write_dissimilarities(images, out, *taps, on_bad=bad.append, progress=shown)
        print_json(compared.as_json()) if json else show_alignments(compared, other, stdout())
    else:
        report = write_features(images, out, taps[0], on_bad=bad.append, progress=shown)
        print_json(report.as_json()) if json else show(report, stdout())
    for error in bad:
        print_error(str(error))
    return DataError.exit_code if bad else 0


def show_layers(
    shapes: dict[str, tuple[int, ...]], console: Console, *, as_json: bool = False
) -> None:
    """Print the layers with the sizes of their outputs."""
    if as_json:
        print_json(shapes)
        return
    table = plain_table("layer", "output", "values", right=("output", "values"))
    for name, shape in shapes.items():
        table.add_row(name, "x".join(map(str, shape)), f"{math.prod(shape):,}")
    console.print(table)


def show(report: "FeatureReport", console: Console) -> None:
    """Print the layers, their shapes and the files written."""
    console.print(counted(report.images, "image"))
    for name, shape in report.layers.items():
        console.print(f"{name}: {' x '.join(map(str, shape))}")
    console.print(f"in {', '.join(report.files)}", soft_wrap=True)


def show_alignments(report: "DissimilarityReport", other: Path | None, console: Console) -> None:
    """Print the linear CKA of each two layers, and the file written."""
    console.print(f"{counted(report.images, 'image')}, linear CKA of layers (1: the same)\n")
    columns = list(report.layers)
    table = plain_table("layer", *columns, right=tuple(columns))
    for name, values in zip(report.layers, report.cka, strict=True):
        table.add_row(name, *(f"{value:.3f}" for value in values))
    console.print(table)
    if other is not None:
        console.print(f"\ncolumns: {other}", soft_wrap=True)
    console.print(f"\ndissimilarities of images in {report.file}", soft_wrap=True)
