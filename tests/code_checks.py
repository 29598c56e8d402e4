"""What `test_repo.py` checks. Each check returns its complaints, one line each."""

import ast
import io
import json
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

# Modules, and what each imports of which top-level package.


class Import(NamedTuple):
    """`module` imports `target`; `late`: inside a function or for type checking only."""

    module: str
    target: str
    late: bool


def module_names(package: Path) -> dict[str, Path]:
    """Map "alexnet.prepare.sources.tar" and its like to files, for a package's folder."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def find_imports(package: Path) -> list[Import]:
    """List every import in a package, of itself (as modules) and of others (top-level names)."""
    modules = module_names(package)
    return [
        Import(module, target, late)
        for module, path in modules.items()
        for node, late in import_nodes(ast.parse(path.read_text(encoding="utf-8")))
        for target in targets(node, modules, package.name)
        if target not in sys.stdlib_module_names
    ]


def import_nodes(node: ast.AST, late: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Walk through import statements; `late` below functions and `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, late
            continue
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from import_nodes(child, late or function or checking)


def targets(node: ast.stmt, modules: Mapping[str, Path], package: str) -> list[str]:
    """Name what an import statement imports: a module of ours, or another top-level package."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        assert isinstance(node, ast.ImportFrom)
        base = node.module or ""
        deeper = [f"{base}.{alias.name}" for alias in node.names]
        names = [name if name in modules else base for name in deeper]
    ours = [name for name in names if name.split(".")[0] == package]
    others = [name.split(".")[0] for name in names if name not in ours]
    return ours + others


def find_cycle(imports: Iterable[Import]) -> list[str]:
    """Return the modules of one import cycle in order, or nothing; late imports count too.

    To import a.b.c runs a/b/__init__.py first, so that counts as well.
    """
    edges: dict[str, set[str]] = {}
    for module, target, _ in imports:
        parts = target.split(".")
        for end in range(2, len(parts) + 1):
            parent = ".".join(parts[:end])
            if not f"{module}.".startswith(f"{parent}."):
                edges.setdefault(module, set()).add(parent)
        edges.setdefault(module, set()).add(target)
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(edges.get(module, ())):
            if cycle := visit(target, [*path, module]):
                return cycle
        done.add(module)
        return []

    return next((cycle for module in sorted(edges) if (cycle := visit(module, []))), [])


class Row(NamedTuple):
    """A row of the table in docs/design.md; "(torch)" in it is a late import."""

    part: str
    ours: frozenset[str]
    others: frozenset[str]


def read_import_table(text: str) -> dict[str, Row]:
    """Read the table whose columns are: module | part | what | from us | from outside."""
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 5:
            names = [frozenset(cell.replace(",", " ").split()) for cell in cells[3:]]
            rows[cells[0].strip("`")] = Row(cells[1], *(row - {"-"} for row in names))
    return rows


def import_problems(package: Path, table: Mapping[str, Row]) -> list[str]:
    """Compare a package's imports with the table, and the table with its own rules.

    A row stands for a module, or for a sub-package with all its modules. It lists exactly what they
    import; it imports only from rows above it; and the core imports no other part.
    """
    actual = table_of(package)
    problems = [f"{name}: not in the table" for name in actual if name not in table]
    problems += [
        f"{name}: in the table, not in the package" for name in table if name not in actual
    ]
    above: set[str] = set()
    for name, row in table.items():
        ours = {target.strip("()") for target in row.ours}
        problems += [f"{name} imports {x}, which is not above it" for x in sorted(ours - above)]
        if row.part == "core":
            wrong = sorted(x for x in ours if x in table and table[x].part != "core")
            problems += [f"{name} is core and imports {x}, which is not" for x in wrong]
        for column, listed in (("us", row.ours), ("outside", row.others)):
            real = actual.get(name, {}).get(column, listed)
            if real != listed:
                says = ", ".join(sorted(real, key=lambda x: ("(" in x, x))) or "-"
                problems.append(f"{name}, from {column}: the code says {says}")
        above.add(name)
    return problems


def table_of(package: Path) -> dict[str, dict[str, set[str]]]:
    """Gather a package's imports by row of the table: {name: {"us": ..., "outside": ...}}."""

    def row_name(module: str) -> str:
        return [*module.split("."), "__init__"][1]

    rows: dict[str, dict[str, set[str]]] = {
        row_name(module): {"us": set(), "outside": set()} for module in module_names(package)
    }
    for module, target, late in sorted(find_imports(package), key=lambda one: one.late):
        ours = target.split(".")[0] == package.name
        name = row_name(target) if ours else target
        names = rows[row_name(module)]["us" if ours else "outside"]
        if name not in names and not (ours and name == row_name(module)):
            names.add(f"({name})" if late else name)
    return rows


