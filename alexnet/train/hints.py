"""Saying early that a training goes wrong, and what usually causes it."""

import math
from pathlib import Path

from alexnet.config import Settings
from alexnet.dataset import Split
from alexnet.storage.checkpoint_store import read_manifest
from alexnet.train.losses import StepLoss


def learning_hint(loss: float, step: int, classes: int, settings: Settings) -> str | None:
    """Say in one line that the network does not learn, and the usual causes; None while it does.

    A uniform guess costs ln(classes). A loss that stays there means that nothing is learned; one
    far above it, that the input or the rate is wrong. It is called at each logged step. A loss that
    stays at ln(classes) is reported at 500 steps, 1,000, 2,000 and so on, since the paper's initial
    weights may need some thousand.
    """
    guessing = math.log(classes)
    if loss > 2 * guessing + 1:
        return (
            f"step {step}: loss {loss:.2f} is far above that of guessing, ln {classes} = "
            f"{guessing:.2f}: try a lower rate (--set lr={settings.lr / 10:g}), and check that the "
            f"mean image belongs to these images"
        )
    if classes > 1 and loss > 0.99 * guessing and _is_due(step, settings.log_steps):
        return (
            f"step {step}: not learning yet: loss {loss:.3f} is that of guessing, ln {classes} = "
            f"{guessing:.3f}. The paper's initial weights can stay here for some thousand steps; "
            f"otherwise the rate is too high or too low (lr={settings.lr:g}), or the labels do not "
            f"belong to the images. --set init=he starts sooner"
        )
    return None


def _is_due(step: int, log_steps: int) -> bool:
    """Tell whether one of 500, 1000, 2000, ... lies in the last `log_steps` steps."""
    due = 500
    while due <= step - log_steps:
        due *= 2
    return due <= step


def divergence(step: StepLoss, settings: Settings, split: Split, run: Path) -> str:
    """Say where numbers stopped being finite, which checkpoint is left, and what to do."""
    what = "gradient" if math.isfinite(step.loss) else "loss"
    lr = settings.at_epoch(step.epoch).lr
    value = step.gradient_norm if math.isfinite(step.loss) else step.loss
    first = ", ".join(f"{split.name(int(i))} (image {i})" for i in step.indices[:2])
    saved = read_manifest(run)["last"]
    left = f"the last good checkpoint is {saved}" if saved else "there is no checkpoint yet"
    return (
        f"the {what} became {value} in step {step.step} (epoch {step.epoch}), whose batch "
        f"begins with {first}; nothing of it is saved, {left}. Train again with a lower rate "
        f"(--set lr={lr / 10:g}) or a limit on the gradient (--set clip_norm=1)"
    )
