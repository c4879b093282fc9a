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
    counts = np.zeros(len(class_names), dtype=np.int64)
    for record in dataset_dicts:
        classes = np.asarray(
            [a["category_id"] for a in record["annotations"] if not a.get("iscrowd", 0)],
            dtype=np.int64,
        )
        wrong = classes[(classes < 0) | (classes >= len(class_names))]
        if len(wrong):
            raise ValueError(
                f"An annotation of {record.get('file_name')!r} has category_id {wrong[0]}, but "
                f"the dataset has {len(class_names)} classes (thing_classes), so ids run from 0 "
                f"to {len(class_names) - 1}."
            )
        counts += np.bincount(classes, minlength=len(class_names))
    columns = min(6, 2 * len(class_names))
    cells: list[Any] = list(
        itertools.chain.from_iterable(
            (_short_name(name), int(count)) for name, count in zip(class_names, counts)
        )
    )
    total = int(counts.sum())
    cells += [None] * (-len(cells) % columns)
    if len(class_names) > 1:
        cells += ["total", total] + [None] * (columns - 2)
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    table = tabulate(
        rows,
        headers=["category", "#instances"] * (columns // 2),
        tablefmt="pipe",
        numalign="left",
        stralign="center",
    )
    log_first_n(
        logging.INFO,
        f"Distribution of instances among all {len(class_names)} categories:\n{table}",
        key="message",
        name="detectron2.data.build",  # the address under which it is public
    )


def _short_name(name: str) -> str:
    # Long names, which LVIS has, would make the table wider than a terminal.
    return name if len(name) <= 13 else name[:11] + ".."
