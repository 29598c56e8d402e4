"""Answers captured as CUDA graphs against `log_probabilities`, which runs each operation.

Without a GPU, substitutes for graphs and events test when a graph is captured, used and refused.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_makers import Recorder
from numpy.typing import NDArray
from test_kernels_cuda import ON_GPU  # before Triton
from torch import Tensor, nn

from alexnet.evaluate import (
    Batches,
    answer_batches,
    evaluate_run,
    log_probabilities,
    mean_over_views,
    view_logits,
)
from alexnet.kernels import accelerate
from alexnet.kernels.accelerated import AcceleratedNetwork
from alexnet.kernels.cpu import blocks
from alexnet.kernels.cpu.tuning import conv_algorithm
from alexnet.kernels.cuda import captured
from alexnet.kernels.cuda.captured import CapturedAnswers, CapturedGraph, read_back
from alexnet.networks.layers import Input, LocalResponseNorm
from alexnet.predict import predict_images
from alexnet.transforms import Preprocessing

SIZE, CROP = 11, 9
MEAN = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 255
PREPROCESSING = Preprocessing(SIZE, CROP, MEAN, (1.0, 1.0, 1.0), ((1.0, 0.0, 0.0),) * 3)


class Graph:
    """A substitute for a CUDA graph: a replay runs the operations, and then `after`."""

    def __init__(self, run: Callable[[], object]) -> None:
        self.run, self.count = run, 0
        self.after: Callable[[], object] = lambda: None

    def replay(self) -> None:
        self.count += 1
        self.run()
        self.after()


class Event:
    """A substitute for a CUDA event: lists what was recorded and waited for."""

    log: list[str]

    def record(self) -> None:
        self.log.append("recorded")

    def synchronize(self) -> None:
        self.log.append("waited")


class FakeCapturedAnswers(CapturedAnswers):
    """Captures with substitutes, on a CPU."""

    def _capture(self, pixels: Tensor) -> CapturedGraph:
        answer = self._compute(pixels).clone()
        graph: Any = Graph(lambda: answer.copy_(self._compute(pixels)))
        return CapturedGraph(graph, pixels, answer)


@pytest.fixture(autouse=True)
def substitutes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put substitutes in place of what needs a GPU; return the log of events."""
    log: list[str] = []
    if not ON_GPU:
        monkeypatch.setattr(torch.cuda, "Event", type("Logged", (Event,), {"log": log}))
        monkeypatch.setattr(captured, "_pinned", lambda images: torch.from_numpy(images).clone())
    return log


class CapturedNetwork(AcceleratedNetwork):
    """Captures as on a GPU."""

    def capture_answers(
        self, compute: Callable[..., Tensor], note: Callable[[str], None], **options: Any
    ) -> Callable[[Batches], Iterator[Tensor]] | None:
        if self.captured is None or not self.captured.is_of(compute, options):
            self.captured = FakeCapturedAnswers(self, compute, options, note)
        self.captured.copy_weights()
        return self.captured


def accelerate_captured(model: nn.Sequential) -> CapturedNetwork:
    rows = OrderedDict(model.named_children())
    return CapturedNetwork(rows, blocks, "cpu", conv_algorithm).train(model.training)


def network() -> CapturedNetwork:
    torch.manual_seed(0)
    layers = OrderedDict(
        input=Input(3, CROP, CROP),
        conv1=nn.Conv2d(3, 8, 3, stride=2),
        relu1=nn.ReLU(),
        norm1=LocalResponseNorm(),
        pool1=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        drop=nn.Dropout(0.5),
        fc2=nn.Linear(32, 3),
    )
    return accelerate_captured(nn.Sequential(layers).eval())


def batches(*sizes: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (size, SIZE, SIZE, 3), np.uint8) for size in sizes]


def graphs(model: CapturedNetwork) -> list[Any]:
    assert model.captured is not None
    return [each.graph for each in model.captured.graphs.values()]


def expected(model: nn.Module, given: list[NDArray[np.uint8]], **options: Any) -> list[Tensor]:
    return [log_probabilities(model, images, PREPROCESSING, **options) for images in given]


