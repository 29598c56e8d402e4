"""What `make bench-gpu` measures, how it judges predictions, and how a visit goes on after errors.

Nothing here needs a GPU: traces and results are made up, trainings run on a CPU.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from data_makers import load_script

from alexnet.bench.gpu import checks, commands, trace
from alexnet.bench.gpu.plan import Group, Measurement, plan, seconds_of, summary
from alexnet.bench.gpu.predictions import (
    Prediction,
    judge,
    read_predictions,
    table,
)
from alexnet.bench.gpu.scale import GPU, REHEARSAL
from alexnet.bench.gpu.trace import Interval
from alexnet.bench.network_tables import Setup
from alexnet.bench.network_tables import _specs as table_rows

ROOT = Path(__file__).parents[1]
PREDICTIONS = ROOT / "results/gpu_predictions.toml"

TINY = replace(
    REHEARSAL,
    setup=Setup("cpu", "float32", 1, own_process=False, model="cifar10_11"),
    size=32,
    most_images=28,
)
"""A rehearsal of the smallest network, on the CPU's own kernels."""


# Traces.


def test_the_idle_share_is_what_no_work_covers() -> None:
    # Work from 10 to 30, with an overlap, and from 40 to 50, of which a copy covers a part.
    work = [Interval("copy", 42, 45), Interval("a", 10, 20), Interval("b", 15, 30)]
    work.append(Interval("c", 40, 50))
    assert trace.busy_time(work) == 30
    assert trace.idle_share(work) == pytest.approx(10 / 40)
    assert trace.time_by_name([*work, Interval("copy", 60, 70)]) == {
        "b": 15, "copy": 13, "a": 10, "c": 10
    }  # fmt: skip
    with pytest.raises(ValueError, match="empty"):
        trace.idle_share([])


def test_a_trace_has_work_of_the_device_and_other_events(tmp_path: Path) -> None:
    events = [
        {"ph": "X", "cat": "kernel", "name": "a", "ts": 5.0, "dur": 2.5},
        {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy HtoD", "ts": 9.0, "dur": 1.0},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaGraphLaunch", "ts": 1.0, "dur": 9.0},
        {"ph": "s", "cat": "kernel", "name": "flow", "ts": 1.0},
        {"ph": "M", "name": "process_name"},
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    assert trace.read_trace(path) == [Interval("a", 5, 7.5), Interval("Memcpy HtoD", 9, 10)]


def test_kernels_that_an_h200_showed_are_of_the_kinds_they_are() -> None:
    prefix = "sm90_xmma_dgrad_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x32"
    add = "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<"
    names = {
        prefix: "convolution",
        "void cask_plugin__5x_cudnn::xmma__5x_cudnn::init_device_workspace_kernel": "convolution",
        f"{add}at::native::CUDAFunctor_add<c10::BFloat16> >(at::TensorIteratorBase&": "addition",
        "void at::native::reduce_kernel<128, 4, at::native::ReduceOp<c10::BFloat16": "reduction",
        "nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_bias_TNT": "matrix_product",
        "Memcpy HtoD (Pageable -> Device)": "copy",
        "_forward_kernel": "blocks",
        "_backward_kernel": "blocks_backward",
        "void at::native::(anonymous namespace)::nll_loss_forward_reduce_cuda_kernel_2d": "other",
    }
    assert {name: trace.kind_of(name) for name in names} == names
    totals = trace.time_by_kind({"_forward_kernel": 2.0, prefix: 3.0, "unknown": 1.0})
    assert {kind: time for kind, time in totals.items() if time} == {
        "blocks": 2.0, "convolution": 3.0, "other": 1.0
    }  # fmt: skip
    assert totals["addition"] == 0


def test_kernels_of_ours_are_found_in_their_sources() -> None:
    folder = ROOT / "alexnet/kernels/cuda"
    compiled = {
        node.name
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and any("triton.jit" in ast.unparse(each) for each in node.decorator_list)
    }
    assert trace.own_kernels().keys() == compiled
    assert {kind for kind, _ in trace.OWN_KINDS} >= set(trace.own_kernels().values())


def test_the_steps_that_were_asked_for_are_profiled() -> None:
    x = torch.ones(4)
    profiled = commands.ProfiledSteps(epoch=2, steps=3, device=torch.device("cpu"))
    for epoch in (1, 2):
        with profiled.task(f"epoch {epoch}/2", 20, "images") as advance:
            advance(0)
            for _ in range(20):
                x.mul(2)
                advance(1)
    assert profiled.profiled == 3
    assert [each.name for each in profiled.work if each.name == "aten::mul"] == ["aten::mul"] * 3
    figures = profiled.as_json()
    assert 0 <= figures["idle_share"] < 1
    assert figures["busy"] == pytest.approx(trace.busy_time(profiled.work) / 3000)


# Predictions.

FASTER = Prediction("train.rows.ours.rate", "training", "images/s", "more", 200.0, "why")
SHORTER = Prediction("step.ms", "a step", "ms", "less", 2.0, "why", before=4.0, target=1.0)


@pytest.mark.parametrize(
    ("rate", "verdict"),
    [
        (200.0, "confirmed"),
        (191.0, "confirmed"),
        (209.0, "confirmed"),
        (250.0, "confirmed (better by 25 %)"),
        (150.0, "refuted (by 25 %)"),
    ],
)
def test_a_verdict_on_more(rate: float, verdict: str) -> None:
    found = {"train": {"rows": {"ours": {"rate": rate}}}}
    assert judge(FASTER, found).verdict == verdict


@pytest.mark.parametrize(
    ("milliseconds", "verdict", "met"),
    [
        (2.0, "confirmed", False),
        (3.0, "refuted (by 50 %)", False),
        (0.5, "confirmed (better by 75 %)", True),
    ],
)
def test_a_verdict_on_less(milliseconds: float, verdict: str, met: bool) -> None:
    judged = judge(SHORTER, {"step": {"ms": milliseconds}})
    assert (judged.verdict, judged.target_met) == (verdict, met)


def test_a_verdict_on_nothing_and_on_yes() -> None:
    none = replace(SHORTER, predicted=0.0, target=0.0)
    assert judge(none, {"step": {"ms": 0}}).verdict == "confirmed"
    assert judge(none, {"step": {"ms": 3}}).verdict == "refuted (by 3)"
    assert judge(replace(FASTER, key="same.bits", predicted=1), {"same": {"bits": True}}).measured


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({}, "there is no measurement train"),
        ({"train": {"error": "RuntimeError: out of memory"}}, "RuntimeError: out of memory"),
        ({"train": {"skipped": "give --cifar10 DATA"}}, "give --cifar10 DATA"),
        ({"train": {"rows": {"ours": {"rate": None, "note": "no compiler"}}}}, "no compiler"),
        ({"train": {"rows": {"other": {}}}}, "train has no rows.ours.rate"),
    ],
)
def test_what_is_not_measured_has_a_reason(found: dict[str, Any], why: str) -> None:
    judged = judge(FASTER, found)
    assert (judged.verdict, judged.measured) == (f"not measured: {why}", None)


