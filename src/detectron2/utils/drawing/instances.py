"""Instances on a picture: boxes, masks, keypoints and labels, drawn with the shapes below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detectron2.utils.colormap import random_color
from detectron2.utils.drawing.colors import Color
from detectron2.utils.drawing.convert import boxes_to_array, keypoints_to_array, masks_to_generic
from detectron2.utils.drawing.generic_mask import GenericMask
from detectron2.utils.drawing.instance_labels import find_label_spot
from detectron2.utils.drawing.layout import common_length, largest_first, middle_of
from detectron2.utils.drawing.shapes import ShapeDrawing, edge_color_of
from detectron2.utils.drawing.vis_image import VisImage

__all__ = ["InstanceDrawing"]

_RED = (1.0, 0, 0)


class InstanceDrawing(ShapeDrawing):
    """Draws instances. Coordinates are as in `ShapeDrawing`.

    Attributes:
        metadata: names and connections of keypoints, as MetadataCatalog keeps them.
        keypoint_threshold: keypoints with a higher score are drawn.
        label_overlap: part of a label that another may hide before it moves to another spot near
            its object. At 0 labels never overlap while there is room.
    """

    metadata: Any
    keypoint_threshold: float
    # Labels stay where users of the original expect them unless one would be nearly unreadable.
    label_overlap = 0.75

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

    def _convert_boxes(self, boxes: Any) -> np.ndarray:
        return boxes_to_array(boxes)

    def _convert_masks(self, masks_or_polygons: Any) -> list[GenericMask]:
        return masks_to_generic(masks_or_polygons, self.output.height, self.output.width)

    def _convert_keypoints(self, keypoints: Any) -> np.ndarray:
        return keypoints_to_array(keypoints)
