"""The numba wrapper: where compiled code is stored, and what happens where it cannot be."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet import compiled as module
from alexnet.compiled import compiled, compiled_kernel, kernel_part

SOURCE = "def double(values):\n    for i in range(values.size):\n        values[i] *= 2\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty folder as the user's cache."""
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load_double(path: Path) -> Any:
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("doubling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.double


@pytest.mark.parametrize("compile_", [compiled, compiled_kernel])
def test_compiled_code_is_stored_in_the_users_cache(
    compile_: Any, cache: Path, tmp_path: Path
) -> None:
    values = np.arange(3.0)
    compile_(load_double(tmp_path / "doubling.py"))(values)
    assert values.tolist() == [0, 2, 4]
    assert list((cache / "alexnet/kernels").rglob("*double*.nbc"))


def test_a_part_of_a_kernel_is_not_stored_by_itself(cache: Path, tmp_path: Path) -> None:
    values = np.arange(3.0)
    kernel_part(load_double(tmp_path / "doubling.py"))(values)
    assert values.tolist() == [0, 2, 4]
    assert not cache.exists()


def test_without_a_folder_a_function_is_compiled_all_the_same(cache: Path) -> None:
    names: dict[str, Any] = {}
    exec(SOURCE, names)  # numba finds no folder for a function without a file
    values = np.arange(3.0)
    compiled(names["double"])(values)
    assert values.tolist() == [0, 2, 4]
    assert not cache.exists()


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"no pickle"]
)
def test_damaged_stored_code_is_compiled_anew_and_stored_again(
    cache: Path, tmp_path: Path, suffix: str, damage: Any
) -> None:
    values = np.arange(3.0)
    compiled(load_double(tmp_path / "doubling.py"))(values)
    (path,) = (cache / "alexnet/kernels").rglob(f"*double*.{suffix}")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    again = compiled(load_double(tmp_path / "doubling.py"))
    again(values)
    assert values.tolist() == [0, 4, 8]
    assert len(path.read_bytes()) >= len(whole) // 2, "it is stored again"
    stored: Any = compiled(load_double(tmp_path / "doubling.py"))
    stored(values)
    assert stored.stats.cache_hits


def test_code_that_cannot_be_stored_runs(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    function = compiled(load_double(tmp_path / "doubling.py"))
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    values = np.arange(3.0)
    function(values)
    assert values.tolist() == [0, 2, 4]


def test_a_numba_without_this_private_name_compiles_too(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module._compile

    class WithoutCache:
        def __init__(self, function: Any) -> None:
            self._function = function

        def __call__(self, *arguments: Any) -> Any:
            return self._function(*arguments)

    monkeypatch.setattr(
        module, "_compile", lambda function, **options: WithoutCache(original(function, **options))
    )
    values = np.arange(3.0)
    compiled(load_double(tmp_path / "doubling.py"))(values)
    assert values.tolist() == [0, 2, 4]
