"""Benchmarks: the figures are those of the rounds, the peers are what they are said to be."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from alexnet import create_model, summarize
from alexnet.bench import parts, peers, predict, timing
from alexnet.bench.data import PhotoSetup, data_table, prepare_table
from alexnet.bench.network_tables import (
    LIMITS,
    Setup,
    block_table,
    convolution_table,
    days,
    network_table,
    operations,
)
from alexnet.bench.peers import modules_alexnet, torchvision_alexnet
from alexnet.bench.predict import predict_tables
from alexnet.bench.report import BenchReport, Row, Table, ratio
from alexnet.bench.run import BenchOptions, run_bench
from alexnet.bench.spec import Spec
from alexnet.bench.steps import build
from alexnet.bench.timing import Candidate, LocalTimer, Rounds, WorkerTimer, measure
from alexnet.cli import main
from alexnet.errors import StorageError, WorkerError
from alexnet.progress import SILENT
from alexnet.storage.run import Run

QUICK = Rounds(1, 0.0, 1)


# Figures.


def test_a_ratio_is_that_of_a_round_not_of_the_medians() -> None:
    # The machine was twice as slow in the second round, for both.
    ours, other = Row("a", "a", (10.0, 5.0, 10.0)), Row("b", "b", (4.0, 2.0, 5.0))
    assert ratio(ours, other) == 2.5
    assert ratio(ours, Row("c", "c")) is None


def test_a_table_as_json_worked_by_hand() -> None:
    rows = [
        Row("ours", "ours", (8.0, 10.0, 9.0), operations=1e9),
        Row("peer", "a peer", (4.0, 5.0, 3.0), operations=2e9),
        Row("none", "a missing one", note="not measured: no compiler"),
    ]
    slow, fast = Row("matmul", "a product", (5e10,)), Row("matmul_onednn", "another", (1e11,))
    table = Table("t", "title", "images/s", rows, "all", limits=[slow, fast]).as_json()
    assert table["rows"]["ours"] == {
        "name": "ours",
        "rate": 9.0,
        "seconds": pytest.approx(1 / 9, rel=1e-4),
        "spread": pytest.approx(1 / 9, rel=1e-4),  # (10 - 8) / 2 / 9
        "rounds": [8.0, 10.0, 9.0],
        "ours_is": 1.0,
        "of_limit": 0.09,
        "note": "",
    }
    assert (table["rows"]["peer"]["ours_is"], table["rows"]["peer"]["of_limit"]) == (2.0, 0.08)
    assert table["rows"]["none"]["ours_is"] is None
    assert table["limits"]["matmul"]["rate"] == 5e10


def test_steps_are_timed_in_turn_and_as_often_as_asked() -> None:
    order, now = "", [0.0]

    def candidate(key: str, seconds: float) -> Candidate:
        def step() -> None:
            nonlocal order
            order += key
            now[0] += seconds

        return Candidate(key, key, lambda: LocalTimer(step, clock=lambda: now[0]), units=2)

    both = [candidate("s", 0.5), candidate("f", 0.25)]
    slow, fast = measure("steps", both, Rounds(2, 0.5, 1), SILENT)
    # Each warms up by one step. Half a second is one step of the one and two of the other, after
    # one that is not timed.
    assert order == "sf" + "sfff" * 2
    assert (slow.rates, fast.rates) == ((4, 4), (8, 8))


def test_what_cannot_be_measured_has_a_note_and_the_others_go_on() -> None:
    def fail() -> Any:
        raise RuntimeError("no C++ compiler\nlong story")

    good = Candidate("good", "good", lambda: LocalTimer(lambda: None))
    bad = Candidate("bad", "bad", fail)
    rows = measure("work", [bad, good], QUICK, SILENT)
    assert (rows[0].rates, rows[0].note) == ((), "not measured: no C++ compiler")
    assert len(rows[1].rates) == 1


def test_days_hours_minutes() -> None:
    assert [days(x) for x in (132.0, 24.0, 0.35)] == ["5.5 days", "24.0 hours", "21 minutes"]
    assert days(0.017) == "1 minute"


# Peers.


def test_the_peers_network_is_ours() -> None:
    ours, theirs = create_model("alexnet", 10).eval(), modules_alexnet(10).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 60
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), ours(images), rtol=1e-4, atol=1e-5)


def test_the_layout_of_torchvisions_network() -> None:
    with torch.device("meta"):
        ours, (theirs, note) = create_model("one_weird_trick"), torchvision_alexnet()
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    assert sum(p.numel() for p in theirs.parameters()) == 61_100_840
    assert all(layer.inplace for layer in theirs.modules() if isinstance(layer, nn.ReLU))
    assert "torchvision" in note


def test_operations_are_those_of_the_summary() -> None:
    macs = summarize("alexnet").macs
    assert operations("infer") == 2 * macs
    # Forward, and backward for weights and for inputs, but for the first layer's inputs.
    conv1 = 55 * 55 * 96 * 3 * 11 * 11
    assert operations("train") == 2 * (3 * macs - conv1)


def test_a_training_step_changes_every_weight() -> None:
    torch.manual_seed(0)
    before = create_model("alexnet")  # the same seed is set by `build`
    step, note = build(Spec("train", "reference", batch=2))
    step()
    assert note == ""
    after = step.__closure__
    assert after is not None
    optimizer = next(c.cell_contents for c in after if hasattr(c.cell_contents, "param_groups"))
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(trained) == len(list(before.parameters()))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


# Processes.


def test_a_process_times_what_it_is_asked_to_and_ends() -> None:
    timed = WorkerTimer(Spec("copy", side=2**20, threads=1))
    assert 0 < timed.time(3) < 1
    timed.close()
    assert timed.process.returncode == 0


def test_a_process_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(WorkerError, match="its process died"):
        WorkerTimer(Spec("copy", side=2**20))


def test_an_error_in_a_process_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = Spec(
        "copy", device="nonsense", keep_memory=False, threads=torch.get_num_threads()
    ).as_json()
    monkeypatch.setattr("sys.argv", ["timing", json.dumps(values)])
    timing.serve()
    assert "nonsense" in json.loads(capsys.readouterr().out)["error"]


# All of it, at its smallest.


def test_a_table_of_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    only = ("ours", "modules")
    setup = Setup("cpu", "float32", 1, own_process=False, only=only)
    monkeypatch.setitem(LIMITS, "cpu", (64, 2**20))
    table = network_table("infer", 2, setup, QUICK, SILENT)
    assert [row.key for row in table.rows] == list(only)
    assert all(row.rate > 0 and table.share(row) for row in table.rows)


def test_preparing_and_reading(tmp_path: Path) -> None:
    setup = PhotoSetup(photos=6, batch=4, workers=0)
    prepared = prepare_table(setup, QUICK, SILENT)
    assert [len(row.rates) for row in prepared.rows] == [1, 1, 1]
    # 256 x 256 x 3 bytes for each of 1,331,167 images, and a sixth of a shard's header.
    gigabytes = 1_331_167 * (256 * 256 * 3 + 128 / 6) / 1e9
    assert prepared.facts["imagenet_raw_gb"] == pytest.approx(gigabytes)
    read = data_table(setup, QUICK, SILENT)
    assert [row.note for row in read.rows] == [""] * 6
    assert all(row.rate > 0 for row in read.rows)


def test_predicting(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands are as they should be; running them takes too long for a test."""
    called: list[list[str]] = []

    def run(command: list[str], **_: object) -> None:
        called.append(command)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(predict, "write_run", lambda _: Run.open(tiny_run))
    once, many = predict_tables(PhotoSetup(photos=3), QUICK, SILENT)
    assert [row.note for row in (*once.rows, *many.rows)] == [""] * 4
    assert [command[2] for command in called[:2]] == ["alexnet", "alexnet.bench.peers"]
    # Two steps of each (one to warm up), for one photograph and for three.
    assert [sum(".jpg" in word for word in command) for command in called] == [1] * 4 + [3] * 4


