"""How many objects there are of each class, as a table in the log."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from detectron2.utils.logger import log_first_n

__all__ = ["print_instances_class_histogram"]

Record = dict[str, Any]


def print_instances_class_histogram(
    dataset_dicts: Sequence[Record], class_names: Sequence[str]
) -> None:
    """Log a table of how many objects there are of each class, without crowds.

    Raises:
        ValueError: an annotation's "category_id" is no index into `class_names`.
    """
    counts = _count_by_class(dataset_dicts, len(class_names))
    log_first_n(
        logging.INFO,
        f"Distribution of instances among all {len(class_names)} categories:\n"
        f"{_table(counts, class_names)}",
        key="message",
        name="detectron2.data.build",  # the address under which it is public
    )


def _count_by_class(dataset_dicts: Sequence[Record], num_classes: int) -> np.ndarray:
    """(num_classes,) int64."""
    counts = np.zeros(num_classes, dtype=np.int64)
    for record in dataset_dicts:
        classes = np.asarray(
            [a["category_id"] for a in record["annotations"] if not a.get("iscrowd", 0)],
            dtype=np.int64,
        )
        wrong = classes[(classes < 0) | (classes >= num_classes)]
        if len(wrong):
            raise ValueError(
                f"An annotation of {record.get('file_name')!r} has category_id {wrong[0]}, but "
                f"the dataset has {num_classes} classes (thing_classes), so ids run from 0 "
                f"to {num_classes - 1}."
            )
        counts += np.bincount(classes, minlength=num_classes)
    return counts


def _table(counts: np.ndarray, class_names: Sequence[str]) -> str:
    """Up to three classes to a line; the total last, if there are several."""
    columns = min(6, 2 * len(class_names))
    named = zip(map(_short_name, class_names), counts.tolist())
    cells: list[Any] = list(itertools.chain.from_iterable(named))
    cells += [None] * (-len(cells) % columns)
    if len(class_names) > 1:
        cells += ["total", int(counts.sum())] + [None] * (columns - 2)
    return tabulate(
        [cells[i : i + columns] for i in range(0, len(cells), columns)],
        headers=["category", "#instances"] * (columns // 2),
        tablefmt="pipe",
        numalign="left",
        stralign="center",
    )


def _short_name(name: str) -> str:
    # Long names, which LVIS has, would make the table wider than a terminal.
    return name if len(name) <= 13 else name[:11] + ".."
