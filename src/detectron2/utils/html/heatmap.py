"""A matrix of counts as a table whose cells are shaded."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["heatmap"]


def heatmap(rows: Sequence[str], columns: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """`<table>` element; a cell is as dark as its share of its row.

    Cells of equal names are right, the others errors, and they differ in colour.
    """
    head = "".join(f'<th class="turned"><span>{escape(name)}</span></th>' for name in columns)
    body = []
    for name, counts in zip(rows, matrix, strict=True):
        total = sum(counts) or 1
        cells = [
            _cell(count, count / total, name == column, f"{name} → {column}")
            for column, count in zip(columns, counts, strict=True)
        ]
        body.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    return (
        f'<table class="heatmap"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _cell(count: int, share: float, right: bool, hint: str) -> str:
    if not count:
        return "<td></td>"
    color = "0,158,115" if right else "213,94,0"
    title = escape(f"{hint}: {count} ({share:.0%})", quote=True)
    shade = f"rgba({color},{0.08 + 0.82 * share:.2f})"
    return f'<td title="{title}" style="background:{shade}">{count}</td>'
