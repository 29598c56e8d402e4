"""Draw a picture of the embedded drawings for the documentation: one row per class.

python scripts/drawings_sheet.py docs/drawings.webp
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet.demo.drawings import CLASSES, draw_picture

GAP = 4


def sheet(columns: int) -> Image.Image:
    """Arrange the first test pictures of each class in a row, on white."""
    pictures = np.stack(
        [draw_picture(0, "test", index) for index in range(columns * len(CLASSES))]
    ).reshape(columns, len(CLASSES), 64, 64, 3)
    rows = pictures.transpose(1, 0, 2, 3, 4)  # index i shows class i % 10
    spaced = np.pad(rows, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    lines = [np.concatenate(list(row), axis=1) for row in spaced]
    return Image.fromarray(np.concatenate(lines)[:-GAP, :-GAP])


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="image to write")
    parser.add_argument("--columns", type=int, default=12)
    options = parser.parse_args()
    sheet(options.columns).save(options.file, quality=80)


if __name__ == "__main__":
    main()
