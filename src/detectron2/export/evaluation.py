"""Metrics of a model and of the file that it was exported to, on the same images."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tabulate import tabulate
from torch import nn
from torch.utils.data import DataLoader

from detectron2.export.loading import ExportedModel

__all__ = ["Evaluation", "Metrics", "beside", "loader_of", "table_of"]

# Task ("bbox") to metric ("AP") to the values of the model and of the file.
Metrics = dict[str, dict[str, tuple[float, float]]]


class Evaluation:
    """A model evaluated on a registered dataset, once, for comparison with files made of it.

    Args:
        model: in evaluation mode.
        described: says how images are prepared; needs no runtime.
        dataset: name in the catalog.
    """

    def __init__(self, model: nn.Module, described: ExportedModel, dataset: str) -> None:
        self.model, self.described, self.dataset = model, described, dataset

    @functools.cached_property
    def of_model(self) -> dict[str, Any]:
        """Metrics of the model by task."""
        return self.of(self.model)

    def of(self, predictor: nn.Module) -> dict[str, Any]:
        """Metrics of a model or a file by task."""
        from detectron2.evaluation import inference_on_dataset
        from detectron2.evaluation.default_evaluators import build_evaluator

        with tempfile.TemporaryDirectory(prefix="detectron2") as folder:
            evaluator = build_evaluator(self.dataset, str(Path(folder) / "results"))
            loader = loader_of(self.described, self.dataset)
            with contextlib.redirect_stdout(io.StringIO()):  # a table of each would bury the one
                return dict(inference_on_dataset(predictor, loader, evaluator))


def beside(before: dict[str, Any], after: dict[str, Any]) -> Metrics:
    """The metrics of a model and of a file beside each other."""
    return {
        task: {name: (float(value), float(after[task][name])) for name, value in metrics.items()}
        for task, metrics in before.items()
    }


def table_of(metrics: Metrics) -> str:
    """The metrics as a table of text, without those that there are not, as of large objects."""
    rows = [
        (f"{task} {name}", f"{model:.2f}", f"{file:.2f}", f"{file - model:+.2f}")
        for task, values in metrics.items()
        for name, (model, file) in values.items()
        if not (math.isnan(model) and math.isnan(file))
    ]
    if not rows:
        return "Neither the model nor the file finds anything that could be measured."
    return tabulate(rows, ["metric", "model", "file", "difference"], disable_numparse=True)


def loader_of(predictor: Any, dataset: str) -> DataLoader:
    """The images of a registered dataset, prepared as a predictor or exported model takes them."""
    from detectron2.data import DatasetCatalog, build_detection_test_loader

    prepare, info = predictor.prepare, getattr(predictor, "info", None)
    return build_detection_test_loader(
        DatasetCatalog.get(dataset),
        mapper=lambda record: _prepared(record, prepare),
        batch_size=(info.batch if info is not None else None) or 1,
        num_workers=0,
    )


def _prepared(record: dict[str, Any], prepare: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The record with the image as the model takes it."""
    from detectron2.data.detection_utils import read_image

    return {**record, **prepare(read_image(record["file_name"], format="BGR"))}
