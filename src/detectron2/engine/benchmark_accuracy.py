"""What precision costs: metrics of every variant of a model on the same dataset."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from typing import TYPE_CHECKING, Any

from detectron2.engine._recipe import recipe_of
from detectron2.engine.benchmark_peers import predictor_of
from detectron2.engine.train_command import VAL_NAME, _register
from detectron2.evaluation import inference_on_dataset
from detectron2.evaluation.default_evaluators import build_evaluator

if TYPE_CHECKING:
    from detectron2.engine.benchmark_options import BenchmarkOptions

__all__ = ["Accuracy", "accuracy_of", "accuracy_table"]

# Variant to task ("bbox") to metric ("AP") to its value.
Accuracy = dict[str, dict[str, dict[str, float]]]


def accuracy_of(options: BenchmarkOptions) -> Accuracy:
    """Metrics of each variant on `--val-data`, or else on the config's first test dataset.

    Raises:
        ValueError: there is no dataset.
    """
    dataset = None
    if options.val_data is not None:
        _register(VAL_NAME, *options.val_data)
        dataset = VAL_NAME
    return {name: _metrics(options, name, dataset) for name in options.variants}


def _metrics(
    options: BenchmarkOptions, variant: str, dataset: str | None
) -> dict[str, dict[str, float]]:
    predictor = predictor_of(options, variant)
    if dataset is None:
        names = recipe_of(predictor.cfg).test_names
        if not names:
            raise ValueError(
                "The config names no test dataset to measure accuracy on: add "
                "--val-data ANNOTATIONS.json IMAGE_FOLDER."
            )
        dataset = names[0]
    from detectron2.export.evaluation import loader_of  # exporters take a moment to import

    with tempfile.TemporaryDirectory(prefix="detectron2") as folder:
        evaluator = build_evaluator(dataset, folder)
        loader = loader_of(predictor, dataset)
        with contextlib.redirect_stdout(io.StringIO()):  # a table of each would bury the one
            found = inference_on_dataset(predictor.model, loader, evaluator)
    return {
        # There is no metric of objects that the dataset has not, such as large ones.
        task: {name: float(v) for name, v in values.items() if not math.isnan(v)}
        for task, values in found.items()
    }


def accuracy_table(metrics: Accuracy) -> Any:
    """The metrics for a terminal, with the difference from the first variant."""
    from rich.table import Table

    table = Table()
    table.add_column("metric")
    for name in metrics:
        table.add_column(name, justify="right")
    base = next(iter(metrics.values()))
    for task, values in base.items():
        for metric, first in values.items():
            others = [each[task][metric] for each in metrics.values()]
            shown = [f"{first:.2f}", *(f"{v:.2f} ({v - first:+.2f})" for v in others[1:])]
            table.add_row(f"{task} {metric}", *shown)
    return table
