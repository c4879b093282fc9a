"""What `detectron2 dataset check` does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from detectron2.data.catalog import DatasetCatalog
from detectron2.data.check.cache import Cache
from detectron2.data.check.pages import write_report
from detectron2.data.check.policy import cleaned_content
from detectron2.data.check.problems import KINDS
from detectron2.data.check.report import CheckReport
from detectron2.data.check.run import Dataset, check, coco_dataset
from detectron2.data.check.training import registered_dataset
from detectron2.utils.files import atomic_write_text

__all__ = ["CheckOptions", "run_check"]

# Of each kind, on the screen.
SHOWN = 3


@dataclass(frozen=True)
class CheckOptions:
    """Options of `detectron2 dataset check`; see its help."""

    dataset: str
    images: Path | None = None
    against: tuple[Path, Path] | None = None
    policy: str = "report"
    write: Path | None = None
    output: Path = Path("dataset_check")
    annotations_only: bool = False
    cache: bool = True


def run_check(options: CheckOptions) -> CheckReport:
    """Check, print, write the report and, where asked for, the cleaned annotations.

    Raises:
        FileNotFoundError, ValueError: the annotations cannot be read.
        DatasetProblemsError: there are errors, and the policy is "fail".
    """
    changes = options.policy in ("skip", "fix")
    if changes != (options.write is not None):
        raise ValueError(
            f"--policy {options.policy} "
            + ("needs --write FILE for what is left." if changes else "writes no annotations.")
        )
    dataset = _dataset(options)
    report = check(
        dataset,
        against=[coco_dataset(*options.against)] if options.against else [],
        images=not options.annotations_only,
        cache=Cache(enabled=options.cache),
    )
    page = write_report(report, dataset, options.output, "report")
    _print(report)
    print(f"Report: {page}")
    if options.write is not None:
        content = cleaned_content(dataset.load(), report.problems, options.policy)
        atomic_write_text(options.write, json.dumps(content))
        print(
            f"{options.write}: {len(content['images'])} of {report.images} images, "
            f"{len(content['annotations'])} of {report.annotations} annotations."
        )
    if options.policy == "fail":
        report.raise_errors()
    return report


def _dataset(options: CheckOptions) -> Dataset:
    if options.dataset in DatasetCatalog.list():
        return registered_dataset(options.dataset)
    path = Path(options.dataset)
    if not path.is_file():
        raise FileNotFoundError(
            f"{options.dataset!r} is neither a registered dataset nor a COCO-format JSON file."
        )
    return coco_dataset(path, options.images or path.parent)


def _print(report: CheckReport) -> None:
    for kind, count in report.counts().items():
        severity = "error" if KINDS[kind].is_error else "warning"
        print(f"{severity}: {KINDS[kind].title} ({count})")
        for problem in [p for p in report.problems if p.kind == kind][:SHOWN]:
            print(f"    {problem.reason}")
        if count > SHOWN:
            print("    ...")
    print(report.summary())
