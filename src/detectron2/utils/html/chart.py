"""Line charts as inline SVG: no library, no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["COLORS", "Series", "line_chart", "text"]

_WIDTH, _HEIGHT = 480, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 48, 34
# Okabe-Ito colours: distinguishable with every common colour blindness.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_TARGET_TICKS = 5


@dataclass(frozen=True)
class Series:
    """One line of a chart: `y` over `x`, equally long. Points that are not finite are skipped."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str = "iteration",
    mark: tuple[float, str] | None = None,
) -> str:
    """`<svg>` element with axes, ticks, a legend and one line per series.

    Args:
        mark: an x to mark with a dashed line, and what to write beside it.

    Raises:
        ValueError: there is no finite point to draw.
    """
    lines = [(one.name, _finite_points(one)) for one in series]
    points = [point for _, line in lines for point in line]
    if not points:
        raise ValueError(f"Chart {title!r} has no finite point to draw.")
    x_ticks = _ticks(min(p[0] for p in points), max(p[0] for p in points))
    y_ticks = _ticks(min(0.0, *(p[1] for p in points)), max(p[1] for p in points))
    to_pixel = _Frame(x_ticks[0], max(p[0] for p in points), y_ticks[0], y_ticks[-1])
    parts = [text(_LEFT, 18, title, "start", 14, bold=True)]
    parts += _axes(x_ticks, y_ticks, to_pixel, x_label)
    for index, (_, line) in enumerate(lines):
        color = COLORS[index % len(COLORS)]
        path = " ".join(f"{to_pixel.x(x):.1f},{to_pixel.y(y):.1f}" for x, y in line)
        parts.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.8" points="{path}"/>')
    if len(lines) > 1:
        parts += _legend([name for name, _ in lines])
    if mark is not None:
        parts += _mark(to_pixel.x(mark[0]), mark[1])
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title, quote=True)}"'
        f' xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _legend(names: Sequence[str]) -> list[str]:
    """Names side by side under the title, as wide as their texts."""
    parts = []
    x = float(_LEFT)
    for index, name in enumerate(names):
        color = COLORS[index % len(COLORS)]
        parts.append(f'<rect x="{x:.1f}" y="31" width="12" height="3" fill="{color}"/>')
        parts.append(text(x + 17, 36, name, "start", 11))
        x += 34 + 6.2 * len(name)
    return parts


def _mark(x: float, words: str) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    anchor, shift = ("start", 5) if x < 0.6 * _WIDTH else ("end", -5)
    return [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}" stroke="currentColor"'
        ' stroke-dasharray="4 3" stroke-opacity="0.6"/>',
        text(x + shift, bottom - 8, words, anchor, 11),
    ]


@dataclass(frozen=True)
class _Frame:
    """Data coordinates to pixels of the chart."""

    x_min: float
    x_max: float
    y_min: float
    y_max: float

    def x(self, value: float) -> float:
        span = (self.x_max - self.x_min) or 1.0
        return _LEFT + (value - self.x_min) / span * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        span = (self.y_max - self.y_min) or 1.0
        return _HEIGHT - _BOTTOM - (value - self.y_min) / span * (_HEIGHT - _TOP - _BOTTOM)


def _finite_points(series: Series) -> list[tuple[float, float]]:
    pairs = zip(series.x, series.y, strict=True)
    return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) from below `low` to above `high`."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / _TARGET_TICKS))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= _TARGET_TICKS)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _axes(x_ticks: list[float], y_ticks: list[float], to_pixel: _Frame, x_label: str) -> list[str]:
    parts = []
    for value in y_ticks:
        y = to_pixel.y(value)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
            ' stroke="currentColor" stroke-opacity="0.15"/>'
        )
        parts.append(text(_LEFT - 6, y + 4, f"{value:g}", "end", 11))
    for value in x_ticks:
        if to_pixel.x_min <= value <= to_pixel.x_max:
            parts.append(text(to_pixel.x(value), _HEIGHT - 18, f"{value:g}", "middle", 11))
    parts.append(text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, x_label, "middle", 11))
    return parts


def text(x: float, y: float, words: str, anchor: str, size: int, bold: bool = False) -> str:
    """`<text>` element in the colour of the page."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight}'
        f' font-family="sans-serif" fill="currentColor">{escape(words)}</text>'
    )
