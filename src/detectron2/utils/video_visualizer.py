"""Draw predictions on the frames of a video, with colours that stay with their instances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.colormap import random_color, random_colors
from detectron2.utils.drawing.vis_image import VisImage
from detectron2.utils.visualizer import (
    ColorMode,
    Visualizer,
    _create_text_labels,
    _PanopticPrediction,
)

__all__ = [
    "ColorMode",
    "Instances",
    "VideoVisualizer",
    "Visualizer",
    "random_color",
    "random_colors",
]

_FRAMES_TO_LIVE = 8  # an instance that was missed for fewer frames gets its colour back
_SAME_BOX_IOU = 0.6
_SAME_MASK_IOU = 0.5


class _DetectedInstance:
    """An instance of a frame, as remembered for the next.

    label: class. bbox: XYXY in pixels, or None. mask_rle: RLE dictionary, or None.
    color: RGB in [0, 1], None until one is assigned. ttl: frames left to be remembered.
    """

    __slots__ = ("bbox", "color", "label", "mask_rle", "ttl")

    def __init__(self, label: int, bbox: Any, mask_rle: Any, color: Any, ttl: int) -> None:
        self.label = label
        self.bbox = bbox
        self.mask_rle = mask_rle
        self.color = color
        self.ttl = ttl


class VideoVisualizer:
    """Draws frame after frame and remembers which instance had which colour.

    Instances are told apart by the field ID of a tracker, or else by their overlap with those of
    the frames before.
    """

    def __init__(self, metadata: Any, instance_mode: ColorMode = ColorMode.IMAGE) -> None:
        """
        Args:
            metadata: of the dataset; besides names and colours of classes,
                ``max_num_instances`` (74) colours are kept for identities, and identities seen in
                no more than ``period_threshold`` (0) frames are not drawn.
            instance_mode: IMAGE, or IMAGE_BW for a grey background.
        """
        if instance_mode not in (ColorMode.IMAGE, ColorMode.IMAGE_BW):
            raise AssertionError(
                f"Videos are drawn in IMAGE or IMAGE_BW mode, not {instance_mode}."
            )
        self.metadata = metadata
        self._instance_mode = instance_mode
        self._old_instances: list[_DetectedInstance] = []
        self._max_num_instances = metadata.get("max_num_instances", 74)
        self._color_pool = random_colors(self._max_num_instances, rgb=True, maximum=1)
        self._color_idx_set = set(range(len(self._color_pool)))
        self._assigned_colors: dict[Any, int] = {}

    def draw_instance_predictions(self, frame: np.ndarray, predictions: Instances) -> VisImage:
        """Draw the instances of a frame; boxes only where there are no masks.

        Args:
            frame: (H, W, 3) RGB in [0, 255].
            predictions: any of the fields pred_boxes, scores, pred_classes, pred_masks,
                pred_keypoints; COLOR (N colours), or ID and ID_period of a tracker.
        """
        visualizer = Visualizer(frame, self.metadata)
        if len(predictions) == 0:
            return visualizer.output
        predictions = predictions.to("cpu")
        colors = self._colors_of(predictions)
        if predictions.has("ID_period"):
            threshold = self.metadata.get("period_threshold", 0)
            shown = [i for i, period in enumerate(predictions.ID_period) if period > threshold]
            predictions = predictions[torch.tensor(shown, dtype=torch.long)]
            colors = [colors[i] for i in shown]
        masks = predictions.pred_masks if predictions.has("pred_masks") else None
        boxes = _field(predictions, "pred_boxes")
        classes = _field(predictions, "pred_classes")
        self._prepare_background(visualizer, masks)
        return visualizer.overlay_instances(
            boxes=None if masks is not None else boxes,
            masks=masks,
            labels=_create_text_labels(
                None if classes is None else classes.tolist(),
                _field(predictions, "scores"),
                self.metadata.get("thing_classes", None),
            ),
            keypoints=_field(predictions, "pred_keypoints"),
            assigned_colors=colors,
            alpha=0.3 if self._instance_mode == ColorMode.IMAGE_BW else 0.5,
        )

    def _prepare_background(self, visualizer: Visualizer, masks: torch.Tensor | None) -> None:
        if self._instance_mode == ColorMode.IMAGE_BW:
            covered = None if masks is None else (masks.any(dim=0) > 0).numpy()
            visualizer.output.reset_image(visualizer._create_grayscale_image(covered))

    def _colors_of(self, predictions: Instances) -> Sequence[Any]:
        """Colours in [0, 1], one for each instance."""
        if predictions.has("COLOR"):
            return predictions.COLOR
        if predictions.has("ID"):
            return self._assign_colors_by_id(predictions)
        count = len(predictions)
        classes = _field(predictions, "pred_classes")
        boxes = _field(predictions, "pred_boxes")
        labels = [0] * count if classes is None else classes.tolist()
        corners = [None] * count if boxes is None else boxes.tensor.numpy()
        return self._assign_colors(
            [
                _DetectedInstance(labels[i], corners[i], None, None, _FRAMES_TO_LIVE)
                for i in range(count)
            ]
        )

    def draw_sem_seg(
        self, frame: np.ndarray, sem_seg: torch.Tensor, area_threshold: int | None = None
    ) -> VisImage:
        """Draw a semantic segmentation; classes have the same colour in every frame.

        Args:
            frame: (H, W, 3) RGB in [0, 255].
            sem_seg: (H, W) class indices.
            area_threshold: regions with fewer pixels are left out.
        """
        return Visualizer(frame, self.metadata).draw_sem_seg(sem_seg, area_threshold)

    def draw_panoptic_seg_predictions(
        self,
        frame: np.ndarray,
        panoptic_seg: torch.Tensor,
        segments_info: list[dict[str, Any]] | None,
        area_threshold: int | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draw a panoptic segmentation.

        Args:
            frame: (H, W, 3) RGB in [0, 255].
            panoptic_seg, segments_info, area_threshold, alpha: see
                `Visualizer.draw_panoptic_seg`.
        """
        visualizer = Visualizer(frame, self.metadata)
        segments = _PanopticPrediction(panoptic_seg.cpu(), segments_info, self.metadata)
        if self._instance_mode == ColorMode.IMAGE_BW:
            gray = visualizer._create_grayscale_image(segments.non_empty_mask())
            visualizer.output.reset_image(gray)
        for mask, info in segments.semantic_masks():
            category = info["category_id"]
            visualizer.draw_binary_mask(
                mask,
                color=visualizer._stuff_color(category),
                text=visualizer._stuff_name(category),
                alpha=alpha,
                area_threshold=area_threshold,
            )
        things = list(segments.instance_masks())
        if not things:
            return visualizer.output
        labels = _create_text_labels(
            [info["category_id"] for _, info in things],
            None,
            self.metadata.get("thing_classes", None),
        )
        return visualizer.overlay_instances(
            masks=[mask for mask, _ in things],
            labels=labels,
            assigned_colors=self._assign_colors(_as_detected(things)),
            alpha=alpha,
        )

    # -------------------------------------------------------------- colours

    def _assign_colors(self, instances: list[_DetectedInstance]) -> list[Any]:
        """Give instances the colours of those that they overlap in earlier frames, or new ones.

        Remembers them for the next frame; an old one that is missed is remembered a while too.
        """
        overlaps = _overlap_matrix(self._old_instances, instances)
        missed = []
        for old, row in zip(self._old_instances, overlaps):
            match = int(row.argmax()) if len(row) else -1
            if match >= 0 and row[match] > 0 and instances[match].color is None:
                instances[match].color = old.color
                continue
            old.ttl -= 1
            if old.ttl > 0:
                missed.append(old)
        for instance in instances:
            if instance.color is None:
                instance.color = random_color(rgb=True, maximum=1)
        self._old_instances = [*instances, *missed]
        return [instance.color for instance in instances]

    def _assign_colors_by_id(self, instances: Instances) -> list[Any]:
        """Colour of each identity: its own as long as it is seen in every frame.

        With more identities than colours, some share one.
        """
        gone = set(self._assigned_colors) - set(instances.ID)
        for identity in instances.ID:
            if identity not in self._assigned_colors:
                free = self._color_idx_set
                index = free.pop() if free else len(self._assigned_colors) % len(self._color_pool)
                self._assigned_colors[identity] = index
        for identity in gone:
            index = self._assigned_colors.pop(identity)
            if index not in self._assigned_colors.values():
                self._color_idx_set.add(index)
        return [self._color_pool[self._assigned_colors[identity]] for identity in instances.ID]


