"""The command line for users and programs: options, results, errors, exit codes."""

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from data_makers import Recorder
from PIL import Image
from torch import nn

import alexnet
from alexnet import errors, list_models, list_recipes
from alexnet.cli import main
from alexnet.cli.options import accelerator
from alexnet.cli.train import change_settings
from alexnet.config import Settings

COMMANDS = [
    "summary",
    "prepare",
    "train",
    "evaluate",
    "predict",
    "features",
    "figures",
    "report",
    "import",
    "export",
    "convert",
    "plan",
    "doctor",
    "bench",
    "demo",
    "serve",
]


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process, as in a pipe of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: object) -> Result:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Result(code, *capsys.readouterr())

    return run


def process(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which $alexnet is the command, as a process of its own."""
    environment = {**os.environ, "alexnet": f"{sys.executable} -m alexnet", "COLUMNS": "80"}
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        env={**environment, **variables},
        check=False,
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures of two classes, a broken one and a text."""
    folder = tmp_path / "my photos"
    for number in range(12):
        path = folder / ("red" if number % 2 else "blue") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (200, 0, number) if number % 2 else (0, 0, 200)).save(path)
    (folder / "red" / "broken.png").write_bytes(b"nothing")
    return folder


# Help and options.


def test_help_lists_every_stage_in_the_order_of_the_data(cli: Run) -> None:
    for words in (["--help"], ["-h"], []):
        code, out, err = cli(*words)
        assert (code, err) == (0, "")
        positions = [out.index(f"│ {name} ") for name in COMMANDS]
        assert positions == sorted(positions)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_has_examples_and_fits_in_80_columns(cli: Run, name: str) -> None:
    code, out, err = cli(name, "--help")
    assert (code, err) == (0, "")
    assert "Examples:" in out
    assert out.count(f"alexnet {name}") >= 2
    assert max(map(len, out.splitlines())) <= 80


def test_help_names_every_model_and_recipe(cli: Run) -> None:
    out = cli("train", "--help").out
    assert all(name in out for name in [*list_models(), *list_recipes()])
    assert all(name in cli("summary", "--help").out for name in list_models())


def test_an_option_has_the_same_help_in_every_command(cli: Run) -> None:
    def line(name: str, flag: str) -> str:
        lines = [" ".join(each.split()) for each in cli(name, "--help").out.splitlines()]
        return next(each for each in lines if each.startswith(f"│ {flag} "))

    for flag, names in {
        "--json": COMMANDS,
        "--device": ["train", "evaluate", "predict", "demo"],
        "--epochs": ["train", "demo"],
        "--views": ["evaluate", "predict"],
    }.items():
        assert len({line(name, flag) for name in names}) == 1


def test_version_names_software_and_device(cli: Run) -> None:
    lines = cli("--version").out.splitlines()
    assert lines[0] == f"alexnet {alexnet.__version__}"
    assert [line.split()[0] for line in lines] == ["alexnet", "python", "torch", "device"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'? (help: alexnet --help)"),
        (
            ["train", "a", "b", "--epoch", "3"],
            "No such option: --epoch. Did you mean --epochs? (help: alexnet train --help)",
        ),
        (["train", "a"], "Missing argument 'RUN' (help: alexnet train --help)"),
        (
            ["evaluate", "a", "b", "--views", "3"],
            (
                "Invalid value for '--views': '3' is not one of '1', '10' "
                "(help: alexnet evaluate --help)"
            ),
        ),
        (["features", "a"], "Missing option '--run' (help: alexnet features --help)"),
        (["--josn"], "No such option: --josn (help: alexnet --help)"),
        (
            ["train", "a", "b", "--momentum", "0.8"],
            (
                "No such option: --momentum. It is a setting: --set momentum=VALUE "
                "(help: alexnet train --help)"
            ),
        ),
        (
            ["train", "a", "b", "--checkpoint-steps=9"],
            (
                "No such option: --checkpoint-steps. It is a setting: --set checkpoint_steps=VALUE "
                "(help: alexnet train --help)"
            ),
        ),
        (
            ["train", "a", "b", "--warmup-epochs", "1"],
            (
                "No such option: --warmup-epochs. It is a setting: --set warmup_epochs=VALUE "
                "(help: alexnet train --help)"
            ),
        ),
        (
            ["train", "a", "b", "--learning-rate", "1"],
            "No such option: --learning-rate. Did you mean --lr? (help: alexnet train --help)",
        ),
        (
            ["predict", "a.jpg", "--momentum", "0.8"],
            "No such option: --momentum (help: alexnet predict --help)",
        ),
    ],
)
def test_a_usage_error_is_one_line_with_the_nearest_option(
    cli: Run, words: list[str], message: str
) -> None:
    assert cli(*words) == (2, "", f"alexnet: error: {message}\n")


