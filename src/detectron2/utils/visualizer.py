"""Draw predictions and annotations on a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum, unique
from typing import Any

import numpy as np
import torch
from PIL import Image

from detectron2.structures import Instances, ROIMasks
from detectron2.utils.colormap import random_color
from detectron2.utils.drawing.colors import Color
from detectron2.utils.drawing.convert import (
    create_text_labels,
    drawn_box,
    read_id_map,
    roi_masks_to_generic,
)
from detectron2.utils.drawing.generic_mask import GenericMask
from detectron2.utils.drawing.instance_labels import SMALL_OBJECT_AREA
from detectron2.utils.drawing.instances import InstanceDrawing
from detectron2.utils.drawing.panoptic import _PanopticPrediction
from detectron2.utils.drawing.shapes import LARGE_MASK_AREA
from detectron2.utils.drawing.vis_image import VisImage

# random_color is not used here; downstream code imports it from this address.
__all__ = ["ColorMode", "VisImage", "Visualizer", "random_color"]

_SMALL_OBJECT_AREA_THRESH = SMALL_OBJECT_AREA
_LARGE_MASK_AREA_THRESH = LARGE_MASK_AREA
_OFF_WHITE = (1.0, 1.0, 240.0 / 255)
_BLACK = (0, 0, 0)
_RED = (1.0, 0, 0)
_KEYPOINT_THRESHOLD = 0.05
_IGNORED_LABEL = 255
_create_text_labels = create_text_labels


def _covered_by(masks: torch.Tensor | Sequence[GenericMask]) -> np.ndarray | None:
    """(H, W) bool, True on any of the masks; None if there are none."""
    if isinstance(masks, torch.Tensor):
        return (masks.any(dim=0) > 0).cpu().numpy()
    return np.logical_or.reduce([each.mask > 0 for each in masks]) if masks else None


@unique
class ColorMode(Enum):
    """How instances get their colours."""

    IMAGE = 0
    """Random colours, masks half transparent."""
    SEGMENTATION = 1
    """The colours of the classes in the metadata, each instance a little different."""
    IMAGE_BW = 2
    """As IMAGE, with everything outside of masks in grey."""


class Visualizer(InstanceDrawing):
    """Draws on one picture. Every drawing method returns the `VisImage` that it drew on.

    Coordinates are pixels of the picture before scaling, x to the right and y down. Colours are
    CSS names, letters of "rgbcmykw", "#rrggbb" or (red, green, blue) in [0, 1].

    Attributes:
        label_overlap: part of a label that another may hide before it moves to another spot near
            its object. At 0 labels never overlap while there is room.
    """

    def __init__(
        self,
        img_rgb: np.ndarray | torch.Tensor,
        metadata: Any = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ) -> None:
        """
        Args:
            img_rgb: (H, W, 3) RGB in [0, 255].
            metadata: names and colours of classes, as MetadataCatalog keeps them.
            scale: size of the output in multiples of the picture.
            instance_mode: how instances get their colours.
            font_size_scale: size of letters in multiples of the usual.
        """
        if metadata is None:
            from detectron2.data import MetadataCatalog

            metadata = MetadataCatalog.get("__nonexist__")
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = metadata
        self.output = VisImage(self.img, scale=scale)
        self.cpu_device = torch.device("cpu")
        side = math.sqrt(self.output.height * self.output.width)
        self._default_font_size = max(side // 90, 10 // scale) * font_size_scale
        self._instance_mode = instance_mode
        self.keypoint_threshold = _KEYPOINT_THRESHOLD

    def get_output(self) -> VisImage:
        """The picture with everything drawn so far."""
        return self.output

    # -------------------------------------------------------------- predictions, annotations

    def draw_instance_predictions(self, predictions: Instances, jittering: bool = True) -> VisImage:
        """Draw the output of an instance detector.

        Args:
            predictions: any of the fields pred_boxes, scores, pred_classes, pred_masks and
                pred_keypoints.
            jittering: in SEGMENTATION mode, vary the colour of a class between instances.
        """
        fields = {
            name: predictions.get(name) if predictions.has(name) else None
            for name in ("pred_boxes", "scores", "pred_classes", "pred_masks", "pred_keypoints")
        }
        classes = None if fields["pred_classes"] is None else fields["pred_classes"].tolist()
        masks = fields["pred_masks"]
        if isinstance(masks, ROIMasks):
            size = self.output.height, self.output.width
            masks = roi_masks_to_generic(masks, fields["pred_boxes"], *size)
        colors, alpha = None, 0.5
        if self._instance_mode == ColorMode.SEGMENTATION and classes is not None:
            colors = self._class_colors(classes, jittering)
            alpha = 0.5 if colors is None else 0.8
        elif self._instance_mode == ColorMode.IMAGE_BW:
            covered = None if masks is None else _covered_by(masks)
            self.output.reset_image(self._create_grayscale_image(covered))
            alpha = 0.3
        return self.overlay_instances(
            masks=None if masks is None else self._convert_masks(masks),
            boxes=fields["pred_boxes"],
            labels=_create_text_labels(
                classes, fields["scores"], self.metadata.get("thing_classes", None)
            ),
            keypoints=fields["pred_keypoints"],
            assigned_colors=colors,
            alpha=alpha,
        )

    def _class_colors(self, classes: Sequence[int], jittering: bool = True) -> list | None:
        """Colour of the class of each instance; None if the metadata has no colours."""
        palette = self.metadata.get("thing_colors", None)
        if not palette:
            return None
        colors = [tuple(channel / 255 for channel in palette[index]) for index in classes]
        return [self._jitter(color) for color in colors] if jittering else colors

    def draw_sem_seg(
        self,
        sem_seg: torch.Tensor | np.ndarray,
        area_threshold: int | None = None,
        alpha: float = 0.8,
        draw_text: bool = True,
        edge_color: Color = _OFF_WHITE,
    ) -> VisImage:
        """Draw a semantic segmentation.

        Args:
            sem_seg: (H, W) class indices; those without a name are not drawn. Without
                `stuff_classes` in the metadata all but 255 and negative ones are, as numbers.
            area_threshold: regions with fewer pixels are left out.
            alpha: opacity of the masks.
            draw_text: write the class into each mask.
            edge_color: colour of the outlines.
        """
        sem_seg = np.asarray(sem_seg.cpu() if isinstance(sem_seg, torch.Tensor) else sem_seg)
        labels, areas = np.unique(sem_seg, return_counts=True)
        count = len(self.metadata.get("stuff_classes", range(_IGNORED_LABEL)))
        for label in labels[np.argsort(-areas, kind="stable")].tolist():
            if not 0 <= label < count:
                continue
            self.draw_binary_mask(
                sem_seg == label,
                color=self._stuff_color(label),
                edge_color=edge_color,
                text=self._stuff_name(label) if draw_text else None,
                alpha=alpha,
                area_threshold=area_threshold,
            )
        return self.output

    def _stuff_name(self, label: int) -> str:
        names = self.metadata.get("stuff_classes", ())
        return names[label] if 0 <= label < len(names) else str(label)

    def _stuff_color(self, label: int) -> Color | None:
        palette = self.metadata.get("stuff_colors", None)
        if not palette or label >= len(palette):
            return None
        return tuple(channel / 255 for channel in palette[label])

    def draw_panoptic_seg(
        self,
        panoptic_seg: torch.Tensor,
        segments_info: list[dict[str, Any]] | None,
        area_threshold: int | None = None,
        alpha: float = 0.7,
    ) -> VisImage:
        """Draw a panoptic segmentation: stuff first, things over it.

        Args:
            panoptic_seg: (H, W) integer id of the segment of each pixel.
            segments_info: dictionaries with "id", "category_id", "isthing" and perhaps "score";
                None if the ids themselves hold the category (`metadata.label_divisor`).
            area_threshold: stuff regions with fewer pixels are left out.
            alpha: opacity of the masks.
        """
        segments = _PanopticPrediction(panoptic_seg.cpu(), segments_info, self.metadata)
        if self._instance_mode == ColorMode.IMAGE_BW:
            self.output.reset_image(self._create_grayscale_image(segments.non_empty_mask()))
        for mask, info in segments.semantic_masks():
            category = info["category_id"]
            self.draw_binary_mask(
                mask,
                color=self._stuff_color(category),
                edge_color=_OFF_WHITE,
                text=self._stuff_name(category),
                alpha=alpha,
                area_threshold=area_threshold,
            )
        things = list(segments.instance_masks())
        if not things:
            return self.output
        infos = [info for _, info in things]
        classes = [info["category_id"] for info in infos]
        scored = all("score" in info for info in infos)
        return self.overlay_instances(
            masks=[GenericMask(mask, *mask.shape) for mask, _ in things],
            labels=_create_text_labels(
                classes,
                [info["score"] for info in infos] if scored else None,
                self.metadata.get("thing_classes", None),
                [info.get("iscrowd", 0) for info in infos],
            ),
            assigned_colors=self._class_colors(classes),
            alpha=alpha,
        )

    draw_panoptic_seg_predictions = draw_panoptic_seg

    def draw_dataset_dict(self, dic: dict[str, Any]) -> VisImage:
        """Draw the annotations of a dataset record: instances, semantic and panoptic maps.

        Files that the record names (sem_seg_file_name, pan_seg_file_name) are read.
        """
        annotations = dic.get("annotations")
        if annotations:
            self._draw_annotations(annotations)
        sem_seg = dic.get("sem_seg")
        if sem_seg is None and "sem_seg_file_name" in dic:
            from detectron2.utils.file_io import PathManager

            with PathManager.open(dic["sem_seg_file_name"], "rb") as stream:
                sem_seg = np.asarray(Image.open(stream), dtype=np.uint8)
        if sem_seg is not None:
            self.draw_sem_seg(sem_seg, area_threshold=0, alpha=0.5)
        pan_seg = dic.get("pan_seg")
        if pan_seg is None and "pan_seg_file_name" in dic:
            pan_seg = read_id_map(dic["pan_seg_file_name"])
        if pan_seg is not None:
            self.draw_panoptic_seg(
                torch.as_tensor(pan_seg), dic["segments_info"], area_threshold=0, alpha=0.5
            )
        return self.output

    def _draw_annotations(self, annotations: Sequence[dict[str, Any]]) -> None:
        def column(key: str) -> list | None:
            present = all(key in annotation for annotation in annotations)
            return [annotation[key] for annotation in annotations] if present else None

        points = column("keypoints")
        keypoints = None if points is None else np.array(points).reshape(len(points), -1, 3)
        classes = column("category_id")
        colors = None
        if self._instance_mode == ColorMode.SEGMENTATION and classes is not None:
            colors = self._class_colors(classes)
        has_boxes = all("bbox" in annotation for annotation in annotations)
        self.overlay_instances(
            labels=_create_text_labels(
                classes,
                scores=None,
                class_names=self.metadata.get("thing_classes", None),
                is_crowd=[annotation.get("iscrowd", 0) for annotation in annotations],
            ),
            boxes=[drawn_box(annotation) for annotation in annotations] if has_boxes else None,
            masks=column("segmentation"),
            keypoints=keypoints,
            assigned_colors=colors,
        )
