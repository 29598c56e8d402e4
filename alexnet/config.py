"""Every setting of a training run, typed, in one place, with its unit and source."""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from alexnet.errors import UsageError

UNCHANGING = (
    "model",
    "ablate",
    "epochs",
    "batch_size",
    "seed",
    "deterministic",
    "optimizer",
    "momentum",
    "weight_decay",
    "layer_decay",
    "bias_decay",
    "trust_coefficient",
    "init",
    "dropout",
    "later",
)
"""What `later` cannot change: all that the start of a training fixes."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train. The defaults are the paper's ("P", with its section) where it says something.

    Raises `UsageError` for values that make no sense. `recipes.py` names complete sets of them.
    """

    model: str = "alexnet"
    """Name of the network, one of `alexnet.list_models()`."""
    ablate: dict[str, str] = dataclasses.field(default_factory=dict)
    """Parts of the network taken away or exchanged: activation=tanh,norm=none (ablation.py)."""
    epochs: int = 90
    """Passes over the training images (P 5: "roughly 90 cycles")."""
    batch_size: int = 128
    """Images per step (P 5)."""
    seed: int = 0
    """Start weights, order of images, augmentation and dropout all follow from it."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; auto: bfloat16 on a GPU that has it, else float32."""
    deterministic: bool = True
    """GPU: only algorithms that give the same bits each time; false: whichever is fastest."""

    optimizer: Literal["paper", "sgd", "adamw", "lars"] = "paper"
    """paper: the learning rate inside the velocity (P 5); sgd: Nesterov's; adamw; lars: rates that
    follow each layer's norms, for large batches (You, Gitman, Ginsburg 2017)."""
    lr: float = 0.01
    """Learning rate at the start, or at the top of the warm-up (P 5)."""
    momentum: float = 0.9
    """Share of the velocity that is kept (P 5); for adamw its first beta."""
    weight_decay: float = 0.0005
    """Decay of the weights (P 5: "not merely a regularizer")."""
    layer_decay: dict[str, float] = dataclasses.field(default_factory=dict)
    """Layers whose weights decay otherwise, by name: conv1=0,fc10=0.01."""
    layer_lr: dict[str, float] = dataclasses.field(default_factory=dict)
    """Layers whose rate is a multiple of `lr`, by name: conv1=0.1."""
    bias_lr: float = 1.0
    """Rate of biases as a multiple of their layer's (P 5: equal; 2012 code: 2)."""
    bias_decay: bool = True
    """Whether biases decay too (P 5 makes no exception; the 2012 code does)."""
    trust_coefficient: float = 0.001
    """lars: what a step at lr 1 moves of a layer's length (nvcaffe, models/alexnet_bn)."""
    clip_norm: float = 0.0
    """Largest length of the whole gradient; 0: no limit."""

    schedule: Literal["plateau", "steps", "cosine", "poly"] = "plateau"
    """plateau: lr / 10 when the validation error stops falling (P 5); steps: lr / 10 after
    `drop_epochs`; cosine: down to 0 along a half cosine; poly: down to 0 as the square of what is
    left of the epochs (You, Gitman, Ginsburg 2017)."""
    patience_epochs: int = 5
    """plateau: epochs without a new lowest validation error before a drop."""
    max_drops: int = 3
    """plateau: how often the rate is divided by 10 (P 5: three times)."""
    drop_epochs: tuple[int, ...] = ()
    """steps: the rate is divided by 10 after each of these epochs."""
    later: tuple[str, ...] = ()
    """Settings that change on the way, as EPOCH:NAME=VALUE, from the start of that epoch on."""
    warmup_epochs: float = 0.0
    """Epochs over which the rate rises from 0 to `lr`."""

    init: Literal["model", "he"] = "model"
    """model: as the network's table says (P 5); he: see `optim.he_initialize`."""
    dropout: float = 0.5
    """Share of the units of fc6 and fc7 that are set to zero in a step (P 4.2)."""
    label_smoothing: float = 0.0
    """Probability given to all classes alike in the training targets."""

    flip: bool = True
    """Mirror half of the training images (P 4.1)."""
    min_crop_scale: float = 0.0
    """Smallest side of a random window, as a fraction of the image's side; windows up to the whole
    image are scaled to the crop. 0: windows of the crop's own size, not scaled (P 4.1)."""
    lighting: float = 0.1
    """Standard deviation of the PCA colour jitter, in standard deviations of the data's colour
    along each principal direction (P 4.1, read as the 2012 code has it: docs/paper.md)."""

    lighting_rescale: bool = False
    """Divide the jittered image by 1 + lighting, as the 2012 code does (convdata_jpeg.py:178)."""
    crop_block: int = 1
    """Images in a row that share window and mirroring (2012 code: 32, convdata_jpeg.py:77)."""

    log_steps: int = 50
    """Steps between two lines of metrics.jsonl."""
    tensorboard: bool = False
    """Whether to write the metrics for TensorBoard, too, to RUN/tensorboard."""
    checkpoint_steps: int = 0
    """Steps between two checkpoints inside an epoch; 0: at the end of each epoch only."""
    watchdog_seconds: int = 600
    """A step that takes longer hangs: the process says where, and ends; 0: waits for ever."""

    def __post_init__(self) -> None:
        """Refuse values out of their range, naming the setting."""
        for name in ("epochs", "batch_size", "log_steps", "patience_epochs", "crop_block"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("momentum", "dropout", "label_smoothing"):
            _require(0 <= getattr(self, name) < 1, name, "from 0 up to 1", getattr(self, name))
        rates = ("lr", "weight_decay", "bias_lr", "trust_coefficient", "clip_norm")
        for name in (*rates, "warmup_epochs", "lighting"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, name, "a number, not below 0", value)
        for name in ("seed", "max_drops", "checkpoint_steps", "watchdog_seconds"):
            _require(getattr(self, name) >= 0, name, "not below 0", getattr(self, name))
        _require(
            0 <= self.min_crop_scale <= 1, "min_crop_scale", "from 0 to 1", self.min_crop_scale
        )
        for name, kind in get_type_hints(Settings).items():
            if get_origin(kind) is Literal:
                choices = ", ".join(get_args(kind))
                value = getattr(self, name)
                _require(value in get_args(kind), name, f"one of {choices}", value)
        if self.later:
            at_epoch(self, sys.maxsize)  # refuses what cannot be read

    def as_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Settings":
        """Read what `as_json` wrote; unknown names are refused."""
        _refuse_unknown(values)
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})


