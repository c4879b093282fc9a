"""Histograms, bars and heat maps as inline SVG, of the size and style of the line charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from detectron2.utils.html.chart import (
    _BOTTOM,
    _HEIGHT,
    _LEFT,
    _RIGHT,
    _TOP,
    _WIDTH,
    COLORS,
    _ticks,
    text,
)

__all__ = ["heat_map", "histogram", "rows_of_bars"]

_ROW = 18
_NAME_WIDTH = 130
_LONGEST_NAME = 20


def histogram(title: str, edges: Sequence[str], counts: Mapping[str, Sequence[int]]) -> str:
    """Bars between labelled edges, one group of bars per series.

    Args:
        title: above the chart.
        edges: N + 1 labels at the borders of the N bars; empty ones leave a border unlabelled.
        counts: name of a series to its N counts. Several series stand beside each other.

    Raises:
        ValueError: a series has not one count less than there are edges.
    """
    bins = len(edges) - 1
    for name, values in counts.items():
        if len(values) != bins:
            raise ValueError(f"{name!r} has {len(values)} counts for {bins} bars of {title!r}.")
    top = max([1, *(value for values in counts.values() for value in values)])
    ticks = [tick for tick in _ticks(0, top) if tick == int(tick)]
    parts = [text(_LEFT, 18, title, "start", 14, bold=True)]
    floor, scale = _HEIGHT - _BOTTOM, (_HEIGHT - _TOP - _BOTTOM) / ticks[-1]
    for tick in ticks:
        y = floor - tick * scale
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
            ' stroke="currentColor" stroke-opacity="0.15"/>'
        )
        parts.append(text(_LEFT - 6, y + 4, f"{tick:g}", "end", 11))
    step = (_WIDTH - _LEFT - _RIGHT) / bins
    width = 0.9 * step / max(1, len(counts))
    for number, (name, values) in enumerate(counts.items()):
        for i, value in enumerate(values):
            x = _LEFT + step * (i + 0.05) + width * number
            parts.append(_bar(x, floor - value * scale, width, value * scale, number, name, value))
    for i, label in enumerate(edges):
        parts.append(text(_LEFT + step * i, _HEIGHT - 18, label, "middle", 11))
    return _svg(title, parts + _legend(list(counts)), _HEIGHT)


def rows_of_bars(title: str, rows: Mapping[str, Sequence[int]], series: Sequence[str]) -> str:
    """Horizontal bars, a row per name; the chart is as high as there are rows.

    Args:
        title: above the chart.
        rows: name to a count for each of `series`.
        series: names of the counts, which stand beneath each other.
    """
    top = max([1, *(value for values in rows.values() for value in values)])
    scale = (_WIDTH - _NAME_WIDTH - 60) / top
    thickness = _ROW * 0.8 / max(1, len(series))
    parts = [text(8, 18, title, "start", 14, bold=True)]
    for row, (name, values) in enumerate(rows.items()):
        y = _TOP + 12 + _ROW * row
        short = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
        parts.append(text(_NAME_WIDTH - 6, y + 12, short, "end", 11))
        for number, value in enumerate(values):
            bar_y = y + 2 + thickness * number
            parts.append(
                _bar(_NAME_WIDTH, bar_y, value * scale, thickness, number, f"{name}, "
                     f"{series[number]}", value)
            )  # fmt: skip
        label = " + ".join(map(str, values))
        parts.append(text(_NAME_WIDTH + max(values) * scale + 5, y + 12, label, "start", 10))
    return _svg(title, parts + _legend(series), _TOP + 24 + _ROW * len(rows))


def heat_map(title: str, counts: np.ndarray, note: str = "") -> str:
    """Cells of an (H, W) array of counts, darker where there are more."""
    rows, columns = counts.shape
    side = min((_HEIGHT - _TOP - _BOTTOM) / rows, (_WIDTH - _LEFT - _RIGHT) / columns)
    top = max(1, int(counts.max(initial=0)))
    parts = [text(_LEFT, 18, title, "start", 14, bold=True)]
    for (y, x), value in np.ndenumerate(counts):
        parts.append(
            f'<rect x="{_LEFT + side * x:.1f}" y="{_TOP + side * y:.1f}" width="{side:.1f}"'
            f' height="{side:.1f}" fill="{COLORS[0]}" fill-opacity="{value / top:.3f}"'
            f' stroke="currentColor" stroke-opacity="0.08"><title>{int(value)}</title></rect>'
        )
    parts.append(text(_LEFT, _HEIGHT - 10, note, "start", 11))
    return _svg(title, parts, _HEIGHT)


def _bar(
    x: float, y: float, width: float, height: float, number: int, name: str, value: int
) -> str:
    color = COLORS[number % len(COLORS)]
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}">'
        f"<title>{escape(name)}: {value}</title></rect>"
    )


def _legend(names: Sequence[str]) -> list[str]:
    if len(names) < 2:
        return []
    parts = []
    for number, name in enumerate(names):
        x = _WIDTH - _RIGHT - 70 * (len(names) - number)
        color = COLORS[number % len(COLORS)]
        parts.append(f'<rect x="{x}" y="9" width="10" height="10" fill="{color}"/>')
        parts.append(text(x + 14, 18, name, "start", 11))
    return parts


def _svg(title: str, parts: Sequence[str], height: float) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" '
        f'aria-label="{escape(title, quote=True)}" xmlns="http://www.w3.org/2000/svg" '
        f'style="max-width: {1.2 * _WIDTH:g}px">'
        f"{''.join(parts)}</svg>"
    )