def test_options_become_settings_and_set_overrides_them() -> None:
    changes = ["lr=0.5", "epochs=7"]
    settings = change_settings(
        Settings(lr=0.1), model="alexnet_small", epochs=3, seed=None, changes=changes
    )
    assert settings == Settings(lr=0.5, model="alexnet_small", epochs=7)
    assert change_settings(settings) == settings
    common: dict[str, Any] = {
        "lr": 2e-05,
        "batch_size": 16,
        "weight_decay": 0.0,
        "optimizer": "adamw",
    }
    changed = change_settings(Settings(), ["weight_decay=0.1"], **common)
    assert changed == Settings(lr=2e-05, batch_size=16, weight_decay=0.1, optimizer="adamw")
    frozen = change_settings(Settings(layer_lr={"conv1": 0.1, "fc8": 2}), freeze="conv1,conv2")
    assert frozen == Settings(layer_lr={"conv1": 0, "conv2": 0, "fc8": 2})


def test_the_settings_that_most_users_change_are_options(
    cli: Run, monkeypatch: pytest.MonkeyPatch, tiny_data: Path, tmp_path: Path
) -> None:
    trained = []

    def train_model(data: Path, run: Path, settings: Settings, **_: object) -> None:
        trained.append(settings)
        raise errors.DivergedError("stop here")

    monkeypatch.setattr("alexnet.train.train_model", train_model)
    words = ["--lr", "0.02", "--batch-size", "16", "--weight-decay", "0", "--optimizer", "sgd"]
    assert cli("train", tiny_data, tmp_path / "run", *words).code == 5
    (settings,) = trained
    assert (settings.lr, settings.batch_size) == (0.02, 16)
    assert (settings.weight_decay, settings.optimizer) == (0, "sgd")
    assert cli("train", tiny_data, tmp_path / "run", "--lr", "-1").code == 2


def test_the_kernels_of_a_gpu_report_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def accelerate(model: Any, *, note: Any) -> Any:
        note("first use of this GPU")
        return model

    recorder = Recorder()
    model = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device("cuda"))]))
    monkeypatch.setattr("alexnet.kernels.accelerate", accelerate)
    accelerate_and_note: Any = accelerator(plain=False, progress=recorder)
    assert accelerate_and_note(model) is model
    assert recorder.notes == ["first use of this GPU"]


def test_a_numba_that_does_not_tell_when_it_compiles_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model: Any = nn.Sequential(nn.Linear(2, 2))
    monkeypatch.delitem(sys.modules, "alexnet.cli.compiling", raising=False)
    monkeypatch.setitem(sys.modules, "numba.core.event", None)
    monkeypatch.delattr("numba.core.event", raising=False)
    monkeypatch.setattr("alexnet.kernels.accelerate", lambda model, *, note: model)
    accelerate: Any = accelerator(plain=False, progress=Recorder())
    assert accelerate(model) is model


# Errors: any error of a stage is one line and an exit code.

