"""`alexnet doctor`: check a data set, a run directory or archives for damage."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from alexnet.cli.options import Json, option
from alexnet.errors import UsageError

if TYPE_CHECKING:
    from alexnet.doctor import Diagnosis

LABELS = {"damage": "damaged", "warning": "warning", "note": "note"}
ORIENTATIONS = {
    "turn": "photographs are turned as their EXIF tags say",
    "ignore": "photographs are as stored: their EXIF orientation is ignored",
}

Target = Annotated[
    Path,
    typer.Argument(
        metavar="DATA|RUN",
        help="Packed data set, run directory, or a folder with ImageNet's archives.",
    ),
]
Source = Annotated[
    Path | None,
    option("--source FOLDER", "ImageNet's archives that DATA was made from, to check as well."),
]


def doctor(path: Target, *, source: Source = None, json: Json = False) -> int:
    """Check a data set or a run for damage.

    Verifies checksums, counts, class balance, classes that are splits,
    duplicates, broken, half, black and empty images; that weights are finite
    and fit the network; ImageNet's published counts and MD5s. Reports what is
    wrong and what to do. Changes nothing.

    Exit code 0: no damage; 3 or 4: damaged. Warnings do not count.

    Examples:

      alexnet doctor data/photos
      alexnet doctor runs/photos --json
      alexnet doctor data/imagenet --source imagenet/
    """
    if not (path.exists() or path.with_name(f"{path.name}.partial").exists()):
        raise UsageError(f"{path} does not exist")
    from alexnet.doctor import diagnose

    diagnosis = diagnose(path, source=source, progress=progress())
    if json:
        print_json(diagnosis.as_json())
    else:
        show(diagnosis, stdout())
    return diagnosis.exit_code


def show(diagnosis: "Diagnosis", console: Console) -> None:
    """Print the counts, each finding with its remedy, and the verdict."""
    if splits := diagnosis.facts.get("splits"):
        counts = ("images", "classes", "smallest class", "largest class")
        table = plain_table("split", *counts, right=counts)
        for name, facts in splits.items():
            limits = (facts[f"{size}_class"]["images"] for size in ("smallest", "largest"))
            numbers = (facts["images"], facts["classes"], *limits)
            table.add_row(name, *(f"{number:,}" for number in numbers))
        console.print(table)
        console.print()
    lines = []
    if rule := ORIENTATIONS.get(str(diagnosis.facts.get("orientation"))):
        lines.append(rule)
    for finding in diagnosis.findings:
        lines.append(one_line(f"{LABELS[finding.weight]}: {finding.check}: {finding.what}"))
        lines += [f"    {one_line(example)}" for example in finding.examples]
        if finding.remedy:
            lines.append(f"  > {one_line(finding.remedy)}")
    weights = [finding.weight for finding in diagnosis.findings]
    warned = counted(weights.count("warning"), "warning")
    verdict = "sound" if diagnosis.sound else "damaged"
    path = one_line(diagnosis.path)
    lines.append(f"{diagnosis.kind} {path}: {verdict}, {warned} ({duration(diagnosis.seconds)})")
    console.print("\n".join(lines), soft_wrap=True)
