"""Evaluation of a file that `detectron2 export` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.evaluation.default_evaluators import build_evaluator
from detectron2.utils.logger import setup_logger

__all__ = ["evaluate_exported"]


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
    from detectron2.export.evaluation import loader_of
    from detectron2.export.loading import load

    setup_logger(str(output))
    exported = load(path, device, precision=precision)
    loader = loader_of(exported, dataset)
    results = inference_on_dataset(exported, loader, build_evaluator(dataset, str(output)))
    print_csv_format(results)
    return dict(results)
