"""The command `alexnet` with a subcommand for each stage.

Results go to stdout, everything else to stderr. Importing torch takes a second, so a subcommand
imports what it needs when it runs.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from alexnet.cli import (
    bench,
    demo,
    doctor,
    evaluate,
    export,
    features,
    import_,
    plan,
    predict,
    prepare,
    summary,
    train,
)
from alexnet.cli.console import print_error, print_note, stdout
from alexnet.cli.options import flag
from alexnet.errors import AlexnetError, StorageError

INTERRUPTED = (129, 130, 138, 143)  # exit codes after SIGHUP, SIGINT, SIGUSR1, SIGTERM
OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")  # of Python, of torch

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
for command in (
    summary.summary,
    prepare.prepare,
    train.train,
    evaluate.evaluate,
    predict.predict,
    features.features,
    import_.import_,
    export.export,
    plan.plan,
    doctor.doctor,
    bench.bench,
    demo.demo,
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; `arguments` default to sys.argv."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        code = run([word for word in given if word != "--debug"] or ["--help"])
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich turns a broken pipe into SystemExit
        code = 1  # stdout was closed early, as in: alexnet summary | head
    except BaseException as error:  # noqa: BLE001 - any error becomes one line
        if debug:
            traceback.print_exc()
        code = report(error)
    discard_output_that_fails()
    return code


def run(arguments: list[str]) -> int:
    """Run one command; return 0, or the exit code that it returns."""
    command = typer.main.get_command(app)
    result = command.main(args=arguments, prog_name="alexnet", standalone_mode=False)
    if result == 130:  # typer returns this for Ctrl-C
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def report(error: BaseException) -> int:
    """Print the error as one line and return the exit code."""
    match error:
        case AlexnetError():
            code, text = error.exit_code, str(error)
        case typer.TyperException():
            code, text = error.exit_code, usage_text(error)
        case KeyboardInterrupt() | typer.Abort():
            code, text = 130, "stopped by Ctrl-C"
        case OSError():
            path = f"{error.filename}: " if error.filename else ""
            code, text = StorageError.exit_code, f"{path}{error.strerror or error}"
        case _ if type(error).__name__ in OUT_OF_MEMORY:
            code, text = StorageError.exit_code, "out of memory; try --set batch_size=16"
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
    if options := getattr(error, "possibilities", None):
        message = f"{error.message}. Did you mean {' or '.join(options)}?"
    context = getattr(error, "ctx", None)
    return f"{message} (help: {context.command_path} --help)" if context else message


def discard_output_that_fails() -> None:
    """Prevent a second error when Python exits and stdout cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