OUT_OF_MEMORY = type("OutOfMemoryError", (RuntimeError,), {})
NO_MEMORY = "error: out of memory; close other programs, or raise the limit of this one (ulimit -v)"


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.UsageError("u"), 2, "error: u"),
        (errors.DataError("a\nb"), 3, r"error: a\nb"),
        (errors.CheckpointError("c"), 4, "error: c"),
        (errors.DivergedError("d"), 5, "error: d"),
        (errors.StorageError("s"), 6, "error: s"),
        (errors.WorkerError("w"), 7, "error: w"),
        (errors.Interrupted("saved", 2), 130, "saved"),
        (errors.Interrupted("saved", 15), 143, "saved"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (PermissionError(13, "Permission denied", "x/y"), 6, "error: x/y: Permission denied"),
        (OSError(28, "No space left on device"), 6, "error: No space left on device"),
        (OSError("odd"), 6, "error: odd"),
        (MemoryError(), 6, NO_MEMORY),
        (OUT_OF_MEMORY("CUDA"), 6, NO_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 6, NO_MEMORY),
        (OSError(12, "Cannot allocate memory"), 6, NO_MEMORY),
        (
            ValueError("first\nsecond"),
            1,
            "error: unexpected ValueError: first; run again with --debug for the traceback",
        ),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    cli: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error.with_traceback(None)

    monkeypatch.setattr("alexnet.analysis.summary.summarize", fail)
    assert cli("summary") == (code, "", f"alexnet: {line}\n")
    result = cli("summary", "--debug")
    assert (result.code, result.out) == (code, "")
    if code != 130:  # typer keeps the traceback of Ctrl-C for itself
        assert result.err.startswith("Traceback (most recent call last):")
        assert result.err.endswith(f"alexnet: {line}\n")
        assert cli("--debug", "summary") == result


def test_a_pipe_closed_early_is_no_error() -> None:
    done = process("$alexnet --help | true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_results_that_cannot_be_written_are_an_error() -> None:
    done = process("$alexnet --help > /dev/full")
    assert done.returncode == 6
    assert done.stderr == "alexnet: error: No space left on device\n"


def test_python_dash_m_is_the_command() -> None:
    done = process("$alexnet train data")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "alexnet: error: Missing argument 'RUN' (help: alexnet train --help)\n"


@pytest.fixture
def dog_run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run whose first class has a name that few encodings have."""
    run = tmp_path / "dog"
    shutil.copytree(tiny_run, run)
    info = json.loads((run / "run.json").read_text())
    info["titles"][0] = "犬"
    (run / "run.json").write_text(json.dumps(info))
    return run


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_class_of_any_name_is_printed_on_any_console(
    dog_run: Path, tiny_data: Path, photos: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(file, encoding))
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["evaluate", str(dog_run), str(tiny_data)]) == 0
    (picture,) = photos.rglob("0.png")
    assert main(["predict", str(picture), "--run", str(dog_run), "--top", "3"]) == 0
    text = file.getvalue().decode(encoding)
    assert text.count(r"across (\u72ac)") >= 3
    assert "---" in text


def test_a_process_on_any_console_prints_any_character(dog_run: Path, photos: Path) -> None:
    for encoding in ("ascii", "cp1252"):
        done = process("$alexnet train 犬 run", PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith(r"alexnet: error: \u72ac does not exist")
    (picture,) = photos.rglob("0.png")
    line = f"$alexnet predict {shlex.quote(str(picture))} --run {dog_run}"
    done = process(line, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"across (\u72ac)" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            "train {photos} {tmp}/new",
            3,
            "pack them into another folder: alexnet prepare '{photos}' 'data/my photos'",
        ),
        (
            "train {run} {data}",
            3,
            "takes them the other way round, alexnet train {data} {run}",
        ),
        ("train {run} {tmp}/new", 3, "{run} is a run directory, not a packed data set"),
        ("train {data} {data}", 2, "{data} is a packed data set: name another folder for the run"),
        ("train {tmp}/none {tmp}/new", 3, "{tmp}/none does not exist; make a packed data set with"),
        (
            "evaluate {data} {run}",
            4,
            "evaluate takes the data last, alexnet evaluate {run} {data}",
        ),
        ("evaluate {run} {run}", 3, "{run} is a run directory, not a packed data set"),
        ("evaluate {data} {data}", 4, "{data} is a packed data set, not a run directory"),
        ("evaluate {tmp}/none {data}", 4, "{tmp}/none is not a run directory: it does not exist"),
    ],
)
def test_what_was_named_in_place_of_a_data_set_or_run_is_said(  # noqa: PLR0917 - fixtures
    cli: Run,
    photos: Path,
    tiny_run: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {"photos": photos, "run": tiny_run, "data": tiny_data, "tmp": tmp_path}
    before = sorted(photos.rglob("*"))
    result = cli(*(word.format(**paths) for word in words.split()))
    assert (result.code, result.out) == (code, "")
    assert message.format(**paths) in result.err
    assert sorted(photos.rglob("*")) == before


def test_the_advice_for_photographs_is_never_a_folder_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alexnet.storage.folders import not_a_dataset

    photos = tmp_path / "photos"
    (photos / "data").mkdir(parents=True)
    for folder, path in ((photos, "."), (photos, photos), (photos / "data", "..")):
        monkeypatch.chdir(folder)
        out = Path(shlex.split(not_a_dataset(Path(path)))[-1])
        assert out.resolve() == tmp_path / "photos-packed"


# The stages.


def one_document(result: Result) -> Any:
    assert result.code == 0
    assert result.out.count("\n") == 1
    return json.loads(result.out)


def test_summary_shows_the_table_of_the_live_network(cli: Run) -> None:
    code, out, err = cli("summary")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["conv1", "11x11", "4", "0", "1", "ReLU", "96x55x55", "34,944", "105,415,200"] in lines
    assert ["fc6", "ReLU", "+", "Dropout", "4096", "37,752,832", "37,748,736"] in lines
    assert "alexnet: 60,965,224 parameters, 659,272 neurons, 724,406,816 MACs" in out
    assert "norm: Local Response Normalization" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out


def test_the_document_shows_what_is_printed(cli: Run) -> None:
    text = (Path(__file__).parents[1] / "docs" / "summary.md").read_text(encoding="utf-8")
    lines = [line.rstrip() for line in cli("summary").out.splitlines()]
    assert "\n".join(["$ alexnet summary", *lines, "```"]) in text


def test_summary_has_a_column_of_types_where_it_fits(
    cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    out = cli("summary", "--model", "cifar10_11", "--classes", 10).out
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "Locally Connected" in rows["local3"]
    assert "Local Response Normalization" in rows["norm1"]
    assert rows["fc10"].split()[-3:] == ["10", "11,530", "11,520"]


def test_summary_as_json(cli: Run) -> None:
    document = one_document(cli("summary", "--json"))
    assert document == json.loads(json.dumps(alexnet.summarize("alexnet").as_json()))


def test_from_photographs_to_predictions(cli: Run, photos: Path, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    code, out, _ = cli("prepare", photos, data, "--size", 32, "--workers", 1)
    assert code == 0
    assert "2 classes, 32 x 32 pixels" in out
    assert "rejected: red/broken.png: not a JPEG, PNG, WEBP, GIF or BMP image\n" in out
    assert f"next: alexnet train {data} RUN\n" in out

    words = ["train", data, run, "--model", "cifar10_13", "--set", "batch_size=5"]
    code, out, err = cli(*words, "--epochs", 1, "--device", "cpu")
    assert code == 0
    assert "cifar10_13: 1 epoch, 2 steps in " in out
    assert f"next: alexnet evaluate {run} {data} --views 10\n" in out
    assert "epoch 1/1: train loss" in err
    assert err.startswith("cifar10_13, 2 classes, 10 images (2 for validation), epochs 1\nsteps")
    assert alexnet.Run.open(run).settings.batch_size == 5

    assert cli(*words).code == 2  # there is a run already
    report = one_document(cli("train", data, run, "--resume", "--epochs", 2, "--json"))
    assert (report["epochs"], report["steps"], report["run"]) == (2, 4, str(run))

    document = one_document(cli("evaluate", run, data, "--views", "10", "--json"))
    assert {"images", "views", "loss", "top1_error", "top5_error"} <= document.keys()
    assert (document["images"], document["views"]) == (2, 10)

    result = cli("predict", photos, "--run", run, "--json", "--top", 1)
    assert result.code == 3
    assert len(json.loads(result.out)) == 12
    assert f"alexnet: error: {photos}/red/broken.png: not a JPEG" in result.err


@pytest.mark.parametrize("splits", [("train",), ("train", "test"), ("train", "val")])
def test_the_command_named_after_train_works(
    cli: Run, photos: Path, tmp_path: Path, splits: tuple[str, ...]
) -> None:
    for split in splits:
        for kind in ("red", "blue"):
            shutil.copytree(photos / kind, tmp_path / "in" / split / kind)
    data, run = tmp_path / "data", tmp_path / "run"
    prepared = cli(
        *("prepare", tmp_path / "in", data, "--size", 32, "--workers", 1, "--val-fraction", 0)
    )
    assert prepared.code == 0, prepared.err
    words = ["train", data, run, "--model", "cifar10_13", "--epochs", 1, "--device", "cpu"]
    out = cli(*words).out
    named = [line.removeprefix("next:").split() for line in out.splitlines() if "alexnet e" in line]
    assert bool(named) is (len(splits) > 1)
    for command in named:
        assert cli(*command[1:], "--device", "cpu").code == 0
    assert f"alexnet predict IMAGE... --run {run}" in out


def test_prepare_as_json_counts(cli: Run, photos: Path, tmp_path: Path) -> None:
    words = ["--size", 8, "--store", "jpeg", "--val-fraction", 0.5, "--workers", 1, "--json"]
    document = one_document(cli("prepare", photos, tmp_path / "data", *words))
    assert document["rejects"] == 1
    assert document["classes"] == ["blue", "red"]
    assert sum(split["images"] for split in document["splits"].values()) == 12
    assert cli("prepare", photos, tmp_path / "data", *words).code == 2
    words[-1:] = ["--max-rejects", 0]
    assert cli("prepare", photos, tmp_path / "other", *words).code == 3


def test_evaluate_shows_the_figures_of_its_json(cli: Run, tiny_run: Path, tiny_data: Path) -> None:
    document = one_document(cli("evaluate", tiny_run, tiny_data, "--json"))
    code, out, err = cli("evaluate", tiny_run, tiny_data)
    assert code == 0
    assert f"val: {document['images']:,} images, 1 view of each" in out
    assert f"top-1 error {document['top1_error']:>8.2%}" in out
    assert f"loss {document['loss']:>13.4f}" in out
    for number, (row, counts) in enumerate(
        zip(document["per_class"], document["confusion"], strict=True), start=1
    ):
        cells = [str(count or ".") for count in counts]
        assert f"{number} {row['class']} " in out
        assert any(line.split()[-len(cells) :] == cells for line in out.splitlines())
    assert "last" not in err
    assert cli("evaluate", tiny_run, tiny_data, "--weights", "last").code == 0
    assert cli("evaluate", tiny_run, tiny_data, "--split", "nope").code == 2
    assert cli("evaluate", tiny_data, tiny_run).code == 4


def test_the_worst_classes_come_first_with_their_most_frequent_mistake() -> None:
    from alexnet.cli.evaluate import class_table
    from alexnet.evaluate import Evaluation

    labels = [f"class{number}" for number in range(25)]
    confusion = [[0] * 25 for _ in labels]
    for number in range(25):
        confusion[number][(number + 1) % 25] = number
        confusion[number][number] = 25 - number
    confusion[3] = [0] * 25  # a class without images has no error
    per_class = [
        {"class": name, "images": sum(row), "top1_error": 1 - row[index] / 25, "top5_error": 0.0}
        for index, (name, row) in enumerate(zip(labels, confusion, strict=True))
    ]
    result = Evaluation("val", 600, 1, 1.0, 0.5, 0.1, per_class, confusion)
    columns = [list(column.cells) for column in class_table(result, labels).columns]
    assert columns[0] == [f"class{number}" for number in range(24, 4, -1)]
    assert columns[4][:2] == ["class0 (24)", "class24 (23)"]


def test_predict_shows_a_bar_for_each_class(
    cli: Run, tiny_run: Path, photos: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    info = json.loads((run / "run.json").read_text())
    info["titles"][0] = "The First"
    (run / "run.json").write_text(json.dumps(info))
    paths = sorted(photos.rglob("*[0-9].png"))[:2]
    predictions = one_document(cli("predict", *paths, "--run", run, "--json"))
    code, out, err = cli("predict", *paths, "--run", run)
    assert code == 0
    blocks = out.split("\n\n")
    for path, block, prediction in zip(paths, blocks, predictions, strict=True):
        first, *lines = block.rstrip().splitlines()
        assert first == str(path) == prediction["image"]
        for line, guess in zip(lines, prediction["predictions"], strict=True):
            assert line.split()[0] == f"{guess['probability']:.2%}"
            assert line.count("━") == round(24 * guess["probability"])
            name = guess["class"]
            assert line.endswith(f"  {name} (The First)" if name == info["classes"][0] else name)
    assert "Traceback" not in err


def test_demo_ends_with_a_summary_of_one_screen(
    cli: Run, tiny_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from alexnet.demo import DemoReport

    evaluations = [
        alexnet.evaluate_run(tiny_run, tiny_data, views=views, device="cpu") for views in (1, 10)
    ]
    given: dict[str, Any] = {}

    def run_demo(out: Path, **options: object) -> DemoReport:
        given.update(options, out=out)
        train = alexnet.TrainReport(
            str(out / "run"),
            "alexnet_small",
            2,
            9,
            75.0,
            80.0,
            0.02,
            2.0,
            1.9,
            0.5,
            0.1,
            0.5,
            "a CPU",
        )
        predictions = [
            alexnet.Prediction(f"{number}.png", (("star", 0.98), ("key", 0.02)), ("star", "key"))
            for number in range(4)
        ]
        return DemoReport(
            str(out), str(out / "report.html"), str(out / "data"), str(out / "run"),
            train, evaluations, predictions, ["key", "key", "star", "star"],
        )  # fmt: skip

    monkeypatch.setattr("alexnet.demo.run_demo", run_demo)
    out = tmp_path / "demo"
    code, text, _ = cli("demo", out, "--epochs", 2, "--seed", 3, "--device", "cpu")
    assert code == 0
    assert (given["out"], given["epochs"], given["seed"], given["device"]) == (out, 2, 3, "cpu")
    assert "alexnet_small: 2 epochs in 1:15, 80 images/s, a CPU" in text
    assert "1 view  10 views" in text
    errors_shown = next(line for line in text.splitlines() if line.startswith("top-1 error"))
    assert errors_shown.split()[2:] == [f"{each.top1_error:.2%}" for each in evaluations]
    assert "key         star 98%, star 98%" in text
    assert f"report: {out}/report.html" in text
    assert len(text.splitlines()) <= 24
    assert one_document(cli("demo", out, "--json"))["report"] == f"{out}/report.html"


def test_a_closed_stdout_is_no_traceback() -> None:
    command = [sys.executable, "-m", "alexnet", "summary"]
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""
