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
.pairs + .wide, .charts + .wide { margin-top: 16px; }
.wide + p, .wide + .charts { margin-top: 14px; }
.soft + .pairs { margin-top: 20px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; color: var(--soft); white-space: nowrap; }
.charts { display: grid; gap: 20px;
          grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
.charts svg { width: 100%; max-width: 560px; height: auto; }
.pairs { display: grid; gap: 20px;
         grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--width)), 1fr)); }
figure { margin: 0; background: var(--panel); border-radius: 8px; padding: 10px; }
figure .row { display: flex; gap: 8px; } figure .row > div { flex: 1; min-width: 0; }
figure img { width: 100%; height: auto; display: block; border-radius: 4px; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 6px; overflow-wrap: anywhere; }
.label { color: var(--soft); font-size: 12px; margin-bottom: 3px; overflow-wrap: anywhere; }
nav { margin: 14px 0 0; font-size: 13px; } nav a { color: var(--soft); margin-right: 14px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 12px;
         margin: 22px 0 6px; }
.cards div { background: var(--panel); border-radius: 10px; padding: 12px 14px; }
.cards b { display: block; font-size: 24px; font-weight: 650; font-variant-numeric: tabular-nums; }
.cards span { color: var(--soft); font-size: 12.5px; }
.tall { max-height: 560px; overflow: auto; border: 1px solid var(--line); border-radius: 8px; }
.tall table { width: 100%; font-size: 13.5px; } .tall th, .tall td { padding: 5px 9px; }
.text { text-align: left; } .tall thead th { position: sticky; top: 0; background: var(--panel); }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid #0072b2; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td.better { color: #00875f; } td.worse { color: #c2410c; }
.heatmap { font-size: 12px; } .heatmap td { text-align: center; padding: 3px 5px; min-width: 34px;
           border: 1px solid var(--line); } .heatmap th { padding: 3px 8px; text-align: right;
           font-weight: 500; border: 0; white-space: nowrap; }
.heatmap .turned { height: 92px; vertical-align: bottom; padding: 0 2px 6px; text-align: center; }
.heatmap .turned span { writing-mode: vertical-rl; transform: rotate(180deg); }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin: 0 5px 0 12px; }
"""
_TEXT = ' class="text"'
# Click on the head of a column to sort by it: numbers by value, largest first, texts by letters.
_SORT = """
document.querySelectorAll("table.sortable").forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const cells = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const numeric = [...body.rows].every(row => cells(row) === "" || !isNaN(cells(row)));
    const first = numeric ? "descending" : "ascending";
    const other = numeric ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    heads.forEach(each => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    [...body.rows].sort((one, two) => {
      const [a, b] = [cells(one), cells(two)];
      if (a === "" || b === "") return (a === "") - (b === "");  // what is missing comes last
      return sign * (numeric ? a - b : a.localeCompare(b));
    }).forEach(row => body.append(row));
  }));
});
"""


class Page:
    """An HTML page, written section by section. Texts are escaped; nothing is interpreted."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]
        if subtitle:
            self._parts.append(f'<p class="soft">{escape(subtitle)}</p>')
        self._headings: list[str] = []
        self._contents_at: int | None = None
        self._sortable = False

    def contents(self) -> None:
        """Links to all headings of the page, here."""
        self._contents_at = len(self._parts)

    def heading(self, text: str) -> None:
        self._headings.append(text)
        self._parts.append(f'<h2 id="part{len(self._headings)}">{escape(text)}</h2>')

    def cards(self, numbers: Mapping[str, str]) -> None:
        """Large numbers with a word below each, `{word: number}`."""
        cards = "".join(
            f"<div><b>{escape(number)}</b><span>{escape(word)}</span></div>"
            for word, number in numbers.items()
        )
        self._parts.append(f'<div class="cards">{cards}</div>')

    def drawing(self, element: str) -> None:
        """An element of `heatmap`, which may be wider than the page."""
        self._parts.append(f'<div class="wide">{element}</div>')

    def color_key(self, colors: Mapping[str, str]) -> None:
        """What colours of pictures mean, `{meaning: CSS colour}`."""
        keys = "".join(
            f'<span class="key" style="background:{escape(color, quote=True)}"></span>'
            f"{escape(meaning)}"
            for meaning, color in colors.items()
        )
        self._parts.append(f"<p>{keys}</p>")

    def paragraph(self, text: str) -> None:
        self._parts.append(f"<p>{escape(text)}</p>")

    def code(self, text: str) -> None:
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def sortable_table(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[object]],
        signed: Sequence[str] = (),
    ) -> None:
        """`table` that scrolls, and is sorted by a column when its head is clicked.

        Args:
            signed: columns of differences, which say whether something became better or worse.
        """
        self._sortable = True
        rows = [list(row) for row in rows]
        texts = [all(isinstance(row[i], str) for row in rows) for i in range(len(header))]
        head = "".join(
            f'<th scope="col"{_TEXT if is_text else ""}>'
            f'<button type="button">{escape(name)}</button></th>'
            for name, is_text in zip(header, texts)
        )
        body = "".join(
            "<tr>"
            + "".join(_sortable_cell(value, name in signed) for name, value in zip(header, row))
            + "</tr>"
            for row in rows
        )
        self._parts.append(
            f'<div class="tall"><table class="sortable"><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

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

    def gallery(
        self, figures: Iterable[tuple[str, Mapping[str, np.ndarray]]], width: int = 320
    ) -> None:
        """Pictures side by side, `(caption, {label: picture})`, as in `picture_source`.

        Args:
            width: of a figure at least, in pixels of the page.
        """
        shown = []
        for caption, pictures in figures:
            cells = "".join(
                _picture(label, picture, caption) for label, picture in pictures.items()
            )
            shown.append(
                f'<figure><div class="row">{cells}</div>'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        self._parts.append(f'<div class="pairs" style="--width:{width}px">{"".join(shown)}</div>')

    def html(self) -> str:
        parts = list(self._parts)
        if self._contents_at is not None:
            links = (
                f'<a href="#part{number}">{escape(text)}</a>'
                for number, text in enumerate(self._headings, start=1)
            )
            parts.insert(self._contents_at, f"<nav>{''.join(links)}</nav>")
        if self._sortable:
            parts.append(f"<script>{_SORT}</script>")
        body = "\n".join(parts)
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


def _sortable_cell(value: object, signed: bool) -> str:
    shown = escape(_cell(value))
    if not isinstance(value, (int, float)):
        return f"<td{_TEXT}>{shown}</td>"
    missing = value != value
    color = ""
    if signed and not missing and value:
        shown = f"+{shown}" if value > 0 else shown
        color = f' class="{"better" if value > 0 else "worse"}"'
    return f'<td{color} data-value="{"" if missing else f"{value:.6g}"}">{shown}</td>'


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.2f}"
    return str(value)
