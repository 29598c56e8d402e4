"""The page of results, its figures and the table of claims: complete, true to the JSON, safe."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from scipy import stats

from alexnet.cli import main
from alexnet.dataset import Dataset
from alexnet.errors import StorageError
from alexnet.reproduce import claims, drawing, results
from alexnet.reproduce.experiments import EXPERIMENTS
from alexnet.reproduce.layout import WIDTH, Curves, Panel, scale_for, text_width
from alexnet.reproduce.page import render_figure, render_page, write_page
from alexnet.reproduce.wording import difference_text, spread_text

ROOT = Path(__file__).parents[1]
STORED = ROOT / "results/reproduce"
SVG = "{http://www.w3.org/2000/svg}"
ERRORS: dict[str, list[Any]] = {"with": [0.11, 0.12, 0.125], "<without>": [0.131, 0.139, 0.15]}
EPOCHS: dict[str, list[Any]] = {"with": [2.0, 2.5, 3.0], "<without>": [12.0, 15.0, None]}


def seed(arm: str, number: int) -> dict[str, Any]:
    slow = 0.3 if arm == "with" else 0.9
    return {
        "test_error": ERRORS[arm][number],
        "epochs_to_25": EPOCHS[arm][number],
        "seconds": 60.123456789,
        "epochs": [
            {
                "epoch": epoch,
                "top1_error": slow**epoch,
                "train_error": slow**epoch / 2,
                "gradient_norms": {"conv1": 0.01 * slow, "fc10": 1.0},
            }
            for epoch in (1, 2, 3)
        ],
    }


def comparison(figure: str, values: dict[str, list[Any]], found: dict[str, Any]) -> dict[str, Any]:
    return {
        "first": "with",
        "second": "<without>",
        "figure": figure,
        "of_second": figure,
        "published": "11 % against 13 % (P 3.3)",
        "published_difference": -0.02 if figure == "test_error" else None,
        "values": {"first": values["with"], "second": values["<without>"]},
        "difference": found,
        "outcome": "agrees" if figure == "test_error" else "cannot tell",
    }


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    points = {"mean": -0.0217, "low": -0.0312, "high": -0.0121, "pairs": 3, "is_bound": False}
    ratio = {"mean": 0.18, "low": 0.05, "high": 1.25, "pairs": 3, "is_bound": True}
    return {
        "experiment": "lrn",
        "question": "Is <it> better?",
        "claims": [10],
        "budget": "quick",
        "seeds": 3,
        "data": {"side": 32, "images": {"train": 5000, "test": 1000}, "fingerprint": "ab"},
        "source": {"name": "cifar10", "images": {"train": 45000, "test": 10000}},
        "settings": {"model": "cifar10_13", "epochs": 3},
        "hardware": "a <CPU>",
        "versions": {"torch": "2"},
        "command": "alexnet reproduce lrn --data data/cifar10 --budget quick",
        "commit": "1234567",
        "arms": {
            arm: {
                "changes": {"ablate": {"activation": arm}},
                "rate": 0.01,
                "tried": [
                    {"rate": rate, "val_error": 0.3, "epochs_to_25": None} for rate in (0.01, 0.03)
                ],
                "seeds": [seed(arm, number) for number in range(3)],
            }
            for arm in ERRORS
        },
        "comparisons": [
            comparison("test_error", ERRORS, points),
            comparison("epochs_to_25", EPOCHS, ratio),
        ],
    }


@pytest.fixture(scope="module")
def folder(result: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    results.write_result(out, "lrn", result)
    write_page(out)
    return out


class Tables(HTMLParser):
    """The cells of all tables, row by row; asserts that elements are closed in order."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.requests: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.requests += [str(given[name]) for name in ("src", "href") if name in given]
        self.ids += [str(given["id"])] if "id" in given else []
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += data.replace("\u00a0", " ")


@pytest.fixture(scope="module")
def page(folder: Path) -> Tables:
    return Tables((folder / "index.html").read_text(encoding="utf-8"))


# The page.


def test_the_page_asks_for_nothing_and_names_are_escaped(folder: Path, page: Tables) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert page.requests
    assert all(target.removeprefix("#") in page.ids for target in page.requests)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"<script|@import|url\(|https?://", text)
    for name in ("<without>", "<it>", "<CPU>"):
        assert name not in text
        assert name.replace("<", "&lt;").replace(">", "&gt;") in text


