"""A mask in whatever form it came, and in the form that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detectron2.utils.drawing.contours import trace

__all__ = ["GenericMask"]


class GenericMask:
    """A binary mask given as pixels, RLE or polygons; conversions happen when first needed.

    Attributes:
        height, width: size of the picture in pixels.
        is_outlined: it was given as polygons.
    """

    def __init__(
        self, mask_or_polygons: np.ndarray | dict[str, Any] | Sequence, height: int, width: int
    ) -> None:
        """
        Args:
            mask_or_polygons: an (H, W) array of zeros and ones; a COCO RLE dictionary, compressed
                or not; or a list of polygons ``[x0, y0, x1, y1, ...]`` in pixels.
            height, width: size of the picture.

        Raises:
            ValueError: none of these forms.
            AssertionError: the size of a mask or RLE is not (height, width).
        """
        self.height, self.width = height, width
        self._mask: np.ndarray | None = None
        self._polygons: list[np.ndarray] | None = None
        self._has_holes: bool | None = None
        self.is_outlined = isinstance(mask_or_polygons, (list, tuple))
        if isinstance(mask_or_polygons, dict):
            self._mask = self._decode(mask_or_polygons)
        elif self.is_outlined:
            self._polygons = [np.asarray(polygon).reshape(-1) for polygon in mask_or_polygons]
            self._has_holes = False
        elif isinstance(mask_or_polygons, np.ndarray):
            self._mask = _as_bytes(mask_or_polygons)
        else:
            raise ValueError(
                f"A mask is an array, an RLE dictionary or a list of polygons, "
                f"not {type(mask_or_polygons).__name__}."
            )
        if self._mask is not None:
            self._check_size(self._mask.shape)

    def _check_size(self, size: Sequence[int]) -> None:
        if tuple(size) != (self.height, self.width):
            raise AssertionError(
                f"The mask has (height, width) {tuple(size)}, the picture "
                f"{(self.height, self.width)}."
            )

    def _decode(self, rle: dict[str, Any]) -> np.ndarray:
        from hotcoco import mask as rle_codec

        if "size" not in rle or "counts" not in rle:
            raise ValueError(f"An RLE dictionary has 'size' and 'counts', not {sorted(rle)}.")
        self._check_size(rle["size"])
        return rle_codec.decode(rle)

    @property
    def mask(self) -> np.ndarray:
        """(H, W) uint8 of zeros and ones."""
        if self._mask is None:
            assert self._polygons is not None, "a mask has pixels or polygons"
            self._mask = self.polygons_to_mask(self._polygons)
        return self._mask

    @property
    def polygons(self) -> list[np.ndarray]:
        """Polygons ``[x0, y0, x1, y1, ...]`` in pixels, holes among them if there are any."""
        if self._polygons is None:
            self._polygons, self._has_holes = self.mask_to_polygons(self.mask)
        return self._polygons

    @property
    def has_holes(self) -> bool:
        """Whether some region has a hole; polygons as input have none."""
        if self._has_holes is None:
            self._polygons, self._has_holes = self.mask_to_polygons(self.mask)
        return self._has_holes

    def mask_to_polygons(self, mask: np.ndarray) -> tuple[list[np.ndarray], bool]:
        """Outlines of the regions and holes of an (H, W) mask, and whether there are holes.

        A polygon runs through the centres of the border pixels; one with fewer than three
        corners is left out.
        """
        contours = trace(_as_bytes(mask) != 0)
        polygons = [
            (contour.points + 0.5).reshape(-1) for contour in contours if len(contour.points) >= 3
        ]
        return polygons, any(contour.is_hole for contour in contours)

    def polygons_to_mask(self, polygons: Sequence[np.ndarray]) -> np.ndarray:
        """(H, W) uint8 union of polygons, rasterised as COCO does."""
        from hotcoco import mask as rle_codec

        if len(polygons) == 0:
            return np.zeros((self.height, self.width), dtype=np.uint8)
        flat = [np.asarray(polygon, dtype=np.float64).reshape(-1).tolist() for polygon in polygons]
        return rle_codec.decode(
            rle_codec.merge(rle_codec.frPyObjects(flat, self.height, self.width))
        )

    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.mask))

    def bbox(self) -> np.ndarray:
        """(4,) float64 XYXY box of the outline; zeros for an empty mask.

        The outline runs through the centres of border pixels and is rounded up, as COCO rounds
        polygons: left and top are the second column and row of the mask.
        """
        rows = np.flatnonzero(self.mask.any(axis=1))
        columns = np.flatnonzero(self.mask.any(axis=0))
        if len(rows) == 0:
            return np.zeros(4)
        corners = (columns[0], rows[0], columns[-1], rows[-1])
        return np.array(corners, dtype=np.float64) + 1


def _as_bytes(mask: np.ndarray) -> np.ndarray:
    """uint8 version of a mask, without a copy where the bytes are the same."""
    if mask.dtype == np.bool_:
        return mask.view(np.uint8)
    return mask.astype(np.uint8, copy=False)