def test_the_script_answers_as_a_run_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("alexnet", 1000).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    Image.new("RGB", (300, 400), (255, 0, 0)).save(tmp_path / "red.png")
    threads = torch.get_num_threads()
    peers.main(str(threads), "cpu", str(tmp_path / "weights.pt"), str(tmp_path / "red.png"))
    red = torch.tensor([255.0, 0, 0]).reshape(1, 3, 1, 1).expand(1, 3, 224, 224) - 120
    with torch.inference_mode():
        expected = model(red).topk(5).indices.tolist()
    assert str(expected) in capsys.readouterr().out


def test_blocks_and_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup("cpu", "float32", 1, own_process=False)
    monkeypatch.setitem(parts.CONVOLUTION_SIDES, "conv1", 35)
    tables = [
        block_table("block_5", 1, setup, QUICK, SILENT, backward=False),
        block_table("lrn_1", 1, setup, QUICK, SILENT),
        convolution_table("conv1", 1, setup, QUICK, SILENT),
        convolution_table("conv5", 1, setup, QUICK, SILENT),
    ]
    assert [len(table.rows) for table in tables] == [2, 2, 3, 4]
    assert all(row.rate > 0 for table in tables for row in table.rows)


# The command.


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[BenchOptions]:
    """Have the command measure nothing; return what it was asked to measure."""
    asked: list[BenchOptions] = []
    rows = [
        Row("ours", "alexnet", (100.0, 110.0, 90.0), operations=4e9),
        Row("modules", "PyTorch modules", (40.0, 44.0, 36.0), operations=4e9),
        Row("none", "compiled", note="not measured: no C++ compiler"),
    ]
    limits = [Row("matmul", "matrix product", (8e11,)), Row("copy", "copy", (2e10,))]
    tables = [
        Table("train_batch_2", "training, batch 2", "images/s", rows, "all", limits),
        Table("predict_one", "one photograph", "s", rows[:2], "all", seconds=True),
    ]
    facts = {
        "hardware": "a CPU", "precision": "float32", "rounds": 3,
        "versions": {"torch": "2.13", "python": "3.12"},
    }  # fmt: skip

    def run(options: BenchOptions, *, command: str, progress: object) -> BenchReport:
        asked.append(options)
        return BenchReport(command, facts, tables)

    monkeypatch.setattr("alexnet.bench.run.run_bench", run)
    monkeypatch.setenv("COLUMNS", "80")
    return asked