def found(model: nn.Module, given: list[NDArray[np.uint8]], **options: Any) -> list[Tensor]:
    return list(answer_batches(model, given, PREPROCESSING, **options))


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """But for the last bits: on a CPU a layer's second call has its weights in another order."""
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


# When a graph is captured.


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("view_count", [1, 10])
def test_captured_answers_are_those_of_the_operations(view_count: int, precision: str) -> None:
    model, given = network(), batches(4, 4, 4, 4, 2)
    options: dict[str, Any] = {"view_count": view_count, "precision": precision}
    assert_same(found(model, given, **options), expected(model, given, **options))
    (graph,) = graphs(model)
    assert graph.count == 3, "one to compare, and one for each batch after the second"


def test_the_next_evaluation_repeats_what_was_captured() -> None:
    model = network()
    for seed in (0, 1, 2):
        given = batches(4, 4, 2, seed=seed)
        assert_same(found(model, given), expected(model, given))
    assert [graph.count for graph in graphs(model)] == [1 + 4, 1 + 1]


def test_a_single_batch_is_not_captured() -> None:
    model = network()
    found(model, batches(4))
    assert graphs(model) == []


def test_other_options_are_captured_again() -> None:
    model, given = network(), batches(2, 2, 2)
    found(model, given)
    first = model.captured
    found(model, given)
    assert model.captured is first
    for options in ({"view_count": 10}, {"precision": "bfloat16"}):
        assert_same(found(model, given, **options), expected(model, given, **options))
        assert model.captured is not first
    other = Preprocessing(SIZE, CROP, MEAN + 1, (1.0, 1.0, 1.0), ((1.0, 0.0, 0.0),) * 3)
    moved = list(answer_batches(model, given, other))
    assert_same(moved, [log_probabilities(model, images, other) for images in given])


def test_graphs_are_few() -> None:
    """Batches with an unreadable image here and there have many sizes."""
    model, sizes = network(), [1, 2, 3, 4, 5, 6] * 3
    assert_same(found(model, batches(*sizes)), expected(model, batches(*sizes)))
    assert len(graphs(model)) == captured.MOST_GRAPHS


# What a graph reads.


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_captured_graph_has_the_weights_of_its_moment(precision: str) -> None:
    model, given = network(), batches(2, 2, 2)
    found(model, given, precision=precision)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert_same(
        found(model, given, precision=precision), expected(model, given, precision=precision)
    )


def test_weights_are_converted_once() -> None:
    """A layer's kernels are copied channels-last, and nothing is copied that has the type."""
    model = network()
    pairs = captured._converted_weights(model, torch.bfloat16)
    assert list(pairs) == ["conv1.weight", "conv1.bias", "fc2.weight", "fc2.bias"]
    assert all(copy.dtype == torch.bfloat16 for _, copy in pairs.values())
    assert pairs["conv1.weight"][1].is_contiguous(memory_format=torch.channels_last)
    assert list(captured._converted_weights(model, torch.float32)) == ["conv1.weight"]


def test_a_hook_of_the_network_is_captured() -> None:
    """An evaluation puts classes in another order with one."""
    model, given = network(), batches(2, 2, 2)
    plain = expected(model, given)
    model.register_forward_hook(lambda _, __, logits: logits[:, [2, 0, 1]])
    assert_same(found(model, given), [scores[:, [2, 0, 1]] for scores in plain])


# Graphs that cannot be used.


class Wrong(FakeCapturedAnswers):
    """Its graph computes something else, which is 1 % off."""

    def _capture(self, pixels: Tensor) -> CapturedGraph:
        made = super()._capture(pixels)
        made.graph.after = lambda: made.answer.mul_(1.01)  # type: ignore[attr-defined]
        return made


class Stale(FakeCapturedAnswers):
    """Its graph does not read the batch."""

    def _capture(self, pixels: Tensor) -> CapturedGraph:
        made = super()._capture(pixels)
        made.graph.run = lambda: None  # type: ignore[attr-defined]
        return made


