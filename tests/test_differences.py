"""How networks differ: known pairs, all pairs, and the printed table."""

import itertools
import json
from pathlib import Path

import pytest
from network_makers import TABLES, empty
from rich.console import Console

from alexnet.analysis.differences import (
    Difference,
    as_json,
    find_differences,
    merged_names,
    moved_rows,
)
from alexnet.analysis.summary import Summary, summarize
from alexnet.cli.summary import show_differences, summary, value_text
from alexnet.errors import UsageError


@pytest.fixture(scope="module")
def summaries() -> dict[str, Summary]:
    return {name: summarize(name) for name in TABLES}


def lines(first: Summary, second: Summary) -> list[str]:
    """Write each difference on a line: "norm1 alpha 0.0001 2e-05"."""
    return [
        " ".join([each.row, each.what, *(value_text(each.what, value) for value in each.values)])
        for each in find_differences(first, second)
    ]


def test_the_code_of_2012_against_the_paper(summaries: dict[str, Summary]) -> None:
    assert lines(summaries["alexnet"], summaries["alexnet_2012"]) == [
        "relu1 after conv1 pool1",
        "norm1 alpha 0.0001 2e-05",
        "norm1 towers 1 2",
        "norm2 alpha 0.0001 2e-05",
        "norm2 towers 1 2",
        "snorm2 type - Spatial Response Normalization",
        "conv3 start std 0.01, bias 0 std 0.03, bias 0",
        "conv4 start std 0.01, bias 1 std 0.03, bias 1",
        "conv5 start std 0.01, bias 1 std 0.03, bias 1",
        "relu5 after conv5 pool5",
        "drop6 scaled_in training test",
        "drop7 scaled_in training test",
    ]


def test_caffes_two(summaries: dict[str, Summary]) -> None:
    found = lines(summaries["caffe_alexnet"], summaries["caffenet"])
    assert [line for line in found if "start" not in line] == [
        "norm1 after relu1 pool1",
        "norm2 after relu2 pool2",
    ]
    assert [line.split()[0] for line in found if "bias 0.1" in line] == [
        *("conv2", "conv4", "conv5", "fc6", "fc7")
    ]


def test_towers_that_do_not_talk(summaries: dict[str, Summary]) -> None:
    assert lines(summaries["alexnet_2012"], summaries["alexnet_nocomm"]) == [
        "conv2 outputs 256 320",
        "conv3 groups 1 2",
        "conv3 inputs 256 160",
        "fc6 groups - 2",
        "fc6 inputs 9216 4608",
        "fc6 outputs 4096 8192",
        "fc7 groups - 2",
    ]


def test_one_tower_differs_by_the_groups(summaries: dict[str, Summary]) -> None:
    found = find_differences(summaries["alexnet"], summaries["alexnet_one_tower"])
    assert {(each.row, each.what) for each in found} == set(
        itertools.product(("conv2", "conv4", "conv5"), ("groups", "inputs"))
    )


def test_only_a_network_and_itself_are_the_same(summaries: dict[str, Summary]) -> None:
    for (name, one), (other_name, other) in itertools.product(summaries.items(), repeat=2):
        found = find_differences(one, other)
        assert (not found) == (name == other_name)
        back = {(each.row, each.what): each.values for each in find_differences(other, one)}
        for each in found:
            if each.what != "after":  # either of two rows that change places can be the one moved
                assert back[each.row, each.what] == each.values[::-1]


def test_every_row_of_one_network_alone_is_named(summaries: dict[str, Summary]) -> None:
    for one, other in itertools.combinations(summaries, 2):
        names = [dict(empty(name).named_children()) for name in (one, other)]
        found = find_differences(summaries[one], summaries[other])
        alone = {each.row for each in found if None in each.values and each.what == "type"}
        assert alone == names[0].keys() ^ names[1].keys()


