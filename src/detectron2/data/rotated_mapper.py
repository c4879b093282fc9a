"""From a dataset record to the input of a model of rotated boxes."""

from __future__ import annotations

from typing import Any

import numpy as np

from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.dataset_mapper import DatasetMapper
from detectron2.structures import BoxMode, Instances

__all__ = ["RotatedDatasetMapper"]


class RotatedDatasetMapper(DatasetMapper):
    """A `DatasetMapper` whose `gt_boxes` are `RotatedBoxes`; upright boxes get the angle 0.

    Models with ``PROPOSAL_GENERATOR.NAME: RRPN`` get it by default.
    """

    def _transform_annotation(
        self, annotation: dict[str, Any], transforms: T.Transform, image_shape: tuple[int, int]
    ) -> dict[str, Any]:
        box = np.array(annotation["bbox"], dtype=np.float64)
        mode = annotation["bbox_mode"]
        if mode != BoxMode.XYWHA_ABS:
            box = BoxMode.convert(box, mode, BoxMode.XYWH_ABS)
            box = np.asarray(BoxMode.convert(box, BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS))
        annotation["bbox"] = transforms.apply_rotated_box(box[None])[0]
        annotation["bbox_mode"] = BoxMode.XYWHA_ABS
        return annotation

    def _instances(
        self, annotations: list[dict[str, Any]], image_shape: tuple[int, int]
    ) -> Instances:
        return utils.annotations_to_instances_rotated(annotations, image_shape)
