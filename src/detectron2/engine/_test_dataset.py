"""Evaluating a model on one dataset with a trainer's loader and evaluator."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from detectron2.utils import comm

__all__ = ["test_dataset"]

logger = logging.getLogger("detectron2.engine.defaults")


def test_dataset(trainer_class: Any, cfg: Any, model: nn.Module, name: str, evaluator: Any) -> Any:
    """Metrics of one dataset; empty if nothing evaluates it.

    Args:
        trainer_class: whose `build_test_loader` and `build_evaluator` to use.
        evaluator: None builds one.

    Raises:
        TypeError: the evaluator returns no dictionary.
    """
    from detectron2.evaluation import inference_on_dataset, print_csv_format

    loader = trainer_class.build_test_loader(cfg, name)
    if evaluator is None:
        try:
            evaluator = trainer_class.build_evaluator(cfg, name)
        except NotImplementedError as error:
            logger.warning("Dataset %s is not evaluated: %s", name, error)
            return {}
    results = inference_on_dataset(model, loader, evaluator)
    if not comm.is_main_process():
        return results
    if not isinstance(results, Mapping):
        raise TypeError(
            f"The evaluator of {name!r} returned a {type(results).__name__}; it must return "
            "a dictionary on the main process."
        )
    logger.info("Evaluation results for %s in csv format:", name)
    print_csv_format(results)
    return results


# Test collectors take functions with this beginning for tests.
test_dataset.__test__ = False  # type: ignore[attr-defined]
