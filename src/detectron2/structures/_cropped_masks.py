"""Bitmaps of which only the part with pixels is kept until somebody asks for the whole."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectron2 import ops
from detectron2.ops import dispatch
from detectron2.structures._polygons import Polygon, flatten
from detectron2.structures._repeated_masks import repeated
from detectron2.structures._rows import selected_rows
from detectron2.structures.boxes import Boxes
from detectron2.structures.masks import BitMasks, PolygonMasks

__all__ = ["CroppedBitMasks"]


class CroppedBitMasks(BitMasks):
    """`BitMasks` that are small until `tensor` is asked for.

    Data loading makes them: 20 objects in an image of 800 x 1333 are 21 MB as bitmaps of the
    image, which a worker would have to fill, search for pixels and send to the training process.

    Attributes:
        tensor: (N, H, W) bool, drawn when it is first read. From then on this is an ordinary
            `BitMasks`, so that whoever writes to the tensor is understood.
        image_size: (H, W).
    """

    def __init__(self, pixels: Tensor, windows: Tensor, image_size: tuple[int, int]) -> None:
        """
        Args:
            pixels: those of N windows, one after the other, row by row, (sum of h w,) bool.
            windows: (N, 4) int64 of (x0, y0, x1, y1), half open, on the CPU: the smallest ones
                around the pixels of each object; zeros for one without pixels.
            image_size: (H, W).
        """
        self._pixels = pixels
        self._windows = windows
        self._drawn: Tensor | None = None
        self.image_size = image_size

    @classmethod
    def of_polygons(cls, polygon_masks: PolygonMasks, height: int, width: int) -> BitMasks:
        """The same as `BitMasks.from_polygon_masks`, bit for bit."""
        pixels, windows = _fill(polygon_masks.polygons, (height, width))
        return cls(pixels, windows, (height, width))

    @property
    def tensor(self) -> Tensor:
        if self._drawn is None:
            self._drawn = self._draw()
            del self._pixels, self._windows
        return self._drawn

    @tensor.setter
    def tensor(self, tensor: Tensor) -> None:
        self._drawn = tensor

    @property
    def _is_small(self) -> bool:
        return self._drawn is None

    def _draw(self) -> Tensor:
        tensor = self._pixels.new_zeros(len(self._windows), *self.image_size)
        for mask, (x0, y0, x1, y1), crop in zip(tensor, self._windows.tolist(), self._crops()):
            mask[y0:y1, x0:x1] = crop.view(y1 - y0, x1 - x0)
        return tensor

    def _crops(self) -> Sequence[Tensor]:
        return self._pixels.split(_areas(self._windows).tolist())

    def to(self, *args: Any, **kwargs: Any) -> BitMasks:
        if not self._is_small:
            return super().to(*args, **kwargs)
        pixels = self._pixels.to(*args, **kwargs).to(torch.bool)
        return type(self)(pixels, self._windows, self.image_size)

    @property
    def device(self) -> torch.device:
        return self._pixels.device if self._drawn is None else self._drawn.device

    def __len__(self) -> int:
        return len(self._windows) if self._drawn is None else len(self._drawn)

    def __getitem__(self, item: Any) -> BitMasks:
        if not self._is_small:
            return super().__getitem__(item)
        if (shared := repeated(self, item)) is not None:
            return shared
        if isinstance(item, (int, np.integer)):
            rows = [range(len(self))[item]]
        elif isinstance(item, slice):
            rows = list(range(len(self))[item])
        else:
            rows = selected_rows(item, len(self))
        crops = self._crops()
        pixels = torch.cat([self._pixels[:0], *(crops[row] for row in rows)])
        return type(self)(pixels, self._windows[rows], self.image_size)

    def nonempty(self) -> Tensor:
        if not self._is_small:
            return super().nonempty()
        return (_areas(self._windows) > 0).to(self.device)

    def get_bounding_boxes(self) -> Boxes:
        if not self._is_small:
            return super().get_bounding_boxes()
        return Boxes(self._windows.to(self.device))

    @staticmethod
    def cat(bitmasks_list: Sequence[BitMasks]) -> BitMasks:
        small = [m for m in bitmasks_list if isinstance(m, CroppedBitMasks) and m._is_small]
        sizes = {masks.image_size for masks in bitmasks_list}
        if len(small) < len(bitmasks_list) or len(sizes) != 1:
            return BitMasks.cat([BitMasks(masks.tensor) for masks in bitmasks_list])
        return CroppedBitMasks(
            torch.cat([masks._pixels for masks in small]),
            torch.cat([masks._windows for masks in small]),
            sizes.pop(),
        )


def _areas(windows: Tensor) -> Tensor:
    return (windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1])


def _fill(objects: Sequence[Sequence[Polygon]], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pixels and windows of objects, each the union of its polygons."""
    vertices, counts, owners = map(torch.from_numpy, flatten(objects))
    if dispatch.choose("rasterize_polygons", "cpu").implementation == "numba":
        from detectron2.ops.rasterize_polygons.crops import rasterize_polygon_crops_cpu

        return rasterize_polygon_crops_cpu(vertices, counts, owners, len(objects), size)
    masks = BitMasks(ops.rasterize_polygons(vertices, counts, owners, len(objects), size))
    windows = masks.get_bounding_boxes().tensor.to(torch.int64)
    crops = [
        mask[y0:y1, x0:x1].reshape(-1)
        for mask, (x0, y0, x1, y1) in zip(masks.tensor, windows.tolist())
    ]
    return torch.cat([torch.zeros(0, dtype=torch.bool), *crops]), windows