def override(settings: Settings, assignments: Iterable[str]) -> Settings:
    """Return `settings` changed by texts such as "lr=0.02" or "drop_epochs=30,60".

    Raises `UsageError` for an unknown name, a missing "=" or a value of the wrong kind.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set takes NAME=VALUE, not {assignment!r}")
        _refuse_unknown([name])
        values[name] = _parse(name, text)
    return dataclasses.replace(settings, **values)


def at_epoch(settings: Settings, epoch: int) -> Settings:
    """Return the settings that hold in `epoch`, the first being 1: with what `later` changes."""
    if not settings.later:
        return settings
    changes = []
    for text in settings.later:
        start, colon, assignment = text.partition(":")
        if not colon or not start.isdigit():
            raise UsageError(
                f"setting later takes EPOCH:NAME=VALUE of lr and the like, not {text!r}"
            )
        name = assignment.partition("=")[0]
        if name in UNCHANGING:
            raise UsageError(f"setting later, {text!r}: {name} is fixed when a training starts")
        if int(start) <= epoch:
            changes.append(assignment)
    return override(dataclasses.replace(settings, later=()), changes)


def _parse(name: str, text: str) -> Any:
    kind = get_type_hints(Settings)[name]
    read, what = KINDS.get(kind, (str, "a text"))
    try:
        return read(text)
    except (ValueError, KeyError):
        raise UsageError(f"{name}={text!r} is not {what}") from None


def _pairs(text: str) -> dict[str, str]:
    pairs = (part.split("=") for part in text.split(",") if part)
    return dict((name, value) for name, value in pairs)  # noqa: C402 - refuses other lengths


KINDS: dict[Any, tuple[Callable[[str], Any], str]] = {
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
    tuple[str, ...]: (
        lambda text: tuple(part for part in text.split(";") if part),
        "a list such as 26:lr=0.001;52:lr=0.0001",
    ),
    dict[str, float]: (
        lambda text: {layer: float(value) for layer, value in _pairs(text).items()},
        "a list of layers such as conv1=0,fc8=0.01",
    ),
    dict[str, str]: (_pairs, "a list such as activation=tanh,norm=none"),
}
"""How the text of a setting of each type is read, and what to call it when it cannot be."""


def _refuse_unknown(names: Iterable[str]) -> None:
    known = [field.name for field in dataclasses.fields(Settings)]
    for name in names:
        if name not in known:
            raise UsageError(f"there is no setting {name!r}; the settings are: {', '.join(known)}")


def _require(condition: bool, name: str, what: str, value: object) -> None:
    if not condition:
        raise UsageError(f"setting {name} must be {what}, not {json.dumps(value, default=str)}")
