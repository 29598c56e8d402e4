"""What `test_documents.py` checks. Each check returns its complaints, one line each."""

import ast
import importlib
import inspect
import itertools
import json
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"")
SYMBOL = re.compile(r"(?<![\w./-])alexnet(?:\.[A-Za-z_]\w*)+")
FIGURE = r"\**(-?[\d,]*\.?\d+)( ?%)?"
RESULT = re.compile(rf"<!-- result: (\S+) (\S+) -->{FIGURE}")
SOURCED = re.compile(rf"<!-- (?:result|paper): [^>]*-->{FIGURE}")
PERCENTAGE = re.compile(r"[\d.]+ ?%")


def code_blocks(text: str) -> list[tuple[str, str]]:
    """List the fenced blocks of a document: (language, code)."""
    return FENCE.findall(text)


def code_spans(text: str) -> list[str]:
    """List the `spans` of a document that stand outside of fenced blocks."""
    return SPAN.findall(FENCE.sub("", text))


def prose(text: str) -> str:
    """Return a document without its code."""
    return SPAN.sub("", FENCE.sub("", text))


# Links and files.


def anchors(text: str) -> set[str]:
    """List the anchors of a document's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text), re.MULTILINE):
        words = re.sub(r"\]\([^)]*\)", "", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        repeats = (f"{slug}-{count}" if count else slug for count in range(100))
        found.add(next(name for name in repeats if name not in found))
    return found


def link_problems(document: Path) -> list[str]:
    """Complain about links to files and headings that do not exist."""
    problems = []
    for match in LINK.finditer(prose(document.read_text(encoding="utf-8"))):
        target = match[1] or match[2]
        if re.match(r"(https?|mailto):", target):
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        if not path.exists():
            problems.append(f"{document.name}: no file {target}")
        elif anchor and anchor not in anchors(path.read_text(encoding="utf-8")):
            problems.append(f"{document.name}: no heading {target}")
    return problems


def path_problems(document: Path, root: Path, folders: set[str]) -> list[str]:
    """Complain about files that a document names in code and that do not exist.

    Those are paths that begin with one of `folders`, and bare names of modules and documents;
    "tests/test_x.py::test_y" names a test. A word in capitals (NAME) stands for others.
    """
    text = document.read_text(encoding="utf-8")
    plain = [code for language, code in code_blocks(text) if language in ("", "text")]
    words = [span for span in code_spans(text) if " " not in span] + " ".join(plain).split()
    return [
        f"{document.name}: no file {word}"
        for word in words
        if re.fullmatch(r"[\w./-]+(::\w+)?", word)
        and not re.search(r"(^|/)[A-Z]+(/|$)", word)
        and not named_file_exists(word, root, folders)
    ]


def named_file_exists(word: str, root: Path, folders: set[str]) -> bool:
    """Tell whether a word is no file of ours, or one that exists."""
    name, _, test = word.partition("::")
    if "/" in name:
        path = root / name
        if name.split("/")[0] not in folders:
            return True
        return path.exists() and (not test or f"def {test}(" in path.read_text(encoding="utf-8"))
    if not re.search(r"\w\.(py|md|toml|cff)$", name):
        return True
    return (root / name).exists() or any(any((root / top).rglob(name)) for top in folders)


# Names and calls.


def symbol_problems(document: Path) -> list[str]:
    """Complain about names such as alexnet.networks.registry.create_model that do not exist."""
    names = SYMBOL.findall(document.read_text(encoding="utf-8"))
    return [f"{document.name}: no {name}" for name in sorted(set(names)) if not exists(name)]


def exists(name: str) -> bool:
    """Tell whether a dotted name leads to a module, an attribute or a field of a dataclass."""
    try:
        find(name)
    except LookupError:
        return False
    return True


def find(name: str) -> Any:
    """Return what a dotted name leads to; a dataclass's field leads to its class."""
    parts = name.split(".")
    here: Any = importlib.import_module(parts[0])
    for depth, part in enumerate(parts[1:], start=2):
        if part in getattr(here, "__dataclass_fields__", {}) and depth == len(parts):
            return here
        if not hasattr(here, part):
            try:
                importlib.import_module(".".join(parts[:depth]))
            except ModuleNotFoundError:
                raise LookupError(name) from None
        here = getattr(here, part)
    return here


