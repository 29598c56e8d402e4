"""`alexnet evaluate`: the errors of a trained network on a split of a data set."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from alexnet.cli.console import (
    PlainTable,
    class_label,
    counted,
    percent,
    plain_table,
    print_json,
    progress,
    stdout,
)
from alexnet.cli.options import Device, Json, Plain, Views, Weights, accelerator, option
from alexnet.errors import UsageError
from alexnet.storage.folders import check_evaluation, named_run

if TYPE_CHECKING:
    from alexnet.evaluate import Evaluation

CLASSES_SHOWN = 20

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN... DATA",
        help="Run directory, or several to average, and the packed data set.",
    ),
]
Split = Annotated[str, option("--split NAME", "train, val or test.")]


def evaluate(
    paths: Paths,
    *,
    views: Views = "1",
    split: Split = "val",
    weights: Weights = "best",
    device: Device = "auto",
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Measure a trained network's errors.

    Prints top-1 and top-5 error, loss, figures per class and the confusion
    matrix. Several runs are averaged, as the paper averages five networks.
    Every image of the split counts exactly once.

    Classes are matched by name. If the data has a part of the network's
    classes, errors are counted among all classes and among the data's.

    Examples:

      alexnet evaluate runs/photos data/photos
      alexnet evaluate runs/photos data/photos --views 10 --split test --json
      alexnet evaluate runs/seed0 runs/seed1 runs/seed2 data/photos
    """
    *runs, data = paths
    if not runs:
        raise UsageError("evaluate needs a run directory and a data set: alexnet evaluate RUN DATA")
    runs = list(map(named_run, runs))
    check_evaluation(runs, data)
    from alexnet.evaluate import evaluate_run
    from alexnet.storage.run import Run

    shown = progress()
    result = evaluate_run(
        runs,
        data,
        views=int(views),
        split=split,
        checkpoint=weights,
        device=device,
        progress=shown,
        accelerate=accelerator(plain, shown),
    )
    if json:
        print_json(result.as_json())
    else:
        opened = Run.open(runs[0])
        show(result, list(map(class_label, opened.classes, opened.titles)), stdout())


def show(result: "Evaluation", labels: list[str], console: Console) -> None:
    """Print the errors, the classes from the worst on, and the confusion matrix if it fits."""
    images, views = counted(result.images, "image"), counted(result.views, "view")
    console.print(f"{result.split}: {images}, {views} of each\n")
    part = result.subset
    if part:
        console.print(f"Among all {len(labels):,} classes of the network:\n")
    show_errors(result, console)
    if part:
        console.print(f"Among the {len(part.per_class):,} classes of the data:\n")
        show_errors(part, console)
    console.print(class_table(result, labels))
    present = sum(row["images"] > 0 for row in result.per_class)
    if present > CLASSES_SHOWN:
        console.print(f"\nThe {CLASSES_SHOWN} worst of {present:,} classes; --json has all.")
    elif len((part or result).per_class) <= CLASSES_SHOWN:
        show_confusion(part or result, labels_of(part, result, labels) if part else labels, console)


def show_errors(result: "Evaluation", console: Console) -> None:
    """Print the errors and the loss."""
    for name, error in (("top-1", result.top1_error), ("top-5", result.top5_error)):
        wrong = round(error * result.images)
        console.print(f"{name} error {percent(error):>8}  ({wrong:,} wrong)")
    classes = len(result.per_class)
    guessing = f"guessing: ln {classes} = {math.log(classes):.4f}"
    console.print(f"loss {result.loss:>13.4f}  ({guessing})\n")


def labels_of(part: "Evaluation", whole: "Evaluation", labels: list[str]) -> list[str]:
    """Return the labels of the classes of `part`, from those of `whole`."""
    names = [row["class"] for row in whole.per_class]
    by_name = dict(zip(names, labels, strict=True))
    return [by_name[row["class"]] for row in part.per_class]


def class_table(result: "Evaluation", labels: list[str]) -> PlainTable:
    """Lay out a row for each class, the worst first, with its most frequent wrong prediction.

    Errors among the data's classes alone, if they are a part, have their own columns.
    """
    errors = ["top-1 error", "top-5 error"]
    among: dict[str, dict[str, Any]] = {}
    if result.subset:
        among = {row["class"]: row for row in result.subset.per_class}
        errors += [f"top-1 of {len(among)}", f"top-5 of {len(among)}"]
    columns = ("images", *errors)
    mistake = "most frequent mistake"
    least = (mistake, *reversed(errors[1:]), "images")
    table = plain_table("class", *columns, mistake, right=columns, least=least)
    order = [index for index, row in enumerate(result.per_class) if row["images"]]
    order.sort(key=lambda index: -result.per_class[index]["top1_error"])
    for index in order[:CLASSES_SHOWN]:
        row = result.per_class[index]
        rows = [row, among[row["class"]]] if among else [row]
        cells = [percent(each[name]) for each in rows for name in ("top1_error", "top5_error")]
        wrong = most_frequent_mistake(result.confusion[index], index, labels)
        table.add_row(labels[index], f"{row['images']:,}", *cells, wrong)
    return table


def most_frequent_mistake(counts: list[int], right: int, labels: list[str]) -> str:
    """Name the wrong class that is predicted most often for class `right`: "cat (3)"."""
    wrong = [0 if index == right else count for index, count in enumerate(counts)]
    most = max(wrong)
    return f"{labels[wrong.index(most)]} ({most:,})" if most else ""


def show_confusion(result: "Evaluation", labels: list[str], console: Console) -> None:
    """Print the confusion matrix with numbered columns, if it fits; "." is no image."""
    numbers = [str(index + 1) for index in range(len(labels))]
    table = plain_table("class", *numbers, right=tuple(numbers), gap=1)
    for number, label, counts in zip(numbers, labels, result.confusion, strict=True):
        table.add_row(f"{number} {label}", *(str(count or ".") for count in counts))
    if table.narrowest > console.width:
        console.print("\n(no room for the confusion matrix; --json has it)")
        return
    console.print("\nImages by class (rows) and by prediction (columns):\n")
    console.print(table)
