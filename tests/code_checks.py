"""What `test_repo.py` checks. Each check returns its complaints, one line each."""

import ast
import graphlib
import io
import json
import subprocess
import sys
import tokenize
from pathlib import Path

Modules = dict[str, Path]


def find_modules(package: Path) -> Modules:
    """Map names such as "made.prepare.tar" to files, for a package's folder "made"."""
    files = sorted(package.rglob("*.py"))
    names = [".".join(path.relative_to(package.parent).with_suffix("").parts) for path in files]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


def find_imports(modules: Modules) -> set[tuple[str, str]]:
    """List which module imports which, inside functions too."""
    found = set()
    for module, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {(module, alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {(module, name if name in modules else f"{node.module}") for name in names}
    return {(module, target) for module, target in found if target in modules}


def layer_problems(modules: Modules, layers: str) -> list[str]:
    """Complain about modules that import from their own layer or a higher one.

    `layers` has one to a line, the lowest first. A name stands for a module, or for a folder with
    all its modules but those that are named themselves.
    """
    levels = {name: row for row, line in enumerate(layers.split("\n")) for name in line.split()}

    def unit(module: str) -> str:
        parts = [*module.split("."), "__init__"]
        return name if (name := ".".join(parts[1:3])) in levels else parts[1]

    units = {unit(module) for module in modules}
    if strange := units ^ levels.keys():
        return [f"{name} is a module without layer, or the reverse" for name in strange]
    pairs = {(unit(module), unit(target)) for module, target in find_imports(modules)}
    upwards = [
        (one, other) for one, other in pairs if one != other and levels[one] <= levels[other]
    ]
    return [f"{one} imports {other}, which is not below it" for one, other in sorted(upwards)]


def find_cycle(modules: Modules) -> list[str]:
    """Return the modules of one import cycle in order, or nothing.

    To import a.b.c runs a/b/__init__.py first, so that counts as well.
    """
    graph = graphlib.TopologicalSorter[str]()
    for module, target in find_imports(modules):
        parts = target.split(".")
        run = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
        graph.add(module, *(name for name in run if not f"{module}.".startswith(f"{name}.")))
    try:
        graph.prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


_IMPORT_ALL = """
import contextlib, importlib, io, json, os, sys, threading
import numpy, torch

sys.path.insert(0, sys.argv[1])
asked = []
for name in ("is_available", "device_count", "_lazy_init"):
    setattr(torch.cuda, name, lambda *args, name=name: asked.append(name))

def state():
    return {
        "random numbers": str(numpy.random.get_state()) + str(torch.get_rng_state().tolist()),
        "threads": (threading.active_count(), torch.get_num_threads()),
        "environment": dict(os.environ),
        "files": os.listdir(),
        "devices": list(asked),
        "output": output.getvalue(),
    }

problems, output = [], io.StringIO()
with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
    for name in sys.argv[2:]:
        before = state()
        importlib.import_module(name)
        problems += [f"{name}: {key}" for key, value in state().items() if value != before[key]]
print(json.dumps(problems))
"""


def import_effects(package: Path, folder: Path) -> list[str]:
    """Name what importing the modules changes, one by one in a process that works in `folder`."""
    command = [sys.executable, "-B", "-W", "error", "-c", _IMPORT_ALL, str(package.parent)]
    command += find_modules(package)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def code_lines(path: Path) -> set[int]:
    """Number the lines that hold code: no blank lines, comments or docstrings."""
    source, lines = path.read_text(encoding="utf-8"), set()
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent and token.type != tokenize.ENDMARKER:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return lines


def size_problems(modules: Modules, *, module: int, function: int) -> list[str]:
    """Complain about modules, and bodies of functions, with more code lines than they may have."""
    problems = []
    for name, path in modules.items():
        lines = code_lines(path)
        if len(lines) > module:
            problems.append(f"{name}: {len(lines)} code lines, at most {module}")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                count = len(lines & set(range(node.body[0].lineno, (node.end_lineno or 0) + 1)))
                if count > function:
                    problems.append(f"{name}.{node.name}: {count} code lines, at most {function}")
    return problems
