"""Segmentations of annotations: polygons, run-length encodings, arrays."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from detectron2.data import transforms as T
from detectron2.data.errors import SampleError
from detectron2.structures import BitMasks, PolygonMasks, polygons_to_bitmask
from detectron2.structures._cropped_masks import CroppedBitMasks
from detectron2.utils.logger import log_first_n

__all__ = ["decode_rle", "finite_numbers", "masks_of_annotations", "transform_segmentation"]


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """(H, W) uint8 mask of COCO's run-length encoding, compressed or a list of counts.

    Raises:
        SampleError: it is no such encoding.
    """
    import hotcoco.mask

    try:
        if isinstance(rle["counts"], list):
            height, width = rle["size"]
            rle = hotcoco.mask.frPyObjects(rle, height, width)
        return hotcoco.mask.decode(rle)
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise SampleError(f"A run-length mask cannot be decoded: {e}.") from e


def transform_segmentation(
    segmentation: Any, transforms: T.Transform, image_size: tuple[int, int]
) -> list[np.ndarray] | np.ndarray:
    if isinstance(segmentation, list):
        # A copy: transforms change coordinates in place.
        polygons = [finite_numbers(p, "polygon").reshape(-1, 2) for p in _polygons(segmentation)]
        return [p.reshape(-1) for p in transforms.apply_polygons(polygons)]
    if isinstance(segmentation, dict):
        mask = decode_rle(segmentation)
    elif isinstance(segmentation, np.ndarray) and segmentation.ndim == 2:
        mask = segmentation
    else:
        raise SampleError(
            f"A segmentation of type {type(segmentation).__name__} cannot be transformed; use a "
            "list of polygons [x0, y0, x1, y1, ...], a run-length encoding (a dict with 'size' "
            "and 'counts') or an (H, W) array."
        )
    mask = _transform_mask(mask, transforms)
    if tuple(mask.shape[:2]) != tuple(image_size):
        raise SampleError(
            f"The transformed mask is {mask.shape[0]} x {mask.shape[1]} pixels, the image "
            f"{image_size[0]} x {image_size[1]} (height x width); the mask in the annotations "
            "must have the size of the image."
        )
    return mask


def _transform_mask(mask: np.ndarray, transforms: T.Transform) -> np.ndarray:
    """An (H, W) mask of zeros and ones, in its dtype; what padding adds is no part of it.

    Padding fills label maps with the label of pixels to ignore, 255.
    """
    try:
        moved = transforms.apply_segmentation((mask != 0).astype(np.uint8))
    except ValueError as e:
        raise SampleError(f"A mask of {mask.shape} does not fit its image: {e}") from e
    return (moved == 1).astype(mask.dtype, copy=False)


def finite_numbers(values: Any, what: str) -> np.ndarray:
    """float64 copy of the coordinates of an annotation.

    Raises:
        SampleError: they are no finite numbers. A loss would be NaN, many iterations later.
    """
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if not np.isfinite(array).all():
        text = repr(values)
        raise SampleError(
            f"A {what} is not made of finite numbers: {text[:80]}{'...' if text[80:] else ''}."
        )
    return array


def _polygons(segmentation: list[Any]) -> list[Any]:
    """Polygons that cover an area: those of fewer than three points are left out."""
    usable = []
    for polygon in segmentation:
        if not isinstance(polygon, (list, tuple, np.ndarray)):
            raise SampleError(
                f"A polygon is {polygon!r}; a segmentation is a list of polygons, each a list "
                "x0, y0, x1, y1, ..."
            )
        if len(polygon) % 2 and np.ndim(polygon) == 1:
            raise SampleError(
                f"A polygon has {len(polygon)} numbers; it must be x0, y0, x1, y1, ..., an even "
                f"number of them: {list(polygon)[:8]}..."
            )
        points = len(polygon) // 2 if np.ndim(polygon) == 1 else len(polygon)
        if points >= 3:
            usable.append(polygon)
        else:
            log_first_n(
                logging.WARNING,
                f"Ignoring a polygon of {points} points, which covers nothing: {polygon}.",
                n=3,
            )
    return usable


def masks_of_annotations(
    annos: Sequence[dict[str, Any]], image_size: tuple[int, int], mask_format: str
) -> PolygonMasks | BitMasks:
    segmentations = [annotation.get("segmentation", []) for annotation in annos]
    if mask_format == "polygon":
        if not all(isinstance(segmentation, list) for segmentation in segmentations):
            raise SampleError(
                "mask_format='polygon' needs polygons, but an annotation holds a mask or a "
                "run-length encoding; set INPUT.MASK_FORMAT to 'bitmask'."
            )
        return PolygonMasks([_polygons(segmentation) for segmentation in segmentations])
    if mask_format == "bitmask":
        height, width = image_size
        if all(isinstance(segmentation, list) for segmentation in segmentations):
            polygons = [_polygons(segmentation) for segmentation in segmentations]
            return CroppedBitMasks.of_polygons(PolygonMasks(polygons), height, width)
        bits = np.zeros((len(annos), height, width), dtype=bool)
        for i, segmentation in enumerate(segmentations):
            bits[i] = _bitmap(segmentation, height, width)
        return BitMasks(torch.from_numpy(bits))
    raise ValueError(f"mask_format is {mask_format!r}; use 'polygon' or 'bitmask'.")


def _bitmap(segmentation: Any, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, list):
        polygons = _polygons(segmentation)
        if not polygons:
            return np.zeros((height, width), dtype=bool)
        return polygons_to_bitmask(polygons, height, width)
    if isinstance(segmentation, dict):
        segmentation = decode_rle(segmentation)
    if not (isinstance(segmentation, np.ndarray) and segmentation.ndim == 2):
        raise SampleError(
            f"A segmentation of type {type(segmentation).__name__} cannot become a mask; use a "
            "list of polygons [x0, y0, x1, y1, ...], a run-length encoding (a dict with 'size' "
            "and 'counts') or an (H, W) array."
        )
    if segmentation.shape != (height, width):
        raise SampleError(
            f"A mask is {segmentation.shape[0]} x {segmentation.shape[1]} pixels, its image "
            f"{height} x {width} (height x width); they must have the same size."
        )
    return segmentation.astype(bool)
