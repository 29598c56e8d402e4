"""docs/notebooks: their cells run, in order and without the network; their outputs are of them.

The cells are plain Python, so no Jupyter is needed. `scripts/run_notebooks.py` runs them in one and
writes the outputs, which a page of the repository shows.
"""

import ast
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

import alexnet

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs/notebooks").glob("*.ipynb"))
MOST_BYTES = 200_000
SMALLER = {"IMAGES": 660, "EPOCHS": 1}
"""What a training of a minute becomes in a test: as many steps as the notebook logs at once."""

Cell = dict[str, Any]


def cells(path: Path, kind: str = "code") -> list[Cell]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def execute(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; return the value of its last line, as Jupyter would show it."""
    body = ast.parse(source).body
    last = body[-1]
    if not isinstance(last, ast.Expr):
        exec(source, names)
        return None
    exec(compile(ast.Module(body[:-1], []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def run(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """Run all cells; return the variables and the value that each cell shows."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    names: dict[str, Any] = {}
    shown = []
    for cell in cells(path):
        source = "".join(cell["source"])
        for name, value in SMALLER.items():
            source = re.sub(rf"^{name} = \d+$", f"{name} = {value}", source, flags=re.MULTILINE)
        shown.append(execute(source, names))
        pyplot.close("all")  # as a notebook does after each cell
    return names, shown


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network in a notebook")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("MPLBACKEND", "agg")


def test_look_inside_a_trained_net() -> None:
    names, shown = run(NOTEBOOKS[0])
    best = [answer.predictions[0][0] for answer in names["answers"]]
    assert dict(zip(best, names["pictures"], strict=True)).items() >= {
        ("ship", "ship"),
        ("airplane", "airplane"),
        ("automobile", "automobile"),
    }
    assert names["shown"][0].shape == (24, 24, 3)
    asked = [(names["network"], *one) for one in zip(names["inputs"], names["labels"], strict=True)]
    for method in names["rows"].values():
        assert all(method(*each).max() > 0 for each in asked)
    assert [type(value) for value in shown if value is not None] == [
        alexnet.Prediction,
        alexnet.Prediction,
        alexnet.Summary,
    ]
    assert all(value._repr_html_() for value in shown if value is not None)


@pytest.mark.slow
def test_train_your_own() -> None:
    names, _ = run(NOTEBOOKS[1])
    assert [row["epoch"] for row in names["report"].curves] == [1]
    assert {name for name, *_ in names["losses"]} == {"with norm", "without norm"}
    norms = [
        any(
            "norm" in layer
            for layer, _ in alexnet.Run.open(names["folder"] / name).load_model().named_children()
        )
        for name in ("with norm", "without norm")
    ]
    assert norms == [True, False]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_complete_and_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) <= MOST_BYTES
    assert [cell["execution_count"] for cell in cells(path)] == [*range(1, len(cells(path)) + 1)]
    outputs = [output for cell in cells(path) for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {
        *("display_data", "execute_result", "stream")
    }
    assert all(output.get("name") != "stderr" for output in outputs)
    assert not re.search(r"/(home|root|work|tmp)\b", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_to_files(path: Path) -> None:
    prose = "".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    links = re.findall(r"\]\(([^)#]+)", prose)
    assert links
    assert all((path.parent / link).exists() for link in links)
