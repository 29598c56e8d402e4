"""The code holds together: imports, public names, versions, sizes, safe loading.

Each check is also tried on something made up that breaks it: a check that cannot fail is worthless.
"""

import importlib
import importlib.metadata
import re
import tomllib
from pathlib import Path

import code_checks
import pytest

import alexnet

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "alexnet"
FOLDERS = ("alexnet", "tests", "docs", "results", "scripts", ".ci")

PUBLIC_NAMES = {
    "AlexnetError",
    "CheckpointError",
    "DataError",
    "Dataset",
    "Diagnosis",
    "DivergedError",
    "Evaluation",
    "ExportReport",
    "ImportReport",
    "Interrupted",
    "Prediction",
    "PrepareReport",
    "Progress",
    "Run",
    "Settings",
    "StorageError",
    "Summary",
    "TrainReport",
    "UsageError",
    "WorkerError",
    "__version__",
    "accelerate",
    "create_model",
    "diagnose",
    "evaluate_run",
    "export_run",
    "extract_features",
    "import_weights",
    "list_models",
    "list_recipes",
    "override",
    "predict_images",
    "prepare_dataset",
    "recipe",
    "run_demo",
    "summarize",
    "train_model",
}


def none(problems: list[str]) -> None:
    """Fail with all complaints, one to a line."""
    assert not problems, "\n" + "\n".join(problems)


def write_package(folder: Path, **modules: str) -> Path:
    """Make a package "made" of modules with the given code; "a_b" is the module b in a folder a."""
    package = folder / "made"
    for name, code in {"__init__": "", **modules}.items():
        path = package / (name if name == "__init__" else name.replace("_", "/"))
        path = path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(code, encoding="utf-8")
    return package


# Imports.


def import_table() -> dict[str, code_checks.Row]:
    return code_checks.read_import_table((ROOT / "docs/design.md").read_text(encoding="utf-8"))


def test_imports_are_those_of_the_table_in_the_design() -> None:
    none(code_checks.import_problems(PACKAGE, import_table()))


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    assert code_checks.find_cycle(code_checks.find_imports(PACKAGE)) == []


MADE_TABLE = """
| module | part | what | from us | from outside |
|---|---|---|---|---|
| `errors` | core | errors | - | - |
| `net` | core | the network | errors | torch |
| `page` | ring | a page | net, (errors) | (jinja2) |
| `__init__` | face | names | - | - |
"""
MADE_MODULES = {
    "errors": "import os",
    "net": "import torch.nn\nfrom made.errors import Bad",
    "page_a": "from made.net import net\ndef f():\n    import jinja2\n    from made import errors",
    "page_b": "from made.page import a",
}


def test_the_import_check_accepts_what_the_table_says(tmp_path: Path) -> None:
    package = write_package(tmp_path, **MADE_MODULES)
    table = code_checks.read_import_table(MADE_TABLE)
    assert code_checks.import_problems(package, table) == []


@pytest.mark.parametrize(
    ("module", "code", "complaint"),
    [
        ("errors", "from made import net", "errors imports net, which is not above it"),
        ("errors", "from made.page.a import f", "errors is core and imports page, which is not"),
        ("net", "def f():\n    import torch", "net, from outside: the code says (torch)"),
        (
            "net",
            "import torch, numpy\nimport made.errors",
            "net, from outside: the code says numpy",
        ),
        ("net", "import torch", "net, from us: the code says -"),
        ("extra", "", "extra: not in the table"),
    ],
)
def test_the_import_check_fails(tmp_path: Path, module: str, code: str, complaint: str) -> None:
    package = write_package(tmp_path, **{**MADE_MODULES, module: code})
    text = MADE_TABLE
    if "above" in complaint or "core" in complaint:  # the table says what the code does
        target = "net" if "net" in complaint else "page"
        text = text.replace("| errors | - | - |", f"| errors | {target} | - |")
    problems = code_checks.import_problems(package, code_checks.read_import_table(text))
    assert any(problem.startswith(complaint) for problem in problems), problems


def test_the_import_check_misses_no_module(tmp_path: Path) -> None:
    package = write_package(tmp_path, errors="")
    problems = code_checks.import_problems(package, code_checks.read_import_table(MADE_TABLE))
    assert "net: in the table, not in the package" in problems


def test_the_cycle_check_fails(tmp_path: Path) -> None:
    package = write_package(tmp_path, a="import made.b", b="def f():\n    from made import a")
    cycle = code_checks.find_cycle(code_checks.find_imports(package))
    assert cycle == ["made.a", "made.b", "made.a"]


def test_the_cycle_check_sees_a_package_imported_with_its_modules(tmp_path: Path) -> None:
    package = write_package(tmp_path, sub_a="", b="import made.sub.a")
    (package / "sub/__init__.py").write_text("import made.b")
    assert code_checks.find_cycle(code_checks.find_imports(package))


