"""Saying early that a training goes wrong, and what usually causes it."""

import math
from collections.abc import Callable
from pathlib import Path

from alexnet.config import Settings
from alexnet.dataset import Split
from alexnet.storage.checkpoint_store import read_manifest
from alexnet.storage.metrics_log import Row
from alexnet.train.losses import StepLoss


class LearningCheck:
    """Reads the lines of metrics.jsonl and warns of a network that does not learn.

    It warns at most once in an epoch.
    """

    def __init__(self, classes: int, settings: Settings, warn: Callable[[str], None]) -> None:
        self._classes, self._settings, self._warn = classes, settings, warn
        self._last_epoch = 0  # in which it warned

    def __call__(self, row: Row) -> None:
        """Check a line of a step or of an epoch."""
        epoch, loss = row["epoch"], row.get("train_loss")
        if loss is None or epoch == self._last_epoch:
            return
        if row.get("kind") == "epoch":
            hint = epoch_hint(row, self._classes, self._settings)
        else:
            hint = learning_hint(loss, row["step"], self._classes, self._settings)
        if hint:
            self._last_epoch = epoch
            self._warn(hint)


def learning_hint(loss: float, step: int, classes: int, settings: Settings) -> str | None:
    """Say in one line that the network does not learn, and the usual causes; None while it does.

    A uniform guess costs ln(classes). A loss that stays there means that nothing is learned; one
    far above it, that the input or the rate is wrong. It is called at each logged step. A loss that
    stays at ln(classes) is reported at 500 steps, 1,000, 2,000 and so on, since the paper's initial
    weights may need some thousand.
    """
    if loss > _far_above_guessing(classes):
        return f"step {step}: {_far_above(loss, classes, settings)}"
    if _is_guessing(loss, classes) and _is_due(step, settings.log_steps):
        return f"step {step}: not learning yet: {_at_guessing(loss, classes, settings)}"
    return None


def epoch_hint(row: Row, classes: int, settings: Settings) -> str | None:
    """Do as `learning_hint` for the line of an epoch; the last one is in `result_warning`.

    A loss that stays at ln(classes) is reported after epochs 2, 4, 8 and so on, since the first
    may have a warm-up.
    """
    epoch, loss = row["epoch"], row["train_loss"]
    if epoch == settings.epochs or not _has_not_learned(row, classes):
        return None
    if loss > _far_above_guessing(classes):
        return f"epoch {epoch}: {_far_above(loss, classes, settings)}"
    if epoch > 1 and epoch & (epoch - 1) == 0:  # a power of two
        return f"epoch {epoch}: not learning yet: {_at_guessing(loss, classes, settings)}"
    return None


def result_warning(row: Row, classes: int, settings: Settings) -> str | None:
    """Say that the last epoch, of this `row`, is no better than guessing; None where it is."""
    loss, error = row["train_loss"], row["top1_error"]
    if _has_not_learned(row, classes):
        far = loss > _far_above_guessing(classes)
        describe = _far_above if far else _at_guessing
        return f"the network has not learned: {describe(loss, classes, settings)}"
    if error is not None and classes > 1 and error >= _error_of_guessing(classes):
        return (
            f"on the validation images the network is no better than guessing, whose error is "
            f"{_error_of_guessing(classes):.1%}, though the training loss fell to {loss:.3f}: "
            f"check that both splits have the same classes, or train on more images"
        )
    return None


def _error_of_guessing(classes: int) -> float:
    return 1 - 1 / classes


def _far_above_guessing(classes: int) -> float:
    return 2 * math.log(classes) + 1


def _is_guessing(loss: float, classes: int) -> bool:
    return classes > 1 and loss > 0.99 * math.log(classes)


def _has_not_learned(row: Row, classes: int) -> bool:
    """Tell whether an epoch's loss is no lower than that of guessing, and its error neither.

    With much dropout and augmentation the loss can be high while the validation error is low.
    """
    if not _is_guessing(row["train_loss"], classes):
        return False
    error = row.get("top1_error")
    return error is None or error > 0.9 * _error_of_guessing(classes)


def _far_above(loss: float, classes: int, settings: Settings) -> str:
    return (
        f"loss {loss:.2f} is far above that of guessing, ln {classes} = {math.log(classes):.2f}: "
        f"try a lower rate (--lr {settings.lr / 10:g}), and check that the mean image belongs "
        f"to these images"
    )


def _at_guessing(loss: float, classes: int, settings: Settings) -> str:
    causes = (
        f"the rate is too high or too low (lr={settings.lr:g}), or the labels do not belong to the "
        f"images"
    )
    if settings.init == "model":
        causes = (
            f"the paper's initial weights can stay here for some thousand steps (--set init=he "
            f"starts sooner); otherwise {causes}"
        )
    guessing = f"ln {classes} = {math.log(classes):.3f}"
    return f"loss {loss:.3f} is no lower than that of guessing, {guessing}: {causes}"


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
        f"(--lr {lr / 10:g}) or a limit on the gradient (--set clip_norm=1)"
    )
