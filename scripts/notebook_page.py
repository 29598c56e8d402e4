"""A notebook as a page for the site of `make docs`: its text, its code and their outputs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_notebook_page(path: Path) -> str:
    """Return the page, in Markdown."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join(line for cell in cells for line in write_cell(cell))


def write_cell(cell: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a cell."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield from (source, "")
        return
    yield from ("```python", source, "```", "")
    if printed := "".join("".join(output.get("text", "")) for output in cell["outputs"]):
        yield from ("```text", printed.rstrip(), "```", "")
    for output in cell["outputs"]:
        data = output.get("data", {})
        if picture := "".join(data.get("image/png", "")).strip():
            yield from (f"![Output of the cell above](data:image/png;base64,{picture})", "")
        elif html := "".join(data.get("text/html", "")):
            # On one line: an empty one would end the HTML.
            yield from (f"<div>{' '.join(html.split())}</div>", "")