def test_importing_has_no_effects(tmp_path: Path) -> None:
    modules = code_checks.module_names(PACKAGE)
    none(code_checks.import_effects(modules, tmp_path, ROOT))


def test_the_effect_check_fails(tmp_path: Path) -> None:
    package = write_package(
        tmp_path,
        clean="import math",
        prints="print('hello')",
        draws="import torch; torch.rand(1)",
        asks="import torch; torch.cuda.is_available()",
        writes="open('file', 'w').close()",
        sets="import os; os.environ['X'] = '1'",
        starts="import threading as t; t.Thread(target=t.Event().wait, daemon=True).start()",
    )
    (tmp_path / "work").mkdir()
    problems = code_checks.import_effects(
        code_checks.module_names(package), tmp_path / "work", tmp_path
    )
    assert problems == [
        "importing made.asks touches the devices",
        "importing made.draws touches the random numbers",
        "importing made.prints prints 'hello\\n'",
        "importing made.sets touches the environment",
        "importing made.starts touches the threads",
        "importing made.writes touches the files",
    ]


# Public names and versions.


def test_public_names_are_these() -> None:
    assert set(alexnet.__all__) == PUBLIC_NAMES
    assert len(alexnet.__all__) == len(PUBLIC_NAMES)
    assert set(dir(alexnet)) >= PUBLIC_NAMES


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES - {"__version__"}))
def test_public_names_exist_and_are_documented(name: str) -> None:
    assert getattr(alexnet, name).__doc__


def newest_change(text: str) -> str:
    match = re.search(r"^## \[(\d[^]]*)\] - \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    return match[1] if match else ""


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert {
        project["version"],
        importlib.metadata.version("alexnet"),
        alexnet.__version__,
        newest_change((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")),
        re.findall(r"^version: (.+)$", citation, re.MULTILINE)[0],
    } == {project["version"]}


def test_the_newest_change_is_the_first_that_is_released() -> None:
    text = "## [Unreleased]\n## [0.2.0] - 2027-01-02\n## [0.1.0] - 2026-11-23\n"
    assert newest_change(text) == "0.2.0"


# Size and safety.


def test_modules_and_functions_are_short() -> None:
    none(code_checks.size_problems(PACKAGE, module=300, function=50, median=8))


def test_code_lines_are_counted_without_text() -> None:
    source = '''"""Doc.

More."""

# why
x = [
    1,  # one
]

def f(
    a,
):
    """Doc."""
    return """a
    b"""
'''
    assert code_checks.code_lines(source) == {6, 7, 8, 10, 11, 12, 14, 15}
    assert code_checks.function_sizes(source) == {"f": 2}


def test_the_size_check_fails(tmp_path: Path) -> None:
    package = write_package(tmp_path, a="def f():\n" + "    x = 1\n" * 10, b="x = 1\n" * 12)
    assert code_checks.size_problems(package, module=11, function=9, median=8) == [
        "made/a.py, f: 10 code lines, at most 9",
        "made/b.py: 12 code lines, at most 11",
        "the median function has 10 lines, at most 8",
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_unpickled(path: Path) -> None:
    none(code_checks.unsafe_loading(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "code",
    [
        "pickle.load(file)",
        "pickle.loads(data)",
        "pickle.Unpickler(file).load()",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "load(path, weights_only=safe)",
        "np.load(path, allow_pickle=True)",
        "class Open(pickle.Unpickler):\n    pass",
    ],
)
def test_the_unpickling_check_fails(code: str) -> None:
    assert code_checks.unsafe_loading(code)


def test_a_restricted_unpickler_is_allowed() -> None:
    code = "class Closed(pickle.Unpickler):\n    def find_class(self, module, name): ..."
    assert code_checks.unsafe_loading(f"{code}\ntorch.load(path, weights_only=True)") == []


UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME)\b")


def test_nothing_is_left_for_later() -> None:
    files = [path for top in FOLDERS for path in (ROOT / top).rglob("*") if path.is_file()]
    texts = [path for path in files if path.suffix in (".py", ".md", ".jinja", ".toml", ".sh")]
    found = [str(path) for path in [*texts, ROOT / "Makefile", *ROOT.glob("*.md")]
             if UNFINISHED.search(path.read_text(encoding="utf-8"))]  # fmt: skip
    none(found)
    assert UNFINISHED.search("# TO" + "DO: mend")


def test_the_root_stays_short() -> None:
    ignored = {"data", "runs", "dist", "build"}
    entries = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - ignored
    entries = {name for name in entries if not name.endswith(".egg-info")}
    assert len(entries) <= 12, entries
