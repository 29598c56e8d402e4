"""Resuming a run: what may differ from the time before, and what that changes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from alexnet.config import Settings
from alexnet.dataset import Dataset
from alexnet.errors import StorageError, UsageError
from alexnet.optim import learning_rate
from alexnet.storage.atomic import write_text
from alexnet.storage.checkpoint_format import Position
from alexnet.storage.run import Run

RESUMABLE = {"epochs", "log_steps", "tensorboard", "checkpoint_steps", "watchdog_seconds"}
"""Settings that may differ when a run is resumed."""

FOLLOWS_EPOCHS = ("cosine", "poly")
"""Schedules whose rates depend on the number of epochs."""


def check_resumable(run: Run, settings: Settings, dataset: Dataset, init: Path | None) -> Settings:
    """Return the settings; raise `UsageError` if they or the data differ from the run's own.

    `init` is the run with other initial weights, if one is named; it must be the run's own.
    """
    if settings.model == "auto":
        settings = replace(settings, model=run.model_name)
    before, now = run.settings.as_json(), settings.as_json()
    changed = [
        f"{name} was {before[name]}, is {now[name]}"
        for name in before
        if before[name] != now[name] and name not in RESUMABLE
    ]
    if run.info["data"]["fingerprint"] != dataset.fingerprint:
        changed.append(f"the data set was {run.info['data']['path']}, is another one")
    if changed:
        raise UsageError(f"{run.path} cannot be resumed with other settings: {'; '.join(changed)}")
    begun_with = run.info.get("init")
    if init and str(init) != begun_with and init.resolve() != Path(begun_with or "").resolve():
        weights = f"the weights of {begun_with}" if begun_with else "weights of its own"
        raise UsageError(f"{run.path} was begun with {weights}: leave out --init to continue it")
    return settings


def check_epochs(
    run: Run, settings: Settings, position: Position, steps: int, note: Callable[[str], None]
) -> None:
    """Say in a `note` what another number of epochs than the run's own changes, and record it.

    An epoch has so many `steps`. Where the rates follow from the number of epochs, the note names
    the last and the next one. Raises `UsageError` for fewer epochs than have begun.
    """
    before, now = run.settings.epochs, settings.epochs
    begun = position.epoch if position.batch else position.epoch - 1
    if begun > now:
        raise UsageError(
            f"{run.path} has begun epoch {begun}, and --epochs {now} was given: name at least "
            f"{begun} to continue it, or train for {now} in another directory"
        )
    if before != now:
        if position.step:
            note(f"epochs {now} instead of {before}{_changed_rate(run, settings, position, steps)}")
        _record_epochs(run, settings, position)
    if position.epoch > now:
        note(f"all epochs are done ({now}), nothing is trained; to continue, add --epochs N")


def _changed_rate(run: Run, settings: Settings, position: Position, steps: int) -> str:
    """Describe how the learning rate changes at a position after the first step."""
    schedule = settings.at_epoch(position.epoch).schedule
    if schedule not in FOLLOWS_EPOCHS or position.epoch > settings.epochs:
        return "; the learning rate continues as before"
    middle = position.epoch - 1 + (position.batch - 0.5) / steps  # of the last step

    def rate(of: Settings, epochs_done: float) -> float:
        current = of.at_epoch(int(epochs_done) + 1)
        return learning_rate(current, epochs_done, position.val_errors)

    last, following = rate(run.settings, middle), rate(settings, middle + 1 / steps)
    planned = ""
    if position.epoch <= run.settings.epochs:
        expected = rate(run.settings, middle + 1 / steps)
        if following == expected:
            return f"; the {schedule} schedule after the warm-up changes"
        planned = f" where {expected:.2g} was planned"
    return (
        f" change the {schedule} schedule: the learning rate was {last:.2g} in the last step and "
        f"is {following:.2g} in the next one{planned}. The result is not that of a training with "
        f"epochs={settings.epochs} from its start"
    )


def _record_epochs(run: Run, settings: Settings, position: Position) -> None:
    """Write the number of epochs to run.json, so that the next --resume continues with it."""
    change = {
        "after_step": position.step,
        "epochs_before": run.settings.epochs,
        "epochs": settings.epochs,
    }
    info = run.info | {
        "settings": {**run.info["settings"], "epochs": settings.epochs},
        "changes": [*run.info.get("changes", []), change],
    }
    try:
        write_text(run.path / "run.json", json.dumps(info, indent=2) + "\n")
    except OSError as error:
        raise StorageError(f"cannot write {run.path}/run.json: {error.strerror}") from None
