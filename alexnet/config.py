"""Every setting of a training, typed, with its unit and source ("P": the paper, with its section).

Five groups make up `Settings`. The defaults are the paper's wherever it says something.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_type_hints

from alexnet.errors import UsageError
from alexnet.storage.typed import Listed, describe_type, is_of_type


class Override(NamedTuple):
    """A setting that changes at the start of an epoch, the first being 1."""

    epoch: int
    name: str
    value: Any
    """Of the setting's own type."""


@dataclass(frozen=True)
class NetworkSettings:
    """Which network is trained, and on which loss."""

    model: str = "alexnet"
    """Name of the network, one of `alexnet.list_models()`."""
    ablate: dict[str, str] = field(default_factory=dict)
    """Parts of the network removed or replaced: activation=tanh,norm=none (ablation.py)."""
    init: Literal["model", "he"] = "model"
    """model: as the network's table says (P 5); he: see `initialization.he_initialize`."""
    dropout: float = 0.5
    """Share of the units of fc6 and fc7 that are set to zero in a step (P 4.2)."""
    label_smoothing: float = 0.0
    """Probability spread evenly over all classes in the training targets."""


@dataclass(frozen=True)
class OptimizerSettings:
    """The update rule."""

    optimizer: Literal["paper", "sgd", "adamw", "lars"] = "paper"
    """paper: the learning rate inside the velocity (P 5); sgd: Nesterov's; adamw; lars: rates that
    follow each layer's norms, for large batches (You, Gitman, Ginsburg 2017)."""
    lr: float = 0.01
    """Learning rate at the start, or at the end of the warm-up (P 5)."""
    momentum: float = 0.9
    """Share of the velocity that is retained (P 5); for adamw its first beta."""
    weight_decay: float = 0.0005
    """Decay of the weights (P 5: "not merely a regularizer")."""
    layer_decay: dict[str, float] = field(default_factory=dict)
    """Weight decay of single layers by name: conv1=0,fc10=0.01."""
    layer_lr: dict[str, float] = field(default_factory=dict)
    """Learning rate of single layers as a multiple of `lr`, by name: conv1=0.1."""
    bias_lr: float = 1.0
    """Learning rate of biases as a multiple of their layer's (P 5: equal; 2012 code: 2)."""
    bias_decay: bool = True
    """Whether biases decay too (P 5 makes no exception; the 2012 code does)."""
    trust_coefficient: float = 0.001
    """lars: how far a step at lr 1 moves a layer, relative to its norm (nvcaffe alexnet_bn)."""
    clip_norm: float = 0.0
    """Largest norm of the whole gradient; 0: no limit."""


@dataclass(frozen=True)
class ScheduleSettings:
    """How long, in which batches, and how the learning rate changes."""

    epochs: int = 90
    """Passes over the training images (P 5: "roughly 90 cycles")."""
    batch_size: int = 128
    """Images per step (P 5)."""
    schedule: Literal["plateau", "steps", "cosine", "poly"] = "plateau"
    """plateau: lr / 10 when the validation error stops falling (P 5); steps: lr / 10 after
    `drop_epochs`; cosine: down to 0 along a half cosine; poly: down to 0 as the square of the
    remaining share of epochs (You, Gitman, Ginsburg 2017)."""
    warmup_epochs: float = 0.0
    """Epochs over which the rate rises from 0 to `lr`."""
    patience_epochs: int = 5
    """plateau: epochs without a new lowest validation error before a drop."""
    max_drops: int = 3
    """plateau: how often the rate is divided by 10 (P 5: three times)."""
    drop_epochs: tuple[int, ...] = ()
    """steps: the rate is divided by 10 after each of these epochs."""
    overrides: tuple[Override, ...] = ()
    """Settings that change during training; as text EPOCH:NAME=VALUE;EPOCH:NAME=VALUE."""


@dataclass(frozen=True)
class AugmentationSettings:
    """The random changes of training images."""

    flip: bool = True
    """Mirror half of the training images (P 4.1)."""
    random_crop: bool = True
    """Crop training images at random positions (P 4.1); false: always the centre."""
    min_crop_scale: float = 0.0
    """Smallest side of a random crop as a fraction of the image's side; crops up to the whole image
    are scaled to the network's input. 0: crops of the input's own size, not scaled (P 4.1)."""
    lighting: float = 0.1
    """Standard deviation of the PCA colour jitter, in standard deviations of the data's colour
    along each principal direction (P 4.1, read as the 2012 code has it: docs/paper.md)."""
    lighting_rescale: bool = False
    """Divide the jittered image by 1 + lighting, as the 2012 code does (convdata_jpeg.py:178)."""
    crop_block: int = 1
    """Successive images that share crop and mirroring (2012 code: 32, convdata_jpeg.py:77)."""


@dataclass(frozen=True)
class RunSettings:
    """Reproducibility, arithmetic, logging and saving."""

    seed: int = 0
    """Determines initial weights, order of images, augmentation and dropout."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network. auto: bfloat16 on a GPU that supports it, and in a training on a
    CPU where it is measured to be faster; else float32."""
    deterministic: bool = True
    """GPU: only algorithms that give the same bits each time; false: the fastest ones."""
    log_steps: int = 50
    """Steps between two lines of metrics.jsonl."""
    tensorboard: bool = False
    """Whether to write the metrics for TensorBoard as well, to RUN/tensorboard."""
    checkpoint_steps: int = 0
    """Steps between two checkpoints inside an epoch; 0: at the end of each epoch only."""
    watchdog_seconds: int = 600
    """A step that takes longer is a hang: the process writes its stacks and ends; 0: no limit."""


@dataclass(frozen=True, repr=False)
class Settings(
    Listed, RunSettings, AugmentationSettings, ScheduleSettings, OptimizerSettings, NetworkSettings
):
    """How to train: all settings of the five groups. `recipes.py` names complete sets of them.

    Raises `UsageError` for a value of another type or out of its range.
    """

    def __post_init__(self) -> None:
        """Refuse values of another type or out of their range and name the setting."""
        for name, kind in get_type_hints(Settings).items():
            value = getattr(self, name)
            _require(is_of_type(value, kind), name, describe_type(kind), value)
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
        scale = self.min_crop_scale
        _require(0 <= scale <= 1, "min_crop_scale", "from 0 to 1", scale)
        for layer, value in (*self.layer_decay.items(), *self.layer_lr.items()):
            _require(0 <= value < math.inf, f"for layer {layer}", "a number, not below 0", value)
        for _, name, value in self.overrides:
            _require(name in get_type_hints(Settings), "overrides", "of known settings", name)
            if name in FIXED:
                raise UsageError(f"setting overrides: {name} is fixed when a training starts")
            dataclasses.replace(self, overrides=(), **{name: value})

    def at_epoch(self, epoch: int) -> "Settings":
        """Return the settings of `epoch`, the first being 1: with its `overrides` made."""
        changes = {each.name: each.value for each in self.overrides if each.epoch <= epoch}
        return dataclasses.replace(self, overrides=(), **changes) if self.overrides else self

    def as_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return dataclasses.asdict(self)


FIXED = (
    *(each.name for each in dataclasses.fields(NetworkSettings) if each.name != "label_smoothing"),
    *("optimizer", "momentum", "weight_decay", "layer_decay", "bias_decay", "trust_coefficient"),
    *("epochs", "batch_size", "seed", "deterministic", "overrides"),
)
"""Settings that `overrides` cannot change, since a training uses them only at its start."""


def _require(condition: bool, name: str, what: str, value: object) -> None:
    if not condition:
        raise UsageError(f"setting {name} must be {what}, not {json.dumps(value, default=repr)}")
