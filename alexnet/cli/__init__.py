"""The command `alexnet` with a subcommand for each stage.

Results go to stdout, everything else to stderr. Importing torch takes a second, so a subcommand
imports what it needs when it runs.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated

import typer

from alexnet.cli import (
    bench,
    convert,
    demo,
    doctor,
    evaluate,
    export,
    features,
    figures,
    import_,
    index,
    plan,
    predict,
    prepare,
    recipes,
    report,
    reproduce,
    serve,
    summary,
    train,
)
from alexnet.cli.console import print_any_character, print_error, print_note, stdout
from alexnet.cli.options import flag
from alexnet.config import Settings
from alexnet.errors import AlexnetError, StorageError, is_out_of_memory
from alexnet.settings_text import RENAMED

INTERRUPTED = (129, 130, 138, 143)  # exit codes after SIGHUP, SIGINT, SIGUSR1, SIGTERM
NEED_LESS_MEMORY = {
    "train": "try --batch-size 16, or --cache none",
    "prepare": "try --workers 1",
    "features": "try one --layer at a time",
    "bench": "try --batch-sizes 1",
}
"""What each command that can do with less memory needs for it."""

OTHER_NAMES = {
    "learning_rate": "--lr",
    "wd": "--weight-decay",
    "bs": "--batch-size",
    "gpu": "--device cuda",
}
"""What other programs call options of alexnet train."""
OPTIONS = {"model", "epochs", "lr", "batch_size", "weight_decay", "optimizer", "seed"}
"""Settings that have an option of their own."""

EPILOG = """
Files: DATA and RUN are folders. A run has all that evaluate, predict, export
and the other commands need. --json prints a result as one JSON document.

Exit codes: 0 done, 1 unexpected error, 2 wrong command or setting, 3 images
or data, 4 run or checkpoint, 5 training diverged, 6 no space, permission,
memory or device, 7 a worker process died, 130 Ctrl-C, 143 SIGTERM.
"""

app = typer.Typer(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
for command in (
    summary.summary,
    prepare.prepare,
    recipes.recipes,
    train.train,
    evaluate.evaluate,
    predict.predict,
    index.index,
    features.features,
    figures.figures,
    report.report,
    import_.import_,
    export.export,
    convert.convert,
    plan.plan,
    doctor.doctor,
    bench.bench,
    demo.demo,
    reproduce.reproduce,
    serve.serve,
):
    app.command(command.__name__.rstrip("_"))(command)


def print_version(requested: bool) -> None:
    """Print the versions and the device that "auto" means, and stop."""
    if not requested:
        return
    from alexnet.device import pick_device
    from alexnet.storage.environment import describe_device, versions

    device, software = pick_device(), versions()
    lines = [f"{name} {software[name]}" for name in ("alexnet", "python", "torch")]
    stdout().print("\n".join([*lines, f"device {device}: {describe_device(device)}"]))
    raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version",
        metavar="",
        help="Show the versions and the device, and stop.",
        callback=print_version,
        is_eager=True,
    ),
]


@app.callback()
def alexnet_command(
    version: Version = False,
    debug: Annotated[bool, flag("--debug", "Show the traceback of an error.")] = False,
) -> None:
    """AlexNet of 2012, from a folder of photographs to a network in use.

    alexnet prepare photos/ data/photos
    alexnet train data/photos runs/photos
    alexnet evaluate runs/photos data/photos --views 10
    alexnet predict cat.jpg --run runs/photos
    alexnet demo      all of these, on generated drawings
    """


RESERVE = [bytearray(2**20)]
"""Memory that is freed before an error is reported: there may be no other."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; `arguments` default to sys.argv."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    try:
        print_any_character()
        code = run([word for word in given if word != "--debug"] or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:
        code = 1  # stdout was closed early, as in: alexnet summary | head
    except SystemExit as stop:  # rich turns a broken pipe into one, typer ends completion with one
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:  # noqa: BLE001 - any error becomes one line
        RESERVE.clear()
        if debug:
            traceback.print_exc()
        code = report_error(error, given)
    discard_output_that_fails()
    return code


def run(arguments: list[str]) -> int:
    """Run one command; return 0, or the exit code that it returns."""
    command = typer.main.get_command(app)
    result = command.main(args=arguments, prog_name="alexnet", standalone_mode=False)
    if result == 130:  # typer returns this for Ctrl-C
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def report_error(error: BaseException, arguments: Sequence[str] = ()) -> int:
    """Print the error of the command `arguments` as one line and return the exit code."""
    match error:
        case AlexnetError():
            code, text = error.exit_code, str(error)
        case typer.TyperException():
            code, text = error.exit_code, usage_text(error)
        case KeyboardInterrupt() | typer.Abort():
            code, text = 130, "stopped by Ctrl-C"
        case _ if is_out_of_memory(error):
            name = next((word for word in arguments if not word.startswith("-")), "")
            others = "close other programs, or raise the limit of this one (ulimit -v)"
            advice = NEED_LESS_MEMORY.get(name, others)
            code, text = StorageError.exit_code, f"out of memory; {advice}"
        case OSError():
            path = f"{error.filename}: " if error.filename else ""
            code, text = StorageError.exit_code, f"{path}{error.strerror or error}"
        case _:
            name, first_line = type(error).__name__, str(error).partition("\n")[0]
            code = AlexnetError.exit_code
            text = f"unexpected {name}: {first_line}; run again with --debug for the traceback"
    if code in INTERRUPTED:
        print_note(text)
    else:
        print_error(text)
    return code


def usage_text(error: typer.TyperException) -> str:
    """Write a usage error as one line with the nearest option and the command for help."""
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    context = getattr(error, "ctx", None)
    if advice := option_advice(error, context):
        message = f"{error.message}. {advice}"
    return f"{message} (help: {context.command_path} --help)" if context else message


def option_advice(error: typer.TyperException, context: typer.Context | None) -> str:
    """Say what an unknown option probably means: a setting of train, or a similar option."""
    name = getattr(error, "option_name", "").lstrip("-").replace("-", "_")
    if context is not None and context.info_name == "train":
        if option := OTHER_NAMES.get(name):
            return f"Did you mean {option}?"
        setting = RENAMED.get(name, name)
        if setting in {each.name for each in fields(Settings)} - OPTIONS:
            return f"It is a setting: --set {setting}=VALUE"
    similar = getattr(error, "possibilities", None)
    return f"Did you mean {' or '.join(similar)}?" if similar else ""


def discard_output_that_fails() -> None:
    """Prevent a second error when Python exits and stdout cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
