"""What `detectron2 eval --report` and `--resume`, and `detectron2 compare` do."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from detectron2.data import MetadataCatalog
from detectron2.engine._recipe import recipe_of
from detectron2.engine.defaults import DefaultTrainer
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluators,
    RotatedCOCOEvaluator,
    inference_on_dataset,
    print_csv_format,
)
from detectron2.evaluation.analysis import compare, read_run, run_of, write_report
from detectron2.evaluation.analysis.report import write_comparison, write_metrics
from detectron2.evaluation.resuming import model_identity
from detectron2.utils import comm
from detectron2.utils.files import atomic_write_text, require_writable_folder

__all__ = ["evaluate_with_report", "run_compare"]

logger = logging.getLogger(__name__)


def evaluate_with_report(
    cfg: Any, model: nn.Module, report: Path | None = None, resume: bool = False
) -> dict[str, Any]:
    """Evaluate a model on every test dataset of the config.

    Args:
        report: folder for the report; with several datasets each gets a folder in there.
        resume: go on where an evaluation of the same weights was killed.

    Returns:
        Metrics by task, or with several datasets by the name of the dataset.

    Raises:
        OSError: the folder for the report cannot be written to; said before the evaluation.
    """
    if report is not None and comm.is_main_process():
        require_writable_folder(report)
    results: dict[str, Any] = {}
    names = recipe_of(cfg).test_names
    finished = _Finished(recipe_of(cfg), model)
    for name in names:
        folder = report if report is None or len(names) == 1 else report / name
        if resume and len(names) > 1 and (known := finished.read(name, folder)) is not None:
            logger.info("%s has been evaluated with these weights before.", name)
            results[name] = known
            print_csv_format(known)
            continue
        evaluator = DefaultTrainer.build_evaluator(cfg, name)
        loader = DefaultTrainer.build_test_loader(cfg, name)
        results[name] = inference_on_dataset(model, loader, evaluator, resume=resume)
        print_csv_format(results[name])
        if folder is not None:
            page = _write_report(evaluator, name, results[name], folder)
            print(f"The report of {name} is {page}")
        if len(names) > 1:
            finished.write(name, results[name], folder)
    return results[names[0]] if len(names) == 1 else results


class _Finished:
    """Metrics of the datasets that an evaluation of several has done, for when it is killed.

    Metrics of other weights or another config do not count.
    """

    def __init__(self, recipe: Any, model: nn.Module) -> None:
        self._folder = Path(recipe.output_dir) / "inference"
        self._config = f"{zlib.crc32(recipe.config_text().encode()):08x}"
        self._model = model

    def read(self, name: str, report: Path | None) -> dict[str, Any] | None:
        """The metrics, if this dataset is done, and has the report that is wanted."""
        try:
            content = json.loads(self._path(name).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        same = content["of"] == self._identity()
        has_report = report is None or content["report"] == str(report.resolve())
        return content["metrics"] if same and has_report else None

    def write(self, name: str, metrics: Mapping[str, Any], report: Path | None) -> None:
        """Remember that this dataset is done. Other processes than the main one have no metrics."""
        if not metrics:
            return
        content = {
            "of": self._identity(),
            "report": str(report.resolve()) if report is not None else None,
            "metrics": metrics,
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self._path(name), json.dumps(content))

    def _identity(self) -> str:
        return f"{model_identity(self._model)} {self._config}"

    def _path(self, name: str) -> Path:
        return self._folder / f"finished_{name.replace('/', '_')}.json"


def _write_report(evaluator: Any, name: str, metrics: Mapping[str, Any], folder: Path) -> Path:
    for each in _single(evaluator):
        # LVIS and rotated boxes have protocols of their own, which these analyses do not follow.
        if isinstance(each, COCOEvaluator) and not isinstance(each, RotatedCOCOEvaluator):
            run = run_of(each, name)
            if run is not None:
                root = MetadataCatalog.get(name).get("image_root", "") or ""
                return write_report(run, folder, root)
    return write_metrics(metrics, name, folder)


def _single(evaluator: Any) -> Iterator[Any]:
    """The evaluators that an evaluator is made of."""
    if isinstance(evaluator, DatasetEvaluators):
        for each in evaluator._evaluators:
            yield from _single(each)
    else:
        yield evaluator


def run_compare(
    a: Path,
    b: Path,
    *,
    ground_truth: Path | None = None,
    images: Path | None = None,
    task: str | None = None,
    output: Path,
) -> Path:
    """Compare two runs, write what is found, and print the metrics.

    Args:
        a, b: folders of reports, or COCO result files.
        ground_truth: COCO file; needed for result files.
        images: folder of the images; by default the one that the report of `b` names.
        task: "bbox" or "segm"; None: masks if both runs have them.
        output: folder.

    Returns:
        The page.

    Raises:
        ValueError: the runs cannot be compared, or have no such task.
    """
    runs = read_run(a, ground_truth), read_run(b, ground_truth)
    shared = [each for each in runs[0].tasks if each in runs[1].tasks]
    if task is not None and task not in shared:
        raise ValueError(f"Both runs have {shared}; {task!r} is not among them.")
    comparison = compare(*runs, task or shared[-1])
    root = str(images) if images else runs[1].image_root
    page = write_comparison(comparison, runs, output, root)
    for row in comparison.metrics:
        difference = f"{row['A']:7.2f} -> {row['B']:7.2f}  {row['difference']:+7.2f}"
        interval = f"[{row['from']:+.2f}, {row['to']:+.2f}]"
        print(f"{row['metric']:6s} {difference}  {interval}")
    return page