class Refusing(FakeCapturedAnswers):
    """It cannot capture."""

    def _capture(self, pixels: Tensor) -> CapturedGraph:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


@pytest.mark.fault(35)
@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Wrong, "a replay gives other logits"),
        (Stale, "a replay gives other logits"),
        (Refusing, "operation not permitted when stream is capturing"),
    ],
)
def test_without_a_graph_the_operations_run(kind: type[CapturedAnswers], problem: str) -> None:
    model, recorder, given = network(), Recorder(), batches(2, 2, 2, 3, 3)
    options: dict[str, Any] = {
        "preprocessing": PREPROCESSING, "view_count": 1, "precision": "float32"
    }  # fmt: skip
    answers = kind(model, view_logits, options, recorder.note)
    assert_same([mean_over_views(each) for each in answers(given)], expected(model, given))
    assert recorder.notes == [f"answers are not replayed from a CUDA graph: {problem}"]


# Reading back.


def test_answers_come_in_order_and_a_few_batches_later(substitutes: list[str]) -> None:
    begun: list[int] = []

    def compute() -> Iterator[Tensor]:
        for number in range(5):
            begun.append(number)
            yield torch.tensor(number)

    results = read_back(compute())
    assert next(results) == 0
    assert begun == [0, 1, 2], "two batches were sent before the first was waited for"
    assert substitutes == ["recorded"] * 3 + ["waited"]
    assert [int(result) for result in results] == [1, 2, 3, 4]
    assert substitutes.count("waited") == 5


def test_a_result_is_copied_before_the_next_batch_overwrites_it() -> None:
    static = torch.zeros(())
    assert [int(result) for result in read_back(static.add_(1) for _ in range(5))] == [
        1, 2, 3, 4, 5
    ]  # fmt: skip


# Whole evaluations and predictions.


def test_an_evaluation_gives_the_same_figures(
    tiny_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.evaluate.EVALUATION_BATCH", 4)
    made: list[CapturedNetwork] = []

    def capture(model: nn.Sequential) -> nn.Module:
        made.append(accelerate_captured(model))
        return made[-1]

    for runs, views in (([tiny_run], 10), ([tiny_run, tiny_run], 1)):
        plain = evaluate_run(runs, tiny_data, views=views, device="cpu", accelerate=accelerate)
        ours = evaluate_run(runs, tiny_data, views=views, device="cpu", accelerate=capture)
        assert ours == plain
    assert [[graph.count for graph in graphs(model)] for model in made] == [[2]] * 3


def test_predictions_are_the_same(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setattr("alexnet.predict.WORTH_ACCELERATING", 1)
    monkeypatch.setattr("alexnet.predict.PREDICTION_BATCH", 3)
    rng = np.random.default_rng(0)
    for number in range(11):
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    (tmp_path / "04.png").write_bytes(b"no image")
    bad: list[Exception] = []
    options: dict[str, Any] = {"device": "cpu", "on_bad": bad.append}
    plain = predict_images(tmp_path, tiny_run, accelerate=accelerate, **options)
    ours = predict_images(tmp_path, tiny_run, accelerate=accelerate_captured, **options)
    assert ours == plain
    assert [Path(each.image).name for each in ours] == [
        f"{number:02}.png" for number in range(11) if number != 4
    ]
    assert len(bad) == 2


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_captures_its_answers(precision: str) -> None:
    recorder, given = Recorder(), batches(4, 4, 4, 4, 2)
    rows = nn.Sequential(OrderedDict(network().named_children())).cuda()
    model: Any = accelerate(rows.eval())
    preprocessing = PREPROCESSING.to(torch.device("cuda"))
    options: dict[str, Any] = {"view_count": 10, "precision": precision}
    ours = list(answer_batches(model, given, preprocessing, note=recorder.note, **options))
    for scores, images in zip(ours, given, strict=True):
        theirs = log_probabilities(model, images, preprocessing, **options)
        torch.testing.assert_close(scores, theirs, rtol=1e-3, atol=1e-3)
    assert len(model.captured.graphs) == 1
    assert not recorder.notes
