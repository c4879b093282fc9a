"""A run to look into: ground truth, and the detections of a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from detectron2.evaluation.coco_dataset import NO_IMAGE, load_ground_truth
from detectron2.evaluation.coco_loading import load_results
from detectron2.evaluation.coco_results import CocoResults
from detectron2.evaluation.fast_eval_api import COCOeval_opt
from detectron2.evaluation.result_stream import ResultStream

__all__ = ["DETECTIONS_FILE", "SUMMARY_FILE", "EvaluatedRun", "read_run", "run_of"]

DETECTIONS_FILE = "detections.json"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class EvaluatedRun:
    """Ground truth and detections, all in memory.

    Attributes:
        name: what to call it.
        truth: hotcoco.COCO of the ground truth.
        results: detections with the ids of `truth`.
        tasks: of "bbox" and "segm".
        ground_truth_file: where the truth comes from.
        image_root: folder of the images, "" if it is not known.
        original_ids: image id of the file for each id of `truth`; None if they are the same.
    """

    name: str
    truth: Any
    results: CocoResults
    tasks: tuple[str, ...]
    ground_truth_file: str
    image_root: str = ""
    original_ids: Mapping[int, Any] | None = None

    @cached_property
    def categories(self) -> dict[int, str]:
        """Name of each category id, in the order of the ids."""
        categories = self.truth.loadCats(self.truth.getCatIds())
        return {c["id"]: c.get("name", str(c["id"])) for c in sorted(categories, key=_id_of)}

    @cached_property
    def images(self) -> dict[int, dict[str, Any]]:
        return dict(self.truth.imgs)

    @cached_property
    def objects(self) -> dict[int, dict[str, Any]]:
        """Annotations that are to be found, by id: crowds are not."""
        return {i: a for i, a in self.truth.anns.items() if not a.get("iscrowd", 0)}

    def detections(self, task: str) -> Any:
        """A hotcoco.COCO of the detections, numbered from 1 in the order of `results`."""
        return load_results(self.truth, self.results, task)

    def evaluated(self, task: str) -> Any:
        """A hotcoco.COCOeval that has matched, accumulated and summarised."""
        evaluation = COCOeval_opt(self.truth, self.detections(task), task)
        evaluation.evaluate()
        native = evaluation._native
        native.accumulate()
        native.summary_lines()
        return native


def _id_of(record: Mapping[str, Any]) -> Any:
    return record["id"]


def run_of(evaluator: Any, name: str) -> EvaluatedRun | None:
    """The run that a `COCOEvaluator` has just evaluated; None if there is nothing to look into."""
    stream = ResultStream.over(evaluator._predictions)
    if stream is None or not len(stream) or not evaluator._do_evaluation:
        return None
    results = evaluator._with_image_numbers(evaluator._to_dataset_ids(stream))
    tasks = ("bbox", "segm") if stream.masked else ("bbox",)
    numbers = evaluator._ground_truth.image_numbers
    return EvaluatedRun(
        name,
        evaluator._coco_api,
        _known(results.joined(), evaluator._coco_api),
        tasks,
        str(Path(evaluator._metadata.json_file).resolve()),
        str(evaluator._metadata.get("image_root", None) or ""),
        None if numbers is None else {number: image for image, number in numbers.items()},
    )


def _known(results: CocoResults, truth: Any) -> CocoResults:
    """Detections of images and categories that the ground truth has."""
    known = np.isin(results.image_ids, truth.getImgIds())
    known &= np.isin(results.category_ids, truth.getCatIds())
    return results if known.all() else results.selected(known)


def read_run(path: str | Path, ground_truth_file: str | Path | None = None) -> EvaluatedRun:
    """The run of a report's folder, or of a COCO result file and its ground truth.

    Args:
        path: folder that `write_report` has written, or a JSON list of detections.
        ground_truth_file: COCO file; a folder knows its own.

    Raises:
        FileNotFoundError: something is not there.
        ValueError: a file does not hold what it should.
    """
    path = Path(path)
    name, results_file, image_root = path.name or str(path), path, ""
    if path.is_dir():
        results_file = path / DETECTIONS_FILE
        summary = _read_json(path / SUMMARY_FILE, "a folder that `eval --report` has written")
        ground_truth_file = ground_truth_file or summary["ground_truth"]
        image_root = summary["image_root"]
    if ground_truth_file is None:
        raise ValueError(f"{str(path)!r} is a file of detections: say --data GROUND_TRUTH.json.")
    content = _read_json(results_file, "a COCO result file")
    if not isinstance(content, list):
        raise ValueError(f"{str(results_file)!r} is no list of detections.")
    truth = load_ground_truth(str(ground_truth_file))
    number_of = truth.image_numbers
    get: Callable[[Any], Any] = (
        (lambda i: i) if number_of is None else (lambda i: number_of.get(i, NO_IMAGE))
    )
    results = _as_columns(content, get, str(results_file))
    tasks = ("bbox",) if results.mask_counts is None else ("bbox", "segm")
    originals = None if number_of is None else {n: image for image, n in number_of.items()}
    return EvaluatedRun(
        name, truth.coco, _known(results, truth.coco), tasks,
        str(Path(ground_truth_file).resolve()), image_root, originals,
    )  # fmt: skip


def _read_json(path: Path, what: str) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist; expected {what}.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not {what}: {error}.") from error


def _as_columns(content: list[Any], number_of: Callable[[Any], Any], name: str) -> CocoResults:
    """Detections of a result file as columns; those of one image are kept in their order."""
    masked = bool(content) and all("segmentation" in result for result in content)
    parts: dict[Any, list[dict[str, Any]]] = {}
    try:
        for result in content:
            parts.setdefault(number_of(result["image_id"]), []).append(result)
        return CocoResults.concatenate(
            [
                CocoResults.of_image(
                    image,
                    np.array([r["category_id"] for r in mine]),
                    np.array([r["score"] for r in mine]),
                    np.array([r["bbox"] for r in mine], dtype=np.float64).reshape(-1, 4),
                    [r["segmentation"] for r in mine] if masked else None,
                )
                for image, mine in parts.items()
            ]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name!r} has a detection without what it needs: {error!r}.") from error
