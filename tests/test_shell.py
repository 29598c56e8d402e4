"""What a shell and its user ask the program: completion, and help that says all it has to."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import alexnet
from alexnet import errors
from alexnet.cli import app, main

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def ask(shell: str, line: str) -> str:
    """Return what the program answers a shell in which Tab is pressed at the end of `line`."""
    words = line.split(" ")
    question = {
        "_ALEXNET_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    command = [sys.executable, "-m", "alexnet"]
    done = subprocess.run(
        command, env={**os.environ, **question}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_ALEXNET_COMPLETE", f"source_{shell}")
    assert main([]) == 0
    script = capsys.readouterr().out
    registers = {"bash": "complete -o", "zsh": "compdef _alexnet", "fish": "complete --command"}
    assert registers[shell] in script
    assert f"complete_{shell}" in script


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_command_is_completed(shell: str) -> None:
    answer = ask(shell, "alexnet tr")
    assert "train" in answer
    assert "predict" not in answer


def test_bash_itself_completes(tmp_path: Path) -> None:
    program = tmp_path / "alexnet"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m alexnet "$@"\n')
    program.chmod(0o755)
    script = """
        source <(_ALEXNET_COMPLETE=source_bash alexnet)
        COMP_WORDS=(alexnet train data run --recipe fi) COMP_CWORD=5
        $(complete -p alexnet | sed 's/.*-F \\(\\w*\\).*/\\1/') alexnet
        echo "${COMPREPLY[@]}"
    """
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("fine_tune\n", "")


def test_networks_are_completed() -> None:
    assert ask("bash", "alexnet train data run --model ").split() == alexnet.list_models()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_all_that_is_written_and_no_path_of_this_machine(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word in [brackets] would be taken for markup and vanish."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    written = inspect.getdoc(COMMANDS[name].callback) or ""
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for line in written.replace("\\[", "[").splitlines():
        assert " ".join(line.split()) in lines
    assert str(Path(alexnet.__file__).parent) not in "".join(shown.split())


def test_help_has_the_exit_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main(["--help"])
    epilog = capsys.readouterr().out.partition("Exit codes: ")[2]
    stated = {int(code) for code in re.findall(r"(?:^|, )(\d+) ", " ".join(epilog.split()))}
    codes = {
        kind.exit_code
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.AlexnetError)
    }
    assert codes <= stated
