"""Shapes, masks and text on a picture: the part of a Visualizer that knows no instances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from detectron2.utils.colormap import random_color
from detectron2.utils.drawing import paint
from detectron2.utils.drawing.colors import Color, scale_lightness, text_color, to_rgb, to_rgb8
from detectron2.utils.drawing.contours import trace
from detectron2.utils.drawing.instance_labels import SMALL_OBJECT_AREA
from detectron2.utils.drawing.layout import (
    central_points,
    label_font_fraction,
    rotated_corners,
    without_small_regions,
)
from detectron2.utils.drawing.text import POINT, Label
from detectron2.utils.drawing.vis_image import VisImage

__all__ = ["LARGE_MASK_AREA", "ShapeDrawing", "edge_color_of"]

LARGE_MASK_AREA = 120000  # pixels; every region above it gets a text of its own


class ShapeDrawing:
    """Draws shapes. Coordinates are pixels of the picture before scaling, x right and y down.

    Attributes:
        img: (H, W, 3) uint8 RGB picture. output: what is drawn on.
    """

    img: np.ndarray
    output: VisImage
    _default_font_size: float  # points before scaling

    def _points(self, points: Any) -> np.ndarray:
        """(P, 2) points of the picture as canvas points."""
        return np.asarray(points, dtype=np.float64).reshape(-1, 2) * self.output.scale

    def _pixels(self, points_of_type: float) -> float:
        """Line width in output pixels of a width in points."""
        return points_of_type * self.output.scale * POINT

    def draw_text(
        self,
        text: str,
        position: Sequence[float],
        *,
        font_size: float | None = None,
        color: Color = "g",
        horizontal_alignment: str = "center",
        rotation: float = 0,
    ) -> VisImage:
        """Write on a dark plate; texts stay above all shapes.

        Args:
            position: (x, y) of the top of the text.
            font_size: in points before scaling; the default depends on the picture.
            color: made bright enough to be read.
            horizontal_alignment: "left", "center" or "right": what `position` is the x of.
            rotation: degrees, anticlockwise.
        """
        if horizontal_alignment not in ("left", "center", "right"):
            raise ValueError(
                f"horizontal_alignment is 'left', 'center' or 'right', "
                f"not {horizontal_alignment!r}."
            )
        x, y = self._points(position)[0]
        if math.isfinite(x) and math.isfinite(y):
            size = self._pixels(font_size if font_size else self._default_font_size)
            rgb = to_rgb8(text_color(color))
            self.output.add_label(
                Label(str(text), x, y, size, rgb, horizontal_alignment, float(rotation))
            )
        return self.output

    def draw_box(
        self,
        box_coord: Sequence[float],
        alpha: float = 0.5,
        edge_color: Color = "g",
        line_style: str = "-",
    ) -> VisImage:
        """Draw the frame of an upright (x0, y0, x1, y1) box."""
        x0, y0, x1, y1 = (float(edge) for edge in box_coord)
        width = self._pixels(max(self._default_font_size / 4, 1))
        color = to_rgb8(edge_color)
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            return self.output
        if line_style in ("-", "solid"):
            corners = self._points([(x0, y0), (x1, y1)]).reshape(-1).tolist()
            for patch in paint.box_frame(corners, width, self.output.canvas_size):
                self.output.paint(patch, color, alpha)
        else:
            frame = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
            self._stroke(frame, width, color, alpha, line_style)
        return self.output

    def _stroke(
        self, points: Any, width: float, color: tuple[int, int, int], alpha: float, style: str
    ) -> None:
        canvas_points = self._points(points)
        if np.isfinite(canvas_points).all():
            patch = paint.stroke(canvas_points, width, self.output.canvas_size, style)
            self.output.paint(patch, color, alpha)

    def draw_rotated_box_with_label(
        self,
        rotated_box: Sequence[float],
        alpha: float = 0.5,
        edge_color: Color = "g",
        line_style: str = "-",
        label: str | None = None,
    ) -> VisImage:
        """Draw a rotated box, its top side dashed, and write `label` along it.

        Args:
            rotated_box: (x centre, y centre, width, height, degrees anticlockwise).
        """
        if not np.isfinite(np.asarray(rotated_box, dtype=np.float64)).all():
            return self.output
        _, _, width, height, degrees = (float(value) for value in rotated_box)
        small = width * height < SMALL_OBJECT_AREA * self.output.scale
        corners = rotated_corners(rotated_box)
        for side in range(4):
            start, end = corners[side], corners[(side + 1) % 4]
            self.draw_line(
                [start[0], end[0]],
                [start[1], end[1]],
                color=edge_color,
                linestyle="--" if side == 1 else line_style,
                linewidth=self._default_font_size / (6 if small else 3),
            )
        if label is not None:
            picture_side = math.sqrt(self.output.height * self.output.width)
            self.draw_text(
                label,
                corners[1],
                color=self._change_color_brightness(edge_color, brightness_factor=0.7),
                font_size=self._default_font_size * label_font_fraction(height, picture_side),
                rotation=degrees,
            )
        return self.output

    def draw_circle(
        self, circle_coord: Sequence[float], color: Color, radius: float = 3
    ) -> VisImage:
        """Draw a filled circle around (x, y), `radius` in pixels of the picture.

        It has an outline of one point in the same colour, half of which lies outside.
        """
        center = self._points(circle_coord)[0]
        if np.isfinite(center).all():
            reach = radius * self.output.scale + POINT / 2
            patch = paint.disk((center[0], center[1]), reach, self.output.canvas_size)
            self.output.paint(patch, to_rgb8(color))
        return self.output

    def draw_line(
        self,
        x_data: Sequence[float],
        y_data: Sequence[float],
        color: Color,
        linestyle: str = "-",
        linewidth: float | None = None,
    ) -> VisImage:
        """Draw a line through the points (x_data[i], y_data[i]).

        Args:
            linestyle: "-", "--", "-." or ":".
            linewidth: in points before scaling; the default depends on the picture.
        """
        width = max(self._default_font_size / 3 if linewidth is None else linewidth, 1)
        points = np.stack([np.asarray(x_data, float), np.asarray(y_data, float)], axis=1)
        self._stroke(points, self._pixels(width), to_rgb8(color), 1.0, linestyle)
        return self.output

    def draw_polygon(
        self,
        segment: np.ndarray,
        color: Color,
        edge_color: Color | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draw a filled polygon with an opaque outline.

        Args:
            segment: (P, 2) corners.
            edge_color: None: `color`, darker if the fill is nearly opaque.
            alpha: opacity of the fill.
        """
        points = self._points(segment)
        if len(points) == 0 or not np.isfinite(points).all():
            return self.output
        canvas_size = self.output.canvas_size
        self.output.paint(paint.polygon(points, canvas_size), to_rgb8(color), alpha)
        outline = paint.stroke(np.vstack([points, points[:2]]), self._edge_width(), canvas_size)
        self.output.paint(outline, to_rgb8(edge_color_of(color, edge_color, alpha)))
        return self.output

    def _edge_width(self) -> float:
        """Outline of masks and polygons in output pixels."""
        return max(self._default_font_size // 15 * self.output.scale, 1) * POINT

    # -------------------------------------------------------------- masks

    def draw_binary_mask(
        self,
        binary_mask: np.ndarray,
        color: Color | None = None,
        *,
        edge_color: Color | None = None,
        text: str | None = None,
        alpha: float = 0.5,
        area_threshold: int | None = 10,
    ) -> VisImage:
        """Draw a mask: outlined, or as a plain overlay if it has holes.

        Args:
            binary_mask: (H, W) zeros and ones.
            color: a random one if None.
            edge_color: colour of the outline, as in `draw_polygon`.
            text: written into the largest region and into every other large one.
            alpha: opacity.
            area_threshold: regions with fewer pixels are left out.
        """
        if color is None:
            color = random_color(rgb=True, maximum=1)
        mask = np.asarray(binary_mask).astype(bool)
        contours = trace(mask)
        if any(contour.is_hole for contour in contours):
            self._paint_mask(mask, color, None, alpha)
        else:
            mask = without_small_regions(mask, contours, area_threshold or 0)
            self._paint_mask(mask, color, edge_color_of(color, edge_color, alpha), alpha)
        if text is not None and mask.any():
            self._draw_text_in_mask(mask, text, self._change_color_brightness(color, 0.7))
        return self.output

    def _paint_mask(
        self, mask: np.ndarray, color: Color, edge_color: Color | None, alpha: float
    ) -> None:
        inside, origin = paint.resample_mask(mask, self.output.canvas_size)
        self.output.paint(paint.Patch(inside, *origin), to_rgb8(color), alpha)
        if edge_color is not None:
            outline = paint.mask_outline(inside, origin, self._edge_width())
            self.output.paint(outline, to_rgb8(edge_color))

    def draw_soft_mask(
        self,
        soft_mask: np.ndarray,
        color: Color | None = None,
        *,
        text: str | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draw a mask of (H, W) opacities in [0, 1]; `text` goes where they exceed one half."""
        if color is None:
            color = random_color(rgb=True, maximum=1)
        soft_mask = np.asarray(soft_mask)
        levels = np.rint(np.nan_to_num(soft_mask).clip(0, 1) * 255).astype(np.uint8)
        height, width = self.output.canvas_size
        if levels.shape != (height, width):
            levels = np.asarray(Image.fromarray(levels).resize((width, height)))
        self.output.paint(paint.Patch(levels, 0, 0), to_rgb8(color), alpha)
        if text is not None:
            lighter = self._change_color_brightness(color, brightness_factor=0.7)
            self._draw_text_in_mask(soft_mask > 0.5, text, lighter)
        return self.output

    def _draw_text_in_mask(self, binary_mask: np.ndarray, text: str, color: Color) -> None:
        """Write `text` at the median pixel of the largest region and of other large ones."""
        for point in central_points(np.asarray(binary_mask).astype(bool), LARGE_MASK_AREA):
            self.draw_text(text, point, color=color)

    # -------------------------------------------------------------- colours and conversions

    def _create_grayscale_image(self, mask: np.ndarray | None = None) -> np.ndarray:
        """(H, W, 3) picture in grey, except where `mask` (H, W) is True."""
        gray = self.img.astype(np.float32).mean(axis=2, keepdims=True)
        gray = np.repeat(gray, 3, axis=2)
        if mask is not None:
            mask = np.asarray(mask).astype(bool)
            gray[mask] = self.img[mask]
        return gray

    def _jitter(self, color: Color) -> tuple[float, float, float]:
        """A colour near `color`: moved by half a unit in a random bright direction."""
        direction = np.random.rand(3)
        moved = np.clip(to_rgb(color) + direction / np.linalg.norm(direction) * 0.5, 0, 1)
        return tuple(moved.tolist())

    def _change_color_brightness(
        self, color: Color, brightness_factor: float
    ) -> tuple[float, float, float]:
        """`color` lightened (up to 1) or darkened (down to -1)."""
        if not -1.0 <= brightness_factor <= 1.0:
            raise AssertionError(f"brightness_factor is in [-1, 1], not {brightness_factor!r}.")
        return scale_lightness(color, brightness_factor)


def edge_color_of(color: Color, edge_color: Color | None, alpha: float) -> Color:
    """Colour of an outline: as given, or that of the fill, darker around a nearly opaque one."""
    if edge_color is not None:
        return edge_color
    return scale_lightness(color, -0.7) if alpha > 0.8 else color
