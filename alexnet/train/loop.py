"""The training loop.

A step depends on the settings, the data and the step's number alone. So a training that was
interrupted anywhere continues to the same result (`--resume`).
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet import randomness
from alexnet.device import autocast
from alexnet.errors import StorageError
from alexnet.optim import learning_rate, set_learning_rates
from alexnet.storage.metrics_log import Row
from alexnet.train.losses import StepLoss
from alexnet.train.state import DeviceBatch, Indices, Step, TrainState
from alexnet.transforms import augment, sample_augment

SAVE_RETRIES = 2
"""Failed saves in a row, as on a full disk, after which the training continues."""

WAITING_IS_LONG = 0.1
"""Share of its time from which a training that waits for images is limited by reading them."""


def train_step(state: TrainState, indices: Indices, images: DeviceBatch) -> tuple[Tensor, Tensor]:
    """Update the weights by one batch: augment, forward, loss, backward, clip, update.

    `indices` (B,) name the images in the training split. Returns the mean loss and the norm of the
    gradient, two scalars on the device.
    """
    settings, position = state.epoch_settings, state.position
    torch.manual_seed(randomness.step_seed(settings.seed, position.step + 1))  # for dropout
    params = sample_augment(settings, state.preprocessing, position.epoch, indices, position.images)
    inputs = augment(images.pixels(), params, state.preprocessing, settings)
    labels = torch.from_numpy(state.train.labels[indices]).to(state.device)
    with autocast(state.device, state.precision):
        logits = state.network(inputs).float()
    loss = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if settings.clip_norm:
        nn.utils.clip_grads_with_norm_(state.model.parameters(), settings.clip_norm, norm)
    state.optimizer.step()
    return loss.detach(), norm


def train(state: TrainState, step: Step, check_in: Callable[[], None]) -> Row | None:
    """Train until the last epoch is done and saved; return its line of metrics.jsonl.

    `check_in` is called after each step and each batch of an evaluation; it may end the training by
    an exception. Returns None if no epoch was left to do.
    """
    row = None
    while state.position.epoch <= state.settings.epochs:
        train_epoch(state, step, check_in)
        row = end_epoch(state, check_in)
    return row


def train_epoch(state: TrainState, step: Step, check_in: Callable[[], None]) -> None:
    """Do the remaining steps of the current epoch."""
    position, settings = state.position, state.settings
    state.epoch_settings = settings.at_epoch(position.epoch)
    batches = state.epoch_batches = _remaining_batches(state)
    label = f"epoch {position.epoch}/{settings.epochs}"
    state.network.train()
    with (
        state.progress.task(label, len(state.train), "images") as advance,
        closing(_timed(state, state.batches(batches))) as batches_of_images,
    ):
        advance(position.images)
        began = time.perf_counter()
        for indices, images in zip(batches, batches_of_images, strict=True):
            set_learning_rates(
                state.optimizer, _rate(state, position.batch + 1), state.epoch_settings
            )
            result = step(indices, images)
            state.losses.add(StepLoss(position.epoch, position.step + 1, indices), result)
            position.step, position.batch = position.step + 1, position.batch + 1
            position.images += len(indices)
            now = time.perf_counter()
            position.epoch_seconds, began = position.epoch_seconds + now - began, now
            if position.step % settings.log_steps == 0:
                _log_step(state)
            advance(len(indices), f"loss {state.losses.epoch_mean:.3f}")
            check_in()
            if settings.checkpoint_steps and position.step % settings.checkpoint_steps == 0:
                save(state)
        state.losses.finish()  # a GPU is some steps behind
        position.epoch_seconds += time.perf_counter() - began


def _remaining_batches(state: TrainState) -> list[Indices]:
    """List the images of each batch of the current epoch that is still to do."""
    position, settings = state.position, state.settings
    order = randomness.order(settings.seed, position.epoch, len(state.train))
    starts = range(position.batch * settings.batch_size, len(order), settings.batch_size)
    return [order[start : start + settings.batch_size] for start in starts]


def _timed(state: TrainState, batches: Iterator[DeviceBatch]) -> Generator[DeviceBatch]:
    """Yield each batch; add to the position how long the training waited for it."""
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        state.position.epoch_waited += time.perf_counter() - began
        if batch is None:
            return
        yield batch


def _rate(state: TrainState, batch: int) -> float:
    """Return the learning rate of a batch of this epoch, the first being 1: that of its middle."""
    epochs_done = state.position.epoch - 1 + (batch - 0.5) / state.steps_per_epoch
    return learning_rate(state.epoch_settings, epochs_done, state.position.val_errors)


def _log_step(state: TrainState) -> None:
    """Write a line of metrics.jsonl as soon as the losses up to here are known."""
    row = _row(state)
    state.losses.when_counted(
        lambda: state.log(row | {"train_loss": state.losses.take_recent_mean()})
    )


def _row(state: TrainState) -> Row:
    position = state.position
    seconds = max(position.epoch_seconds, 1e-9)
    return {
        "epoch": position.epoch,
        "step": position.step,
        "lr": _rate(state, position.batch),
        "train_loss": position.loss_sum / position.images,
        "val_loss": None,
        "top1_error": None,
        "top5_error": None,
        "images_per_second": position.images / seconds,
        "waited_for_images": position.epoch_waited / seconds,
        "seconds": position.seconds + position.epoch_seconds,
    }


def end_epoch(state: TrainState, check_in: Callable[[], None]) -> Row:
    """Evaluate, log, save, and move the position to the next epoch; return the logged line."""
    position = state.position
    row = _row(state) | {"kind": "epoch"}
    if state.evaluate:
        began = time.perf_counter()
        found = state.evaluate(on_batch=check_in)
        position.seconds += time.perf_counter() - began
        position.val_errors.append(found.top1_error)
        row |= {
            "val_loss": found.loss,
            "top1_error": found.top1_error,
            "top5_error": found.top5_error,
        }
    position.seconds += position.epoch_seconds
    row |= {"seconds": position.seconds, **state.measure(state)}
    state.log(row)
    state.progress.note(_epoch_line(row, state.settings.epochs))
    position.epoch += 1
    position.batch = position.images = 0
    position.loss_sum = position.epoch_seconds = position.epoch_waited = 0.0
    state.losses.take_recent_mean()  # the next line begins with the next epoch
    save(state)
    return row


def _epoch_line(row: Row, epochs: int) -> str:
    text = f"epoch {row['epoch']}/{epochs}: train loss {row['train_loss']:.3f}"
    if row["val_loss"] is not None:
        text += f", val loss {row['val_loss']:.3f}, top-1 error {row['top1_error']:.1%}"
    text += f", {row['images_per_second']:.0f} images/s"
    if row["waited_for_images"] > WAITING_IS_LONG:
        text += f", {row['waited_for_images']:.0%} of the time waiting for images"
    return text


def save(state: TrainState) -> None:
    """Save a checkpoint. A failed write is reported and retried at the next save."""
    state.losses.finish()
    position = state.position
    try:
        state.save()
        state.failed_saves = 0
    except StorageError as error:
        state.failed_saves += 1
        if state.failed_saves > SAVE_RETRIES or position.epoch > state.settings.epochs:
            raise
        state.progress.note(
            f"NOT SAVED after step {position.step}: {error} (failure {state.failed_saves}; "
            f"failure {SAVE_RETRIES + 1} in a row ends the training)"
        )
        state.log({"kind": "not_saved", "epoch": position.epoch, "step": position.step})
