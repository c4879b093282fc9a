"""Detectors whose results are in the frame of the image that they are wanted for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detectron2.export.batched.model import BatchedModel
from detectron2.export.tracing import is_traced
from detectron2.ops import paste_masks

__all__ = ["PostprocessedBatch"]


class PostprocessedBatch(BatchedModel):
    """A batched detector with `detector_postprocess` behind it.

    Boxes and keypoints are scaled, boxes that are left empty are dropped, and `pred_masks` are
    (D, H, W) bool for the largest height and width among the outputs.
    """

    def __init__(self, batched: BatchedModel) -> None:
        super().__init__(batched.model)
        self.batched = batched
        self.output_names = batched.output_names
        self.boxes = next(name for name in self.output_names if name.endswith("boxes"))

    def forward(  # type: ignore[override]
        self, images: Tensor, image_sizes: Tensor, output_sizes: Tensor
    ) -> tuple[Tensor, ...]:
        """
        Args:
            images, image_sizes: see `BatchedModel.forward`.
            output_sizes: (N, 2) int64 height and width that results are wanted for.
        """
        found = dict(zip(self.output_names, self.batched(images, image_sizes)))
        scales = (output_sizes.float() / image_sizes.float()).flip(1)  # (N, 2): of x and y
        index = found["image_index"]
        limits = output_sizes[index].float().flip(1).repeat(1, 2)
        boxes = found[self.boxes] * scales[index].repeat(1, 2)
        boxes = torch.minimum(boxes.clamp(min=0), limits)
        rows = (boxes[:, 2:] > boxes[:, :2]).all(dim=1).nonzero()[:, 0]
        found = {name: value[rows] for name, value in {**found, self.boxes: boxes}.items()}
        if "pred_keypoints" in found:
            place, score = found["pred_keypoints"].split([2, 1], dim=2)
            place = place * scales[found["image_index"]][:, None]
            found["pred_keypoints"] = torch.cat([place, score], dim=2)
        if "pred_masks" in found:
            largest = output_sizes.amax(dim=0)
            # In a graph they stay variables.
            sides: Any = tuple(largest.unbind(0)) if is_traced() else tuple(largest.tolist())
            masks = found["pred_masks"][:, 0]
            found["pred_masks"] = paste_masks(masks, found[self.boxes], sides, 0.5)
        return tuple(found[name] for name in self.output_names)
