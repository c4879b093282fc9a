"""Evaluation of a file that `detectron2 export` wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.evaluation.default_evaluators import build_evaluator
from detectron2.utils.logger import setup_logger

__all__ = ["evaluate_exported", "loader_of"]


def evaluate_exported(
    path: str, dataset: str, output: Path, device: str = "cpu", precision: str = "fp32"
) -> dict[str, Any]:
    """Metrics of an exported model on a registered dataset, printed and returned.

    Args:
        path: the file.
        dataset: name in the catalog.
        output: folder for the results.
        device: as the file's runtime names it.
        precision: see `detectron2.export.load`.
    """
    from detectron2.export import load

    setup_logger(str(output))
    exported = load(path, device, precision=precision)
    loader = loader_of(exported, dataset)
    results = inference_on_dataset(exported, loader, build_evaluator(dataset, str(output)))
    print_csv_format(results)
    return dict(results)


def loader_of(predictor: Any, dataset: str) -> DataLoader:
    """The images of a registered dataset, prepared as a predictor or exported model takes them."""
    prepare, info = predictor.prepare, getattr(predictor, "info", None)
    return build_detection_test_loader(
        DatasetCatalog.get(dataset),
        mapper=lambda record: _prepared(record, prepare),
        batch_size=(info.batch if info is not None else None) or 1,
        num_workers=0,
    )


def _prepared(record: dict[str, Any], prepare: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The record with the image as the model takes it."""
    return {**record, **prepare(read_image(record["file_name"], format="BGR"))}
