"""Whether a GPU computes the same bits each time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(device: torch.device, wanted: bool) -> Iterator[None]:
    """Let a CUDA device compute the same bits each time if `wanted`, else as fast as it can.

    cuDNN then uses algorithms without atomic additions, or tries all and uses the fastest; cuBLAS
    gets a workspace of fixed size. Other devices are deterministic anyway; nothing changes there.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at its first product
    cudnn.deterministic, cudnn.benchmark = wanted, not wanted
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
