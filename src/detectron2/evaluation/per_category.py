"""Precision of each category, and a table of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

__all__ = ["category_precisions", "category_table"]


def category_precisions(
    precision: np.ndarray, class_names: Sequence[str]
) -> list[tuple[str, float]]:
    """Average precision of each category in percent, over all areas and the most detections.

    Args:
        precision: (T, R, K, A, M) of COCOeval; -1 where there is nothing to find.
        class_names: K names.

    Returns:
        (name, AP); NaN for a category without ground truth.
    """
    if precision.shape[2] != len(class_names):
        raise AssertionError(
            f"The dataset has {precision.shape[2]} categories but {len(class_names)} names."
        )
    per_category = []
    for index, name in enumerate(class_names):
        values = precision[:, :, index, 0, -1]
        values = values[values > -1]
        per_category.append((name, float(np.mean(values) * 100) if values.size else float("nan")))
    return per_category


def category_table(per_category: Sequence[tuple[str, float]]) -> str:
    """Pairs of category and AP, three pairs to a row."""
    pairs = min(3, len(per_category))
    flat = list(itertools.chain(*per_category))
    rows = itertools.zip_longest(*[flat[i :: 2 * pairs] for i in range(2 * pairs)])
    return tabulate(
        rows,
        tablefmt="pipe",
        floatfmt=".3f",
        headers=["category", "AP"] * pairs,
        numalign="left",
    )
