"""Training with several processes, each with its own device: three ways, one kind of run directory.

    towers   the paper's two GPUs: each rank has half of every layer's kernels
    data     each rank has the whole network and a part of each batch
    hybrid   convolutions as in "data", fully connected layers divided (Krizhevsky 2014)

Every mode and number of ranks computes what one process computes. `launch` starts the ranks on one
machine, `train_rank` is one of them, and `join` makes the `processes` of
`alexnet.train.train_model` for your own program.
"""

from alexnet.parallel.launching import RankResult, TrainingSpec, launch, train_rank
from alexnet.parallel.process_group import MODES, TIMEOUT, join, started_by_torchrun
from alexnet.parallel.sharding import tower_order

__all__ = [
    "MODES",
    "TIMEOUT",
    "RankResult",
    "TrainingSpec",
    "join",
    "launch",
    "started_by_torchrun",
    "tower_order",
    "train_rank",
]
