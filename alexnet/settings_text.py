"""Settings as text: NAME=VALUE, as --set takes it, JSON, as run.json has it, and explained."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, get_type_hints

from alexnet.config import Override, Settings
from alexnet.errors import UsageError
from alexnet.storage.typed import default_of, field_texts

RENAMED = {"min_crop": "min_crop_scale", "later": "overrides"}
"""Earlier names, still accepted."""


def settings_from_json(values: dict[str, Any]) -> Settings:
    """Read what `Settings.as_json` wrote. Raises `UsageError` for unknown names."""
    values = {known_setting(name): value for name, value in values.items()}
    kinds = get_type_hints(Settings)
    for name, value in values.items():
        if name == "overrides":
            values[name] = tuple(Override(*each) for each in value)
        elif isinstance(value, list):
            values[name] = tuple(value)
        elif kinds[name] is int and isinstance(value, float) and value.is_integer():
            values[name] = int(value)  # early versions accepted and wrote 3.0
    return Settings(**values)


def override(settings: Settings, assignments: Iterable[str] = (), **changes: Any) -> Settings:
    """Return `settings` changed by texts ("lr=0.02"), as --set takes them, or by name (lr=0.02).

    Raises `UsageError` for an unknown name, a missing "=" or a value of the wrong type.
    """
    named = {known_setting(name): value for name, value in changes.items()}
    return dataclasses.replace(settings, **dict(map(_parse, assignments)), **named)


def _whole(value: Any) -> Any:
    """Return 3 for 3.0, which early versions accepted as a whole number, and wrote."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parse(assignment: str) -> tuple[str, Any]:
    """Read NAME=VALUE as the setting's name and a value of its type."""
    name, equals, text = assignment.partition("=")
    if not equals:
        raise UsageError(f"--set takes NAME=VALUE, not {assignment!r}")
    name = known_setting(name)
    read, what = PARSERS.get(get_type_hints(Settings)[name], (str, "a text"))
    try:
        return name, read(text)
    except (ValueError, KeyError):
        raise UsageError(f"{name}={text!r} is not {what}") from None


def _parse_override(text: str) -> Override:
    epoch, _, assignment = text.partition(":")
    return Override(int(epoch), *_parse(assignment))


def _pairs(text: str) -> dict[str, str]:
    pairs = (part.split("=") for part in text.split(",") if part)
    return dict((name, value) for name, value in pairs)  # noqa: C402 - refuses other lengths


PARSERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    bool: (
        lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
        "true or false",
    ),
    int: (int, "a whole number"),
    float: (float, "a number"),
    tuple[int, ...]: (
        lambda text: tuple(int(part) for part in text.split(",") if part),
        "a list of whole numbers such as 30,60",
    ),
    tuple[Override, ...]: (
        lambda text: tuple(_parse_override(part) for part in text.split(";") if part),
        "a list such as 26:lr=0.001;52:lr=0.0001",
    ),
    dict[str, float]: (
        lambda text: {layer: float(value) for layer, value in _pairs(text).items()},
        "a list of layers such as conv1=0,fc8=0.01",
    ),
    dict[str, str]: (_pairs, "a list such as activation=tanh,norm=none"),
}
"""How the text of a setting of each type is read, and a description of what is accepted."""


def known_setting(name: str) -> str:
    """Return the name of a setting, the present one for an earlier one."""
    name = RENAMED.get(name, name)
    known = [each.name for each in dataclasses.fields(Settings)]
    if name not in known:
        raise UsageError(f"there is no setting {name!r}; the settings are: {', '.join(known)}")
    return name


UNITS = {
    **dict.fromkeys(("epochs", "warmup_epochs", "patience_epochs", "drop_epochs"), "epochs"),
    **dict.fromkeys(("batch_size", "crop_block"), "images"),
    **dict.fromkeys(("log_steps", "checkpoint_steps"), "steps"),
    **dict.fromkeys(("layer_lr", "bias_lr"), "x lr"),
    "lighting": "standard deviations",
    "min_crop_scale": "x the image's side",
    "watchdog_seconds": "seconds",
}
"""Of the settings that have one."""


class SettingText(NamedTuple):
    """A setting of a training, explained."""

    name: str
    value: Any
    unit: str
    """Empty for names, switches and shares."""
    default: Any
    """The paper's, where the paper says something."""
    type: str
    meaning: str

    @property
    def is_changed(self) -> bool:
        """Whether the value is not the default."""
        return bool(self.value != self.default)


def explain(settings: Settings) -> list[SettingText]:
    """Explain every setting, in the order of their groups."""
    texts, values = field_texts(Settings), vars(settings)
    fields = {each.name: each for each in dataclasses.fields(Settings)}
    return [
        SettingText(name, values[name], UNITS.get(name, ""), default_of(fields[name]), *text)
        for name, text in texts.items()
    ]


def write_value(value: Any) -> str:
    """Write the value of a setting as --set takes it: "true", "30,60", "conv1=0,fc8=0.01"."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return ",".join(f"{name}={each}" for name, each in value.items())
        case Override():
            return f"{value.epoch}:{value.name}={write_value(value.value)}"
        case tuple() if value and isinstance(value[0], Override):
            return ";".join(map(write_value, value))
        case tuple():
            return ",".join(map(str, value))
    return str(value)
