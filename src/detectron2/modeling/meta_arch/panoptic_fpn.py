"""Panoptic segmentation: Mask R-CNN and semantic segmentation on one pyramid, merged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping.meta_arch import PANOPTIC_FPN
from detectron2.modeling.meta_arch._inputs import (
    InputDict,
    batch_for_backbone,
    ground_truth,
    output_size,
)
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN
from detectron2.modeling.meta_arch.semantic_seg import build_sem_seg_head
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import Instances

__all__ = ["PanopticFPN"]

SegmentInfo = dict[str, Any]


@META_ARCH_REGISTRY.register()
class PanopticFPN(GeneralizedRCNN):
    """Panoptic Feature Pyramid Networks (Kirillov et al., 2019).

    Input as in `GeneralizedRCNN`, and for training `sem_seg`, (H, W) int64, in which class 0
    stands for all things.
    """

    @configurable
    def __init__(
        self,
        *,
        sem_seg_head: nn.Module,
        combine_overlap_thresh: float = 0.5,
        combine_stuff_area_thresh: float = 4096,
        combine_instances_score_thresh: float = 0.5,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            sem_seg_head: module that `build_sem_seg_head` could make.
            combine_overlap_thresh: an instance is dropped if a larger share of it is hidden.
            combine_stuff_area_thresh: stuff of fewer pixels is dropped.
            combine_instances_score_thresh: instances of a lower score are dropped.
            kwargs: arguments of `GeneralizedRCNN`.
        """
        super().__init__(**kwargs)
        self.sem_seg_head = sem_seg_head
        self.combine_overlap_thresh = combine_overlap_thresh
        self.combine_stuff_area_thresh = combine_stuff_area_thresh
        self.combine_instances_score_thresh = combine_instances_score_thresh

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        if not lookup(cfg, "MODEL.PANOPTIC_FPN.COMBINE.ENABLED"):
            raise ValueError(
                "MODEL.PANOPTIC_FPN.COMBINE.ENABLED is False, which does nothing any more: call "
                "model.inference(inputs, do_postprocess=False) for results that are not merged."
            )
        arguments = super().from_config(cfg)
        weight = lookup(cfg, "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT")
        if weight != 1.0:
            _scale_instance_losses(arguments["roi_heads"], weight)
        shapes = arguments["backbone"].output_shape()
        return {
            **arguments,
            **read_arguments(cfg, PANOPTIC_FPN),
            "sem_seg_head": build_sem_seg_head(cfg, shapes),
        }

    def forward(self, batched_inputs: list[InputDict]) -> Any:
        """Losses by name when training; else what `inference` returns."""
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        labels = [self._move_to_current_device(x["sem_seg"]) for x in batched_inputs]
        targets = batch_for_backbone(
            labels, self.backbone, pad_value=self.sem_seg_head.ignore_value
        ).tensor
        _, sem_seg_losses = self.sem_seg_head(features, targets)
        gt_instances = ground_truth(batched_inputs, self.device)
        proposals, proposal_losses = self._propose(batched_inputs, images, features, gt_instances)
        _, detector_losses = self.roi_heads(images, features, proposals, gt_instances)
        return {**sem_seg_losses, **proposal_losses, **detector_losses}

    def inference(self, batched_inputs: list[InputDict], do_postprocess: bool = True) -> Any:
        """Instances, semantic scores and the panoptic segmentation of each image.

        Returns:
            Dictionaries with `instances`, `sem_seg` (C, height, width) and `panoptic_seg`, see
            `combine_semantic_and_instance_outputs`. Without `do_postprocess` (instances,
            (N, C, H, W) scores) in the frame of the network's input.
        """
        images = self.preprocess_image(batched_inputs)
        features = self._features(images)
        sem_seg_results, _ = self.sem_seg_head(features, None)
        detector_results = self._detect(batched_inputs, images, features)
        if not do_postprocess:
            return detector_results, sem_seg_results
        return [
            self._merged_output(detected, scores, image_size, output_size(input_dict, image_size))
            for detected, scores, input_dict, image_size in zip(
                detector_results, sem_seg_results, batched_inputs, images.image_sizes
            )
        ]

    def _merged_output(
        self,
        detected: Instances,
        sem_seg_scores: Tensor,
        image_size: tuple[int, int],
        wanted_size: tuple[int, int],
    ) -> dict[str, Any]:
        sem_seg = sem_seg_postprocess(sem_seg_scores, image_size, *wanted_size)
        instances = detector_postprocess(detected, *wanted_size)
        panoptic = combine_semantic_and_instance_outputs(
            instances,
            sem_seg.argmax(dim=0),
            self.combine_overlap_thresh,
            self.combine_stuff_area_thresh,
            self.combine_instances_score_thresh,
        )
        return {"sem_seg": sem_seg, "instances": instances, "panoptic_seg": panoptic}


