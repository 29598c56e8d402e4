"""The options that several commands share: same name, same meaning, same help text."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from alexnet.errors import UsageError
from alexnet.networks import NAMES
from alexnet.progress import SILENT, Progress
from alexnet.recipes import list_recipes

if TYPE_CHECKING:
    from torch import nn

    from alexnet.evaluate import Accelerate

TRAINING, MACHINE, OUTPUT = "Training", "Machine", "Output"
"""Titles of groups of options in the help text."""


def option(
    usage: str,
    help: str,  # noqa: A002
    group: str | None = None,
    *,
    values: Sequence[str] = (),
    **more: Any,
) -> Any:
    """Declare an option; `usage` is its name and its value: "--epochs N".

    A shell completes `values`; `more` are arguments of `typer.Option`.
    """
    name, _, value = usage.partition(" ")
    more |= {"autocompletion": lambda: list(values)} if values else {}
    return typer.Option(name, metavar=value or None, help=help, rich_help_panel=group, **more)


def flag(name: str, help: str, group: str | None = None) -> Any:  # noqa: A002
    """Declare an option without a value."""
    return typer.Option(name, metavar="", help=help, rich_help_panel=group)


NETWORKS = f"Network: {', '.join(NAMES)}."

Model = Annotated[
    str | None,
    option(
        "--model NAME",
        f"{NETWORKS} Default: chosen by recipe and image size.",
        TRAINING,
        values=NAMES,
    ),
]
Recipe = Annotated[
    str | None,
    option(
        "--recipe NAME",
        f"Named settings to start from: {', '.join(list_recipes())}. Default: small.",
        TRAINING,
        values=list_recipes(),
    ),
]
Epochs = Annotated[int | None, option("--epochs N", "Passes over the training images.", TRAINING)]
LearningRate = Annotated[
    float | None, option("--lr X", "Learning rate, after the warm-up.", TRAINING)
]
BatchSize = Annotated[int | None, option("--batch-size N", "Images per step.", TRAINING)]
WeightDecay = Annotated[float | None, option("--weight-decay X", "Decay of the weights.", TRAINING)]
Optimizer = Annotated[
    Literal["paper", "sgd", "adamw", "lars"] | None,
    option("--optimizer NAME", "Update rule: paper, sgd, adamw or lars.", TRAINING),
]
Seed = Annotated[int | None, option("--seed N", "Seed of all random numbers.", TRAINING)]
Changes = Annotated[
    list[str] | None,
    option(
        "--set NAME=VALUE",
        "Change any setting, such as momentum=0.8. Can be repeated. An unknown name lists all "
        "settings.",
        TRAINING,
    ),
]
Device = Annotated[
    str,
    option(
        "--device NAME", "auto (CUDA, then MPS, then the CPU), cpu, cuda, cuda:1 or mps.", MACHINE
    ),
]
Plain = Annotated[
    bool,
    flag("--plain", "Use PyTorch's own layers instead of the accelerated kernels.", MACHINE),
]
Cache = Annotated[
    Literal["auto", "device", "host", "none"],
    option(
        "--cache NAME",
        "Where images are cached: device (GPU memory), host (main memory), none (read from disk "
        "each time) or auto (the first with room).",
        MACHINE,
    ),
]
Views = Annotated[
    Literal["1", "10"],
    option(
        "--views",
        "1: the centre crop; 10: the mean over the centre crop and four corner crops, each also "
        "mirrored, as in the paper.",
    ),
]
Weights = Annotated[
    Literal["best", "last"],
    option("--weights", "Checkpoint to use: lowest validation error, or newest."),
]
Json = Annotated[bool, flag("--json", "Print the result as one JSON document.", OUTPUT)]


def check_model(*names: str) -> None:
    """Raise `UsageError` for an unknown network, before torch is imported."""
    for name in names:
        if name not in NAMES:
            raise UsageError(f"there is no model {name!r}; the models are: {', '.join(NAMES)}")


def accelerator(plain: bool, progress: Progress = SILENT) -> "Accelerate | None":
    """Return the function that accelerates a network, or None for PyTorch's own layers.

    `progress` receives a note when kernels are compiled.
    """
    if plain:
        return None
    from alexnet.kernels import accelerate

    if progress is SILENT:
        return accelerate

    def accelerate_and_note(model: "nn.Sequential") -> "nn.Module":
        if next(model.parameters()).device.type == "cpu":
            with suppress(ImportError):  # another numba may not tell when it compiles
                from alexnet.cli.compiling import note_compilation

                note_compilation(progress)
        return accelerate(model, note=progress.note)

    return accelerate_and_note
