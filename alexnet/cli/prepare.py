"""`alexnet prepare`: from images in folders or archives to a packed data set."""

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
from alexnet.cli.options import MACHINE, Json, option

if TYPE_CHECKING:
    from alexnet.prepare import PrepareReport

IMAGES, IMAGENET = "Images", "ImageNet"
CLASSES_SHOWN = 10

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder, tar or zip of class folders, or the archives of ImageNet or CIFAR-10.",
    ),
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="Packed data set to create.")]
Size = Annotated[int, option("--size N", "Side of the stored images, in pixels.", IMAGES)]
Resize = Annotated[
    Literal["short", "warp"],
    option(
        "--resize",
        "short: scale the shorter side, then crop the centre square; warp: scale both sides, as "
        "Caffe's networks were trained.",
        IMAGES,
    ),
]
Orientation = Annotated[
    Literal["turn", "ignore"] | None,
    option(
        "--orientation",
        "turn: turn a photograph as its EXIF tag says; ignore: as stored. Default: turn; for "
        "ImageNet's archives ignore, as the published results did.",
        IMAGES,
    ),
]
Store = Annotated[
    Literal["raw", "jpeg"],
    option(
        "--store", "raw: 8-bit pixels, fast to read; jpeg: about a seventh of the space.", IMAGES
    ),
]
ValFraction = Annotated[
    float,
    option(
        "--val-fraction X",
        "Fraction of each class for the validation split, if SOURCE has none.",
        IMAGES,
    ),
]
SplitSeed = Annotated[int, option("--seed N", "Seed for choosing those images.", IMAGES)]
MaxRejects = Annotated[
    int | None,
    option(
        "--max-rejects N",
        "Fail if more images than this are unusable. Default: 100; for ImageNet 0.",
        IMAGES,
    ),
]
ValLabels = Annotated[
    Path | None,
    option(
        "--val-labels FILE",
        "Labels of the validation images, if they are not in class folders.",
        IMAGENET,
    ),
]
Devkit = Annotated[Path | None, option("--devkit PATH", "ILSVRC2012 development kit.", IMAGENET)]
Workers = Annotated[
    int | None, option("--workers N", "Worker processes. Default: one per core.", MACHINE)
]


def prepare(  # noqa: PLR0913 - typer makes an option of each parameter
    source: Source,
    out: Out,
    *,
    size: Size = 256,
    resize: Resize = "short",
    orientation: Orientation = None,
    store: Store = "raw",
    val_fraction: ValFraction = 0.1,
    seed: SplitSeed = 0,
    max_rejects: MaxRejects = None,
    val_labels: ValLabels = None,
    devkit: Devkit = None,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Pack images into a data set.

    The shorter side is scaled to --size, and the centre square is stored;
    --resize changes that.

    SOURCE may have train/, val/ and test/ splits. Files that cannot be read
    are listed with the reason. To continue after an interruption, give the
    same command again.

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
        orientation=orientation,
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
    """Print the counts, the rejected images and the command that can follow."""
    counts = ("images", "smallest class", "largest class")
    table = plain_table("split", *counts, right=counts)
    for name, facts in report.splits.items():
        numbers = (facts["images"], min(facts["per_class"]), max(facts["per_class"]))
        table.add_row(name, *(f"{number:,}" for number in numbers))
    console.print(table)
    content = f"{len(report.classes):,} classes, {report.size} x {report.size} pixels"
    space = f"{report.bytes / 1e6:,.1f} MB as {report.store}"
    pace = f"{duration(report.seconds)}, {report.images_per_second:,.0f} images/s"
    lines = [f"\n{content}, {space}, {pace}", f"classes: {_class_counts(report)}"]
    lines += [f"rejected: {one_line(each['name'])}: {each['reason']}" for each in report.rejected]
    if report.rejects > len(report.rejected):
        lines.append(
            f"... and {report.rejects - len(report.rejected):,} more: {report.out}/rejects.jsonl"
        )
    if report.ignored:
        lines.append(f"ignored: {counted(report.ignored, 'other file')}")
    lines.append(f"next: {_next_command(report)}")
    console.print("\n".join(lines), soft_wrap=True)


def _class_counts(report: "PrepareReport") -> str:
    """Return the first classes, each with its number of images."""
    counts = [f"{one_line(name)} {images:,}" for name, images in report.class_images.items()]
    more = f", ... and {len(counts) - CLASSES_SHOWN:,} more"
    return ", ".join(counts[:CLASSES_SHOWN]) + more * (len(counts) > CLASSES_SHOWN)


def _next_command(report: "PrepareReport") -> str:
    """Return the command that can follow: only training images can be trained on."""
    data = shlex.quote(report.out)
    if "train" in report.splits:
        return f"alexnet train {data} RUN"
    split = "" if "val" in report.splits else f" --split {next(iter(report.splits))}"
    return f"alexnet evaluate RUN {data}{split}"
