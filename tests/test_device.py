"""Choosing a device, describing it, and the precision of a forward pass."""

import ctypes
import os

import pytest
import torch

from alexnet.device import autocast, available_devices, keep_memory, pick_device
from alexnet.errors import UsageError
from alexnet.storage.environment import cpu_name, describe_device
from alexnet.train.determinism import deterministic


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: int, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(2, True, "cuda:0"), (0, True, "mps"), (0, False, "cpu"), (1, False, "cuda:0")],
)
def test_auto_takes_cuda_then_mps_then_the_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, expected: str
) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert pick_device() == pick_device("auto") == torch.device(expected)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps"])
def test_a_device_that_is_there_is_taken_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pretend(monkeypatch, cuda=2, mps=True)
    assert pick_device(name) == torch.device("cuda:0" if name == "cuda" else name)


@pytest.mark.parametrize(
    ("device", "picked"),
    [
        (torch.device("cpu"), "cpu"),
        (torch.device("cuda"), "cuda:0"),
        (torch.device("cuda", 1), "cuda:1"),
        (torch.device("mps", 0), "mps"),
    ],
)
def test_a_device_is_taken_where_a_name_is(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, picked: str
) -> None:
    pretend(monkeypatch, cuda=2, mps=True)
    assert pick_device(device) == torch.device(picked)
    pretend(monkeypatch, cuda=0, mps=False)
    if device.type != "cpu":
        with pytest.raises(UsageError, match=f"there is no device '{device}' here"):
            pick_device(device)


@pytest.mark.fault(32)
@pytest.mark.parametrize("name", ["cuda", "cuda:2", "mps", "gpu", "CPU", "", "cpu:0"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pretend(monkeypatch, cuda=2 if name == "cuda:2" else 0, mps=False)
    with pytest.raises(UsageError) as caught:
        pick_device(name)
    there = "cuda:0, cuda:1, cpu" if name == "cuda:2" else "cpu"
    assert str(caught.value) == f"there is no device {name!r} here; there are: {there}"


@pytest.mark.fault(32)
def test_a_driver_that_does_not_work_counts_as_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # device_count asks the driver's management library, which may answer where CUDA cannot run.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "cuda:0" not in available_devices()


@pytest.mark.parametrize(("threads", "words"), [(1, "1 thread"), (2, "2 threads")])
def test_the_cpu_is_described_with_its_threads(
    monkeypatch: pytest.MonkeyPatch, threads: int, words: str
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert describe_device(torch.device("cpu")) == f"{cpu_name()}, {words}"


def test_a_gpu_is_described_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H200 {device.index}")
    assert describe_device(torch.device("cuda:1")) == "NVIDIA H200 1"
    assert describe_device(torch.device("mps")) == "Apple GPU (MPS)"


@pytest.mark.parametrize(
    ("text", "name"),
    [("model name\t: AMD EPYC\nmodel name\t: AMD EPYC\n", "AMD EPYC"), ("flags: sse\n", "CPU")],
)
def test_the_name_of_the_cpu_is_read_from_the_kernel(
    monkeypatch: pytest.MonkeyPatch, text: str, name: str
) -> None:
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_, **__: text)
    assert cpu_name() == name


def test_without_cpuinfo_the_platform_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", missing)
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert cpu_name() == "arm"
    monkeypatch.setattr("platform.processor", lambda: "")
    assert cpu_name() == "CPU"


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_precision_of_a_matrix_product_on_the_cpu(precision: str, expected: torch.dtype) -> None:
    x = torch.ones(2, 2)
    with autocast(torch.device("cpu"), precision):
        assert (x @ x).dtype == expected
    assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize("fast", [True, False])
def test_auto_on_cuda_is_bfloat16_where_the_gpu_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    asked: list[tuple[str, torch.dtype]] = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: fast)
    monkeypatch.setattr(torch, "autocast", lambda *given: asked.append(given))
    autocast(torch.device("cuda"), "auto")
    assert asked == ([("cuda", torch.bfloat16)] if fast else [])


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="one of auto, float32, bfloat16, not 'float16'"):
        autocast(torch.device("cpu"), "float16")


def test_keeping_memory_tells_glibc_to_map_nothing_and_to_trim_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: dict[int, int] = {}

    class Libc:
        def mallopt(self, name: ctypes.c_int, value: ctypes.c_int) -> None:
            told[name.value] = value.value

    monkeypatch.setattr("ctypes.CDLL", lambda _: Libc())
    keep_memory()
    # mallopt(3): M_MMAP_MAX is -4, "0 disables the use of mmap"; M_TRIM_THRESHOLD is -1.
    assert told == {-4: 0, -1: 2**31 - 1}


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_without_glibc_keeping_memory_does_nothing(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(name: str) -> None:
        raise error(name)

    monkeypatch.setattr("ctypes.CDLL", fail)
    keep_memory()


@pytest.mark.parametrize("wanted", [True, False])
def test_a_gpu_repeats_its_bits_for_as_long_as_that_is_wanted(
    wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", not wanted)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", wanted)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn = torch.backends.cudnn

    def fail_inside() -> None:
        with deterministic(torch.device("cuda"), wanted):
            assert (cudnn.deterministic, cudnn.benchmark) == (wanted, not wanted)
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert (cudnn.deterministic, cudnn.benchmark) == (not wanted, wanted)
    with deterministic(torch.device("cpu"), wanted):
        assert (cudnn.deterministic, cudnn.benchmark) == (not wanted, wanted)