def test_the_table_has_prediction_and_measurement_side_by_side() -> None:
    rate = {"train": {"rows": {"ours": {"rate": 57459.3}}}}
    judged = [
        judge(replace(FASTER, predicted=82000.0), rate),
        judge(SHORTER, {"step": {"ms": 1.5}}),
    ]
    lines = [re.split(r"  +", line.strip()) for line in table(judged)]
    assert lines == [
        ["before", "predicted", "target", "measured", "verdict"],
        ["training, images/s", "-", "82,000", "-", "57,459", "refuted (by 30 %)"],
        ["a step, ms", "4", "2", "1", "1.5", "confirmed (better by 25 %); target missed"],
    ]


def test_a_prediction_needs_a_reason(tmp_path: Path) -> None:
    text = PREDICTIONS.read_text().partition("[[prediction]]\n")[2].partition("[[prediction]]")[0]
    path = tmp_path / "predictions.toml"
    path.write_text("[[prediction]]\n" + text)
    assert len(read_predictions(path)) == 1
    path.write_text("[[prediction]]\n" + text.replace("reason", "because"))
    with pytest.raises(TypeError, match="because"):
        read_predictions(path)


def test_every_prediction_is_measured() -> None:
    measured = {each.key for group in plan(GPU, ROOT, ROOT) for each in group.measurements}
    rates = {key: {"rate": 1.0} for key in measured}
    keys = [each.key for each in read_predictions(PREDICTIONS)]
    assert len(set(keys)) == len(keys)
    rows = {key for key, *_ in table_rows("train", 1, GPU.setup)}
    for key in keys:
        measurement, *rest = key.split(".")
        assert measurement in measured or rest[0] in summary(rates), key
        assert rest[0] != "rows" or rest[1] in rows, key
        assert "kinds" not in rest or rest[-1] in trace.time_by_kind({}), key


# The plan.


def test_a_visit_takes_seven_minutes() -> None:
    assert seconds_of(plan(GPU, ROOT, ROOT)) <= 7 * 60


