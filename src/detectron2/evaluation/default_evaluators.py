"""The evaluators of a dataset, by the ``evaluator_type`` of its metadata."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation.cityscapes_evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
)
from detectron2.evaluation.coco_evaluation import COCOEvaluator
from detectron2.evaluation.evaluator import DatasetEvaluator, DatasetEvaluators
from detectron2.evaluation.lvis_evaluation import LVISEvaluator
from detectron2.evaluation.panoptic_evaluation import COCOPanopticEvaluator
from detectron2.evaluation.pascal_voc_evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.rotated_coco_evaluation import RotatedCOCOEvaluator
from detectron2.evaluation.sem_seg_evaluation import SemSegEvaluator

logger = logging.getLogger(__name__)

__all__ = ["EVALUATORS", "EvaluatorFactory", "build_evaluator"]

# Called with the name of the dataset, the folder for results or None, and the config or None.
EvaluatorFactory = Callable[[str, "str | None", Any], DatasetEvaluator]


def _coco(dataset_name: str, output_dir: str | None, cfg: Any) -> COCOEvaluator:
    # Only yacs configs have a TEST node; lazy configs name their evaluator themselves.
    sigmas = getattr(getattr(cfg, "TEST", None), "KEYPOINT_OKS_SIGMAS", ())
    return COCOEvaluator(dataset_name, output_dir=output_dir, kpt_oks_sigmas=sigmas)


def _rotated(dataset_name: str, output_dir: str | None, cfg: Any) -> RotatedCOCOEvaluator:
    return RotatedCOCOEvaluator(dataset_name, output_dir=output_dir)


def _lvis(dataset_name: str, output_dir: str | None, cfg: Any) -> LVISEvaluator:
    return LVISEvaluator(dataset_name, output_dir=output_dir)


def _sem_seg(dataset_name: str, output_dir: str | None, cfg: Any) -> SemSegEvaluator:
    return SemSegEvaluator(dataset_name, output_dir=output_dir)


def _panoptic(dataset_name: str, output_dir: str | None, cfg: Any) -> COCOPanopticEvaluator:
    return COCOPanopticEvaluator(dataset_name, output_dir)


def _voc(dataset_name: str, output_dir: str | None, cfg: Any) -> PascalVOCDetectionEvaluator:
    return PascalVOCDetectionEvaluator(dataset_name)


def _city_instances(name: str, output_dir: str | None, cfg: Any) -> CityscapesInstanceEvaluator:
    return CityscapesInstanceEvaluator(name)


def _city_sem_seg(name: str, output_dir: str | None, cfg: Any) -> CityscapesSemSegEvaluator:
    return CityscapesSemSegEvaluator(name)


EVALUATORS: dict[str, tuple[EvaluatorFactory, ...]] = {
    "coco": (_coco,),
    "coco_panoptic_seg": (_sem_seg, _coco, _panoptic),
    "coco_rotated": (_rotated,),
    "sem_seg": (_sem_seg,),
    "lvis": (_lvis,),
    "pascal_voc": (_voc,),
    "cityscapes_instance": (_city_instances,),
    "cityscapes_sem_seg": (_city_sem_seg,),
    "cityscapes_panoptic_seg": (_city_sem_seg, _city_instances, _panoptic),
}
"""Factories by evaluator_type; a project adds a row for a type of its own."""


def build_evaluator(
    dataset_name: str, output_dir: str | None = None, cfg: Any = None
) -> DatasetEvaluator:
    """The evaluator of a dataset, or several of them as one.

    Args:
        dataset_name: registered dataset whose metadata has an evaluator_type.
        output_dir: folder for results.
        cfg: config; TEST.KEYPOINT_OKS_SIGMAS of it is used.

    Raises:
        NotImplementedError: the dataset has no evaluator_type, or none of that name is known.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", None)
    if kind not in EVALUATORS:
        known = ", ".join(sorted(EVALUATORS))
        raise NotImplementedError(
            f"Dataset {dataset_name!r} has evaluator_type {kind!r}; known are {known}. Set "
            f"MetadataCatalog.get({dataset_name!r}).evaluator_type, add a row to "
            "detectron2.evaluation.default_evaluators.EVALUATORS, or override build_evaluator()."
        )
    evaluators = [make(dataset_name, output_dir, cfg) for make in EVALUATORS[kind]]
    names = ", ".join(type(evaluator).__name__ for evaluator in evaluators)
    logger.info("%s is evaluated by %s (evaluator_type %r).", dataset_name, names, kind)
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)
