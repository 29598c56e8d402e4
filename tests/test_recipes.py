"""Each recipe makes a training step, and says how to use it and what came out."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Stripes

from alexnet.prepare import prepare_dataset
from alexnet.recipes import RECIPES, list_recipes, recipe
from alexnet.storage.run import Run
from alexnet.train import train_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed data set of 39 training images of side 64, three classes."""
    out = tmp_path_factory.mktemp("recipes") / "data"
    prepare_dataset(Stripes(), out, size=64, workers=1)
    return out


@pytest.mark.parametrize("name", list_recipes())
def test_one_training_step(name: str, data: Path, tmp_path: Path) -> None:
    settings = recipe(name)
    model = settings.model if settings.model.startswith("cifar10") else "alexnet_small"
    settings = replace(settings, model=model, batch_size=39, epochs=1)
    weights = []
    for lr in (0.0, settings.lr):
        run = tmp_path / f"run-{lr}"
        report = train_model(data, run, replace(settings, lr=lr), device="cpu")
        assert report.steps == 1
        weights.append(dict(Run.open(run).load_model().named_parameters()))
    before, after = weights
    for parameter, values in after.items():
        assert values.isfinite().all()
        rests = settings.layer_lr.get(parameter.split(".")[0]) == 0
        assert torch.equal(values, before[parameter]) == rests, parameter


@pytest.mark.parametrize("name", list_recipes())
def test_the_docstring_has_command_hardware_time_and_result(name: str) -> None:
    text = " ".join((RECIPES[name].__doc__ or "").split())
    command, hardware, result = re.split(
        "Hardware and time:|Result:", text.partition("Command:")[2]
    )
    assert re.fullmatch(rf"alexnet train .*--recipe {name}\b.*", command.strip())
    assert re.search("GTX|GPU|CPU|devices", hardware)
    assert re.search("minutes|hours|days|estimates", hardware)
    assert re.search(r"\d %|not run here", result)
