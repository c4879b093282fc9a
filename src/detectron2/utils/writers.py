"""Further event writers: a table, and services that are loaded when used."""

from __future__ import annotations

import csv
import io
import os
from typing import Any

from detectron2.utils.events import EventWriter, _newer_than, get_event_storage
from detectron2.utils.files import atomic_write_text

__all__ = ["CSVWriter", "MLflowWriter", "WandbWriter"]


class CSVWriter(EventWriter):
    """One row per written iteration, one column per scalar; a new scalar adds a column.

    A resumed run continues the table; rows of iterations that it runs again are replaced.
    """

    def __init__(self, path: str, window_size: int = 20) -> None:
        """
        Args:
            path: of the table.
            window_size: iterations of which noisy scalars are the median.
        """
        self._path = path
        self._window_size = window_size
        self._last_write = -1
        self._rows: dict[int, dict[str, Any]] | None = None

    def write(self) -> None:
        """Write scalars newer than the last call."""
        storage = get_event_storage()
        if self._rows is None:
            self._rows = self._read(storage._start_iter)
            self._last_write = max(self._rows, default=-1)
        scalars = _newer_than(self._last_write, storage, self._window_size)
        for name, value, iteration in scalars:
            self._rows.setdefault(iteration, {"iteration": iteration})[name] = value
        if scalars:
            self._last_write = max(iteration for _, _, iteration in scalars)
            self._write_table()

    def _read(self, start_iter: int) -> dict[int, dict[str, Any]]:
        if start_iter == 0 or not os.path.isfile(self._path):
            return {}
        with open(self._path, newline="", encoding="utf-8") as stream:
            rows = [{k: v for k, v in row.items() if v != ""} for row in csv.DictReader(stream)]
        return {int(r["iteration"]): r for r in rows if int(r["iteration"]) < start_iter}

    def _write_table(self) -> None:
        assert self._rows is not None
        columns = dict.fromkeys(name for row in self._rows.values() for name in row)
        text = io.StringIO()
        table = csv.DictWriter(text, list(columns), lineterminator="\n")
        table.writeheader()
        table.writerows(self._rows[iteration] for iteration in sorted(self._rows))
        atomic_write_text(self._path, text.getvalue())


class _ServiceWriter(EventWriter):
    """Sends scalars to a service; a subclass says how."""

    def __init__(self, window_size: int) -> None:
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        """Send scalars newer than the last call."""
        storage = get_event_storage()
        # What a resumed run knows of earlier iterations was sent by the run before it.
        last = max(self._last_write, storage._start_iter - 1)
        scalars = _newer_than(last, storage, self._window_size)
        for iteration, values in _by_iteration(scalars).items():
            self._send(values, iteration)
            self._last_write = iteration

    def _send(self, values: dict[str, float], iteration: int) -> None:
        raise NotImplementedError


class WandbWriter(_ServiceWriter):
    """Sends scalars to Weights & Biases. A run that was started already is used."""

    def __init__(self, window_size: int = 20, **options: Any) -> None:
        """
        Args:
            window_size: iterations of which noisy scalars are the median.
            **options: of ``wandb.init``.

        Raises:
            ImportError: the package is not installed.
        """
        super().__init__(window_size)
        wandb = _import("wandb")
        self._run = wandb.run or wandb.init(**options)

    def _send(self, values: dict[str, float], iteration: int) -> None:
        self._run.log(values, step=iteration)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class MLflowWriter(_ServiceWriter):
    """Sends scalars to MLflow. A run that was started already is used."""

    def __init__(self, window_size: int = 20, **options: Any) -> None:
        """
        Args:
            window_size: iterations of which noisy scalars are the median.
            **options: of ``mlflow.start_run``.

        Raises:
            ImportError: the package is not installed.
        """
        super().__init__(window_size)
        self._mlflow = _import("mlflow")
        if self._mlflow.active_run() is None:
            self._mlflow.start_run(**options)

    def _send(self, values: dict[str, float], iteration: int) -> None:
        self._mlflow.log_metrics(values, step=iteration)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


def _by_iteration(scalars: list[tuple[str, float, int]]) -> dict[int, dict[str, float]]:
    result: dict[int, dict[str, float]] = {}
    for name, value, iteration in sorted(scalars, key=lambda scalar: scalar[2]):
        result.setdefault(iteration, {})[name] = value
    return result


def _import(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"TRAINING.WRITERS names {package!r}, which is not installed: pip install {package}."
        ) from error