def test_a_rehearsal_has_all_groups_and_the_same_networks() -> None:
    real, rehearsed = plan(GPU, ROOT, ROOT), plan(REHEARSAL, ROOT, ROOT)
    keys = [[each.key for each in group.measurements] for group in real]
    assert [group.name for group in rehearsed] == [group.name for group in real]
    assert len({key for group in keys for key in group}) == sum(map(len, keys))
    fewer = {each.key for group in rehearsed for each in group.measurements}
    assert {key for group in keys for key in group} - fewer == {
        f"block_{number}_{work}" for number in (1, 2) for work in ("forward", "both")
    }


def test_what_follows_from_several_measurements() -> None:
    found: dict[str, Any] = {
        "train_batch_1024": {"rows": {"ours": {"rate": 50_000.0}}},
        "train_command_batch_1024": {"rate": 45_000.0},
        "train_command_cifar10_11": {"error": "no"},
    }
    assert summary(found) == {
        "command_1024_over_steps": 0.9,
        "imagenet_90_epochs_minutes": pytest.approx(42.7, abs=0.1),
    }


# Measurements, on the CPU.


def test_a_training_is_measured_and_profiled() -> None:
    found = commands.train_command(TINY, "cifar10", "cifar10_11", 128, 50_000)
    assert len(found["epochs"]) == 3
    assert found["rate"] == found["epochs"][1]
    assert found["profile"]["steps"] == 3
    assert sum(found["profile"]["kinds"].values()) > 0
    assert found["notes"][0].startswith("cifar10_11, 1000 classes, 28 images")


def test_an_evaluation_is_measured() -> None:
    found = commands.evaluate_command(TINY, "cifar10_11", 50_000)
    assert found["rate"] > 0
    assert found["input"] == [3, 24, 24]


def test_the_long_training_goes_on_where_it_was(tiny_data: Path, tmp_path: Path) -> None:
    assert "skipped" in commands.cifar10(TINY, "cifar10_11", None, tmp_path / "run")
    found = commands.cifar10(TINY, "cifar10_11", tiny_data, tmp_path / "run")
    again = commands.cifar10(TINY, "cifar10_11", tiny_data, tmp_path / "run")
    assert (found["epochs"], found["split"]) == (2, "test")
    assert found == again


def test_memory_is_compared_with_that_of_2012() -> None:
    assert checks.memory_result(3 * 2**30)["fits_2012"]
    assert not checks.memory_result(3 * 2**30 + 1)["fits_2012"]


@pytest.mark.slow
def test_a_tower_is_measured() -> None:
    # cifar10_11 has no towers; alexnet_small has.
    scale = replace(TINY, setup=replace(TINY.setup, model="alexnet_small"), size=64)
    assert checks.tower_memory(scale)["gigabytes"] > 0


@pytest.mark.slow
def test_a_killed_training_is_continued_and_compared() -> None:
    found = checks.resume(TINY, "small", "cifar10_11")
    assert found["tensors"] > 10
    assert found["tensors_that_differ"] == 0
    assert 6 <= found["killed_after_step"] < found["steps"] == 24


def test_a_training_that_ends_before_it_is_killed_is_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    with pytest.raises(RuntimeError, match="ended before step 5: 3"):
        checks.kill_at_step(command, tmp_path, 5)


def test_the_last_line_of_a_command_says_why_it_failed() -> None:
    words = "import sys; print('first', file=sys.stderr); sys.exit('no such file')"
    with pytest.raises(RuntimeError, match="exit code 1: no such file"):
        commands.run_command([sys.executable, "-c", words])


def test_a_junit_file_is_summed_up(tmp_path: Path) -> None:
    test = tmp_path / "test_two.py"
    test.write_text(
        "import pytest\ndef test_good(): pass\ndef test_bad(): assert 1 == 2, 'not equal'\n"
        "@pytest.mark.skip(reason='no')\ndef test_not(): pass\n"
    )
    report = tmp_path / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    command.append(f"--junitxml={report}")
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    found = checks.read_junit(report)
    assert (found["tests"], found["skipped"], found["failed"]) == (3, 1, 1)
    ((name, message),) = found["failures"].items()
    assert name.endswith("test_bad")
    assert "not equal" in message


def test_the_tests_that_use_a_gpu_are_found() -> None:
    files = {path.name for path in (ROOT / "tests").glob("test_*.py") if checks.uses_gpu(path)}
    assert files >= {"test_kernels_cuda.py", "test_kernels_capture.py", "test_cache.py"}
    assert "test_config.py" not in files


# A visit.

