"""`alexnet recipes`: named settings of trainings, and what each setting means."""

import inspect
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding

from alexnet.cli.console import plain_table, print_json, stdout
from alexnet.cli.options import Json
from alexnet.recipes import RECIPES, recipe
from alexnet.settings_text import SettingText, explain, write_value

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Recipe to show.")]


def recipes(name: Name = None, *, json: Json = False) -> None:
    """List the recipes of trainings, or explain the settings of one.

    Each setting is shown with its value, its unit and its meaning; where the
    value is not the default, which is the paper's, with that too. The names
    and values are those of train --set.

    Examples:

      alexnet recipes
      alexnet recipes small
    """
    if name is None:
        purposes = {known: purpose(known) for known in RECIPES}
        if json:
            print_json([{"recipe": known, "purpose": text} for known, text in purposes.items()])
        else:
            show_recipes(purposes, stdout())
        return
    settings = explain(recipe(name))
    if json:
        print_json({"recipe": name, "settings": [setting._asdict() for setting in settings]})
    else:
        show(name, settings, stdout())


def purpose(name: str) -> str:
    """Return what a recipe is for, in a line."""
    return description(name).partition("\n")[0]


def description(name: str) -> str:
    """Return all that is said of a recipe: purpose, command, hardware, time and result."""
    return inspect.getdoc(RECIPES[name]) or ""


def show_recipes(purposes: dict[str, str], console: Console) -> None:
    """Print a line for each recipe."""
    table = plain_table("recipe", "purpose")
    table.columns[1].no_wrap = False
    for name, text in purposes.items():
        table.add_row(name, text)
    console.print(table)
    console.print("\nnext: alexnet recipes NAME\n      alexnet train DATA RUN --recipe NAME")


def show(name: str, settings: list[SettingText], console: Console) -> None:
    """Print what a recipe is for, and each setting with its meaning below."""
    console.print(description(name) + "\n", soft_wrap=True)
    for setting in settings:
        texts = [setting.name, "=", *with_unit(setting.value, setting.unit)]
        if setting.is_changed:
            texts.append(f" (default {' '.join(with_unit(setting.default))})")
        console.print(" ".join(texts), soft_wrap=True)
        console.print(Padding(setting.meaning, (0, 0, 0, 4), expand=False))


def with_unit(value: object, unit: str = "") -> list[str]:
    """Write a value and its unit; "none" for an empty one."""
    text = write_value(value)
    return [text, *([unit] if unit else [])] if text else ["none"]