def test_orders() -> None:
    assert moved_rows(list("abcde"), list("abcde")) == set()
    assert moved_rows(list("abcde"), list("acbde")) in ({"b"}, {"c"})
    assert moved_rows(list("abcde"), list("bcdea")) == {"a"}
    assert moved_rows(list("abxc"), list("aybc")) == set()
    assert merged_names(list("abc"), list("xaybz")) == list("xaybzc")
    assert merged_names([], ["a"]) == ["a"]


@pytest.mark.parametrize(
    ("what", "value", "text"),
    [
        ("type", None, "-"),
        ("start", None, "PyTorch's own"),
        ("start", {"std": 0.005, "bias": 0.1}, "std 0.005, bias 0.1"),
        ("padding", (0, 3, 0, 3), "0+3"),
        ("kernel", (11, 11), "11x11"),
        ("output", (3, 224, 224), "3x224x224"),
        ("ceil_mode", True, "yes"),
        ("k", 2.0, "2"),
        ("towers", 2, "2"),
    ],
)
def test_values_are_written_as_in_the_table(what: str, value: object, text: str) -> None:
    assert value_text(what, value) == text  # type: ignore[arg-type]


def printed(first: Summary, second: Summary) -> str:
    console = Console(width=80, highlight=False, markup=False)
    with console.capture() as capture:
        show_differences(first, second, console)
    return capture.get()


def test_every_pair_is_printed_whole_in_80_columns(summaries: dict[str, Summary]) -> None:
    for one, other in itertools.combinations(summaries.values(), 2):
        text = printed(one, other)
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text
        for each in find_differences(one, other):
            for value in each.values:
                assert value_text(each.what, value) in text


def test_a_changed_network_has_its_changes_in_its_name(summaries: dict[str, Summary]) -> None:
    changes = {"activation": "sigmoid", "norm": "batch", "overlap": "no", "without": "conv4"}
    text = printed(summaries["alexnet_2012"], summarize("alexnet_2012", ablate=changes))
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "(activation=sigmoid, norm=batch, overlap=no, without=conv4): 60,301,288" in words


def test_json_holds_plain_values(summaries: dict[str, Summary]) -> None:
    document = json.loads(json.dumps(as_json(summaries["alexnet"], summaries["caffe_alexnet"])))
    assert document["models"] == ["alexnet", "caffe_alexnet"]
    assert document["parameters"] == [60_965_224, 60_965_224]
    assert {"row": "norm1", "what": "k", "values": [2.0, 1.0]} in document["differences"]
    assert {"row": "pad1", "what": "type", "values": ["Zero Padding", None]} in document[
        "differences"
    ]


def test_of_two_types_nothing_else_is_compared() -> None:
    changed = summarize("alexnet_small", ablate={"norm": "batch"})
    found = find_differences(summarize("alexnet_small"), changed)
    kinds = ("Local Response Normalization", "Batch Normalization")
    assert found == [Difference(row, "type", kinds) for row in ("norm1", "norm2")]


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    summary(diff=("alexnet", "alexnet_2012"))
    shown = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    page = (Path(__file__).parents[1] / "docs/summary.md").read_text(encoding="utf-8")
    assert "\n".join(["$ alexnet summary --diff alexnet alexnet_2012", *shown, "```"]) in page


def test_the_command_prints_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    summary(diff=("alexnet_small", "alexnet_small"), ablate=["norm=none", "overlap=no"], json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["models"] == ["alexnet_small", "alexnet_small (norm=none, overlap=no)"]
    assert {"row": "pool1", "what": "kernel", "values": [[3, 3], [2, 2]]} in document["differences"]


def test_the_command_changes_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    summary(ablate=["overlap=no"])
    assert "alexnet (overlap=no): 60,965,224 parameters" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"there is no overlap=; there are: order=norm_pool"):
        summary(ablate=["overlap"])


def test_the_same_network_twice_has_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    summary(diff=("cifar10_13", "cifar10_13"), classes=10)
    assert capsys.readouterr().out.startswith("Their rows are the same.\n")