CHILD = """
import json, os, sys, time
from pathlib import Path
words = sys.argv[1:]
out, name, keys = Path(words[0]), words[2], words[4:]
part = out / "parts" / f"{name}.json"
for key in keys:
    found = json.loads(part.read_text())
    part.write_text(json.dumps(found | {key: {"error": "its process ended during it"}}))
    with (out / "calls").open("a") as calls:
        calls.write(key + " ")
    if key == "crash" and (out / "calls").read_text().split().count("crash") == 1:
        os._exit(3)
    if key == "hang":
        time.sleep(60)
    part.write_text(json.dumps(found | {key: {"rate": 1.0}}))
"""
"""Measures like the script in a process of its own: "crash" ends it the first time."""


@pytest.fixture
def visit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that makes a visit with such processes, for groups of these keys."""
    script = load_script("bench_gpu")
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    monkeypatch.setattr(script, "__file__", str(child))

    def make(seconds: float = 60, **groups: str) -> tuple[dict[str, Any], list[str]]:
        found = made_up_visit(script, tmp_path, seconds, groups).run()
        calls = tmp_path / "calls"
        made = calls.read_text().split() if calls.exists() else []
        calls.unlink(missing_ok=True) if "crash" not in made else None
        return found, made

    return make


def made_up_visit(script: ModuleType, out: Path, seconds: float, groups: dict[str, str]) -> Any:
    options = argparse.Namespace(
        out=out, minutes=seconds / 60, only=None, rehearse=False, cifar10=None
    )
    made = [
        Group(
            name,
            tuple(Measurement(key, 1, dict) for key in keys.split()),
            is_timed=not name.startswith("side"),
        )
        for name, keys in groups.items()
    ]
    return script.Visit(made, options)


def test_a_measurement_that_ends_its_process_costs_no_other(visit: Callable[..., Any]) -> None:
    found, calls = visit(side="x", timed="a crash b")
    assert calls == ["x", "a", "crash", "b"]
    assert found["crash"] == {"error": "its process ended during it"}
    assert [found[key] for key in "xab"] == [{"rate": 1.0}] * 3
    found, calls = visit(side="x", timed="a crash b")
    assert calls == ["x", "a", "crash", "b", "crash"]  # what was measured is not measured again
    assert found["crash"] == {"rate": 1.0}


def test_a_visit_ends_in_time_and_says_what_it_did_not_reach(
    visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["bench_gpu"], "LEAST_SECONDS", 1)
    began = time.monotonic()
    found, calls = visit(seconds=3, timed="a hang b", later="c")
    assert time.monotonic() - began < 20
    assert calls == ["a", "hang"]
    assert found["a"] == {"rate": 1.0}
    assert found["hang"]["error"] == "its process ended during it"
    assert found["b"]["error"] == found["c"]["error"] == "not reached: the same command continues"


def test_a_group_runs_in_this_process_and_writes_each_result(
    tmp_path: Path,
) -> None:
    script, path = load_script("bench_gpu"), tmp_path / "parts/group.json"

    def fail() -> dict[str, Any]:
        raise RuntimeError("out of memory\nlong story")

    def look() -> dict[str, Any]:
        return {"meanwhile": script.read(path)["look"]["error"]}

    works = {"fail": fail, "look": look, "skip": lambda: {"skipped": "no data"}}
    group = Group("group", tuple(Measurement(key, 1, work) for key, work in works.items()))
    script.measure(group, ["fail", "look", "skip"], path, REHEARSAL)
    found = script.read(path)
    assert found["fail"]["error"] == "RuntimeError: out of memory"
    assert found["look"]["meanwhile"] == "its process ended during it"
    assert script.missing(group, path) == ["fail", "skip"]
    assert script.part_of(tmp_path, group) == path


def test_the_end_of_a_visit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("bench_gpu")
    options = argparse.Namespace(out=tmp_path, json=False)
    key = "train_batch_1024.rows.ours.rate"
    predicted = next(each.predicted for each in read_predictions(PREDICTIONS) if each.key == key)
    found = {
        "train_batch_1024": {"rows": {"ours": {"rate": 1.1 * predicted}}},
        "tests": {"error": "RuntimeError: pytest wrote no report"},
    }
    script.report(found, options, REHEARSAL)
    out = capsys.readouterr().out
    confirmed = rf" {1.1 * predicted:,.0f}  confirmed \(better by 10 %\)"
    assert re.search("training, batch 1024, images/s .*" + confirmed, out)
    assert "not measured: RuntimeError: pytest wrote no report" in out
    stored = json.loads((tmp_path / "result.json").read_text())
    assert len(stored["predictions"]) == len(read_predictions(PREDICTIONS))
    assert stored["train_batch_1024"] == found["train_batch_1024"]
    assert {"commit", "hardware", "versions", "summary"} <= stored.keys()
