"""Training on several processes, each with its own device, in one of three modes.

    towers   each rank has half of every layer's kernels: the paper's two GPUs (P 3.2)
    data     each rank has the whole network and a part of each batch
    hybrid   convolutions as in "data", fully connected layers divided (Krizhevsky 2014)

Each mode gives the same result and run directory as one process. `launch` starts the ranks on one
machine; `train_rank` trains as one of them. In your own program, `join` gives the argument
`processes` of `alexnet.train.train_model`.
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
