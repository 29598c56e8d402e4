"""Recorded losses of twenty steps: an unintended change of the results shows here.

After an intended one, record them again: python tests/test_golden.py
"""

import dataclasses
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import Stripes

from alexnet.config import Settings
from alexnet.prepare import prepare_dataset
from alexnet.recipes import recipe
from alexnet.storage.run import Run
from alexnet.train import train_model

GOLDEN = Path(__file__).parent / "golden"

SETTINGS = {
    name: dataclasses.replace(
        recipe(name), model="alexnet_small", batch_size=10, epochs=5, lr=0.0005
    )
    for name in ("paper", "small")
}


def losses(settings: Settings, folder: Path) -> list[float]:
    """Train twenty steps, five epochs of four, on the tiny data set."""
    torch.set_num_threads(1)
    prepare_dataset(Stripes(), folder / "data", size=64, workers=1)
    settings = dataclasses.replace(settings, log_steps=1)
    train_model(folder / "data", folder / "run", settings, device="cpu")
    return [row["train_loss"] for row in Run.open(folder / "run").metrics() if "kind" not in row]


@pytest.mark.parametrize("name", SETTINGS)
def test_losses_are_those_recorded(name: str, tmp_path: Path) -> None:
    recorded = [float(line) for line in (GOLDEN / f"{name}.txt").read_text().split()]
    assert len(recorded) == 20
    # Other processors sum in another order; over twenty steps that stays far below this.
    assert losses(SETTINGS[name], tmp_path) == pytest.approx(recorded, rel=1e-4)


if __name__ == "__main__":
    for name, settings in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            lines = [f"{loss:.7f}\n" for loss in losses(settings, Path(folder))]
            (GOLDEN / f"{name}.txt").write_text("".join(lines))
