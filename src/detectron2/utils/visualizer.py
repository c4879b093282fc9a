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
    boxes_to_array,
    create_text_labels,
    drawn_box,
    keypoints_to_array,
    masks_to_generic,
    read_id_map,
    roi_masks_to_generic,
)
from detectron2.utils.drawing.generic_mask import GenericMask
from detectron2.utils.drawing.instance_labels import SMALL_OBJECT_AREA, find_label_spot
from detectron2.utils.drawing.layout import common_length, largest_first, middle_of
from detectron2.utils.drawing.panoptic import _PanopticPrediction
from detectron2.utils.drawing.shapes import LARGE_MASK_AREA, ShapeDrawing, edge_color_of
from detectron2.utils.drawing.vis_image import VisImage

__all__ = ["ColorMode", "VisImage", "Visualizer"]

_SMALL_OBJECT_AREA_THRESH = SMALL_OBJECT_AREA
_LARGE_MASK_AREA_THRESH = LARGE_MASK_AREA
_OFF_WHITE = (1.0, 1.0, 240.0 / 255)
_BLACK = (0, 0, 0)
_RED = (1.0, 0, 0)
_KEYPOINT_THRESHOLD = 0.05
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


class Visualizer(ShapeDrawing):
    """Draws on one picture. Every drawing method returns the `VisImage` that it drew on.

    Coordinates are pixels of the picture before scaling, x to the right and y down. Colours are
    CSS names, letters of "rgbcmykw", "#rrggbb" or (red, green, blue) in [0, 1].

    Attributes:
        label_overlap: part of a label that another may hide before it moves to another spot near
            its object. At 0 labels never overlap while there is room.
    """

    # Labels stay where users of the original expect them unless one would be nearly unreadable.
    label_overlap = 0.75

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
            sem_seg: (H, W) class indices; those without a name are not drawn.
            area_threshold: regions with fewer pixels are left out.
            alpha: opacity of the masks.
            draw_text: write the class into each mask.
            edge_color: colour of the outlines.
        """
        sem_seg = np.asarray(sem_seg.cpu() if isinstance(sem_seg, torch.Tensor) else sem_seg)
        labels, areas = np.unique(sem_seg, return_counts=True)
        names = self.metadata.stuff_classes
        for label in labels[np.argsort(-areas, kind="stable")].tolist():
            if not 0 <= label < len(names):
                continue
            self.draw_binary_mask(
                sem_seg == label,
                color=self._stuff_color(label),
                edge_color=edge_color,
                text=names[label] if draw_text else None,
                alpha=alpha,
                area_threshold=area_threshold,
            )
        return self.output

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
                text=self.metadata.stuff_classes[category],
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
                self.metadata.thing_classes,
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

    # -------------------------------------------------------------- overlays

    def overlay_instances(
        self,
        *,
        boxes: Any = None,
        labels: Sequence[str] | None = None,
        masks: Any = None,
        keypoints: Any = None,
        assigned_colors: Sequence[Color] | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draw N instances, the largest first.

        Args:
            boxes: Boxes, RotatedBoxes, or an (N, 4) array of XYXY or (N, 5) array of rotated
                boxes. Boxes with NaN or infinite coordinates are not drawn.
            labels: N texts.
            masks: PolygonMasks, BitMasks, an (N, H, W) array, or a list of RLE dictionaries,
                polygons, arrays or GenericMasks.
            keypoints: Keypoints or an (N, K, 3) array of (x, y, score).
            assigned_colors: N colours; random ones if None.
            alpha: opacity of the masks.

        Raises:
            AssertionError: different numbers of boxes, masks, labels, keypoints or colours.
        """
        boxes = None if boxes is None else self._convert_boxes(boxes)
        masks = None if masks is None else self._convert_masks(masks)
        keypoints = None if keypoints is None else self._convert_keypoints(keypoints)
        count = common_length(boxes=boxes, masks=masks, keypoints=keypoints, labels=labels)
        if assigned_colors is None:
            assigned_colors = [random_color(rgb=True, maximum=1) for _ in range(count)]
        common_length(instances=range(count), assigned_colors=assigned_colors)
        if count == 0:
            return self.output
        if boxes is not None and boxes.shape[1] == 5:
            return self.overlay_rotated_instances(
                boxes=boxes, labels=labels, assigned_colors=assigned_colors
            )
        for i in largest_first(boxes, masks, count):
            color = assigned_colors[i]
            if boxes is not None:
                self.draw_box(boxes[i], edge_color=color)
            if masks is not None:
                self._draw_instance_mask(masks[i], color, alpha)
            if labels is not None:
                self._draw_instance_label(
                    labels[i],
                    color,
                    None if boxes is None else boxes[i],
                    None if masks is None else masks[i],
                )
        if keypoints is not None:
            for points in keypoints:
                self.draw_and_connect_keypoints(points)
        return self.output

    def _draw_instance_mask(self, mask: GenericMask, color: Color, alpha: float) -> None:
        if mask.is_outlined:
            for polygon in mask.polygons:
                self.draw_polygon(polygon.reshape(-1, 2), color, alpha=alpha)
        else:
            edge_color = edge_color_of(color, None, alpha)
            self._paint_mask(mask.mask.view(bool), color, edge_color, alpha)

    def _draw_instance_label(
        self, text: str, color: Color, box: np.ndarray | None, mask: GenericMask | None
    ) -> None:
        """Write the label of an instance near its box, or into its mask."""
        spot = find_label_spot(
            self.output, text, box, mask, self._default_font_size, self.label_overlap
        )
        if spot is not None:
            self.draw_text(
                text,
                spot.position,
                color=self._change_color_brightness(color, brightness_factor=0.7),
                horizontal_alignment=spot.align,
                font_size=spot.font_size,
            )

    def overlay_rotated_instances(
        self,
        boxes: Any = None,
        labels: Sequence[str] | None = None,
        assigned_colors: Sequence[Color] | None = None,
    ) -> VisImage:
        """Draw N rotated boxes, the largest first.

        Args:
            boxes: RotatedBoxes or (N, 5) rows of (x centre, y centre, width, height, degrees
                anticlockwise).
            labels: N texts.
            assigned_colors: N colours; random ones if None.
        """
        boxes = np.zeros((0, 5)) if boxes is None else self._convert_boxes(boxes)
        if assigned_colors is None:
            assigned_colors = [random_color(rgb=True, maximum=1) for _ in range(len(boxes))]
        for i in np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable"):
            self.draw_rotated_box_with_label(
                boxes[i],
                edge_color=assigned_colors[i],
                label=labels[i] if labels is not None else None,
            )
        return self.output

    def draw_and_connect_keypoints(self, keypoints: Any) -> VisImage:
        """Draw the visible keypoints of one instance and the lines between them.

        Lines follow ``metadata.keypoint_connection_rules`` (name, name, colour in [0, 255]).
        Where the named points allow it, a line leads from the nose over the middle of the
        shoulders to the middle of the hips.

        Args:
            keypoints: (K, 3) of (x, y, score); shown above `self.keypoint_threshold`.
        """
        names = self.metadata.get("keypoint_names", None)
        visible: dict[str, tuple[float, float]] = {}
        for index, (x, y, score) in enumerate(keypoints):
            if not score > self.keypoint_threshold:
                continue
            self.draw_circle((float(x), float(y)), color=_RED)
            if names:
                visible[names[index]] = (float(x), float(y))
        for first, second, color in self.metadata.get("keypoint_connection_rules", None) or ():
            if first in visible and second in visible:
                self._connect(visible[first], visible[second], [value / 255 for value in color])
        shoulders = middle_of(visible, "left_shoulder", "right_shoulder")
        hips = middle_of(visible, "left_hip", "right_hip")
        if shoulders is not None:
            if "nose" in visible:
                self._connect(visible["nose"], shoulders, _RED)
            if hips is not None:
                self._connect(shoulders, hips, _RED)
        return self.output

    def _connect(self, start: Sequence[float], end: Sequence[float], color: Color) -> None:
        self.draw_line([start[0], end[0]], [start[1], end[1]], color=color)

    # -------------------------------------------------------------- conversions

    def _convert_boxes(self, boxes: Any) -> np.ndarray:
        return boxes_to_array(boxes)

    def _convert_masks(self, masks_or_polygons: Any) -> list[GenericMask]:
        return masks_to_generic(masks_or_polygons, self.output.height, self.output.width)

    def _convert_keypoints(self, keypoints: Any) -> np.ndarray:
        return keypoints_to_array(keypoints)
