"""Run the notebooks and write their outputs into them; needs nbclient and ipykernel."""

import asyncio
import base64
import io
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

DOTS_PER_INCH = 80
"""Of pictures: the notebooks stay small enough to be kept with the code."""
LOOK = f"%config InlineBackend.rc = {{'figure.dpi': {DOTS_PER_INCH}}}"

WIDEST = 640


def smaller(png: str) -> str:
    """Return a picture (base64) with 128 colours, at most `WIDEST` pixels wide."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.thumbnail((WIDEST, 10 * WIDEST))
    file = io.BytesIO()
    picture.quantize(128).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


async def run(path: Path) -> None:
    """Run a notebook in a kernel of this Python, in its own folder."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}})
    async with client.async_setup_kernel():
        client.kc.execute(LOOK, store_history=False)
        for number, cell in enumerate(notebook.cells):
            await client.async_execute_cell(cell, number)
            cell.metadata.clear()  # times of execution, which differ each time
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    output["data"]["image/png"] = smaller(output["data"]["image/png"])
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        asyncio.run(run(Path(name).resolve()))
