"""HTML of objects. All texts are escaped; colours suit a light page and a dark one."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

CELL = "padding:.1rem .8rem .1rem 0;text-align:{}"
TRACK = "display:inline-block;width:12rem;height:.7rem;background:#8883"
BAR = "display:block;height:100%;background:#3d7edb;width:{:.1f}%"


class ShownAsBars:
    """How the prediction of an image's classes shows itself; in a notebook as bars."""

    image: str
    predictions: tuple[tuple[str, float], ...]
    titles: tuple[str, ...]

    def __repr__(self) -> str:
        shares = zip(self.titles, self.predictions, strict=True)
        texts = (f"{title} {probability:.1%}" for title, (_, probability) in shares)
        return f"Prediction({self.image!r}: {', '.join(texts)})"

    def _repr_html_(self) -> str:
        shares = [probability for _, probability in self.predictions]
        bars = [
            f'<span style="{TRACK}"><span style="{BAR.format(100 * p)}"></span></span>'
            for p in shares
        ]
        rows = zip(map(escape, self.titles), (f"{p:.2%}" for p in shares), bars, strict=True)
        return f"<p>{escape(self.image)}</p>{_table(rows, right=(1,))}"


def facts(title: str, values: Mapping[str, object]) -> str:
    """Return an object's name with its facts below, one to a line."""
    return f"<p><b>{escape(title)}</b></p>{table((), values.items()) if values else ''}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Return a table of texts and numbers; the columns with the numbers `right` end flush right."""
    return _table(([escape(str(cell)) for cell in row] for row in rows), right, head)


def _table(
    rows: Iterable[Sequence[str]], right: Sequence[int] = (), head: Sequence[str] = ()
) -> str:
    """Lay out cells of HTML."""

    def line(cells: Sequence[str], tag: str) -> str:
        sides = ["right" if number in right else "left" for number in range(len(cells))]
        styles = map(CELL.format, sides)
        row = (f'<{tag} style="{s}">{cell}</{tag}>' for s, cell in zip(styles, cells, strict=True))
        return f"<tr>{''.join(row)}</tr>"

    top = f"<thead>{line([escape(cell) for cell in head], 'th')}</thead>" if head else ""
    return f"<table>{top}<tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table>"