def _field(predictions: Instances, name: str) -> Any:
    return predictions.get(name) if predictions.has(name) else None


def _as_detected(things: list[tuple[np.ndarray, dict[str, Any]]]) -> list[_DetectedInstance]:
    from hotcoco import mask as rle_codec

    return [
        _DetectedInstance(info["category_id"], None, rle_codec.encode(mask), None, _FRAMES_TO_LIVE)
        for mask, info in things
    ]


def _overlap_matrix(old: list[_DetectedInstance], new: list[_DetectedInstance]) -> np.ndarray:
    """(M, N) IoU of earlier and current instances; 0 unless they may be the same."""
    same_class = np.equal.outer([o.label for o in old], [n.label for n in new])
    if not same_class.any():
        return np.zeros((len(old), len(new)))
    if all(instance.bbox is not None for instance in [*old, *new]):
        iou = pairwise_iou(_boxes_of(old), _boxes_of(new)).numpy()
        threshold = _SAME_BOX_IOU
    elif all(instance.mask_rle is not None for instance in [*old, *new]):
        from hotcoco import mask as rle_codec

        masks = ([o.mask_rle for o in old], [n.mask_rle for n in new])
        iou = rle_codec.iou(*masks, [False] * len(new))
        threshold = _SAME_MASK_IOU
    else:
        return np.zeros((len(old), len(new)))
    return np.where(same_class & (iou > threshold), iou, 0.0)


def _boxes_of(instances: list[_DetectedInstance]) -> Boxes:
    corners = np.stack([np.asarray(instance.bbox) for instance in instances])
    return Boxes(torch.as_tensor(corners, dtype=torch.float32))
