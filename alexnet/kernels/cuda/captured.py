"""The answers of a network on a GPU: captured once as a CUDA graph for each size of batch.

A graph cuts all views from the 8-bit images and runs the network on each, so a batch costs two
copies and one launch. Weights are converted to the type of the forward pass once, not for every
batch. Batches are copied to memory that the GPU reads by itself, and answers are read back when
later batches have been sent, so that the GPU waits for neither. None of this has run on a GPU yet.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from alexnet.device import dtype_of
from alexnet.evaluate import Batches
from alexnet.kernels.cuda.graphs import capture_graph
from alexnet.loader import read_ahead

MOST_GRAPHS = 4
"""Sizes of batches that are captured; a split has two, that of its last batch included."""
TOLERANCE = 1e-3
"""Largest difference of logits between a replay and the operations themselves, relative to 1 or to
the logit."""
COPYING_THREADS = 4
"""One copies 256 x 256 images slower than a fast GPU answers them."""
BEHIND = 2
"""Batches that the GPU may still have to do when the answer to an earlier one is waited for."""


class CapturedGraph(NamedTuple):
    """A graph, and its input and result at the same addresses in each replay."""

    graph: torch.cuda.CUDAGraph
    pixels: Tensor
    """(N, size, size, 3) uint8."""
    answer: Tensor

    def replay(self, pixels: Tensor) -> Tensor:
        """Return the answer, which the next replay overwrites."""
        self.pixels.copy_(pixels, non_blocking=True)
        self.graph.replay()
        return self.answer


class CapturedAnswers:
    """Yields `compute(network, pixels, **options)` of batches; `options` has a precision.

    The first batch of each size runs its operations, in which libraries choose algorithms and take
    memory. The second one is captured, and the replay compared with the answer itself. If that
    fails, `note` is called once and all batches run their operations. The weights are those of the
    last call of `copy_weights`.
    """

    def __init__(
        self,
        network: nn.Module,
        compute: Callable[..., Tensor],
        options: dict[str, Any],
        note: Callable[[str], None],
    ) -> None:
        self.compute, self.options, self.note = compute, options, note
        self.device = next(network.parameters()).device
        self.weights = _converted_weights(network, dtype_of(self.device, options["precision"]))
        self.network = partial(_run, network, {n: copy for n, (_, copy) in self.weights.items()})
        self.seen: set[torch.Size] = set()
        self.graphs: dict[torch.Size, CapturedGraph] = {}
        self.uses_graphs = True

    def is_of(self, compute: Callable[..., Tensor], options: dict[str, Any]) -> bool:
        """Tell whether this computes `compute` with the same `options`."""
        same = all(options[name] is value for name, value in self.options.items())
        return compute is self.compute and same

    @torch.no_grad()
    def copy_weights(self) -> None:
        """Use the current weights of the network from now on."""
        for weight, copy in self.weights.values():
            copy.copy_(weight)

    def __call__(self, batches: Batches) -> Iterator[Tensor]:
        """Yield the answer to each batch, in order, on the CPU."""
        pixels = read_ahead(_pinned, batches, COPYING_THREADS)
        yield from read_back(map(self.answer, pixels))

    def answer(self, pixels: Tensor) -> Tensor:
        """Answer images (N, size, size, 3) uint8 that are in pinned memory, or on the device.

        The result is on the device, and the next call overwrites it.
        """
        size = pixels.shape
        if size in self.graphs:
            return self.graphs[size].replay(pixels)
        pixels = pixels.to(self.device, non_blocking=True)
        answer = self._compute(pixels)
        if self.uses_graphs and size in self.seen and len(self.graphs) < MOST_GRAPHS:
            self._add_graph(pixels, answer)
        self.seen.add(size)
        return answer

    def _compute(self, pixels: Tensor) -> Tensor:
        return self.compute(self.network, pixels, **self.options)

    def _add_graph(self, pixels: Tensor, answer: Tensor) -> None:
        """Capture how `pixels` are answered, and keep the graph if a replay gives `answer`."""
        try:
            captured = self._capture(torch.zeros_like(pixels))
            replayed = captured.replay(pixels)
            same = torch.allclose(replayed, answer, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
            problem = "" if same else "a replay gives other logits"
        except RuntimeError as error:  # raised by CUDA, or by a library
            problem = str(error).partition("\n")[0]
        if problem:
            self.note(f"answers are not replayed from a CUDA graph: {problem}")
            self.uses_graphs = False
        else:
            self.graphs[pixels.shape] = captured

    def _capture(self, pixels: Tensor) -> CapturedGraph:
        compute = partial(self._compute, pixels)
        graph, answer = capture_graph(compute, warm_up=compute)
        return CapturedGraph(graph, pixels, answer)


def read_back(results: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield each of `results`, which are on a GPU, on the CPU, in order and some batches later."""
    pending: deque[tuple[Tensor, torch.cuda.Event]] = deque()
    for result in results:
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        pending.append((result.to("cpu", non_blocking=True, copy=True), copied))
        copied.record()
        if len(pending) > BEHIND:
            yield _wait(*pending.popleft())
    while pending:
        yield _wait(*pending.popleft())


def _wait(result: Tensor, copied: torch.cuda.Event) -> Tensor:
    copied.synchronize()
    return result


def _pinned(images: NDArray[np.uint8]) -> Tensor:
    """Copy images to memory that a GPU reads by itself."""
    return torch.from_numpy(images).pin_memory()


def _run(network: nn.Module, weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Run a network with other weights, its hooks included."""
    logits: Tensor = functional_call(network, weights, (images,))
    return logits


def _converted_weights(network: nn.Module, dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
    """Return parameters of convolutions and linear layers, by name, with a copy of each in `dtype`.

    These are what autocast converts. Kernels of convolutions are copied channels-last, as GPUs read
    them. What would not change is left out.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for prefix, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            for name, weight in layer.named_parameters(recurse=False):
                copy = weight.detach().to(dtype)
                if weight.ndim == 4:
                    copy = copy.contiguous(memory_format=torch.channels_last)
                if copy.data_ptr() != weight.data_ptr():
                    found[f"{prefix}.{name}"] = weight, copy
    return found
