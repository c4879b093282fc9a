"""What `detectron2 dataset check` does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.check.cache import Cache
from detectron2.data.check.pages import write_report
from detectron2.data.check.policy import cleaned_content
from detectron2.data.check.problems import KINDS
from detectron2.data.check.report import CheckReport
from detectron2.data.check.run import Dataset, check, coco_dataset
from detectron2.data.check.structure import LISTS
from detectron2.data.check.training import registered_dataset
from detectron2.data.datasets.auto import ALL, open_dataset
from detectron2.data.datasets.auto.coco import find_unchecked
from detectron2.utils.files import atomic_write_text, require_writable_folder

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


def run_check(options: CheckOptions) -> list[CheckReport]:
    """Check, print, write the reports and, where asked for, the cleaned annotations.

    Returns:
        One report per split.

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
    splits = _splits(options)
    if changes and len(splits) > 1:
        raise ValueError(
            f"{options.dataset!r} has the splits {', '.join(splits)}, which do not fit into one "
            "file; name the annotation file or the registered dataset that is meant."
        )
    require_writable_folder(options.output)
    reports = [_check_split(name, splits, options) for name in splits]
    if options.policy == "fail":
        for report in reports:
            report.raise_errors()
    return reports


def _check_split(name: str, splits: dict[str, Dataset], options: CheckOptions) -> CheckReport:
    dataset = splits[name]
    against = [coco_dataset(*options.against)] if options.against else []
    if name == "train":
        against += [other for split, other in splits.items() if split != name]
    report = check(
        dataset,
        against=against,
        images=not options.annotations_only,
        cache=Cache(enabled=options.cache),
    )
    stem = "report" if len(splits) == 1 else f"report_{name}"
    page = write_report(report, dataset, options.output, stem)
    _print(report)
    print(f"Report: {page}")
    if options.write is not None:
        content = cleaned_content(dataset.load(), report.problems, options.policy)
        atomic_write_text(options.write, json.dumps(_without_origins(content)))
        print(
            f"{options.write}: {len(content['images'])} of {report.images} images, "
            f"{len(content['annotations'])} of {report.annotations} annotations."
        )
    return report


def _splits(options: CheckOptions) -> dict[str, Dataset]:
    """What to check, by the name of its split: a COCO file as it is, all else as records."""
    path = Path(options.dataset)
    registered = options.dataset in DatasetCatalog.all_names()
    if path.is_file() and not registered:
        return {ALL: coco_dataset(path, options.images or path.parent)}
    if path.is_dir() and not registered:
        # Reading a folder for training ends at the first fault; here we want to hear of all.
        files = find_unchecked(path)
        if files:
            return {split: coco_dataset(*pair) for split, pair in files.items()}
    found = open_dataset(options.dataset, options.images)
    return {split: _dataset(name) for split, name in found.names.items()}


def _dataset(name: str) -> Dataset:
    metadata = MetadataCatalog.get(name)
    files = metadata.get("json_file"), metadata.get("image_root")
    if metadata.get("evaluator_type") == "coco" and all(files) and Path(files[0]).is_file():
        return coco_dataset(*files)
    return registered_dataset(name)


def _without_origins(content: dict[str, Any]) -> dict[str, Any]:
    """Without our own fields, which begin with an underscore."""
    return {
        key: [{k: v for k, v in entry.items() if not k.startswith("_")} for entry in value]
        if key in LISTS
        else value
        for key, value in content.items()
    }


def _print(report: CheckReport) -> None:
    for kind, count in report.counts().items():
        severity = "error" if KINDS[kind].is_error else "warning"
        print(f"{severity}: {KINDS[kind].title} ({count})")
        for problem in [p for p in report.problems if p.kind == kind][:SHOWN]:
            print(f"    {problem.reason}")
        if count > SHOWN:
            print("    ...")
    print(report.summary())