def test_the_table_has_every_comparison_with_its_verdict(page: Tables) -> None:
    rows = [row for row in page.rows if row[1:2] == ["with against <without>"]]
    first, second = ERRORS.values()
    ours = [f"{100 * mean(one):.1f} ± {100 * stdev(one):.1f}" for one in (first, second)]
    assert rows == [
        [
            "10: normalisation helps generalisation",
            "with against <without>",
            "11 % against 13 % (P 3.3)",
            f"{ours[0]} against {ours[1]} %",
            "-2.2 points (-3.1 to -1.2)",
            "3",
            "agrees",
        ]
    ]
    (row,) = [row for row in page.rows if row[1:2] == ["with against <without> (epochs to 25 %)"]]
    assert row[0] == ""  # the claim stands in the first row of the experiment
    assert row[3:] == [
        "2.50 ± 0.50 against not reached by 1",
        "at most 0.18 times the epochs (0.05 to 1.25)",
        "3",
        "cannot tell",
    ]


def test_experiments_without_a_result_are_said_to_be_so(page: Tables) -> None:
    waiting = {row[1] for row in page.rows if row[-1] == "not run yet"}
    assert waiting == {f"alexnet reproduce {name}" for name in EXPERIMENTS if name != "lrn"}


def test_a_section_says_what_was_done(folder: Path, page: Tables) -> None:
    text = re.sub(r"<[^>]*>", "", (folder / "index.html").read_text(encoding="utf-8"))
    assert "2 arms of cifar10_13 with 3 seeds each for 3 epochs on 5,000 training images" in text
    assert "Budget quick: a part of the 45,000 training images" in text
    assert "alexnet reproduce lrn --data data/cifar10 --budget quick" in text
    assert ["Commit", "1234567"] in page.rows
    assert ["<without>", "0.01: not reached; 0.03: not reached", "0.01"] in page.rows
    arms = [row for row in page.rows if row[:2] == ["with", "activation=with"]]
    assert [row[2:4] for row in arms] == [["0.01", "11.8 ± 0.8"]]


def test_a_result_may_lack_what_others_have(tmp_path: Path) -> None:
    """Such as an experiment that trains nothing by epochs and measures something else."""
    arms = {"towers": {"seeds": [{"grey_share": 0.9}, {"grey_share": 0.8}]}, "one": {"seeds": []}}
    compared = {"first": "towers", "second": "one", "figure": "grey_share", "outcome": "differs"}
    bare = {"experiment": "other", "arms": arms, "comparisons": [{**compared, "difference": None}]}
    (tmp_path / "other.json").write_text(json.dumps(bare))
    tables = Tables(write_page(tmp_path).read_text(encoding="utf-8"))
    assert ["towers", "", "", "85.0 ± 7.1"] in tables.rows
    ET.fromstring((tmp_path / "other.svg").read_text(encoding="utf-8"))


def test_networks_of_different_sizes_have_columns(result: dict[str, Any], tmp_path: Path) -> None:
    sizes = {"with": {"parameters": 61_000_000, "macs": 7e8}, "<without>": {"macs": 2e9}}
    arms = {name: {**arm, "network": sizes[name]} for name, arm in result["arms"].items()}
    results.write_result(tmp_path, "lrn", {**result, "arms": arms})
    tables = Tables(write_page(tmp_path).read_text(encoding="utf-8"))
    (row,) = [row for row in tables.rows if row[:2] == ["with", "activation=with"]]
    assert row[-3:] == ["61,000,000", "700,000,000", ""]


