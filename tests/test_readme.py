"""The README's commands and its Python run as they stand there, on made-up photographs."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Your own images")[2].partition("\n## ")[0]
BLOCKS = dict(re.findall(r"^```(sh|python)\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL))


def write_photos(folder: Path) -> None:
    """Write photos/CLASS/*.jpg of two classes, larger and smaller than needed, and cat.jpg."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(8):
            noise = rng.integers(0, 256, (10 + number, 12, 3), np.uint8)
            picture = Image.fromarray(noise).resize((300, 200 + 10 * number))
            picture.save(folder / "photos" / label / f"{number}.jpg")
    picture.save(folder / "cat.jpg")


@pytest.mark.slow
def test_the_commands_and_the_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path)
    # The command trains alexnet for 20 epochs and saves 730 MB after each; one shows that it runs.
    commands = re.sub(r"^alexnet train .*", r"\g<0> --epochs 1", BLOCKS["sh"], flags=re.MULTILINE)
    names = re.findall(r"^alexnet (\w+)", commands, re.MULTILINE)
    assert names[:4] == ["prepare", "train", "evaluate", "predict"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", commands],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^cat\.jpg\n +\d+\.\d\d%", done.stdout, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    variables: dict[str, Any] = {}
    exec(BLOCKS["python"], variables)
    assert {name for name, _ in variables["answer"].predictions} == {"cat", "dog"}
