"""One HTML file with everything inside: no script or picture is fetched from anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from detectron2.utils.files import atomic_write_text
from detectron2.utils.html.chart import Series, line_chart

__all__ = ["Page", "picture_source"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5c6675; --line: #d9dee6;
        --ground: #ffffff; --panel: #f5f7fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #9aa5b5; --line: #333c49; --ground: #14181e; --panel: #1c222b; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 32px 20px 64px; background: var(--ground);
       color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 28px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 40px 0 12px; }
p { margin: 6px 0; max-width: 76ch; } .soft { color: var(--soft); }
code, pre { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; background: var(--panel); }
code { padding: 1px 5px; border-radius: 4px; } pre { padding: 12px; border-radius: 8px;
       overflow-x: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 20px; }
.charts svg { width: 100%; height: auto; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 20px; }
figure { margin: 0; background: var(--panel); border-radius: 8px; padding: 10px; }
figure .row { display: flex; gap: 8px; } figure .row > div { flex: 1; min-width: 0; }
figure img { width: 100%; height: auto; display: block; border-radius: 4px; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 6px; overflow-wrap: anywhere; }
.label { color: var(--soft); font-size: 12px; margin-bottom: 3px; overflow-wrap: anywhere; }
"""


class Page:
    """An HTML page, written section by section. Texts are escaped; nothing is interpreted."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]
        if subtitle:
            self._parts.append(f'<p class="soft">{escape(subtitle)}</p>')

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        self._parts.append(f"<p>{escape(text)}</p>")

    def code(self, text: str) -> None:
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Table whose floats show two decimals; NaN, the metric of an absent class, a dash."""
        head = "".join(f"<th>{escape(name)}</th>" for name in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row) + "</tr>"
            for row in rows
        )
        self._parts.append(
            f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def charts(self, charts: Mapping[str, Sequence[Series]]) -> None:
        """Line charts in a grid, `{title: series}`."""
        self.drawings(line_chart(title, series) for title, series in charts.items())

    def drawings(self, drawn: Iterable[str]) -> None:
        """`<svg>` elements in a grid, such as those of `histogram` and `heat_map`."""
        self._parts.append(f'<div class="charts">{"".join(drawn)}</div>')

    def gallery(self, figures: Iterable[tuple[str, Mapping[str, np.ndarray]]]) -> None:
        """Pictures side by side, `(caption, {label: picture})`, as in `picture_source`."""
        shown = []
        for caption, pictures in figures:
            cells = "".join(
                _picture(label, picture, caption) for label, picture in pictures.items()
            )
            shown.append(
                f'<figure><div class="row">{cells}</div>'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        self._parts.append(f'<div class="pairs">{"".join(shown)}</div>')

    def html(self) -> str:
        body = "\n".join(self._parts)
        # The empty icon keeps browsers from asking for /favicon.ico.
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>{escape(self.title)}</title><link rel="icon" href="data:,">'
            f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page, all of it or nothing."""
        return atomic_write_text(path, self.html())


def picture_source(picture: np.ndarray) -> str:
    """`data:` address of a (H, W, 3) uint8 RGB picture, as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _picture(label: str, picture: np.ndarray, caption: str) -> str:
    text = escape(f"{label}: {caption}", quote=True)
    return (
        f'<div><div class="label">{escape(label)}</div>'
        f'<img src="{picture_source(picture)}" alt="{text}"></div>'
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.2f}"
    return str(value)
