"""The code holds together: imports, the reading core, public names, versions, sizes, safe loading.

The checks are in `code_checks.py`; the last test shows each of them something that breaks it.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from itertools import groupby
from pathlib import Path

import code_checks

import alexnet

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "alexnet"
MODULES = code_checks.find_modules(PACKAGE)

# From bottom to top. A module imports from its own folder and from layers below its own.
LAYERS = """
errors progress
compiled loader notebook randomness storage
images networks
config device
dataset optim recipes settings_text transforms
storage.run
evaluate
predict prepare train
analysis doctor kernels parallel
convert demo reproduce
bench serve
cli
python
__init__ __main__
"""

# What explains the method and its use, in reading order.
CORE = """
networks/paper.py networks/layers.py networks/initialization.py randomness.py transforms.py
optim.py dataset.py loader.py config.py recipes.py device.py train/losses.py train/state.py
train/loop.py evaluate.py predict.py
"""
READING_CORE = CORE.split()


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def none(problems: list[str]) -> None:
    """Fail with all complaints, one to a line."""
    assert not problems, "\n" + "\n".join(problems)


def test_imports_go_down_the_layers() -> None:
    none(code_checks.layer_problems(MODULES, LAYERS))


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    assert code_checks.find_cycle(MODULES) == []


def test_importing_has_no_effects(tmp_path: Path) -> None:
    none(code_checks.import_effects(PACKAGE, tmp_path))


def test_modules_are_few_at_the_top_and_short() -> None:
    none(code_checks.size_problems(MODULES, module=300, function=40))
    assert len(list(PACKAGE.glob("*.py"))) <= 16


def test_the_reading_core_is_closed() -> None:
    names = {f"alexnet.{name.removesuffix('.py').replace('/', '.')}" for name in READING_CORE}
    beside = re.compile("|".join([r"alexnet\.(errors|progress|notebook|storage|images)\b", *names]))
    pairs = [pair for pair in sorted(code_checks.find_imports(MODULES)) if pair[0] in names]
    none([f"{one} imports {other}" for one, other in pairs if not beside.match(other)])


def test_the_reading_core_is_short() -> None:
    sizes = {name: len(code_checks.code_lines(PACKAGE / name)) for name in READING_CORE}
    assert sum(sizes.values()) <= 1300, sizes


def test_documents_list_the_reading_core_in_order() -> None:
    for document in ("README.md", "docs/design.md"):
        named = re.findall(r"(?:alexnet/)?([\w/]+\.py)\b", read(document))
        core = [name for name, _ in groupby(name for name in named if name in READING_CORE)]
        assert " ".join(READING_CORE) in " ".join(core), document


def test_public_names_are_documented() -> None:
    assert set(alexnet.__all__) <= set(dir(alexnet))
    none([name for name in alexnet.__all__ if not getattr(alexnet, name).__doc__])


def test_versions_agree() -> None:
    released = re.findall(r"(?m)^## \[(\d[^]]*)\] - \d{4}-\d\d-\d\d$", read("CHANGELOG.md"))
    cited = re.findall(r"(?m)^version: (.+)$", read("CITATION.cff"))
    versions = {released[0], cited[0], importlib.metadata.version("alexnet"), alexnet.__version__}
    assert versions == {tomllib.loads(read("pyproject.toml"))["project"]["version"]}


def test_tests_run_where_pytest_benchmark_is_installed(tmp_path: Path) -> None:
    """It is no part of the project, but warns while pytest starts; a stand-in does so as well."""
    (tmp_path / "warns.py").write_text(
        "import warnings\ndef pytest_configure(config): warnings.warn('disabled beside xdist')\n"
    )
    installed = tmp_path / "pytest_benchmark-5.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: pytest-benchmark\nVersion: 5\n"
    )
    (installed / "entry_points.txt").write_text("[pytest11]\nbenchmark = warns\n")
    (tmp_path / "test_one.py").write_text("def test_one(): pass\n")
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml")]
    command += [f"--rootdir={tmp_path}", "-p", "no:cacheprovider", str(tmp_path / "test_one.py")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


# Names of PyTorch and Triton that begin with _, and what happens where one is missing.
PRIVATE = r"\b(?:torch|triton|tl)(?:\.\w+)*\._(?!_)\w+|from (?:torch|triton)[\w.]* import _\w+"
GUARDED = {
    "torch.ops.mkldnn._linear_pointwise": "onednn.is_available: PyTorch's own layers run",
    "torch.ops.mkldnn._convolution_pointwise": "the same",
    "torch.ops.mkldnn._reorder_convolution_weight": "the same",
    "torch.ops.mkldnn._reorder_linear_weight": "the same",
    "torch.ops.mkl._mkl_linear": "onednn.has_packed_mkl: one form less to choose from",
    "torch.ops.mkl._mkl_reorder_linear_weight": "the same",
    "torch._dynamo": "loaded early by forkserver, which passes over a module that is missing",
}


def test_private_names_are_those_whose_absence_stops_nothing() -> None:
    texts = [path.read_text(encoding="utf-8") for path in MODULES.values()]
    assert {name for text in texts for name in re.findall(PRIVATE, text)} == set(GUARDED)


# Ruff refuses pickle.load and pickle.Unpickler (S301).
UNPICKLES = r"torch\.load\((?![^)]*weights_only=True)|weights_only=(?!True)|allow_pickle=(?!False)"


def test_nothing_is_unpickled() -> None:
    none([name for name, path in MODULES.items() if re.search(UNPICKLES, path.read_text())])


def test_each_check_fails_on_what_it_is_for(tmp_path: Path) -> None:
    package = tmp_path / "made"
    package.mkdir()
    (package / "low.py").write_text("def f():\n    from made import high\n" + "    x = 1\n" * 10)
    (package / "high.py").write_text("import made.low\nprint('hello')")
    modules = code_checks.find_modules(package)
    assert code_checks.layer_problems(modules, "low\nhigh") == [
        "low imports high, which is not below it"
    ]
    assert set(code_checks.find_cycle(modules)) == {"made.low", "made.high"}
    assert code_checks.import_effects(package, tmp_path) == ["made.high: output"]
    assert code_checks.size_problems(modules, module=12, function=10) == [
        "made.low.f: 11 code lines, at most 10"
    ]
    assert re.search(UNPICKLES, "torch.load(path)")