def test_tables_as_they_are_printed(
    made_up: list[BenchOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "train", "--batch-sizes", "2,16", "--no-compiled"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a CPU, float32, torch 2.13, Python 3.12; median of 3 rounds"
    words = [line.split() for line in lines]
    assert ["alexnet", "100", "±10%", "50%"] in words
    assert ["PyTorch", "modules", "40.0", "±10%", "2.50", "x", "20%"] in words
    assert ["compiled", "-", "-", "-", "-"] in words
    assert "limits: matrix product 800 GFLOP/s, copy 20 GB/s" in lines
    assert "compiled: not measured: no C++ compiler" in lines
    assert ["alexnet", "0.01", "±10%"] in words  # seconds
    assert max(map(len, lines)) <= 80
    assert (made_up[0].what, made_up[0].batches) == (("train",), (2, 16))
    assert not made_up[0].compiled


def test_a_quick_run_compares_nothing_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Row("ours", "ours", (9.0,), operations=1e9), Row("peer", "a peer", (4.0,))]
    limits = [Row("matmul", "a product", (5e10,))]
    measured = Table(
        "t", "title", "images/s", rows, "all", limits, facts={"hours": 3.0}, notes=["3 hours"]
    )
    setups = list[Setup]()

    def table_of(work: str, batch: int, setup: Setup, *_: object) -> Table:
        setups.append(setup)
        return measured

    monkeypatch.setattr("alexnet.bench.run.network_table", table_of)
    assert main(["bench", "infer", "--quick", "--device", "cpu", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["t"]
    assert [row["ours_is"] for row in table["rows"].values()] == [None, None]
    assert table["rows"]["ours"]["of_limit"] is None
    assert table["facts"] == {}
    assert "nothing is compared" in table["notes"][0]
    assert main(["bench", "infer", "--quick", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "nothing is compared" in out
    assert " x" not in out
    assert "3 hours" not in out
    assert "torch.compile are left out" in out  # they take a minute each
    assert main(["bench", "infer", "--quick", "--compiled", "--device", "cpu"]) == 0
    assert "left out" not in capsys.readouterr().out.replace("leave out", "")
    run_bench(BenchOptions(what=("infer",), batches=(1,), device="cpu"))
    assert [setup.compiled for setup in setups] == [False, False, True, True]


@pytest.mark.usefixtures("made_up")
def test_a_result_is_written_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "train", "--photos", "/home/me/photos.tar", "--out", str(tmp_path), "--json"]
    monkeypatch.setattr("sys.argv", ["alexnet", *words])
    assert main(words) == 0
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored == json.loads(capsys.readouterr().out)
    assert stored["command"].startswith("alexnet bench train --photos photos.tar --out ")
    assert stored["train_batch_2"]["rows"]["modules"]["ours_is"] == 2.5


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*file/result\.json: File exists"):
        BenchReport("alexnet bench", {}, []).save(tmp_path / "file")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["walk"], "there is no benchmark 'walk': train, infer, data, prepare, predict"),
        (["--batch-sizes", "1;2"], "--batch-sizes 1;2: write numbers with commas, as 1,32,128"),
        (["--batch-sizes", "0"], "rounds and batch sizes must be at least 1"),
    ],
)
def test_nonsense_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_report_says_where_it_was_measured() -> None:
    measured = run_bench(BenchOptions(what=(), quick=True))
    facts = measured.as_json()
    assert facts["precision"] in ("float32", "bfloat16")
    assert facts["versions"]["torch"] == torch.__version__
    assert {"commit", "hardware", "threads", "load"} <= facts.keys()


def test_predicting_takes_the_start_away() -> None:
    once, many = [Row("ours", "", (0.5,))], [Row("ours", "", (0.2,))]
    # 2 seconds for one image, 5 for seven: half a second for each further one.
    assert predict._seconds_per_image(once, many, 7) == {"ours": 0.5}