# Importing must be free of effects.

_IMPORT_ALL = """
import contextlib, importlib, io, json, os, sys, threading
import numpy, torch

asked = []
for place, name in (
    (torch.cuda, "is_available"), (torch.cuda, "device_count"), (torch.cuda, "_lazy_init"),
    (torch.backends.mps, "is_available"),
):
    setattr(place, name, lambda *args, name=name: asked.append(name))

def state():
    return {
        "the random numbers": (numpy.random.get_state()[1].tolist(),
                               torch.get_rng_state().tolist()),
        "the threads": (threading.active_count(), torch.get_num_threads()),
        "the environment": dict(os.environ),
        "the files": os.listdir(),
        "the devices": list(asked),
        "torch's defaults": (torch.get_default_dtype(), torch.get_default_device(),
                             torch.are_deterministic_algorithms_enabled()),
    }

problems = []
for module in json.loads(sys.argv[1]):
    before, output = state(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        importlib.import_module(module)
    after = state()
    problems += [f"importing {module} touches {key}" for key in before if before[key] != after[key]]
    if output.getvalue():
        problems.append(f"importing {module} prints {output.getvalue()!r}")
print(json.dumps(problems))
"""


def import_effects(modules: Iterable[str], folder: Path, path: Path) -> list[str]:
    """Import modules found in `path` one by one, in a new process that works in `folder`.

    Complain about output, files, threads, random numbers, environment, devices. A warning is an
    error.
    """
    return list(json.loads(run_python(_IMPORT_ALL, folder, path, json.dumps(list(modules)))))


def run_python(code: str, folder: Path, path: Path, *arguments: str) -> str:
    """Run code in a new interpreter, warnings being errors, and return what it prints."""
    code = f"import sys; sys.path.insert(0, {str(path)!r})\n{code}"
    command = [sys.executable, "-B", "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


# Size.


def code_lines(source: str) -> set[int]:
    """Number the lines that hold code: no blank lines, comments or docstrings."""
    lines: set[int] = set()
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent and token.type != tokenize.ENDMARKER:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a text
            lines -= span(node)
    return lines


def span(first: ast.stmt, last: ast.stmt | None = None) -> set[int]:
    """Number the lines from one statement to another, or of one alone."""
    return set(range(first.lineno, ((last or first).end_lineno or first.lineno) + 1))


def function_sizes(source: str) -> dict[str, int]:
    """Count the code lines of each function's body, by name.

    The signature does not count: a command's is the table of its options.
    """
    lines = code_lines(source)
    return {
        node.name: len(lines & span(node.body[0], node.body[-1]))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def size_problems(package: Path, *, module: int, function: int, median: float) -> list[str]:
    """Complain about modules and functions with more code lines than they may have."""
    problems: list[str] = []
    sizes: list[int] = []
    for path in module_names(package).values():
        source = path.read_text(encoding="utf-8")
        where = path.relative_to(package.parent)
        if (count := len(code_lines(source))) > module:
            problems.append(f"{where}: {count} code lines, at most {module}")
        functions = function_sizes(source)
        sizes += functions.values()
        problems += [
            f"{where}, {name}: {count} code lines, at most {function}"
            for name, count in functions.items()
            if count > function
        ]
    if sizes and statistics.median(sizes) > median:
        problems.append(
            f"the median function has {statistics.median(sizes):g} lines, at most {median:g}"
        )
    return problems


# Files that could run somebody else's code when they are read.


def unsafe_loading(source: str) -> list[str]:
    """Complain about calls that unpickle: torch.load, pickle.load, numpy.load with pickles."""
    problems = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (problem := unsafe_call(node)):
            problems.append(f"line {node.lineno}: {problem}")
        if isinstance(node, ast.ClassDef) and unrestricted_unpickler(node):
            problems.append(f"line {node.lineno}: an Unpickler without its own find_class")
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "torch.serialization"):
            problems.append(f"line {node.lineno}: import the module {node.module}, not from it")
    return problems


def unsafe_call(call: ast.Call) -> str | None:
    """Say what is wrong with a call, if something is."""
    name = ast.unparse(call.func)
    keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
        return f"{name} runs whatever the file says"
    if name == "torch.load" and keywords.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if keywords.get("weights_only", "True") != "True":
        return "weights_only is not True"
    if keywords.get("allow_pickle", "False") != "False":
        return "allow_pickle is not False"
    return None


def unrestricted_unpickler(node: ast.ClassDef) -> bool:
    """Tell whether a class is an unpickler that finds classes as it likes."""
    bases = [ast.unparse(base) for base in node.bases]
    methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
    return "pickle.Unpickler" in bases and "find_class" not in methods
