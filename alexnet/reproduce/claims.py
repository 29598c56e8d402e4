"""The table of claims: what is claimed, what was published, what was measured, and the verdict.

The page of all results and docs/paper.md show the same rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alexnet.reproduce.experiments import EXPERIMENTS
from alexnet.reproduce.plan import Experiment
from alexnet.reproduce.results import Result
from alexnet.reproduce.wording import compared_text, difference_text, spread_text, unit_text

NOT_RUN = "not run yet"

CLAIMS = {
    4: "pooling before normalisation, or after it",
    6: "ReLU trains much faster than tanh and sigmoid",
    7: "overlapping pools keep the features",
    8: "dropout prevents overfitting",
    10: "normalisation helps generalisation",
    11: "newer networks rarely normalise so",
    12: "layers split across two devices: what two towers contribute",
    13: "the two towers learn different filters",
    17: "crops, flips and colour jitter reduce overfitting",
    18: "gradient descent with momentum",
    20: "better than computer vision before it",
    21: "it led to VGGNet, GoogLeNet and ResNet",
    22: "filters for edges, textures, parts of objects",
    24: "depth matters",
    25: "averaging ten views lowers the error",
}
"""Those of docs/paper.md that training can show."""


@dataclass(frozen=True)
class Row:
    """One comparison, or an experiment without a result."""

    experiment: str
    claim: str
    """Numbers and texts of the claims, or the experiment's question."""
    compared: str
    published: str
    ours: str
    """Both means ± their standard deviation over the seeds."""
    difference: str
    """The mean difference with its interval."""
    seeds: str
    data: str
    hardware: str
    command: str
    verdict: str
    is_first: bool = True
    """Whether it is the first of its experiment; the others repeat what concerns them all."""


def claim_rows(results: Sequence[Result]) -> list[Row]:
    """Return the rows of all experiments, in the order of their claims."""
    found = {result["experiment"]: result for result in results}
    groups = [(tuple(result.get("claims", ())), result_rows(result)) for result in results]
    groups += [
        (plan.claims, [row_without_result(plan)])
        for name, plan in EXPERIMENTS.items()
        if name not in found
    ]
    # Those that show no claim come last.
    groups.sort(key=lambda group: group[0] or (99,))
    return [row for _, rows in groups for row in rows]


def result_rows(result: Result) -> list[Row]:
    """Return a row for each comparison of a result."""
    return [
        Row(
            experiment=result["experiment"],
            claim=claim_text(result.get("claims", ()), result.get("question", "")),
            compared=compared_text(each),
            published=each.get("published") or "",
            ours=ours_text(each),
            difference=found_text(each),
            seeds=str(result.get("seeds", "")),
            data=data_text(result),
            hardware=result.get("hardware", ""),
            command=result.get("command", f"alexnet reproduce {result['experiment']}"),
            verdict=each["outcome"],
            is_first=number == 0,
        )
        for number, each in enumerate(result["comparisons"])
    ]


def row_without_result(plan: Experiment) -> Row:
    """Return the row of an experiment that has not been run."""
    published = dict.fromkeys(each.published for each in plan.comparisons if each.published)
    return Row(
        experiment=plan.name,
        claim=claim_text(plan.claims, plan.question),
        compared="",
        published="; ".join(published),
        ours="",
        difference="",
        seeds="",
        data="",
        hardware="",
        command=f"alexnet reproduce {plan.name}",
        verdict=NOT_RUN,
    )


def claim_text(claims: Iterable[int], question: str) -> str:
    """Write claims as "6: ReLU trains much faster"; an experiment without one by its question."""
    texts = [f"{number}: {CLAIMS[number]}" for number in claims if number in CLAIMS]
    return "; ".join(texts) or question


def ours_text(each: Mapping[str, Any]) -> str:
    """Write both means with their spread: "11.9 ± 0.2 against 13.4 ± 0.3 %"."""
    figure, values = each["figure"], each.get("values", {})
    sides = [("first", figure), ("second", each.get("of_second") or figure)]
    texts = [spread_text(name, values[side], unit=False) for side, name in sides if side in values]
    unit = unit_text(figure) if texts and texts[-1][0].isdigit() else ""
    return " against ".join(texts) + unit


def found_text(each: Mapping[str, Any]) -> str:
    """Write the difference with its interval; nothing where there is none."""
    found = each.get("difference")
    return difference_text(each["figure"], found) if found else ""


def data_text(result: Result) -> str:
    """Name the data set, and how many of its images served."""
    data, source = result.get("data", {}), result.get("source", {})
    used, whole = data.get("images", {}), source.get("images", {})
    parts = []
    if "train" in used:
        of_all = f" of {whole['train']:,}" if whole.get("train", 0) > used["train"] else ""
        parts.append(f"{used['train']:,}{of_all} training images")
    if "test" in used:
        parts.append(f"{used['test']:,} test images")
    name = source.get("name", "")
    return f"{name}: {', '.join(parts)}" if name and parts else name or ", ".join(parts)


# The table of docs/paper.md.

BEGIN, END = "<!-- claims: written by make claims -->", "<!-- end of claims -->"
FOLDER = "../results/reproduce"
"""Of the results, from the document."""
COLUMNS = (
    "claim",
    "compared",
    "published",
    "ours",
    "difference",
    "seeds",
    "verdict",
    "data, hardware, command",
)


def markdown_table(rows: Sequence[Row]) -> str:
    """Write the rows as a table in Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(markdown_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def markdown_cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row; data, hardware and command only in the first of an experiment."""
    made = [row.data, row.hardware, f"`{row.command}`"] if row.is_first else []
    if made and row.verdict != NOT_RUN:
        made.append(f"[figure]({FOLDER}/{row.experiment}.svg)")
    cells = (
        row.claim if row.is_first else "",
        row.compared,
        row.published,
        row.ours,
        row.difference,
        row.seeds,
        f"**{row.verdict}**" if row.verdict != NOT_RUN else row.verdict,
        "<br>".join(text for text in made if text),
    )
    return tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in cells)


def with_table(document: str, rows: Sequence[Row]) -> str:
    """Return a document with the table anew between its two marks.

    Raises `ValueError` if it lacks a mark.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the document lacks {BEGIN} or {END}")
    return f"{before}{begin}\n\n{markdown_table(rows)}\n\n{end}{after}"
