"""docs/python.md: its examples run as they stand there; docs/settings.md has every setting."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from convert_makers import small_torchvision, use_small
from PIL import Image

import alexnet
from alexnet.convert import published
from alexnet.settings_text import explain, write_value

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```", (DOCS / "python.md").read_text(), re.MULTILINE | re.DOTALL
)


def test_the_examples_run(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    use_small(monkeypatch, "one_weird_trick")
    monkeypatch.setattr(published, "cache_folder", lambda: tmp_path / "cache/kernels")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_data, "data/photos")
    shutil.copytree(tiny_run, "runs/photos")
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(noise).save("cat.jpg")
    torch.save(small_torchvision(1000).state_dict(), "alexnet-owt-7be5be79.pth")
    names: dict[str, Any] = {}
    for example in EXAMPLES:
        exec(example, names)
    first, *others = names["answers"]
    assert all(each.predictions == first.predictions for each in others)
    assert names["probabilities"].sum(1).tolist() == pytest.approx([1, 1])
    error = alexnet.evaluate_run("runs/photos", "data/photos").top1_error
    assert names["wrong"] / len(names["data"]["val"]) == error
    assert Path("curves.png").stat().st_size > 1000
    assert [list(values) for _, values in names["tracker"].rows] == [
        *([["loss", "lr"]] * 2 + [["top1_error"]]),
        *([["loss", "lr"]] * 2 + [["top1_error"]]),
    ]


def test_every_setting_is_explained() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in page if line.startswith("| `")] == [
        f"| `{each.name}` | {write_value(each.default) or 'none'} | {each.unit} | {each.meaning} |"
        for each in explain(alexnet.Settings())
    ]
    for each in explain(alexnet.Settings()):
        assert each.meaning
        assert f"\n{each.name}: {each.type}\n    {each.meaning}" in str(alexnet.Settings.__doc__)


@pytest.mark.parametrize("name", alexnet.list_recipes())
def test_values_are_written_as_set_reads_them(name: str) -> None:
    settings = alexnet.recipe(name)
    texts = [f"{each.name}={write_value(each.value)}" for each in explain(settings)]
    assert alexnet.override(alexnet.Settings(), texts) == settings
    assert {each.name for each in explain(settings) if each.is_changed} == {
        field for field, value in vars(settings).items() if value != vars(alexnet.Settings())[field]
    }