def _scale_instance_losses(roi_heads: nn.Module, factor: float) -> None:
    """Multiply the weights of the box and mask losses."""

    def scaled(weight: Any) -> Any:
        if isinstance(weight, dict):
            return {name: value * factor for name, value in weight.items()}
        return weight * factor

    predictors = roi_heads.box_predictor
    heads = list(predictors) if isinstance(predictors, nn.ModuleList) else [predictors]
    if getattr(roi_heads, "mask_head", None) is not None:
        heads.append(roi_heads.mask_head)
    for head in heads:
        head.loss_weight = scaled(head.loss_weight)


def combine_semantic_and_instance_outputs(
    instance_results: Instances,
    semantic_results: Tensor,
    overlap_threshold: float,
    stuff_area_thresh: float,
    instances_score_thresh: float,
) -> tuple[Tensor, list[SegmentInfo]]:
    """Merge detections and semantic classes so that each pixel belongs to one segment.

    Instances paint first, the best one first, each only where nothing is painted yet; stuff
    fills what is left. Panoptic Segmentation (Kirillov et al., 2019), section 7.

    Args:
        instance_results: with `scores` (N,), `pred_classes` (N,), `pred_masks` (N, H, W) bool.
        semantic_results: (H, W) class of each pixel; 0 stands for things and is not painted.
        overlap_threshold: an instance is dropped if a larger share of it is painted already.
        stuff_area_thresh: stuff of fewer pixels is dropped.
        instances_score_thresh: instances of a lower score are dropped.

    Returns:
        (H, W) int32 segment ids, 0 where there is none, and a dictionary for each segment in
        the order of its id: `id`, `isthing`, `category_id`; for things also `score` and
        `instance_id` (index into `instance_results`), for stuff `area` in pixels.
    """
    panoptic, segments = _paint_instances(
        instance_results, semantic_results.shape, overlap_threshold, instances_score_thresh
    )
    return _paint_stuff(panoptic, segments, semantic_results, stuff_area_thresh)


def _paint_instances(
    instances: Instances, shape: torch.Size, overlap_threshold: float, score_threshold: float
) -> tuple[Tensor, list[SegmentInfo]]:
    """What stays is decided where the masks are: the host waits twice, not for each instance."""
    masks = instances.pred_masks.to(torch.bool)
    panoptic = torch.zeros(shape, dtype=torch.int32, device=masks.device)
    free = torch.ones(shape, dtype=torch.bool, device=masks.device)
    last_id = torch.zeros((), dtype=torch.int32, device=masks.device)
    candidates = _candidates(instances, score_threshold)
    is_kept = []
    for _, index, _ in candidates:
        visible = masks[index] & free
        area = torch.count_nonzero(masks[index])
        hidden = (area - torch.count_nonzero(visible)).double()
        # Of an empty mask it is 0 / 0, which is no number and not below the threshold.
        kept = hidden / area <= overlap_threshold
        visible &= kept
        last_id += kept
        panoptic = torch.where(visible, last_id, panoptic)
        free ^= visible
        is_kept.append(kept)
    answers = torch.stack(is_kept).tolist() if is_kept else []
    found = [candidate for candidate, kept in zip(candidates, answers) if kept]
    return panoptic, [
        {
            "id": number,
            "isthing": True,
            "score": score,
            "category_id": category,
            "instance_id": index,
        }
        for number, (score, index, category) in enumerate(found, start=1)
    ]


def _candidates(instances: Instances, score_threshold: float) -> list[tuple[float, int, int]]:
    """Score, index and class of the instances that may be painted, the best one first."""
    scores, order = instances.scores.sort(descending=True)
    classes = instances.pred_classes[order]
    # In one table, which is one wait for a GPU; these numbers are exact in float64.
    table = torch.stack([scores.double(), order.double(), classes.double()], dim=1).tolist()
    return [
        (score, int(index), int(label)) for score, index, label in table if score >= score_threshold
    ]


def _paint_stuff(
    panoptic: Tensor, segments: list[SegmentInfo], semantic: Tensor, area_threshold: float
) -> tuple[Tensor, list[SegmentInfo]]:
    # One histogram instead of one full-image comparison for each class.
    remaining = torch.where(panoptic == 0, semantic, 0)
    areas = torch.bincount(remaining.flatten()).tolist()
    segment_of_class = [0] * max(len(areas), 1)
    segments = list(segments)
    for label, area in enumerate(areas):
        if label == 0 or area == 0 or area < area_threshold:
            continue
        segment_of_class[label] = len(segments) + 1
        segments.append(
            {
                "id": len(segments) + 1,
                "isthing": False,
                "category_id": label,
                "area": area,
            }
        )
    stuff = torch.tensor(segment_of_class, dtype=torch.int32, device=panoptic.device)[remaining]
    return torch.where(panoptic == 0, stuff, panoptic), segments
