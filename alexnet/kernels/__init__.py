"""Accelerated networks: `accelerate`. docs/speed.md describes the kernels and their speed."""

import importlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from alexnet.device import keep_memory
from alexnet.errors import UsageError
from alexnet.kernels.accelerated import AcceleratedNetwork, Engine
from alexnet.kernels.convolutions import ChooseAlgorithm
from alexnet.kernels.cpu.tuning import conv_algorithm

__all__ = ["accelerate"]

ENGINES = {"cpu": "alexnet.kernels.cpu.blocks", "cuda": "alexnet.kernels.cuda.blocks"}
LOG = logging.getLogger(__name__)
WEIGHTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def accelerate(
    model: nn.Sequential, *, weights: str = "float32", note: Callable[[str], None] = LOG.warning
) -> nn.Module:
    """Return an accelerated network with the parameters of `model`, for the device they are on.

    Results and gradients differ by rounding only. The two share weights, training or evaluation
    mode and the probability of dropout; rows that are replaced in `model` later are not shared.
    Returns `model` itself where the device has no kernels or their compiler is missing; the log
    says why, once.

    `weights` "bfloat16" rounds the weights of linear layers to three digits on a CPU where no
    gradient is computed. This is faster for single images; docs/speed.md gives the error.

    On a CUDA device the network's first pass compiles kernels and compares them with the reference
    layers, which is kept for later processes; `note` receives a line before. Raises `UsageError`
    for another value of `weights`; that first pass raises `WorkerError` for a device that computes
    wrong results.
    """
    if weights not in WEIGHTS:
        raise UsageError(f"weights are {' or '.join(WEIGHTS)}, not {weights!r}")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    engine = find_engine(device.type)
    if engine is None:
        return model
    choose_algorithm: ChooseAlgorithm = conv_algorithm
    if device.type == "cpu":
        keep_memory()
    if device.type == "cuda":
        from alexnet.kernels.cuda import autotune, first_use  # needs Triton

        choose_algorithm = autotune.autotuner(device)
    rows = OrderedDict(model.named_children())
    network = AcceleratedNetwork(rows, engine, device.type, choose_algorithm, WEIGHTS[weights])
    if device.type == "cuda":
        network.register_forward_pre_hook(first_use.FirstUse(device, note))
    return network.train(model.training)


@cache
def find_engine(device_type: str) -> Engine | None:
    """Import what runs blocks on a kind of device; None, and a warning, if the import fails."""
    if device_type not in ENGINES:
        return None
    try:
        engine: Engine = importlib.import_module(ENGINES[device_type])
    except ImportError as error:
        LOG.warning("networks on %s run without accelerated kernels: %s", device_type, error)
        return None
    return engine
