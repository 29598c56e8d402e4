"""Experiment `filters`: how alike the two towers' filters are in colour."""

from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet.analysis.figures.filters import Weights
from alexnet.reproduce.filters import compare_towers, measure_filters
from alexnet.storage.run import Run

GREY, RED, ORANGE = (1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (1.0, 0.7, 0.1)


def filters(*colours: tuple[float, float, float]) -> Weights:
    """Make filters of 2 x 2 pixels with the same structure, each of one colour."""
    pattern = np.array([[1.0, -2.0], [0.5, 0.0]], np.float32)
    return np.array(colours, np.float32)[:, :, None, None] * pattern


@pytest.mark.parametrize(
    ("colours", "coloured", "likeness"),
    [
        ((GREY, GREY, RED, RED), [0, 2], 0.0),
        ((RED, RED, GREY, GREY), [2, 0], 0.0),  # either tower may be the one of colours
        ((GREY, RED, RED, RED), [1, 2], 0.5),
        ((GREY, RED, RED, GREY), [1, 1], 1.0),
        # Off the grey axis: RED 2/3 of the energy. ORANGE has mean 0.6 and so
        # (0.4^2 + 0.1^2 + 0.5^2) / (1 + 0.49 + 0.01) = 0.42 / 1.5 = 28 %: below 30 %.
        ((ORANGE, GREY, RED, RED), [0, 2], 0.0),
    ],
)
def test_likeness_by_hand(
    colours: tuple[tuple[float, float, float], ...], coloured: list[int], likeness: float
) -> None:
    found = compare_towers(filters(*colours))
    assert found["coloured"] == coloured
    assert found["likeness"] == pytest.approx(likeness)


def test_published_counts() -> None:
    """CaffeNet: 1 of 48 against 42 of 48; a one-tower net's halves: 14 and 16 of 32."""
    caffenet = compare_towers(filters(*[RED] * 1, *[GREY] * 47, *[RED] * 42, *[GREY] * 6))
    assert caffenet["likeness"] == pytest.approx(1 - 41 / 48)
    one_tower = compare_towers(filters(*[RED] * 14, *[GREY] * 18, *[RED] * 16, *[GREY] * 16))
    assert one_tower["likeness"] == pytest.approx(1 - 2 / 32)


def test_the_last_weights_of_a_run_are_measured(tiny_run: Path) -> None:
    weights = Run.open(tiny_run).load_model("cpu", "last").get_parameter("conv1.weight").detach()
    off = (weights - weights.mean(1, keepdim=True)).square().sum((1, 2, 3))
    is_coloured = off > 0.3 * weights.square().sum((1, 2, 3))
    halves = torch.stack(is_coloured.chunk(2)).sum(1).tolist()
    found = measure_filters(tiny_run)
    assert found["coloured"] == halves
    assert found["filters"] == [len(weights) // 2] * 2
