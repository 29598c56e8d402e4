"""Forms of layers on a CPU: the same values by all, the choice between them, copies of weights."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.kernels.convolutions import convolve
from alexnet.kernels.cpu import inference, onednn, tuning
from alexnet.kernels.cpu.inference import PACKED_BATCH, Inference
from alexnet.kernels.tuning_cache import TuningCache

needs_onednn = pytest.mark.skipif(not onednn.is_available(), reason="oneDNN is not available")
LAYERS: list[onednn.WeightedLayer] = [
    nn.Linear(12, 5),
    nn.Linear(12, 5, bias=False),
    nn.Conv2d(4, 6, 3, padding=1, groups=2),
    nn.Conv2d(3, 4, 3, stride=2),
]


@pytest.fixture
def choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the choices, none of which is made yet."""
    path = tmp_path / "cpus.json"
    cache = TuningCache(path)
    monkeypatch.setattr(tuning, "cpu_cache", lambda: cache)
    return path


def images(layer: onednn.WeightedLayer, count: int) -> Tensor:
    torch.manual_seed(1)
    if isinstance(layer, nn.Linear):
        return torch.randn(count, layer.in_features)
    return torch.randn(count, layer.in_channels, 7, 7)


# The choice.


class Clock:
    """A clock that only the forms move on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def form(self, *seconds: float) -> "Form":
        return Form(self, list(seconds))


class Form:
    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def __call__(self) -> None:
        self.clock.now += self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1


@pytest.mark.parametrize(
    ("usual", "other", "fastest"),
    [(1.0, 0.5, "other"), (1.0, 0.96, "usual"), (1.0, 2.0, "usual"), (0.5, 0.1, "other")],
)
def test_another_form_is_taken_if_it_is_clearly_faster(
    usual: float, other: float, fastest: str
) -> None:
    clock = Clock()
    forms = {"usual": clock.form(usual), "other": clock.form(other)}
    assert tuning.measure(forms, clock) == fastest


def test_one_disturbed_timing_does_not_decide() -> None:
    clock = Clock()
    forms = {"usual": clock.form(1.0), "other": clock.form(9.0, 9.0, 9.0, 0.5, 9.0)}
    assert tuning.measure(forms, clock) == "other"


def test_what_takes_no_time_is_not_measured() -> None:
    clock = Clock()
    forms = {"usual": clock.form(tuning.QUICK / 2), "other": clock.form(0.0)}
    assert tuning.measure(forms, clock) == "usual"
    assert forms["other"].calls == 0


def test_a_choice_is_kept_for_other_processes(
    choices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Clock().form(0.0)
    forms = {"usual": slow, "other": slow}
    assert tuning.fastest("a layer", forms) == "usual"
    ((key, kept),) = json.loads(choices.read_text()).items()
    assert kept == "usual"
    assert key.startswith(tuning.processor())
    assert f"{torch.get_num_threads()} thread" in key
    choices.write_text(json.dumps({key: "other"}))
    assert tuning.fastest("a layer", forms) == "usual"  # this process goes on as it began
    again = TuningCache(choices)
    monkeypatch.setattr(tuning, "cpu_cache", lambda: again)
    calls = slow.calls
    assert tuning.fastest("a layer", forms) == "other"
    assert slow.calls == calls


def test_of_two_processes_that_measure_the_first_decides(choices: Path) -> None:
    form = Clock().form(0.0)
    forms = {"usual": form, "other": form}
    assert tuning.fastest("one", forms) == "usual"
    (key,) = json.loads(choices.read_text())
    choices.write_text(json.dumps({key.replace(": one", ": two"): "other"}))
    assert tuning.fastest("two", forms) == "other"


def test_an_unknown_choice_is_measured_anew(choices: Path) -> None:
    form = Clock().form(0.0)
    assert tuning.fastest("a layer", {"gone": form}) == "gone"
    assert tuning.fastest("a layer", {"usual": form, "other": form}) == "usual"


# Training.


@pytest.mark.usefixtures("choices")
@pytest.mark.parametrize("narrow", [False, True])
def test_a_convolution_is_measured_on_few_images_and_leaves_no_trace(narrow: bool) -> None:
    conv, x = nn.Conv2d(4, 6, 3, groups=2), images(LAYERS[2], 40).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        algorithm = tuning.conv_algorithm(x, conv)
        assert algorithm in tuning.ALGORITHMS.values()
        after = torch.autograd.grad(convolve(x, conv, algorithm).float().sum(), x)
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        alone = torch.autograd.grad(convolve(x, conv, algorithm).float().sum(), x)
    assert torch.equal(after[0], alone[0])
    assert x.grad is conv.weight.grad is None


@pytest.mark.usefixtures("choices")
@pytest.mark.parametrize("form", ["oneDNN", "PyTorch"])
def test_both_libraries_compute_a_product(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "fastest", lambda _name, _forms: form)
    layer, x = nn.Linear(12, 5).double(), images(LAYERS[0], 3).double().requires_grad_()
    exact = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    layer.float()
    ours = onednn.linear(x.float(), layer.weight, layer.bias).square().sum()
    found = torch.autograd.grad(ours, [x, *layer.parameters()])
    for value, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)


# Inference.


def every_form(layer: onednn.WeightedLayer, x: Tensor) -> list[str]:
    return list(Inference(layer, relu=True).forms(x))


@needs_onednn
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_form_is_the_layer_and_a_relu(
    layer: onednn.WeightedLayer, dtype: torch.dtype, relu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = images(layer, 3)
    expected = F.relu(layer(x)) if relu else layer(x)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for form in every_form(layer, x.to(dtype)):
        monkeypatch.setattr(inference, "fastest", lambda _name, _forms, form=form: form)
        run = Inference(layer, relu)
        with torch.no_grad():
            for _ in range(3):
                result = run(x, dtype)
                assert result.dtype == dtype
                torch.testing.assert_close(result.float(), expected, rtol=tolerance, atol=tolerance)


@needs_onednn
@pytest.mark.usefixtures("choices")
@pytest.mark.parametrize("count", [1, PACKED_BATCH, PACKED_BATCH + 1])
@pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[2]], ids=str)
def test_copies_are_made_at_the_second_call_for_small_batches(
    layer: onednn.WeightedLayer, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "QUICK", math.inf)  # the first form, rearranged weights, is taken
    run, x = Inference(layer, relu=False), images(layer, count)
    kept = []
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(run(x, torch.float32), layer(x), rtol=1e-5, atol=1e-5)
            kept.append(list(run.copies.kept.values()))
    assert kept[0] == []
    assert len(kept[1]) == len(kept[2]) == (count <= PACKED_BATCH)
    assert all(a is b for a, b in zip(kept[1], kept[2], strict=True))


@needs_onednn
@pytest.mark.usefixtures("choices")
def test_copies_of_the_slower_forms_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "QUICK", 0.0)
    monkeypatch.setattr(tuning, "SECONDS", 0.0)
    run, x = Inference(LAYERS[0], relu=False), images(LAYERS[0], 2)
    with torch.no_grad():
        for _ in range(2):
            run(x, torch.float32)
    assert len(run.copies.kept) <= 1


@needs_onednn
@pytest.mark.usefixtures("choices")
def test_weights_made_for_inference_only_are_not_copied() -> None:
    with torch.inference_mode():
        layer, x = nn.Linear(12, 5), torch.randn(2, 12)
        run = Inference(layer, relu=False)
        for _ in range(3):
            layer.weight.add_(1)
            torch.testing.assert_close(run(x, torch.float32), layer(x), rtol=1e-5, atol=1e-5)
        assert run.copies.kept == {}
