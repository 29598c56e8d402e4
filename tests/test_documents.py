"""The documents are true: links, named files and symbols, commands, figures.

The checks are in `document_checks.py`; the last test shows each of them something that breaks it.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import document_checks
import pytest
from document_checks import ROOT, read

import alexnet

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "results").rglob("*.md")]
DOCUMENTS += (ROOT / "alexnet").rglob("*.md")
README = ROOT / "README.md"
CHECKS = [getattr(document_checks, name) for name in ("links", "files", "symbols", "commands")]
Check = Callable[[Path], Iterator[str]]


@pytest.mark.parametrize("check", [*CHECKS, document_checks.figures], ids=lambda one: one.__name__)
def test_documents_are_true(check: Check) -> None:
    problems = [f"{path.relative_to(ROOT)}: {one}" for path in DOCUMENTS for one in check(path)]
    assert not problems, "\n" + "\n".join(problems)


def test_figures_are_of_documents_that_exist() -> None:
    lines = read(ROOT / "results/figures.tsv").splitlines()
    assert {ROOT / line.split("\t")[0] for line in lines[1:]} <= set(DOCUMENTS)


def test_percentages_in_the_readmes_tables_are_in_the_file_of_figures() -> None:
    known = {figure for _, figure, _ in document_checks.figures_of(README)}
    rows = [line for line in read(README).splitlines() if line.startswith("|")]
    assert {one for row in rows for one in re.findall(r"[\d.]+ ?%", row)} <= known


def test_documents_named_in_the_code_exist() -> None:
    sources = "".join(read(path) for path in (ROOT / "alexnet").rglob("*.py"))
    assert all((ROOT / name).exists() for name in re.findall(r"\bdocs/\w+\.md", sources))


def test_the_table_of_models_is_that_of_the_live_networks() -> None:
    text = read(ROOT / "docs/models.md")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) x \d+ \| (\d+) \|(.*)\|$", text, re.MULTILINE)
    assert [name for name, *_ in rows] == alexnet.list_models()
    for name, side, classes, counts in rows:
        live = alexnet.summarize(name, int(classes))
        assert live.input == (3, int(side), int(side))
        assert [int(cell.replace(",", "")) for cell in counts.split("|")] == [
            *(live.parameters, live.macs, live.neurons)
        ]


def test_the_readme_begins_with_the_set_up_and_ci_runs_its_test_command() -> None:
    assert "make demo" in "\n".join(read(README).splitlines()[:25])
    assert "make test" in read(README)
    assert "make test" in read(ROOT / ".ci/run").splitlines()
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_each_check_fails_on_what_it_is_for(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Top\n[a](gone.md) [b](#other) [c](#top) `docs/gone.md` alexnet.config.Settings.gone\n"
        "`alexnet train --gone`, `make gone`\n```sh\nalexnet train a b --set gone=1  # why\n```\n"
    )
    found = {check.__name__: list(check(page)) for check in CHECKS}
    assert found == {
        "links": ["gone.md", "#other"],
        "files": ["docs/gone.md"],
        "symbols": ["alexnet.config.Settings.gone"],
        "commands": [found["commands"][0], "alexnet train --gone", "make gone"],
    }
    assert "gone" in found["commands"][0]
    assert document_checks.wrong_figure("5.4 %", "demo test.one_view.top1_error") is None
    assert document_checks.wrong_figure("5.5 %", "demo test.one_view.top1_error")
