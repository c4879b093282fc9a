"""Horizontal bars as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from detectron2.utils.html.chart import COLORS, text

__all__ = ["Bar", "bar_chart"]

_WIDTH, _LABEL, _NOTE = 480, 150, 92
_ROW, _BAR, _TOP = 26, 14, 34


@dataclass(frozen=True)
class Bar:
    """A row of a chart: one bar for each of `values`, and a note behind them.

    A value that is not a number, such as the metric of nothing, gets no bar.
    """

    label: str
    values: Sequence[float]
    note: str = ""


def bar_chart(
    title: str, bars: Sequence[Bar], series: Sequence[str] = (), largest: float | None = None
) -> str:
    """`<svg>` element with the bars of each row below one another.

    Args:
        series: name of each value of a row, for a legend.
        largest: value of a full bar; None: the largest there is.
    """
    values = [v for bar in bars for v in bar.values if v == v]
    full = largest or max([*values, 0.0]) or 1.0
    top = _TOP + (18 if series else 0)
    height_of_bar = _BAR / max(1, *(len(bar.values) for bar in bars), 1)
    parts = [text(0, 18, title, "start", 14, bold=True)]
    for index, name in enumerate(series):
        x = _LABEL + 120 * index
        parts.append(_rectangle(x, 30, 12, 8, index))
        parts.append(text(x + 17, 38, name, "start", 11))
    room = _WIDTH - _LABEL - _NOTE
    for row, bar in enumerate(bars):
        y = top + _ROW * row
        parts.append(text(_LABEL - 8, y + 13, bar.label, "end", 12))
        for index, value in enumerate(bar.values):
            length = max(0.0, min(1.0, value / full)) * room if value == value else 0.0
            parts.append(
                _rectangle(_LABEL, y + 2 + index * height_of_bar, length, height_of_bar - 1, index)
            )
        parts.append(text(_WIDTH, y + 13, bar.note, "end", 12))
    height = top + _ROW * len(bars) + 4
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}"'
        f' xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _rectangle(x: float, y: float, width: float, height: float, color: int) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2"'
        f' fill="{COLORS[color % len(COLORS)]}"/>'
    )
