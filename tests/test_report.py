"""The demo from end to end, and its page: complete, self-contained, safe, correct figures."""

import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

import alexnet
import alexnet.demo
from alexnet.analysis.figures.filters import first_filters
from alexnet.analysis.figures.pictures import enlarged, sheet
from alexnet.analysis.figures.predictions import answers
from alexnet.analysis.figures.subject import Subject, open_subject
from alexnet.analysis.report import PER_CLASS, charts, report_run, sample_images
from alexnet.analysis.report import page as report
from alexnet.cli import main
from alexnet.config import Settings
from alexnet.dataset import Dataset
from alexnet.demo import stages
from alexnet.demo.drawings import CLASSES, Drawings
from alexnet.errors import StorageError, UsageError
from alexnet.evaluate import evaluate_run
from alexnet.images.filter_pictures import filter_pictures
from alexnet.storage.run import Run

COUNTS = {"train": 40, "val": 20, "test": 30}
STORY = report.Story("A title", "One sentence.", "alexnet demo somewhere")
VOID = {"br", "col", "hr", "img", "input", "link", "meta"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> stages.DemoReport:
    out = tmp_path_factory.mktemp("demo") / "out"
    return alexnet.run_demo(out, epochs=2, device="cpu", drawings=Drawings(counts=COUNTS))


@pytest.fixture(scope="module")
def subject(demo: stages.DemoReport) -> Subject:
    return open_subject(demo.run, demo.data, split="test", device="cpu")


@pytest.fixture(scope="module")
def page(demo: stages.DemoReport) -> str:
    return Path(demo.report).read_text(encoding="utf-8")


class Page(HTMLParser):
    """Checks that elements are closed in order; collects texts, headings and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", " ".join(data.split())))

    def of(self, tag: str) -> list[str]:
        """The texts directly inside elements of this kind."""
        return [text for element, text in self.texts if element == tag]


# The demo.


def test_the_demo_leaves_what_it_says(demo: stages.DemoReport) -> None:
    assert Path(demo.report).is_file()
    assert Run.open(demo.run).model_name == "alexnet_small"
    assert [evaluation.views for evaluation in demo.evaluations] == [1, 10]
    assert {evaluation.split for evaluation in demo.evaluations} == {"test"}
    assert {evaluation.images for evaluation in demo.evaluations} == {COUNTS["test"]}
    assert demo.truths == [name for name in CLASSES for _ in range(PER_CLASS)]
    for truth, prediction in zip(demo.truths, demo.predictions, strict=True):
        assert Path(prediction.image).name.startswith(truth)
        assert len(prediction.predictions) == 5


def test_the_demo_evaluates_as_the_stage_does(demo: stages.DemoReport) -> None:
    assert evaluate_run(demo.run, demo.data, split="test", device="cpu") == demo.evaluations[0]


def test_its_result_is_plain_json(demo: stages.DemoReport) -> None:
    document = demo.as_json()
    assert document["evaluations"][1]["views"] == 10
    assert document["train"]["epochs"] == 2
    assert set(document["predictions"][0]) == {"image", "predictions"}


def test_a_second_demo_uses_what_is_there(demo: stages.DemoReport) -> None:
    before = (Path(demo.run) / "metrics.jsonl").read_bytes()
    again = alexnet.run_demo(demo.out, epochs=2, device="cpu", drawings=Drawings(counts=COUNTS))
    assert again.evaluations == demo.evaluations
    assert (Path(demo.run) / "metrics.jsonl").read_bytes() == before


def test_other_data_are_not_overwritten(demo: stages.DemoReport) -> None:
    with pytest.raises(UsageError, match="holds other data than the demo's"):
        alexnet.run_demo(demo.out, drawings=Drawings(seed=1, counts=COUNTS))


def test_a_run_with_another_seed_is_not_continued(demo: stages.DemoReport) -> None:
    with pytest.raises(UsageError, match="run is a training with other settings; remove it"):
        alexnet.run_demo(demo.out, seed=1, drawings=Drawings(counts=COUNTS))


# The page as a whole.


def test_the_page_is_well_formed_and_has_all_sections(page: str) -> None:
    parsed = Page(page)
    assert parsed.of("h1") == ["A small AlexNet, trained on drawings"]
    assert parsed.of("h2") == [
        "Training",
        "Predictions for 20 test images",
        "Where the network looks",
        "Confusion matrix",
        "Filters of the first layer",
        "What excites units",
        "How it was made",
    ]
    assert ("html", {"lang": "en"}) in parsed.seen
    assert len(parsed.of("title")) == 3  # the page's and one for each chart


def test_the_page_asks_for_nothing_and_runs_nothing(page: str) -> None:
    parsed = Page(page)
    assert {"script", "link", "iframe", "object", "base"}.isdisjoint(tag for tag, _ in parsed.seen)
    for tag, attributes in parsed.seen:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("href", "srcset", "action", "data"), (tag, name)
            if name == "src":
                assert (value or "").startswith("data:image/png;base64,")
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)


def test_every_picture_says_what_it_shows(page: str) -> None:
    parsed = Page(page)
    pictures = [attributes for tag, attributes in parsed.seen if tag == "img"]
    assert len(pictures) == 20 + 6 * 3 + 2 + 5 * 2  # cards, evidence, towers, units
    assert all(attributes["alt"] for attributes in pictures)
    charts_shown = [a for tag, a in parsed.seen if tag == "svg" and a.get("role") == "img"]
    assert [a["aria-labelledby"] for a in charts_shown] == ["chart1", "chart2"]


def test_the_page_is_light_or_dark_and_prints(page: str) -> None:
    assert "@media (prefers-color-scheme: dark)" in page
    assert "@media print" in page


def test_the_numbers_are_those_measured(demo: stages.DemoReport, page: str) -> None:
    parsed = Page(page)
    one, ten = demo.evaluations
    tiles = parsed.of("dd")
    assert tiles[:3] == [report.percent(one.top1_error), report.percent(ten.top1_error), "90 %"]
    assert tiles[3] == "30"
    assert tiles[4] == report.duration(demo.train.seconds)
    model = Run.open(demo.run).load_model()
    assert tiles[5] == f"{sum(p.numel() for p in model.parameters()):,}"
    matrix = page.partition('class="confusion"')[2].partition("</table>")[0]
    cells = [int(count) for count in re.findall(r"<td[^>]*>(\d+)</td>", matrix)]
    assert_array_equal(np.reshape(cells, (10, 10)), one.confusion)
    assert page.count("✓ right") == sum(
        prediction.predictions[0][0] == truth
        for truth, prediction in zip(demo.truths, demo.predictions, strict=True)
    )
    last = [row for row in Run.open(demo.run).metrics() if row.get("kind") == "epoch"][-1]
    assert f"<td>{last['val_loss']:.4f}</td>" in page
    assert "seed" in page
    assert Run.open(demo.run).info["data"]["fingerprint"] in page


def test_names_and_texts_are_escaped(demo: stages.DemoReport) -> None:
    subject = open_subject(demo.run, demo.data, device="cpu")
    subject.run.titles = [f"<script>alert({number})</script>" for number in range(10)]
    samples = answers(subject, sample_images(subject.split, 10)[:1])
    story = report.Story("<b>bold</b>", '"><img src=x onerror=y>', "demo --out 'a & b'")
    parsed = Page(report.render_report(subject, demo.evaluations, samples, story))
    assert {"script", "b"} - {tag for tag, _ in parsed.seen} == {"script"}
    assert parsed.of("h1") == ["<b>bold</b>"]
    assert "<script>alert(3)</script>" in parsed.of("th")
    assert all("onerror" not in attributes for _, attributes in parsed.seen)


def test_a_run_without_validation_has_its_training_loss_only(
    demo: stages.DemoReport, subject: Subject
) -> None:
    rows = [
        {"epoch": 1, "train_loss": 2.0, "val_loss": None, "top1_error": None, "top5_error": None}
    ]
    (chart,) = report.learning_curves(rows)
    assert [curve.name for curve in chart.curves] == ["training"]
    run = Run.open(demo.run)
    (run.path / "metrics.jsonl").rename(run.path / "temporary")
    try:
        parsed = Page(report.render_report(subject, demo.evaluations, [], STORY))
    finally:
        (run.path / "temporary").rename(run.path / "metrics.jsonl")
    assert "Training" not in parsed.of("h2")


def test_a_page_that_cannot_be_written_is_a_clear_error(
    demo: stages.DemoReport, subject: Subject, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="cannot write the report"):
        report.write_report(tmp_path / "no" / "page.html", subject, demo.evaluations, [], STORY)


# The page about any run.


def test_any_run_has_a_page(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    words = ["report", str(tiny_run), str(tiny_data), "--out", str(out), "--device", "cpu"]
    assert main([*words, "--plain"]) == 0
    printed = capsys.readouterr().out
    parsed = Page(out.read_text(encoding="utf-8"))
    assert parsed.of("h1") == ["run: cifar10_11"]
    one = evaluate_run(tiny_run, tiny_data, split="test", device="cpu")
    assert parsed.of("dd")[0] == report.percent(one.top1_error)
    assert f"{one.top1_error:.2%}" in printed
    assert "What excites units" in parsed.of("h2")
    assert f"alexnet report {tiny_run} {tiny_data}" in parsed.of("code")
    again = report_run(tiny_run, tiny_data, out, split="train", device="cpu").as_json()
    assert [each["split"] for each in again["evaluations"]] == ["train", "train"]
    assert "not used in training" not in out.read_text(encoding="utf-8")


def test_images_are_of_all_classes_or_even(tiny_data: Path) -> None:
    split = Dataset(tiny_data).split("test")
    assert split.labels[sample_images(split, 3)].tolist() == [0, 0, 1, 1, 2, 2]
    assert sample_images(split, 1000).tolist() == list(range(15))


def test_many_classes_are_a_list_of_the_worst(demo: stages.DemoReport) -> None:
    titles = [f"class {number}" for number in range(40)]
    confusion = [[0] * 40 for _ in titles]
    for number in range(40):
        confusion[number][number] = number
        confusion[number][(number + 1) % 40] = 2
    per_class: list[dict[str, object]] = [
        {"images": number + 2, "top1_error": 2 / (number + 2)} for number in range(40)
    ]
    per_class[39]["images"] = 0
    found = replace(demo.evaluations[0], per_class=per_class, confusion=confusion)
    rows = report.worst_rows(found, titles)
    assert rows[0] == ("class 0", 2, 1.0, "class 1 (2)")
    assert len(rows) == report.MOST_CLASSES
    assert report.worst_rows(found, titles[:30]) == []


# Its parts.


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0, "0 %"), (0.1, "10 %"), (0.0625, "6.25 %"), (0.105, "10.5 %"), (1, "100 %")],
)
def test_percent(fraction: float, text: str) -> None:
    assert report.percent(fraction) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (48.2, "48 s"), (59.9, "1 min 00 s"), (112, "1 min 52 s")]
)
def test_duration(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


@pytest.mark.parametrize(
    ("span", "most", "step"),
    [(1, 5, 0.2), (2.4, 5, 0.5), (0.3, 3, 0.1), (30, 8, 5), (7, 8, 1), (90, 5, 20)],
)
def test_steps_of_an_axis_are_round(span: float, most: int, step: float) -> None:
    assert charts.nice_step(span, most) == pytest.approx(step)


def test_a_curve_lies_where_its_values_are() -> None:
    chart = charts.line_chart("T", "u", [1, 2, 3], {"a": [4.0, None, 0.0]}, str)
    (curve,) = chart.curves
    assert curve.points == [(charts.LEFT, pytest.approx(charts.TOP)), (charts.RIGHT, charts.BOTTOM)]
    assert curve.path == f"{charts.LEFT}.0,{charts.TOP}.0 {charts.RIGHT}.0,{charts.BOTTOM}.0"
    assert [tick.text for tick in chart.y_ticks] == ["0.0", "1.0", "2.0", "3.0", "4.0"]
    assert [tick.text for tick in chart.x_ticks] == ["1", "2", "3"]
    assert chart.description == "T, by epoch: a ends at 0.0."


def test_one_epoch_is_in_the_middle() -> None:
    chart = charts.line_chart("T", "u", [1], {"a": [2.0]}, str)
    assert chart.curves[0].points == [((charts.LEFT + charts.RIGHT) / 2, charts.TOP)]


def test_many_epochs_have_few_ticks() -> None:
    chart = charts.line_chart("T", "u", range(1, 91), {"a": [1.0] * 90}, str)
    assert [tick.text for tick in chart.x_ticks] == ["1", "20", "40", "60", "80"]


def test_the_filters_shown_are_those_of_the_network(subject: Subject, page: str) -> None:
    parsed = Page(page)
    images = [attributes for _, attributes in parsed.seen if attributes.get("class") == "filters"]
    weights = first_filters(subject)
    assert any(text.startswith(f"The {len(weights)} filters") for text in parsed.of("p"))
    for image, part in zip(images, np.split(weights, 2), strict=True):
        shown = Image.open(io.BytesIO(base64.b64decode(f"{image['src']}".partition(",")[2])))
        tiles = enlarged(filter_pictures(part), report.FILTER_ENLARGEMENT)
        assert_array_equal(np.asarray(shown), sheet(tiles, report.FILTERS_ACROSS, gap=4))


def test_synonyms_are_left_out_where_names_stay_different() -> None:
    given = ["golf ball", "tench, Tinca tinca", "crane, bird", "crane, machine"]
    assert report.first_names(given) == ["golf ball", "tench", "crane, bird", "crane, machine"]


def test_confusion_cells_are_shares_of_their_row() -> None:
    (_, first), (_, second) = report.confusion_rows([[3, 1], [0, 0]], ["a", "b"])
    assert [(cell.count, cell.share, cell.is_right) for cell in first] == [
        (3, 0.75, True),
        (1, 0.25, False),
    ]
    assert [cell.share for cell in second] == [0, 0]


def test_settings_say_where_they_leave_the_paper() -> None:
    rows = {
        name: rest for name, *rest in report.settings_rows(replace(Settings(), lr=0.5, flip=False))
    }
    assert rows["lr"] == ["0.5", "0.01"]
    assert rows["flip"] == ["false", "true"]
    assert rows["batch_size"] == ["128", ""]
    assert set(rows) == set(Settings().as_json())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        ({"conv1": 0.0}, "conv1=0.0"),
        ({}, "none"),
        ((3, 6), "3, 6"),
        ((), "none"),
        ("he", "he"),
    ],
)
def test_values_are_written_as_they_are_typed(value: object, text: str) -> None:
    assert report.write_value(value) == text


def test_drawing_needs_no_torch() -> None:
    """The processes that only draw start quickly."""
    code = "import sys, alexnet.demo.drawings; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout.strip() == "False"


def test_unknown_names_of_the_package_are_refused() -> None:
    assert alexnet.demo.run_demo is stages.run_demo
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = alexnet.demo.nothing
