"""A training's losses and errors by epoch, as pictures for a notebook."""

from collections.abc import Sequence
from html import escape

from alexnet.analysis.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Chart, Curve, Tick
from alexnet.analysis.report.page import learning_curves
from alexnet.storage.metrics_log import Row

COLOURS = ("#3d7edb", "#d9731a")
"""Of the curves in a chart; they can be told apart on a light page and on a dark one."""


def curves_html(rows: Sequence[Row]) -> str:
    """Draw loss and error by epoch; `rows` are those of epochs in metrics.jsonl."""
    charts = map(_picture, learning_curves(list(rows)))
    return f'<div style="display:flex;flex-wrap:wrap;gap:1rem">{"".join(charts)}</div>'


def _picture(chart: Chart) -> str:
    """Write a chart as SVG, with its title and its curves' names above."""
    curves = list(zip(chart.curves, COLOURS, strict=False))
    names = [
        f'<span style="color:{c}">{escape(curve.name)} {curve.last}</span>' for curve, c in curves
    ]
    drawn = [_tick_line(tick) for tick in chart.y_ticks]
    drawn += [_text(tick.position, BOTTOM + 20, tick.text, "middle") for tick in chart.x_ticks]
    drawn.append(_text((LEFT + RIGHT) / 2, HEIGHT - 6, "epoch", "middle"))
    drawn += [_line(curve, colour) for curve, colour in curves]
    return (
        f'<div style="width:26rem;max-width:100%"><b>{escape(chart.title)}</b> '
        f'{escape(chart.unit)}<br>{" · ".join(names)}<svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(chart.description)}" fill="currentColor" '
        f'font-size="13">{"".join(drawn)}</svg></div>'
    )


def _line(curve: Curve, colour: str) -> str:
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in curve.points)
    line = f'<polyline points="{curve.path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    return f'{line}<g fill="{colour}">{dots}</g>'


def _tick_line(tick: Tick) -> str:
    ends = " ".join(f'{name}="{tick.position:.1f}"' for name in ("y1", "y2"))
    line = f'<line x1="{LEFT}" x2="{RIGHT}" {ends} stroke="currentColor" opacity=".2"/>'
    return line + _text(LEFT - 8, tick.position + 4, tick.text, "end")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
