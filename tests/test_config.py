"""Settings: typed, checked, changed by name."""

import dataclasses
import inspect
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from alexnet import config
from alexnet.config import Override, Settings
from alexnet.errors import UsageError
from alexnet.recipes import RECIPES, list_recipes, recipe
from alexnet.settings_text import override, settings_from_json
from alexnet.train.opening import fitting_model


def test_texts_become_values_of_the_right_kind() -> None:
    changed = override(
        Settings(),
        [
            "lr=0.02",
            "epochs=3",
            "flip=false",
            "schedule=steps",
            "drop_epochs=5,9",
            "layer_lr=a=2,b=0",
        ],
    )
    assert changed == dataclasses.replace(
        Settings(),
        lr=0.02,
        epochs=3,
        flip=False,
        schedule="steps",
        drop_epochs=(5, 9),
        layer_lr={"a": 2.0, "b": 0.0},
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr", "NAME=VALUE"),
        ("rate=1", "there is no setting 'rate'"),
        ("epochs=1.5", "a whole number"),
        ("epochs=0", "at least 1"),
        ("lr=fast", "a number"),
        ("lr=nan", "not below 0"),
        ("lr=inf", "not below 0"),
        ("lr=-1", "not below 0"),
        ("flip=maybe", "true or false"),
        ("dropout=1", "from 0 up to 1"),
        ("min_crop_scale=1.5", "from 0 to 1"),
        ("optimizer=lion", "one of paper, sgd, adamw, lars"),
        ("schedule=linear", "one of plateau, steps, cosine, poly"),
        ("trust_coefficient=-1", "not below 0"),
        ("drop_epochs=5,x", "list of whole numbers"),
        ("layer_lr=conv1", "list of layers"),
        ("ablate=norm", "activation=tanh"),
        ("seed=-1", "not below 0"),
        *(
            (f"overrides={text}", says)
            for text, says in [
                ("lr=1", "a list such as 26:lr=0.001"),
                ("x:lr=1", "a list such as 26:lr=0.001"),
                ("3:lr", "NAME=VALUE"),
                ("3:warp=9", "no setting 'warp'"),
                ("3:lighting=-1", "not below 0"),
                ("3:seed=4", "seed is fixed when a training starts"),
                # The optimiser uses these at its start only: a change would have no effect.
                ("3:momentum=0.8", "momentum is fixed"),
                ("3:weight_decay=0", "weight_decay is fixed"),
                ("3:layer_decay=fc8=0", "layer_decay is fixed"),
                ("3:bias_decay=false", "bias_decay is fixed"),
                ("3:trust_coefficient=1", "trust_coefficient is fixed"),
                ("3:overrides=4:lr=1", "overrides is fixed"),
            ]
        ),
    ],
)
def test_wrong_settings_are_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        override(Settings(), [text])


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("batch_size", 3.5, "a whole number, not 3.5"),
        ("batch_size", "64", 'a whole number, not "64"'),
        ("epochs", True, "a whole number, not true"),
        ("epochs", None, "a whole number, not null"),
        ("seed", np.int64(3), "a whole number, not .*int64"),
        ("lr", "0.1", 'a number, not "0.1"'),
        ("lr", False, "a number, not false"),
        ("lr", torch.tensor(0.1), "a number, not .*tensor"),
        ("flip", 1, "true or false, not 1"),
        ("model", 7, "a text, not 7"),
        ("optimizer", ["sgd"], "one of paper, sgd, adamw, lars, not"),
        ("drop_epochs", 30, "a list, each a whole number, not 30"),
        ("drop_epochs", (30, 60.5), "a list, each a whole number"),
        ("layer_lr", {"conv1": "0"}, "a dictionary of names, each with a number"),
        ("layer_lr", {"conv1": math.nan}, "not below 0, not NaN"),
        ("layer_decay", {"conv1": -1}, "for layer conv1 must be a number, not below 0"),
        ("overrides", ((3, "lr", 0.1),), "a list, each an Override"),
        ("overrides", (Override(3, "lr", "0.1"),), 'lr must be a number, not "0.1"'),
        ("overrides", (Override(3, "as_json", 1),), "overrides must be of known settings"),
    ],
)
def test_values_of_another_type_are_refused_by_name(name: str, value: Any, says: str) -> None:
    with pytest.raises(UsageError, match=f"setting .*{says}"):
        Settings(**{name: value})