def call_problems(code: str) -> list[str]:
    """Complain about calls of functions of ours with arguments that they do not take."""
    problems = []
    for node in ast.walk(ast.parse(code)):
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if not isinstance(node, ast.Call) or not SYMBOL.fullmatch(name) or not exists(name):
            continue
        function = find(name)
        keywords: dict[str, Any] = {word.arg: None for word in node.keywords if word.arg}
        try:
            inspect.signature(function).bind(*node.args, **keywords)
        except TypeError as error:
            problems.append(f"{ast.unparse(node)}: {error}")
    return problems


# Commands.


def shell_commands(text: str) -> Iterator[list[str]]:
    """List the calls of `alexnet` in a document's shell blocks, as words after the program's name.

    In `console` blocks commands begin with "$ ", the rest is output. Lines may go on after a
    backslash; what follows a |, >, ; or # is left out.
    """
    for language, code in code_blocks(text):
        for line in code.replace("\\\n", " ").splitlines():
            if language in ("sh", "bash") or (language == "console" and line.startswith("$ ")):
                words = shlex.split(line.removeprefix("$ "), comments=True)
                words = list(
                    itertools.takewhile(lambda word: not re.match(r"\d?[|>;&]", word), words)
                )
                if words[1:3] == ["-m", "alexnet"]:
                    words = words[2:]
                if words and words[0].rpartition("/")[2] == "alexnet":
                    yield words[1:]


def command_problems(text: str, parse: Callable[[list[str]], str | None]) -> list[str]:
    """Complain about `alexnet` commands in blocks that `parse` has something to say against."""
    return [
        f"alexnet {shlex.join(words)}: {problem}"
        for words in shell_commands(text)
        if (problem := parse(words))
    ]


def option_problems(text: str, options: Mapping[str, Collection[str]]) -> list[str]:
    """Complain about unknown commands and options in spans such as `alexnet train --epochs N`."""
    problems = []
    for span in code_spans(text):
        match = re.fullmatch(r"alexnet ([a-z]\w*)\b(.*)", span)
        if match and match[1] not in options:
            problems.append(f"{span}: no command {match[1]}")
        elif match:
            unknown = set(re.findall(r"--[a-z-]+", match[2])) - set(options[match[1]])
            problems += [f"{span}: no option {option}" for option in sorted(unknown)]
    return problems


def make_problems(text: str, makefile: str) -> list[str]:
    """Complain about `make` targets, in code, that the Makefile lacks."""
    code = code_spans(text) + [line for _, body in code_blocks(text) for line in body.splitlines()]
    targets = [match[1] for line in code if (match := re.match(r"(?:\$ )?make ([\w-]+)", line))]
    return [
        f"no target: make {target}"
        for target in targets
        if not re.search(rf"^{target}:", makefile, re.MULTILINE)
    ]


# Figures.


def figure_problems(text: str, results: Path) -> list[str]:
    """Complain about figures behind a `result` marker that are not those of the stored result.

    <!-- result: NAME KEY -->41.2 % must be results/NAME/result.json's KEY ("a.b" for nested ones)
    rounded to the digits shown, times 100 where there is a percent sign.
    """
    problems, text = [], prose(text)
    for name, key, digits, percent in RESULT.findall(text):
        try:
            value = json.loads((results / name / "result.json").read_text(encoding="utf-8"))
            for part in key.split("."):
                value = value[int(part)] if isinstance(value, list) else value[part]
        except (OSError, KeyError, IndexError, ValueError) as error:
            problems.append(f"result {name} {key}: {type(error).__name__} {error}")
            continue
        exact = float(value) * (100 if percent else 1)
        decimals = len(digits.partition(".")[2])
        if abs(float(digits.replace(",", "")) - exact) > 0.5001 * 10**-decimals:
            problems.append(f"result {name} {key}: {digits}{percent} is shown, {exact:g} stored")
    if len(RESULT.findall(text)) != text.count("<!-- result:"):
        problems.append("a result marker is not written <!-- result: NAME KEY -->FIGURE")
    return problems


def unsourced_percentages(text: str) -> list[str]:
    """Complain about percentages in tables that have neither a result marker nor a paper marker."""
    return [
        f"{figure} has no source: {line}"
        for line in FENCE.sub("", text).splitlines()
        if line.startswith("|")
        for figure in PERCENTAGE.findall(SOURCED.sub("", line))
    ]
