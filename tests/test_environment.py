"""The version of this package and the commit of its code."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import alexnet
from alexnet.storage import environment
from alexnet.storage.environment import package_version, versions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Ask for the version anew."""
    package_version.cache_clear()
    yield
    package_version.cache_clear()


def without_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(environment, "version", version)


def test_an_installed_package_has_the_version_of_its_project() -> None:
    assert package_version() == PROJECT["version"] == versions()["alexnet"]


def test_a_source_that_is_not_installed_has_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    without_installation(monkeypatch)
    assert package_version() == PROJECT["version"] == versions()["alexnet"]


@pytest.mark.parametrize(
    "project", [None, "no TOML [", "[tool]\n", '[project]\nname = "other"\nversion = "9"\n']
)
def test_a_copy_without_its_project_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, project: str | None
) -> None:
    without_installation(monkeypatch)
    if project is not None:
        (tmp_path / "pyproject.toml").write_text(project)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "alexnet/storage/environment.py"))
    assert package_version() == "unknown"


def test_the_version_needs_no_torch(tmp_path: Path) -> None:
    shutil.copy(ROOT / "alexnet/storage/environment.py", tmp_path / "alone.py")
    code = "import sys, alone; alone.package_version(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_the_commit_says_whether_code_was_changed_and_not_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True)

    for name in ("alexnet/__init__.py", "results/one/result.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(alexnet, "__file__", str(tmp_path / "alexnet/__init__.py"))
    assert environment.commit() == "unknown"
    git("init")
    git("add", "-A")
    git("commit", "-m", "all")
    clean = environment.commit()
    assert len(clean) >= 7
    assert "-" not in clean
    (tmp_path / "results/one/result.json").write_text("{}")
    assert environment.commit() == clean
    (tmp_path / "alexnet/__init__.py").write_text("x = 1\n")
    assert environment.commit() == f"{clean}-dirty"
