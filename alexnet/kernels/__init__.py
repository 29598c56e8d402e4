"""The fast form of a network: `accelerate`. docs/speed.md says what it does and gains."""

import importlib
import logging
from collections import OrderedDict
from functools import cache

import torch
from torch import nn

from alexnet.errors import UsageError
from alexnet.kernels.accelerated import AcceleratedNetwork, Engine
from alexnet.kernels.convolutions import Choose, cpu_forms

__all__ = ["accelerate"]

ENGINES = {"cpu": "alexnet.kernels.cpu.blocks", "cuda": "alexnet.kernels.cuda.blocks"}
WEIGHTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def accelerate(model: nn.Sequential, *, weights: str = "float32") -> nn.Module:
    """Return the fast form of `model` on the device where it is: the same parameters and results.

    Results and gradients differ by rounding only. Training and evaluation mode, new weights and
    dropout's probability follow the rows of `model`, which both share; rows exchanged afterwards do
    not. Where a device has no kernels, or their compiler is missing, this is `model` itself, and
    the log says why, once.

    `weights` "bfloat16" computes the linear layers' results on a CPU from weights rounded to three
    digits, where no gradient is asked for: faster for single images, see docs/speed.md for the
    error. Raises `UsageError` for another name, and `WorkerError` for a CUDA device that computes
    something wrong.
    """
    if weights not in WEIGHTS:
        raise UsageError(f"weights are {' or '.join(WEIGHTS)}, not {weights!r}")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    engine = find_engine(device.type)
    if engine is None:
        return model
    choose: Choose = cpu_forms
    if device.type == "cuda":
        from alexnet.kernels.cuda import (
            autotune as cuda_forms,
        )
        from alexnet.kernels.cuda import (
            self_check as cuda_check,
        )  # needs Triton

        cuda_check.check_once(device)
        choose = cuda_forms.forms_on(device)
    rows = OrderedDict(model.named_children())
    return AcceleratedNetwork(rows, engine, device.type, choose, WEIGHTS[weights]).train(
        model.training
    )


@cache
def find_engine(device_type: str) -> Engine | None:
    """Import what runs blocks on a kind of device; None, and a line in the log, if it cannot."""
    if device_type not in ENGINES:
        return None
    try:
        engine: Engine = importlib.import_module(ENGINES[device_type])
    except ImportError as error:
        logging.getLogger(__name__).warning(
            "networks run without fast kernels on %s: %s", device_type, error
        )
        return None
    return engine
