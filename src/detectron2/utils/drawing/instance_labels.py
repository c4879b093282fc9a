"""Where the label of an instance goes, and how large it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from detectron2.utils.drawing.generic_mask import GenericMask
from detectron2.utils.drawing.layout import box_label_spots, label_font_fraction, median_point
from detectron2.utils.drawing.text import POINT, Label, choose_position, plate_size
from detectron2.utils.drawing.vis_image import VisImage

__all__ = ["SMALL_OBJECT_AREA", "LabelSpot", "find_label_spot"]

SMALL_OBJECT_AREA = 1000  # pixels; the label of a smaller object would hide it


@dataclass(frozen=True)
class LabelSpot:
    """position: (x, y) in pixels of the picture. align: what x is of. font_size: in points."""

    position: tuple[float, float]
    align: str
    font_size: float


def find_label_spot(
    output: VisImage,
    text: str,
    box: np.ndarray | None,
    mask: GenericMask | None,
    font_size: float,
    overlap: float,
) -> LabelSpot | None:
    """A corner of the box, or the middle of the mask of an instance without box.

    Where the usual spot would hide an earlier label, another one near the object is taken.

    Args:
        output: picture with the labels so far.
        box: (4,) XYXY. mask: of the instance.
        font_size: of the label of a tall object.
        overlap: part of a label that may be hidden.

    Returns:
        None if there is neither a finite box nor a mask with pixels.
    """
    if box is None and mask is not None and mask.area() > 0:
        height = float(mask.bbox()[3] - mask.bbox()[1])
    elif box is not None and np.isfinite(box).all():
        height = float(box[3] - box[1])
    else:
        return None
    scale = output.scale
    font_size *= label_font_fraction(height, math.sqrt(output.height * output.width))
    label = Label(text, 0, 0, font_size * scale * POINT, (0, 0, 0))
    width, tall = (side / scale for side in plate_size(text, label.size))
    if box is not None:
        small = float(np.prod(box[2:] - box[:2])) < SMALL_OBJECT_AREA * scale or height < 40 * scale
        spots = box_label_spots(box.tolist(), (width, tall), small, output.height)
    else:
        assert mask is not None
        x, y = median_point(mask.mask)
        spots = [(x, y, "center"), (x, y - tall, "center"), (x, y + tall, "center")]
    x, y, align = choose_position(
        label,
        output.plates(),
        [(x * scale, y * scale, align) for x, y, align in spots],
        output.canvas_size,
        overlap,
    )
    return LabelSpot((x / scale, y / scale), align, font_size)