def test_numbers_that_are_whole_and_lists_are_accepted() -> None:
    assert Settings(lr=1, warmup_epochs=2, layer_lr={"conv1": 0}).lr == 1
    assert list(Settings(drop_epochs=[3, 5]).drop_epochs) == [3, 5]  # type: ignore[arg-type]
    assert settings_from_json({"epochs": 3.0}).epochs == 3


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_settings_survive_json(name: str) -> None:
    text = json.dumps(recipe(name).as_json())
    assert settings_from_json(json.loads(text)) == recipe(name)


def test_unknown_settings_in_json_are_refused() -> None:
    with pytest.raises(UsageError, match="there is no setting 'warp'"):
        settings_from_json({"warp": 9})


def test_every_setting_has_its_text() -> None:
    lines = inspect.getsource(config).splitlines()
    for field in dataclasses.fields(Settings):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"    {field.name}: "))
        assert lines[at + 1].startswith('    """'), field.name


def test_recipes_are_listed_and_unknown_ones_refused() -> None:
    assert list_recipes() == ["paper", "2012", "small", "fine_tune", "cifar10", "large_batch"]
    with pytest.raises(UsageError, match="paper, 2012, small, fine_tune, cifar10"):
        recipe("large")


@pytest.mark.parametrize(
    ("size", "name"),
    [
        (256, "alexnet"),
        (224, "alexnet"),
        (223, "alexnet_small"),
        (64, "alexnet_small"),
        (32, "cifar10_11"),
    ],
)
def test_auto_takes_the_largest_network_that_fits(size: int, name: str) -> None:
    assert fitting_model(size) == name


def test_images_too_small_for_any_network_are_refused() -> None:
    with pytest.raises(UsageError, match="--size 32"):
        fitting_model(16)


def test_settings_change_on_the_way() -> None:
    settings = override(Settings(), ["overrides=3:lr=0.001;3:lighting=0;5:layer_lr=conv1=0"])
    rates = [settings.at_epoch(epoch).lr for epoch in (1, 2, 3, 9)]
    assert rates == [0.01, 0.01, 0.001, 0.001]
    assert settings.at_epoch(4).layer_lr == {}
    assert settings.at_epoch(5).layer_lr == {"conv1": 0.0}
    assert settings.at_epoch(5).lighting == 0


def test_overrides_are_typed_and_earlier_names_are_accepted() -> None:
    settings = override(Settings(), ["later=3:lr=0.001;5:layer_lr=conv1=0", "min_crop=0.5"])
    assert settings.overrides == (Override(3, "lr", 0.001), Override(5, "layer_lr", {"conv1": 0.0}))
    assert settings.min_crop_scale == 0.5
    assert settings_from_json({"min_crop": 0.5}) == Settings(min_crop_scale=0.5)
    with pytest.raises(UsageError, match="lighting must be a number, not below 0"):
        Settings(overrides=(Override(3, "lighting", -1.0),))


def test_the_groups_are_small_and_make_up_the_settings() -> None:
    groups = Settings.__bases__[1:]  # the first one lists the fields
    assert all(len(dataclasses.fields(group)) <= 10 for group in groups)
    names = [field.name for group in groups for field in dataclasses.fields(group)]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(Settings))


def test_the_2012_schedule_is_the_logged_one() -> None:
    """AN layer-params-145.cfg:169-181: rates of conv1, the other weights and biases by epoch."""
    for epoch, conv1, weights, biases, lighting in [
        (1, 0.01, 0.01, 0.02, 0.1),
        (25, 0.01, 0.01, 0.02, 0.1),
        (26, 0.001, 0.001, 0.02, 0.1),
        (52, 0.0001, 0.0001, 0.02, 0.1),
        (68, 0.00001, 0.0001, 0.02, 0.0),
        (73, 0.0, 0.0001, 0.02, 0.0),
        (80, 0.0, 0.00001, 0.02, 0.0),
        (91, 0.0, 0.00001, 0.02, 0.0),
    ]:
        now = recipe("2012").at_epoch(epoch)
        assert now.lr * now.layer_lr.get("conv1", 1) == pytest.approx(conv1), epoch
        assert now.lr == pytest.approx(weights), epoch
        assert now.lr * now.bias_lr == pytest.approx(biases), epoch
        assert now.lighting == lighting, epoch
    assert recipe("2012").epochs == 91
