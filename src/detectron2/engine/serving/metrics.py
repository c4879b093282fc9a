"""Counters and histograms in the text format that Prometheus reads."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["Metrics", "resident_bytes"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32)


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        lines, sum_so_far = [], 0
        for bound, count in zip([*map(_number, self.bounds), "+Inf"], self.counts):
            sum_so_far += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {sum_so_far}')
        return [*lines, f"{name}_sum {_number(self.total)}", f"{name}_count {sum_so_far}"]


class Metrics:
    """What a server has done so far; every method may be called from any thread."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        """
        Args:
            labels: of the metric ``detectron2_info``.
        """
        self._labels = dict(labels)
        self._lock = threading.Lock()
        self._requests: dict[tuple[str, int], int] = {}
        self._seconds = _Histogram(_SECONDS)
        self._model_seconds = _Histogram(_SECONDS)
        self._batch_sizes = _Histogram(_SIZES)
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def add_gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """A number that is asked for whenever the metrics are."""
        self._gauges[name] = (meaning, value)

    def add_request(self, path: str, status: int, seconds: float) -> None:
        """Count an answer; the seconds of predictions are kept too."""
        with self._lock:
            key = (path, status)
            self._requests[key] = self._requests.get(key, 0) + 1
            if path == "/predict":
                self._seconds.add(seconds)

    def add_batch(self, size: int, seconds: float) -> None:
        """Count a run of the model."""
        with self._lock:
            self._batch_sizes.add(size)
            self._model_seconds.add(seconds)

    def text(self) -> str:
        """All of it, in version 0.0.4 of the format."""
        lines = _head("detectron2_info", "gauge", "The model that is served.")
        pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in self._labels.items())
        lines.append(f"detectron2_info{{{pairs}}} 1")
        with self._lock:
            lines += _head("detectron2_requests_total", "counter", "Answers by path and status.")
            lines += [
                f'detectron2_requests_total{{path="{_escaped(path)}",code="{status}"}} {count}'
                for (path, status), count in sorted(self._requests.items())
            ]
            for name, meaning, histogram in (
                ("request_seconds", "From the head of a prediction to its answer.", self._seconds),
                ("model_seconds", "One run of the model.", self._model_seconds),
                ("batch_size", "Images in one run of the model.", self._batch_sizes),
            ):
                lines += _head(f"detectron2_{name}", "histogram", meaning)
                lines += histogram.lines(f"detectron2_{name}")
        for name, (meaning, value) in self._gauges.items():
            lines += [*_head(name, "gauge", meaning), f"{name} {_number(value())}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return f"{value:.12g}"


def resident_bytes() -> float:
    """Memory of this process; NaN where the system does not say (other than Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return float("nan")
    import resource

    return float(pages * resource.getpagesize())
