"""Write one HTML page about all results of a folder, and each result's figure as SVG.

The page makes no requests and runs no script. This module computes the values that the template
`page.html.jinja` lays out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet.analysis.report.page import template_environment, write_value
from alexnet.reproduce.claims import CLAIMS, NOT_RUN, Row, claim_rows
from alexnet.reproduce.drawing import panels
from alexnet.reproduce.layout import Curves, Panel
from alexnet.reproduce.results import Result, read_results
from alexnet.reproduce.wording import (
    RATIO,
    compared_text,
    difference_text,
    number_text,
    short_name,
    spread_text,
    unit_text,
)
from alexnet.storage.atomic import expanded, write_text

MEANINGS = {
    "agrees": "the difference is the claimed one",
    "disagrees": "it is the opposite",
    "cannot tell": "it may be the luck of the seeds, or the training is too short for the claim",
    "differs": "they do, and nobody claims which way",
}
NOT_SHOWN = {"val_error", "test_loss", "error_weight"}
"""Figures without a column of their own."""
OF_FEW = {"class_error", "likeness"}
"""Figures that have a column only where they are compared."""
GAP = 24
"""Between the panels of a figure that is a file."""


def write_page(folder: str | Path) -> Path:
    """Write FOLDER/index.html from the results in FOLDER, and NAME.svg for each; return the page.

    Raises `StorageError` for a result that cannot be read, and where nothing can be written.
    """
    folder = expanded(folder)
    results = read_results(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        write_text(folder / f"{result['experiment']}.svg", render_figure(result))
    write_text(folder / "index.html", render_page(results))
    return folder / "index.html"


def render_page(results: Sequence[Result]) -> str:
    """Return the page as HTML."""
    rows = claim_rows(results)
    page: str = (
        template_environment()
        .get_template("reproduce/page.html.jinja")
        .render(
            lead=lead(rows, len(results)),
            counts=[
                (name, sum(row.verdict == name for row in rows), meaning)
                for name, meaning in MEANINGS.items()
            ],
            rows=rows,
            experiments=[shown(result) for result in results],
        )
    )
    return page + "\n"


def lead(rows: Sequence[Row], experiments: int) -> str:
    """Say how much the page has."""
    waiting = sum(row.verdict == NOT_RUN for row in rows)
    compared = len(rows) - waiting
    text = (
        "AlexNet of 2012, trained with and without one thing at a time: "
        f"{compared} comparisons of {experiments} experiments."
    )
    return text + (f" {waiting} experiments have not been run yet." if waiting else "")


def render_figure(result: Result) -> str:
    """Return the figure of a result as an SVG file: its panels, one below the other."""
    placed: list[tuple[int, Panel | Curves]] = []
    height = 8
    for each in panels(result):
        placed.append((height, each))
        height += each.height + GAP
    template = template_environment().get_template("reproduce/figure.svg.jinja")
    figure: str = template.render(placed=placed, height=height)
    return figure.strip() + "\n"


def shown(result: Result) -> dict[str, Any]:
    """Return the values that the page shows of a result."""
    figures = [*scalar_figures(result), *network_figures(result)]
    return {
        "name": result["experiment"],
        "question": result.get("question", result["experiment"]),
        "claim": "; ".join(
            f"{number} ({CLAIMS[number]})" if number in CLAIMS else str(number)
            for number in result.get("claims", ())
        ),
        "done": done_text(result),
        "figures": panels(result),
        "columns": [f"{short_name(name)},{unit_text(name)}".rstrip(",") for name in figures],
        "arms": [arm_row(name, arm, figures) for name, arm in result["arms"].items()],
        "comparisons": [comparison_row(each) for each in result["comparisons"]],
        "tried": tried_rows(result),
        "tried_by": short_name(tried_by(result)),
        "command": result.get("command", ""),
        "facts": facts(result),
    }


def done_text(result: Result) -> str:
    """Say in two sentences what was done, and what the budget leaves out."""
    data, settings = result.get("data", {}), result.get("settings", {})
    used, side = data.get("images", {}), data.get("side")
    parts = [counted(len(result["arms"]), "arm")]
    if "model" in settings:
        parts.append(f"of {settings['model']}")
    if "seeds" in result:
        parts.append(f"with {counted(result['seeds'], 'seed')} each")
    if "epochs" in settings:
        parts.append(f"for {counted(settings['epochs'], 'epoch')}")
    if "train" in used:
        parts.append(f"on {used['train']:,} training images of {side} x {side} pixels")
    if "test" in used:
        parts.append(f"and {used['test']:,} test images")
    hardware = f" On {result['hardware']}." if result.get("hardware") else ""
    return " ".join(parts) + "." + budget_text(result) + hardware


def budget_text(result: Result) -> str:
    """Say plainly that a budget takes a part of the data."""
    train = result.get("data", {}).get("images", {}).get("train", 0)
    whole = result.get("source", {}).get("images", {}).get("train", 0)
    if train >= whole:
        return ""
    return (
        f" Budget {result.get('budget')}: a part of the {whole:,} training images, so errors are "
        "higher than the published ones, and small effects may not show."
    )


def counted(number: int, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def scalar_figures(result: Result) -> list[str]:
    """List the figures that are one number for each training, those of test images first."""
    compared = {each["figure"] for each in result["comparisons"]}
    hidden = NOT_SHOWN | (OF_FEW - compared)
    names = [
        name
        for arm in result["arms"].values()
        for seed in arm["seeds"]
        for name, value in seed.items()
        if isinstance(value, int | float) and name not in hidden
    ]
    return sorted(dict.fromkeys(names), key=lambda name: not name.startswith("test_error"))


def network_figures(result: Result) -> list[str]:
    """List what is known of each arm's network, where their sizes differ."""
    networks = [arm["network"] for arm in result["arms"].values() if arm.get("network")]
    names = ("parameters", "macs", "seconds_per_epoch")
    return list(names) if len({each.get("macs") for each in networks}) > 1 else []


