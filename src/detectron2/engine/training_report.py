"""An HTML page about a running training, which the browser loads again while it runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from detectron2.utils.events import EventWriter, get_event_storage
from detectron2.utils.files import atomic_write_text
from detectron2.utils.html import Page, Series

__all__ = ["ReportWriter"]

_REFRESH_SECONDS = 15
_LOSS_CHARTS = 8
_OTHERS = {
    "Learning rate": "lr",
    "Gradient norm": "gradient_norm",
    "Seconds per step": "time",
    "Seconds per step spent waiting for data": "data_time",
    "Images per second": "images_per_second",
}

Figure = tuple[str, Mapping[str, np.ndarray]]


class ReportWriter(EventWriter):
    """Writes ``training.html``: losses, learning rate, gradients, speed, metrics and pictures.

    It reads ``metrics.json``, so register it behind the `JSONWriter`; a resumed run shows the
    whole training.

    Attributes:
        figures: pictures to show, replaced by who draws new ones.
    """

    def __init__(self, output_dir: str, max_iter: int, min_seconds: float = 5.0) -> None:
        """
        Args:
            output_dir: folder of metrics.json and of the page.
            max_iter: iterations of the whole training.
            min_seconds: between two pages.
        """
        self._folder = output_dir
        self._max_iter = max_iter
        self._min_seconds = min_seconds
        self._last_time = -float("inf")
        self._iteration = 0
        self._metrics: dict[str, None] = {}
        self.figures: Sequence[Figure] = ()

    def write(self) -> None:
        """Write the page, unless it is too young."""
        storage = get_event_storage()
        self._iteration = storage.iter
        # What models put about their training is noisy; the results of evaluations are not.
        self._metrics |= dict.fromkeys(
            name for name, is_noisy in storage.smoothing_hints().items() if not is_noisy
        )
        if time.monotonic() - self._last_time >= self._min_seconds:
            self._write_page(is_running=True)
            self._last_time = time.monotonic()

    def close(self) -> None:
        """Write the page a last time; it is not loaded again from then on."""
        self._write_page(is_running=False)

    def _write_page(self, is_running: bool) -> None:
        lines = _read_lines(os.path.join(self._folder, "metrics.json"))
        text = self._page(lines, is_running).html()
        if is_running:
            refresh = f'<meta http-equiv="refresh" content="{_REFRESH_SECONDS}">'
            text = text.replace("<head>", f"<head>{refresh}", 1)
        atomic_write_text(os.path.join(self._folder, "training.html"), text)

    def _page(self, lines: list[dict[str, Any]], is_running: bool) -> Page:
        done = min(self._iteration + 1, self._max_iter)
        state = "running" if is_running else "ended"
        page = Page("Training", f"{done} of {self._max_iter} iterations; {state}.")
        if charts := _charts(lines):
            page.heading("Losses")
            page.charts(charts)
        others = {
            title: [series]
            for title, name in _OTHERS.items()
            if (series := _series(lines, name)) is not None
        }
        if others:
            page.heading("Course")
            page.charts(others)
        _add_metrics(page, lines, self._metrics)
        if self.figures:
            page.heading("What the model finds")
            page.gallery(self.figures)
        return page


def _read_lines(path: str) -> list[dict[str, Any]]:
    if not os.path.isfile(path):
        return []
    with open(path, encoding="utf-8") as stream:
        return [json.loads(line) for line in stream if line.endswith("}\n")]


def _series(lines: list[dict[str, Any]], name: str, label: str = "") -> Series | None:
    points = [(line["iteration"], line[name]) for line in lines if _is_number(line.get(name))]
    return Series(label or name, *zip(*points, strict=True)) if points else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and bool(np.isfinite(value))


def _charts(lines: list[dict[str, Any]]) -> dict[str, list[Series]]:
    parts = dict.fromkeys(n for line in lines for n in line if "loss" in n and "/" not in n)
    names = ["total_loss", *[n for n in parts if n != "total_loss"][:_LOSS_CHARTS]]
    charts = {}
    for name in names:
        both = [
            _series(lines, name, "training"),
            _series(lines, f"validation/{name}", "validation"),
        ]
        charts[name] = [series for series in both if series is not None]
    return {title: series for title, series in charts.items() if series}


def _add_metrics(page: Page, lines: list[dict[str, Any]], metrics: Iterable[str]) -> None:
    """The metrics of evaluations, ``task/name``: the mean ones, not those of single classes."""
    names = [
        name
        for name in metrics
        if "/" in name and "-" not in name and not name.startswith("validation/")
    ]
    rows = [line for line in lines if any(name in line for name in names)]
    if rows:
        page.heading("Evaluations")
        table = [
            (row["iteration"], *(float(row.get(n, float("nan"))) for n in names)) for row in rows
        ]
        page.table(("iteration", *names), table)
