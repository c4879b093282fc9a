"""The check before a training: ``DATALOADER.CHECK`` of a config."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from typing import Any

from detectron2.data._read_once import files_read_once
from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.check.pages import write_report
from detectron2.data.check.policy import check_policy, cleaned_content
from detectron2.data.check.records import cleaned_records, record_dataset
from detectron2.data.check.report import CheckReport
from detectron2.data.check.run import Dataset, check, coco_dataset
from detectron2.data.datasets.coco import CocoFile, records_of_coco
from detectron2.utils import comm

__all__ = ["load_checked", "registered_dataset"]

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def load_checked(
    name: str,
    policy: str,
    *,
    against: Sequence[str] = (),
    output_dir: str | os.PathLike[str] | None = None,
) -> Any:
    """``DatasetCatalog.get(name)`` after a check, without what the policy leaves out.

    Of several processes that call it one checks; the others wait for what it remembers.

    Args:
        name: of a registered dataset of records.
        policy: "report" logs what is wrong, "fail" raises, "skip" leaves out, "fix" mends.
        against: names of datasets that should share no image with this one.
        output_dir: folder for the report, as ``dataset_check_NAME.json`` and ``.html``.

    Raises:
        DatasetProblemsError: there are errors, and the policy is "fail".
    """
    check_policy(policy)
    with files_read_once():
        return _load_checked(name, policy, against, output_dir)


def _load_checked(
    name: str,
    policy: str,
    against: Sequence[str],
    output_dir: str | os.PathLike[str] | None,
) -> Any:
    dataset, records = _open(name)
    if dataset is None:
        logger.warning("The dataset %r is no list of records; it is not checked.", name)
        return records
    report = _checked(dataset, _others(against), output_dir, name)
    if policy == "fail":
        report.raise_errors()
    if policy in ("report", "fail"):
        return DatasetCatalog.get(name) if records is None else records
    if records is not None:
        return cleaned_records(records, dataset, report.problems, policy)
    content = cleaned_content(dataset.load(), report.problems, policy)
    return records_of_coco(content, dataset.source, dataset.image_root, name)


def registered_dataset(name: str) -> Dataset:
    """A registered dataset as what `check` takes.

    Raises:
        KeyError: no dataset has this name.
        TypeError: the dataset is no list of records.
    """
    dataset, records = _open(name)
    if dataset is None:
        raise TypeError(f"The dataset {name!r} is a {type(records).__name__}, no list of records.")
    return dataset


def _open(name: str) -> tuple[Dataset | None, Any]:
    """What is checked of a registered dataset, and its records.

    A COCO file is checked as it is, and has no records yet (None): loading it may be what fails.
    There is nothing to check (None) of what is no list of records.
    """
    load = DatasetCatalog.data.get(name)
    if isinstance(load, CocoFile):
        return coco_dataset(load.json_file, load.image_root), None
    records = DatasetCatalog.get(name)
    if not isinstance(records, list):
        return None, records
    return record_dataset(name, records, MetadataCatalog.get(name).get("thing_classes")), records


def _others(names: Sequence[str]) -> list[Dataset]:
    found = []
    for name in names:
        try:
            found.append(registered_dataset(name))
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            logger.warning("Images shared with %r are not looked for: %s", name, error)
    return found


def _checked(
    dataset: Dataset,
    against: Sequence[Dataset],
    output_dir: str | os.PathLike[str] | None,
    name: str,
) -> CheckReport:
    """Check; the main process says what is wrong."""
    report = check(dataset, against=against)
    if not comm.is_main_process():
        return report
    where = ""
    if output_dir is not None:
        stem = "dataset_check_" + re.sub(r"[^\w.-]", "_", name)
        where = f" See {write_report(report, dataset, output_dir, stem)}."
    for kind, count in report.counts().items():
        first = next(problem for problem in report.problems if problem.kind == kind)
        log = logger.error if first.is_error else logger.warning
        log("%s: %d in %s, such as: %s", kind, count, name, first.reason)
    if report.problems:
        logger.warning("%s%s", report.summary(), where)
    return report
