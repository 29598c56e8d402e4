"""What `test_documents.py` checks. Each check takes a document and yields what is wrong in it."""

import json
import pydoc
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import alexnet
import alexnet.cli
from alexnet.errors import AlexnetError

ROOT = Path(__file__).parents[1]
FOLDERS = ("alexnet", "tests", "docs", "results", "scripts", ".ci")
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def spans(path: Path) -> list[str]:
    """List the `spans` of a document that stand outside of fenced blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", read(path)))


def anchors(path: Path) -> set[str]:
    """List the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", read(path)), re.MULTILINE)
    words = [re.sub(r"\]\([^)]*\)", "", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", word).replace(" ", "-") for word in words}


def links(path: Path) -> Iterator[str]:
    prose = re.sub(r"`[^`\n]+`", "", FENCE.sub("", read(path)))
    for target in re.findall(r"(?:\]\(|src=\"|href=\")([^)\s\"]+)", prose):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if re.match(r"(https?|mailto):", target):
            continue
        if not file.exists() or (anchor and anchor not in anchors(file)):
            yield target


def files(path: Path) -> Iterator[str]:
    """Check paths in code and in blocks of text; a word in capitals (NAME) stands for others."""
    blocks = [code for language, code in FENCE.findall(read(path)) if language in ("", "text")]
    names = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
    for word in [*(span for span in spans(path) if " " not in span), *" ".join(blocks).split()]:
        name, _, test = word.partition("::")
        ours = name.startswith(tuple(f"{folder}/" for folder in FOLDERS))
        bare = re.fullmatch(r"[\w.-]*\w\.(py|md|toml|cff)", name) and name not in names
        if not re.fullmatch(r"[\w./-]+", name) or re.search(r"(^|/)[A-Z]+(/|$)", name):
            continue
        missing = (ours or bare) and not (ROOT / name).exists()
        if missing or (test and f"def {test}(" not in read(ROOT / name)):
            yield word


def symbols(path: Path) -> Iterator[str]:
    for name in re.findall(r"(?<![\w./-])alexnet(?:\.[A-Za-z_]\w*)+", read(path)):
        owner, _, field = name.rpartition(".")
        fields = getattr(pydoc.locate(owner), "__dataclass_fields__", ())
        if pydoc.locate(name) is None and field not in fields:
            yield name


def commands(path: Path) -> Iterator[str]:
    """Parse the commands in blocks by the real command line; of spans check the options."""
    blocks = "".join(code for language, code in FENCE.findall(read(path)) if language != "python")
    lines = blocks.replace("\\\n", " ").splitlines()
    for line in lines:
        match = re.match(r"(?:\$ )?(?:\S+/|\S+ -m )?alexnet ([a-z-].*)", line)
        if match and (problem := try_command(re.sub(r" (\d?>|[|;&#]).*", "", match[1]))):
            yield f"{line}: {problem}"
    for span in spans(path):
        match = re.fullmatch(r"alexnet ([a-z]\w*)\b(.*)", span)
        if match and not {*re.findall(r"--[a-z-]+", match[2])} <= options(match[1]):
            yield span
    for line in [*lines, *spans(path)]:
        match = re.match(r"(?:\$ )?make ([\w-]+)", line)
        if match and not re.search(rf"^{match[1]}:", read(ROOT / "Makefile"), re.MULTILINE):
            yield f"make {match[1]}"


def options(command: str) -> set[str]:
    """List the options of a command; none if there is no such command."""
    parameters = getattr(command_line().commands.get(command), "params", [])
    return {"--help", *(option for parameter in parameters for option in parameter.opts)}


def command_line() -> Any:
    """Make the real command line, behind typer's own types."""
    return typer.main.get_command(alexnet.cli.app)


def try_command(text: str) -> str | None:
    """Let the real command line parse a command without running it; return its complaint."""
    given: dict[str, Any] = {}
    group = command_line()
    for command in group.commands.values():
        command.callback = lambda **values: given.update(values)
    try:
        # The option would install completion for whoever runs the tests.
        words = [
            word for word in shlex.split(text) if word not in ("--debug", "--install-completion")
        ]
        group.main(args=words, prog_name="alexnet", standalone_mode=False)
        alexnet.override(alexnet.recipe(given.get("recipe") or "paper"), given.get("changes") or [])
    except (typer.TyperException, AlexnetError) as error:
        return str(error) or type(error).__name__
    return None if given.get("model") in (None, *alexnet.list_models()) else "no such model"


def figures(path: Path) -> Iterator[str]:
    """Compare a document's figures with results/figures.tsv, and these with the stored results."""
    for row, figure, result in figures_of(path):
        plain = re.sub(r"\]\([^)]*\)|[\[\]()`*]", "", read(path)).splitlines()
        cells = [(line.strip("| ").split(" | ")[0].strip(), line) for line in plain]
        lines = [line for cell, line in cells if row and cell == row] or plain
        token = rf"(?<![\d.,]){re.escape(figure)}(?!\d|[.,]\d)"
        if not any(row in line and re.search(token, line) for line in lines):
            yield f"{row}: {figure} is not shown"
        elif not result.startswith("paper: ") and (problem := wrong_figure(figure, result)):
            yield f"{row}: {figure}, {problem}"


def figures_of(path: Path) -> list[list[str]]:
    """List a document's rows of results/figures.tsv: [row, figure, result]."""
    lines = read(ROOT / "results/figures.tsv").splitlines()[1:]
    return [cells[1:] for line in lines if ROOT / (cells := line.split("\t"))[0] == path]


def wrong_figure(figure: str, result: str) -> str | None:
    """Say why "41.2 %" is not the stored result "NAME KEY" rounded to the digits shown."""
    name, key = result.split()
    try:
        value = json.loads(read(ROOT / "results" / name / "result.json"))
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
    except (OSError, KeyError, IndexError, ValueError) as error:
        return f"{type(error).__name__} {error}"
    exact = float(value) * (100 if "%" in figure else 1)
    digits = figure.rstrip(" %").replace(",", "")
    decimals = len(digits.partition(".")[2])
    return f"{exact:g} stored" if abs(float(digits) - exact) > 0.5001 * 10**-decimals else None
