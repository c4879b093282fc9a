"""Metrics of a model and of the file that it was exported to, on the same images."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tabulate import tabulate
from torch import nn

from detectron2.export.loading import ExportedModel

__all__ = ["Metrics", "evaluate_both", "table_of"]

# Task ("bbox") to metric ("AP") to the values of the model and of the file.
Metrics = dict[str, dict[str, tuple[float, float]]]


def evaluate_both(model: nn.Module, exported: ExportedModel, dataset: str) -> Metrics:
    """Metrics of both on a registered dataset; the images are prepared as the file wants them.

    Args:
        model: in evaluation mode.
        dataset: name in the catalog.
    """
    from detectron2.engine.evaluate_exported import loader_of
    from detectron2.evaluation import inference_on_dataset
    from detectron2.evaluation.default_evaluators import build_evaluator

    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="detectron2") as folder:
        for name, each in (("model", model), ("file", exported)):
            evaluator = build_evaluator(dataset, str(Path(folder) / name))
            loader = loader_of(exported, dataset)
            results.append(dict(inference_on_dataset(each, loader, evaluator)))
    before, after = results
    return {
        task: {name: (float(value), float(after[task][name])) for name, value in metrics.items()}
        for task, metrics in before.items()
    }


def table_of(metrics: Metrics) -> str:
    """The metrics as a table of text."""
    rows = [
        (f"{task} {name}", f"{model:.2f}", f"{file:.2f}", f"{file - model:+.2f}")
        for task, values in metrics.items()
        for name, (model, file) in values.items()
    ]
    return tabulate(rows, ["metric", "model", "file", "difference"], disable_numparse=True)