def arm_row(name: str, arm: Mapping[str, Any], figures: Sequence[str]) -> dict[str, Any]:
    """Return the cells of an arm: mean ± standard deviation of each figure."""
    changes = ", ".join(
        write_value(value) if isinstance(value, dict) else f"{setting} {write_value(value)}"
        for setting, value in arm.get("changes", {}).items()
    )
    network = arm.get("network") or {}
    values = [
        [network[figure]] if figure in network else [seed.get(figure) for seed in arm["seeds"]]
        for figure in figures
    ]
    return {
        "name": name,
        "changes": changes,
        "rate": f"{arm['rate']:g}" if arm.get("rate") else "",
        "figures": [
            spread_text(figure, found, unit=False) if any(v is not None for v in found) else ""
            for figure, found in zip(figures, values, strict=True)
        ],
    }


def comparison_row(each: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of a comparison."""
    found = each.get("difference")
    return {
        "compared": compared_text(each),
        "difference": difference_text(each["figure"], found) if found else "",
        "published": each.get("published") or "",
        "verdict": each["outcome"],
    }


def tried_by(result: Result) -> str:
    """Return the figure by which rates were chosen."""
    by_epochs = any(each["figure"] == RATIO for each in result["comparisons"])
    return RATIO if by_epochs else "val_error"


def tried_rows(result: Result) -> list[tuple[str, str, str]]:
    """List arm, rates with what they gave, and the chosen rate, where several were tried."""
    figure, rows = tried_by(result), []
    for name, arm in result["arms"].items():
        tried = arm.get("tried", ())
        texts = [f"{each['rate']:g}: {value_text(figure, each.get(figure))}" for each in tried]
        if len(tried) > 1:
            rows.append((name, "; ".join(texts), f"{arm['rate']:g}"))
    return rows


def value_text(figure: str, value: float | None) -> str:
    """Write a figure with its unit."""
    if value is None:
        return "not reached" if figure == RATIO else "not measured"
    return number_text(figure, value) + unit_text(figure)


def facts(result: Result) -> list[tuple[str, str]]:
    """List what else is needed to repeat an experiment."""
    data, source = result.get("data", {}), result.get("source", {})
    images = ", ".join(f"{count:,} {split}" for split, count in data.get("images", {}).items())
    versions = ", ".join(f"{name} {number}" for name, number in result.get("versions", {}).items())
    settings = ", ".join(
        f"{name} {write_value(value)}" for name, value in result.get("settings", {}).items()
    )
    entries = {
        "Data": f"{source.get('name', '')} {images}".strip(),
        "Fingerprint": data.get("fingerprint", ""),
        "Budget": result.get("budget", ""),
        "Seeds": ", ".join(map(str, range(result.get("seeds", 0)))),
        "Hardware": result.get("hardware", ""),
        "Trainings at a time": str(result.get("jobs", "")),
        "Software": versions,
        "Commit": result.get("commit", ""),
        "Settings": settings,
    }
    return [(name, text) for name, text in entries.items() if text]
