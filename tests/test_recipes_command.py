"""`alexnet recipes`: what it lists, and that each setting is shown with what a reader needs."""

import json

import pytest

import alexnet
from alexnet.cli import main


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["recipes", *words]) == 0
    return capsys.readouterr().out


def test_all_recipes_are_listed_with_their_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(shown(capsys, "--json"))
    assert [each["recipe"] for each in listed] == alexnet.list_recipes()
    text = shown(capsys)
    for each in listed:
        assert each["recipe"] in text
        assert each["purpose"].split()[0] in text
        assert each["purpose"].endswith(".")


def test_a_recipe_is_explained_setting_by_setting(capsys: pytest.CaptureFixture[str]) -> None:
    explained = json.loads(shown(capsys, "small", "--json"))
    assert explained["recipe"] == "small"
    settings = {each.pop("name"): each for each in explained["settings"]}
    assert {name: each["value"] for name, each in settings.items()} == json.loads(
        json.dumps(alexnet.recipe("small").as_json())
    )
    assert settings["epochs"] == {
        "value": 20,
        "unit": "epochs",
        "default": 90,
        "type": "int",
        "meaning": 'Passes over the training images (P 5: "roughly 90 cycles").',
    }
    lines = shown(capsys, "small").splitlines()
    assert "epochs = 20 epochs  (default 90)" in lines
    assert "layer_lr = conv1=0.015 x lr  (default none)" in lines
    assert "momentum = 0.9" in lines
    assert lines[lines.index("momentum = 0.9") + 1].startswith("    Share of the velocity")


def test_an_unknown_recipe_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "tiny"]) == 2
    assert "there is no recipe 'tiny'; the recipes are: paper, 2012" in capsys.readouterr().err
