"""Metrics as lines to copy, as one flat dictionary, and against what was expected."""

from __future__ import annotations

import logging
import math
import pprint
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["flatten_results_dict", "print_csv_format", "verify_results"]

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log the main metrics so that they can be pasted into a spreadsheet.

    Metrics of single classes (names with a hyphen, such as "AP-cat") are left out.

    Args:
        results: ``{task: {metric: value}}``, or ``{metric: value}``.
    """
    if not isinstance(results, Mapping) and len(results):
        raise AssertionError(f"Results are a dictionary of tasks, not {results!r}.")
    for task, metrics in results.items() if isinstance(results, Mapping) else ():
        if not isinstance(metrics, Mapping):
            logger.info(f"copypaste: {task}={metrics}")
            continue
        main = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info(f"copypaste: Task: {task}")
        logger.info("copypaste: " + ",".join(main))
        logger.info("copypaste: " + ",".join(f"{value:.4f}" for value in main.values()))


def verify_results(cfg: Any, results: Mapping[str, Mapping[str, float]]) -> bool:
    """Compare results with ``cfg.TEST.EXPECTED_RESULTS``; end the program if they differ.

    Args:
        cfg: config whose expectations are rows of (task, metric, value, tolerance).
        results: ``{task: {metric: value}}``.

    Returns:
        True, also if nothing was expected.

    Raises:
        SystemExit: with status 1, if a metric is missing, not finite or off by more than its
            tolerance. Every such metric is logged.
    """
    expected = cfg.TEST.EXPECTED_RESULTS
    if not len(expected):
        return True
    wrong = [row for row in expected if not _is_as_expected(results, *row)]
    if not wrong:
        logger.info("Results verification passed.")
        return True
    logger.error("Result verification failed!")
    logger.error("Expected Results: " + str(expected))
    logger.error("Wrong: " + str(wrong))
    logger.error("Actual Results: " + pprint.pformat(results))
    sys.exit(1)


def _is_as_expected(
    results: Mapping[str, Mapping[str, float]],
    task: str,
    metric: str,
    value: float,
    tolerance: float,
) -> bool:
    actual = results.get(task, {}).get(metric, None)
    return actual is not None and math.isfinite(actual) and abs(actual - value) <= tolerance


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """``{"bbox": {"AP": 40.2}}`` as ``{"bbox/AP": 40.2}``, at any depth."""
    flat: dict[str, Any] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{inner}": v for inner, v in flatten_results_dict(value).items()})
        else:
            flat[name] = value
    return flat
