"""The two towers learn different filters (P 6.1): how alike are they in colour?

A conv1 filter sees colour if more than 30 % of its energy is off the grey axis. The paper's figure
3 shows one tower "largely color-agnostic", the other "largely color-specific". In a network of one
tower the halves of conv1 are compared, which differ by chance alone.

Random weights are off the grey axis by two thirds of their energy. So a decay of conv1's weights
that forgets them within an epoch or two is part of the settings: without it most of what a short
training leaves is its start.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet.analysis.figures.filters import Weights, by_tower, learned
from alexnet.networks.initialization import weight_layers
from alexnet.recipes import recipe
from alexnet.reproduce.plan import Arm, Budget, Comparison, Experiment
from alexnet.storage.run import Run


def measure_filters(run: Path) -> dict[str, Any]:
    """Compare the towers of a run's last weights; see `compare_towers`."""
    model = Run.open(run).load_model("cpu", "last")
    _, conv1 = weight_layers(model)[0]
    return compare_towers(conv1.get_parameter("weight").detach().numpy())


def compare_towers(weights: Weights) -> dict[str, Any]:
    """Count the filters (2 N, 3, height, width) that see colour by tower; return their likeness.

    It is 1 where the shares are equal, 0 where all filters of one tower see colour and none of the
    other's.
    """
    parts = [learned(part) for part in by_tower(weights, 2)]
    first, second = (part.coloured / part.filters for part in parts)
    return {
        "likeness": 1 - abs(first - second),
        "coloured": [part.coloured for part in parts],
        "filters": [part.filters for part in parts],
    }


FILTERS = Experiment(
    name="filters",
    question="Do the two towers learn different filters?",
    claims=(13,),
    settings=replace(
        recipe("small"),
        model="alexnet_small",
        min_crop_scale=0.0,
        label_smoothing=0.0,
        layer_lr={"conv1": 0.1},
        layer_decay={"conv1": 60.0},
    ),
    side=64,
    arms=(Arm("two towers"), Arm("one tower", {"ablate": {"towers": "one"}})),
    comparisons=(
        Comparison(
            "two towers",
            "one tower",
            "CaffeNet 1 of 48 against 42 of 48 filters; torchvision's halves 14 of 32, 16 of 32",
            "likeness",
        ),
    ),
    budgets={
        "quick": Budget(epochs=12, rates=(1.0,)),
        "full": Budget(epochs=30, rates=(1.0,), seeds=5),
    },
)
