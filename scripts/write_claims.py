"""Write the page and figures of results/reproduce/, and the table of claims in docs/paper.md.

    python scripts/write_claims.py

All of it comes from results/reproduce/NAME.json, which `alexnet reproduce` wrote.
"""

from pathlib import Path

from alexnet.reproduce.claims import claim_rows, with_table
from alexnet.reproduce.page import write_page
from alexnet.reproduce.results import read_results

ROOT = Path(__file__).parents[1]
RESULTS, DOCUMENT = ROOT / "results/reproduce", ROOT / "docs/paper.md"


def main() -> None:
    """Write them."""
    write_page(RESULTS)
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(with_table(text, claim_rows(read_results(RESULTS))), encoding="utf-8")


if __name__ == "__main__":
    main()
