"""Turning annotations that were drawn on an image as stored, before its EXIF orientation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectron2.data._image_io import TURNED_ARRAYS
from detectron2.data._segmentations import decode_rle
from detectron2.data.check.problems import ORIGIN

__all__ = ["turned_annotation"]


@dataclass(frozen=True)
class _Turn:
    """What an orientation that swaps the sides does to an image of width w and height h.

    Attributes:
        points: of (x, y, w, h), arrays and sides of the stored image -> x and y as shown.
        angle: of a direction in degrees, counter-clockwise -> as shown.
    """

    points: Callable[[Any, Any, float, float], tuple[Any, Any]]
    angle: Callable[[float], float]


_TURNS = {
    5: _Turn(lambda x, y, w, h: (y, x), lambda a: -90 - a),
    6: _Turn(lambda x, y, w, h: (h - y, x), lambda a: a - 90),
    7: _Turn(lambda x, y, w, h: (h - y, w - x), lambda a: 90 - a),
    8: _Turn(lambda x, y, w, h: (y, w - x), lambda a: a + 90),
}


def turned_annotation(
    annotation: dict[str, Any], orientation: int, width: float, height: float
) -> dict[str, Any]:
    """A copy of a COCO annotation in the frame of the image as its EXIF orientation shows it.

    Args:
        annotation: of the image as stored.
        orientation: of the EXIF header, one that swaps the sides: 5, 6, 7 or 8.
        width, height: of the image as stored, in pixels.
    """
    turn = _TURNS[orientation]
    moved: dict[str, Any] = {"bbox": _turned_box(annotation["bbox"], turn, width, height)}
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        moved["segmentation"] = _turned_rle(segmentation, TURNED_ARRAYS[orientation])
    elif segmentation:
        moved["segmentation"] = [
            _turned_points(polygon, 2, turn, width, height) for polygon in segmentation
        ]
    if annotation.get("keypoints"):
        # In COCO's files keypoints are indices of pixels: the last one of a row is width - 1.
        last = 0 if ORIGIN in annotation else 1
        moved["keypoints"] = _turned_points(
            annotation["keypoints"], 3, turn, width - last, height - last
        )
    return {**annotation, **moved}


def _turned_box(box: Any, turn: _Turn, width: float, height: float) -> list[float]:
    if len(box) == 5:
        x, y = turn.points(box[0], box[1], width, height)
        return [x, y, box[2], box[3], turn.angle(box[4])]
    corners = np.array([box[:2], [box[0] + box[2], box[1] + box[3]]])
    x, y = turn.points(corners[:, 0], corners[:, 1], width, height)
    return [float(v) for v in (min(x), min(y), abs(x[1] - x[0]), abs(y[1] - y[0]))]


def _turned_points(
    values: Any, stride: int, turn: _Turn, width: float, height: float
) -> list[float]:
    """Flat x, y, ... of which every `stride` values are a point."""
    flat = np.array(values, dtype=np.float64)
    # A point that is not labelled is written as zeros, and stays so.
    known = flat[2::3] > 0 if stride == 3 else slice(None)
    x, y = turn.points(flat[0::stride][known], flat[1::stride][known], width, height)
    flat[0::stride][known], flat[1::stride][known] = x.copy(), y.copy()
    return flat.tolist()


def _turned_rle(rle: dict[str, Any], turn: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    import hotcoco.mask

    mask = np.asfortranarray(turn(decode_rle(rle)))
    encoded = hotcoco.mask.encode(mask)
    counts = encoded["counts"]
    return {
        "size": list(mask.shape),
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }
