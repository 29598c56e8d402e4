"""`alexnet prepare`: images in folders or archives to a packed data set."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from alexnet.cli.console import (
    counted,
    duration,
    one_line,
    plain_table,
    print_json,
    progress,
    stdout,
)
from alexnet.cli.options import MACHINE, Json

if TYPE_CHECKING:
    from alexnet.prepare import PrepareReport

IMAGES, IMAGENET = "Images", "ImageNet"


def prepare(  # noqa: PLR0913 - typer makes an option of each parameter
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder or tar of class folders, ImageNet's or CIFAR-10's archives.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Packed data set to make.")],
    *,
    size: Annotated[
        int,
        typer.Option(metavar="N", help="Side of the stored images.", rich_help_panel=IMAGES),
    ] = 256,
    resize: Annotated[
        Literal["short", "warp"],
        typer.Option(
            help="short: scale the short side, keep the central square; warp: scale both sides, "
            "as Caffe's networks were trained.",
            rich_help_panel=IMAGES,
        ),
    ] = "short",
    store: Annotated[
        Literal["raw", "jpeg"],
        typer.Option(
            help="raw: 8-bit pixels, quick to read; jpeg: about a seventh of the space.",
            rich_help_panel=IMAGES,
        ),
    ] = "raw",
    val_fraction: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Share of each class that becomes the validation split where SOURCE has none.",
            rich_help_panel=IMAGES,
        ),
    ] = 0.1,
    seed: Annotated[
        int,
        typer.Option(metavar="N", help="Which images those are.", rich_help_panel=IMAGES),
    ] = 0,
    max_rejects: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Images that may be unusable before it is an error; 100, for ImageNet 0.",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    val_labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Labels of the validation images, where they lie in no class folders.",
            rich_help_panel=IMAGENET,
        ),
    ] = None,
    devkit: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="ILSVRC2012 development kit.", rich_help_panel=IMAGENET),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Processes; by default one per core.", rich_help_panel=MACHINE
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Pack images into a data set.

    The short side is scaled to --size, then the central square is kept;
    --resize changes that.

    SOURCE may have train/, val/ and test/ splits. What cannot be read is
    listed with its reason. A prepare that was stopped goes on when the same
    command is given again.

    Examples:

      alexnet prepare photos/ data/photos
      alexnet prepare photos.tar data/photos64 --size 64 --val-fraction 0.2
      alexnet prepare cifar-10-python.tar.gz data/cifar10 --size 32
      alexnet prepare imagenet/ data/imagenet --store jpeg
    """
    from alexnet.prepare import prepare_dataset

    report = prepare_dataset(
        source,
        out,
        size=size,
        resize=resize,
        store=store,
        val_fraction=val_fraction,
        seed=seed,
        max_rejects=max_rejects,
        workers=workers,
        val_labels=val_labels,
        devkit=devkit,
        progress=progress(),
    )
    if json:
        print_json(report.as_json())
    else:
        show(report, stdout())


def show(report: "PrepareReport", console: Console) -> None:
    """Print the counts, the rejected images and what can be done next."""
    counts = ("images", "smallest class", "largest class")
    table = plain_table("split", *counts, right=counts)
    for name, facts in report.splits.items():
        numbers = (facts["images"], min(facts["per_class"]), max(facts["per_class"]))
        table.add_row(name, *(f"{number:,}" for number in numbers))
    console.print(table)
    content = f"{len(report.classes):,} classes, {report.size} x {report.size} pixels"
    space = f"{report.bytes / 1e6:,.1f} MB as {report.store}"
    pace = f"{duration(report.seconds)}, {report.images_per_second:,.0f} images/s"
    lines = [f"\n{content}, {space}, {pace}"]
    lines += [f"rejected: {one_line(each['name'])}: {each['reason']}" for each in report.rejected]
    if report.rejects > len(report.rejected):
        lines.append(
            f"... and {report.rejects - len(report.rejected):,} more: {report.out}/rejects.jsonl"
        )
    if report.ignored:
        lines.append(f"ignored: {counted(report.ignored, 'other file')}")
    lines.append(f"next: alexnet train {shlex.quote(report.out)} RUN")
    console.print("\n".join(lines), soft_wrap=True)
