"""How all figures look: sizes, colours, and writing them.

They have a white ground of their own, so that they can be read in print and on a dark page. Curves
and bars differ in lightness and pattern as well as in colour, so that they can be read in grey.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet.errors import UsageError
from alexnet.images import Pixels
from alexnet.storage.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2
"""Of a figure in inches: that of a page's text."""
DOTS_PER_INCH = 200
FORMATS = ("svg", "png")

INK, SOFT, RULE = "#1b1e23", "#59606b", "#d9dde3"
BLUE, ORANGE = "#17458f", "#d9731a"
PALE_BLUE, PALE = "#9dbdf0", "#dde1e7"

_STYLE = {
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.labelsize": 8,
    "figure.dpi": DOTS_PER_INCH,
    "figure.facecolor": "white",
    "font.size": 8,
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "svg.hashsalt": "alexnet",
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}


@dataclass(frozen=True)
class Drawing:
    """A figure that was drawn, and what it shows."""

    figure: "Figure"
    caption: str


def check_library() -> None:
    """Raise `UsageError` if the library that draws is not installed."""
    if find_spec("matplotlib") is None:
        raise UsageError("figures need: pip install 'alexnet[figures]'")


@contextmanager
def look() -> Iterator[None]:
    """Give all figures that are made and written in this context the same look."""
    import matplotlib as mpl

    style: dict[Any, Any] = _STYLE
    with mpl.rc_context(style):
        yield


def new_figure(height: float, width: float = WIDTH) -> "Figure":
    """Return an empty figure, in inches; it needs no display and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(drawing: Drawing, out: Path, name: str, formats: Sequence[str]) -> list[Path]:
    """Write a figure to `out`; the same figure gives the same bytes."""
    paths = [out / f"{name}.{kind}" for kind in formats]
    for path in paths:
        dates = {"Date": None} if path.suffix == ".svg" else {}
        with atomic_write(path) as temporary:
            drawing.figure.savefig(temporary, dpi=DOTS_PER_INCH, metadata=dates)
    return paths


def show_picture(axes: "Axes", picture: Pixels, title: str = "", **font: Any) -> None:
    """Draw a picture without axes, its pixels as they are."""
    axes.imshow(picture, interpolation="none" if picture.shape[0] > 64 else "nearest")
    axes.set_axis_off()
    if title:
        axes.set_title(title, **{"fontsize": 7, "fontweight": "normal", "pad": 3, **font})


def shorten(text: str, most: int = 18) -> str:
    """Cut a class's name so that it fits; display names have their synonyms after a comma."""
    first = text.partition(",")[0]
    return first if len(first) <= most else first[: most - 1].rstrip() + "…"


def percent(fraction: float) -> str:
    """Write a fraction as "6.2 %", or "62 %" from a tenth on."""
    return f"{100 * fraction:.0f} %" if fraction >= 0.0995 else f"{100 * fraction:.1f} %"
