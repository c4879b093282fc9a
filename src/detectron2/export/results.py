"""From the tensors that an exported file returns to what a model returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detectron2.export.info import ExportInfo
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.postprocessing import (
    detector_postprocess,
    sem_seg_postprocess,
    to_output_frame,
)
from detectron2.structures import Boxes, Instances, RotatedBoxes, heatmaps_to_keypoints

__all__ = ["results_of_batch"]

Size = tuple[int, int]


def results_of_batch(
    info: ExportInfo,
    outputs: Mapping[str, Tensor],
    network_sizes: Sequence[Size],
    wanted_sizes: Sequence[Size],
) -> list[dict[str, Any]]:
    """What the model returns for each image of a batch.

    Args:
        outputs: by `info.outputs`.
        network_sizes: (height, width) of each image as the file got it.
        wanted_sizes: (height, width) that the results are wanted for.
    """
    return [
        _result_of_image(info, outputs, index, *sizes)
        for index, sizes in enumerate(zip(network_sizes, wanted_sizes))
    ]


def _result_of_image(
    info: ExportInfo, outputs: Mapping[str, Tensor], index: int, size: Size, wanted: Size
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if "sem_seg" in outputs:
        result["sem_seg"] = sem_seg_postprocess(outputs["sem_seg"][index], size, *wanted)
    if "image_index" in outputs or "num_detections" in outputs:
        found = _instances(info, outputs, index, size if info.postprocess == "out" else wanted)
        if info.postprocess == "out":
            # Instances are merged with stuff as images of masks.
            convert = to_output_frame if info.panoptic is None else detector_postprocess
            found = convert(found, *wanted)
        result["proposals" if "proposal_boxes" in outputs else "instances"] = found
    if info.panoptic is not None:
        result["panoptic_seg"] = combine_semantic_and_instance_outputs(
            result["instances"], result["sem_seg"].argmax(dim=0), **info.panoptic
        )
    return result


def _instances(
    info: ExportInfo, outputs: Mapping[str, Tensor], index: int, size: Size
) -> Instances:
    found = Instances(size)
    for name, value in outputs.items():
        if name in ("image_index", "num_detections", "sem_seg"):
            continue
        chosen: Any = _rows_of_image(outputs, value, index)
        if name.endswith("boxes"):
            chosen = RotatedBoxes(chosen) if info.rotated else Boxes(chosen)
        elif name == "pred_masks" and info.postprocess == "in":
            chosen = chosen[:, : size[0], : size[1]]
        found.set(name, chosen)
    if found.has("pred_keypoint_heatmaps") and not found.has("pred_keypoints"):
        heatmaps, boxes = found.pred_keypoint_heatmaps, found.pred_boxes.tensor
        found.pred_keypoints = heatmaps_to_keypoints(heatmaps, boxes)[:, :, [0, 1, 3]]
    return found


def _rows_of_image(outputs: Mapping[str, Tensor], value: Tensor, index: int) -> Tensor:
    if "num_detections" in outputs:  # every image has as many rows, of which the first ones count
        return value[index, : int(outputs["num_detections"][index])]
    return value[outputs["image_index"] == index]


def as_tensors(info: ExportInfo, outputs: Sequence[Any]) -> dict[str, Tensor]:
    """Outputs of a runtime by name."""
    return {name: torch.as_tensor(value) for name, value in zip(info.outputs, outputs, strict=True)}
