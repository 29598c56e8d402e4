"""`alexnet evaluate`: the errors of a trained network on a split of a data set."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from alexnet.cli.console import (
    class_label,
    counted,
    fits,
    percent,
    plain_table,
    print_json,
    progress,
    stdout,
)
from alexnet.cli.options import Device, Json, Plain, Views, Weights, accelerator, option
from alexnet.errors import UsageError

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

    Examples:

      alexnet evaluate runs/photos data/photos
      alexnet evaluate runs/photos data/photos --views 10 --split test --json
      alexnet evaluate runs/seed0 runs/seed1 runs/seed2 data/photos
    """
    from alexnet.evaluate import evaluate_run
    from alexnet.storage.run import Run

    *runs, data = paths
    if not runs:
        raise UsageError("evaluate needs a run directory and a data set: alexnet evaluate RUN DATA")
    result = evaluate_run(
        runs,
        data,
        views=int(views),
        split=split,
        checkpoint=weights,
        device=device,
        progress=progress(),
        accelerate=accelerator(plain),
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
    for name, error in (("top-1", result.top1_error), ("top-5", result.top5_error)):
        wrong = round(error * result.images)
        console.print(f"{name} error {percent(error):>8}  ({wrong:,} wrong)")
    guessing = math.log(len(labels))
    console.print(f"loss {result.loss:>13.4f}  (guessing: ln {len(labels)} = {guessing:.4f})\n")
    console.print(class_table(result, labels))
    if len(labels) > CLASSES_SHOWN:
        console.print(f"\nThe {CLASSES_SHOWN} worst of {len(labels):,} classes; --json has all.")
        return
    matrix = confusion_table(result.confusion, labels)
    if fits(matrix, console):
        console.print("\nImages by class (rows) and by prediction (columns):\n")
        console.print(matrix)


def class_table(result: "Evaluation", labels: list[str]) -> Table:
    """Lay out a row for each class, the worst first, with its most frequent wrong prediction."""
    columns = ("images", "top-1 error", "top-5 error")
    table = plain_table("class", *columns, "most frequent mistake", right=columns)
    order = [index for index, row in enumerate(result.per_class) if row["images"]]
    order.sort(key=lambda index: -result.per_class[index]["top1_error"])
    for index in order[:CLASSES_SHOWN]:
        row = result.per_class[index]
        errors = [percent(row[name]) for name in ("top1_error", "top5_error")]
        mistake = most_frequent_mistake(result.confusion[index], index, labels)
        table.add_row(labels[index], f"{row['images']:,}", *errors, mistake)
    return table


def most_frequent_mistake(counts: list[int], right: int, labels: list[str]) -> str:
    """Name the wrong class that is predicted most often for class `right`: "cat (3)"."""
    wrong = [0 if index == right else count for index, count in enumerate(counts)]
    most = max(wrong)
    return f"{labels[wrong.index(most)]} ({most:,})" if most else ""


def confusion_table(confusion: list[list[int]], labels: list[str]) -> Table:
    """Lay out the confusion matrix with numbered columns; "." is no image."""
    numbers = [str(index + 1) for index in range(len(labels))]
    table = plain_table("class", *numbers, right=tuple(numbers), gap=1)
    for number, label, counts in zip(numbers, labels, confusion, strict=True):
        table.add_row(f"{number} {label}", *(str(count or ".") for count in counts))
    return table