def test_a_folder_without_results_has_a_page(tmp_path: Path) -> None:
    assert main(["reproduce", "--page", "--out", str(tmp_path)]) == 0
    tables = Tables((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert sum(row[-1] == "not run yet" for row in tables.rows) == len(EXPERIMENTS)


def test_a_damaged_result_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "relu.json").write_text("{")
    with pytest.raises(StorageError, match=r"cannot read .*relu.json"):
        write_page(tmp_path)
    (tmp_path / "relu.json").write_text("[]")  # of something else
    write_page(tmp_path)


# Figures.


def marks(panel: Any, kind: str) -> list[float]:
    return [mark.x for line in panel.lines for mark in line.marks if mark.kind == kind]


def panel(result: dict[str, Any], title: str) -> Panel:
    """The panel with this title."""
    found = [each for each in drawing.panels(result) if isinstance(each, Panel)]
    return next(each for each in found if each.title == title)


def value_at(panel: Panel, x: float) -> float:
    """Read a place off the panel's axis, as a reader would."""
    first, last = panel.ticks[0], panel.ticks[-1]
    low, high = (float(tick.text.removesuffix(" %")) / 100 for tick in (first, last))
    return low + (x - first.position) / (last.position - first.position) * (high - low)


def test_dots_stand_where_the_axis_says(result: dict[str, Any]) -> None:
    shown = panel(result, "Test error")
    expected = [value for values in ERRORS.values() for value in values]
    assert [value_at(shown, x) for x in marks(shown, "seed")] == pytest.approx(expected, abs=2e-4)
    for line, values in zip(shown.lines, ERRORS.values(), strict=True):
        limits = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert line.interval is not None
        read = [value_at(shown, x) for x in line.interval]
        assert read == pytest.approx([limits.low, limits.high], abs=4e-4)


def test_differences_stand_beside_the_published_one(result: dict[str, Any]) -> None:
    shown = panel(result, "Difference in error")
    read = [value_at(shown, x) for kind in ("mean", "published") for x in marks(shown, kind)]
    assert read == pytest.approx([-0.0217, -0.02], abs=3e-4)
    assert shown.neutral is not None
    assert value_at(shown, shown.neutral) == pytest.approx(0, abs=1e-4)
    ratios = panel(result, "Ratio of epochs")
    assert ratios.neutral is not None
    assert ratios.lines[0].interval is not None
    low, high = ratios.lines[0].interval
    assert low < ratios.neutral < high


def test_curves_are_means_and_have_the_level_that_is_asked_for(
    folder: Path, result: dict[str, Any]
) -> None:
    (stored,) = results.read_results(folder)
    (curves,) = [each for each in drawing.panels(stored) if isinstance(each, Curves)]
    assert [curve.name for curve in curves.chart.curves] == ["with", "<without>", "25 %"]
    assert curves.has_reference
    with_it, without, level = (curve.points for curve in curves.chart.curves)
    # 0.15 after one epoch is below 25 %, 0.45 is above it; a picture's y goes down.
    assert with_it[0][1] > level[0][1] > without[0][1]
    gradients = panel(stored, "Gradient by layer")
    assert [line.name for line in gradients.lines] == ["conv1", "fc10"]
    conv1, fc10 = gradients.lines
    assert conv1.marks[0].x < conv1.marks[1].x < fc10.marks[0].x


@pytest.mark.parametrize("values", [[0.1], [0.0], [0.2, 0.2], [-3.0, 4000.0], [1e-6, 2e-6]])
def test_every_value_has_a_place_and_an_axis(values: list[float]) -> None:
    for is_log in (False, True):
        if is_log and min(values) <= 0:
            continue
        scale = scale_for(values, is_log=is_log)
        assert all(0 < scale(value) < 440 for value in values)
        ticks = scale.ticks(str)
        assert 1 <= len(ticks) <= 12
        assert [tick.position for tick in ticks] == sorted(tick.position for tick in ticks)


def test_figures_are_valid_and_within_their_picture(folder: Path) -> None:
    tree = ET.fromstring((folder / "lrn.svg").read_text(encoding="utf-8"))
    height = float(tree.attrib["height"])
    panels = tree.findall(f"{SVG}svg")
    assert len(panels) == 6  # two of dots, two of differences, curves, gradients
    assert float(panels[-1].attrib["y"]) + float(panels[-1].attrib["height"]) <= height
    places = [
        float(one.attrib[name]) for one in tree.iter() for name in ("cx", "x1", "x2")
        if name in one.attrib
    ]  # fmt: skip
    assert all(-16 <= place <= 440 for place in places)
    texts = "".join(tree.itertext())
    assert "<without>" in texts
    assert "published" in texts


# Results as files.


def test_a_stored_result_is_rounded_and_has_epochs_as_columns(folder: Path) -> None:
    (stored,) = results.read_results(folder)
    found = stored["arms"]["with"]["seeds"][0]
    assert found["seconds"] == 60.1235
    assert found["epochs"] == {
        "top1_error": [0.3, 0.09, 0.027],
        "train_error": [0.15, 0.045, 0.0135],
        "gradient_norms": {"conv1": [0.003] * 3, "fc10": [1.0] * 3},
    }
    lines = (folder / "lrn.json").read_text(encoding="utf-8").splitlines()
    assert '"train_error": [0.15,0.045,0.0135],' in [line.strip() for line in lines]


def test_the_largest_curves_take_little_room(tmp_path: Path, result: dict[str, Any]) -> None:
    """As those of `relu`: three arms, three seeds, a hundred epochs, five layers."""
    row = dict.fromkeys(("train_loss", "top1_error", "train_error"), 0.123456789)
    layers = {f"conv{number}": 0.0123456789 for number in range(5)}
    rows = [{**row, "epoch": epoch, "gradient_norms": layers} for epoch in range(100)]
    arm = {**result["arms"]["with"], "seeds": [{"test_error": 0.1, "epochs": rows}] * 3}
    results.write_result(tmp_path, "relu", {**result, "arms": dict.fromkeys("abc", arm)})
    assert (tmp_path / "relu.json").stat().st_size < 60_000


def test_an_origin_names_the_data_without_its_path(tiny_data: Path) -> None:
    found = results.origin("lrn", tiny_data, "quick", 5)
    name = tiny_data.name
    assert found["command"] == (
        f"alexnet reproduce lrn --data data/{name} --budget quick --seeds 5"
    )
    assert found["source"]["images"]["train"] == len(Dataset(tiny_data).split("train"))
    assert str(tiny_data) not in json.dumps(found)
    assert found["commit"]


# Texts.


def test_means_have_their_spread() -> None:
    assert spread_text("test_error", [0.1, 0.2, 0.3]) == "20.0 ± 10.0 %"
    assert spread_text("test_error", [0.1]) == "10.0 %"
    assert spread_text("seconds", [1234.0, 1236.0]) == "1,235 ± 1 s"
    assert spread_text("epochs_to_25", [None, None]) == "not reached"
    assert spread_text("parameters", [61e6]) == "61,000,000"
    assert spread_text("test_error_averaged", [0.1, 0.1]) == "10.0 %"
    found = {"mean": -2e6, "low": None, "high": None}
    assert difference_text("parameters", found) == "-2,000,000 (one seed: no interval)"


# docs/paper.md.


def test_no_label_is_wider_than_its_figure() -> None:
    """`text_width` is of the legend's font, a tenth larger than that of the axis."""
    for result in results.read_results(STORED):
        for each in drawing.panels(result):
            if isinstance(each, Panel):
                assert 0.91 * text_width(each.label) < WIDTH, each.label
            else:
                *_, start = each.legend
                assert start + 32 + text_width(each.chart.curves[-1].name) < WIDTH + 1


def test_the_committed_page_table_and_figures_are_those_of_the_results(tmp_path: Path) -> None:
    """Not written by hand: `make claims` writes them."""
    stored = results.read_results(STORED)
    assert (STORED / "index.html").read_text(encoding="utf-8") == render_page(stored)
    for one in stored:
        file = STORED / f"{one['experiment']}.svg"
        assert file.read_text(encoding="utf-8") == render_figure(one)
    assert {path.stem for path in STORED.glob("*.svg")} == {one["experiment"] for one in stored}
    document = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    assert document == claims.with_table(document, claims.claim_rows(stored))


def test_the_table_in_markdown(result: dict[str, Any]) -> None:
    other = {**result, "experiment": "dropout", "claims": [8], "hardware": "a | b"}
    document = f"before\n{claims.BEGIN}\nold\n{claims.END}\nafter\n"
    text = claims.with_table(document, claims.claim_rows([result, other]))
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {len(claims.COLUMNS) + 2}
    assert sum("**agrees**" in line for line in lines) == 2
    numbers = [int(found[1]) for line in lines if (found := re.match(r"\| (\d+):", line))]
    assert numbers == sorted(numbers)
    assert claims.with_table(text, claims.claim_rows([result, other])) == text
    with pytest.raises(ValueError, match="lacks"):
        claims.with_table("no marks", [])


def test_all_25_claims_are_accounted_for() -> None:
    section = (ROOT / "docs/paper.md").read_text(encoding="utf-8").partition("## The 25 claims")[2]
    listed = re.findall(r"^- \*\*([\d, ]+)\*\*", section, re.MULTILINE)
    listed += re.findall(r"^\| (\d+):", section, re.MULTILINE)
    listed += re.findall(r"^Claim (\d+)", section, re.MULTILINE)
    numbers = {int(number) for text in listed for number in text.split(", ")}
    assert numbers == set(range(1, 26))
    for plan in EXPERIMENTS.values():
        assert set(plan.claims) <= set(claims.CLAIMS), plan.name
