"""The options that several commands share: the same word, meaning and help everywhere."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet.config import Settings, override
from alexnet.networks import NAMES
from alexnet.recipes import list_recipes

if TYPE_CHECKING:
    from alexnet.train.processes import Accelerate

TRAINING, MACHINE, OUTPUT = "Training", "Machine", "Output"

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help=f"Network: {', '.join(NAMES)}. "
        "Without it the recipe's own, by the size of the images.",
        rich_help_panel=TRAINING,
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME",
        help=f"Named settings to begin with: {', '.join(list_recipes())}; small by default.",
        rich_help_panel=TRAINING,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs", metavar="N", help="Passes over the training images.", rich_help_panel=TRAINING
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", metavar="N", help="Where all randomness begins.", rich_help_panel=TRAINING
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change any setting, such as lr=0.02; can be repeated. "
        "An unknown name lists them all.",
        rich_help_panel=TRAINING,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="auto (CUDA, then MPS, then the CPU), cpu, cuda, cuda:1 or mps.",
        rich_help_panel=MACHINE,
    ),
]
Plain = Annotated[
    bool,
    typer.Option(
        "--plain",
        metavar="",
        help="Compute with PyTorch's own layers, without the faster kernels.",
        rich_help_panel=MACHINE,
    ),
]
Cache = Annotated[
    Literal["auto", "device", "host", "none"],
    typer.Option(
        "--cache",
        metavar="NAME",
        help="Where images are kept once read: device (a GPU's memory), host, none (read from "
        "the disk each time), or auto, the first with room.",
        rich_help_panel=MACHINE,
    ),
]
Views = Annotated[
    Literal["1", "10"],
    typer.Option(
        "--views",
        help="1: the centre of the image; 10: the mean over its corners and centre, each also "
        "mirrored, as in the paper.",
    ),
]
Weights = Annotated[
    Literal["best", "last"],
    typer.Option(
        "--weights", help="The checkpoint with the lowest validation error, or the newest."
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", metavar="", help="Print the result as one JSON document.", rich_help_panel=OUTPUT
    ),
]


def change_settings(
    settings: Settings,
    *,
    model: str | None,
    epochs: int | None,
    seed: int | None,
    changes: list[str] | None,
) -> Settings:
    """Return `settings` with what the options of a command say; --set has the last word."""
    options = {"model": model, "epochs": epochs, "seed": seed}
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    return override(settings, [*given, *(changes or [])])


def accelerator(plain: bool) -> "Accelerate | None":
    """Return what makes a network's faster form, or None where it shall compute as it is."""
    from alexnet.kernels import accelerate

    return None if plain else accelerate
