"""Masks of objects: polygons, bitmaps of the image, and grids inside of boxes."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.layers.roi_align import ROIAlign
from detectron2.structures._bitmaps import any_pixel, crop_bitmaps, extent
from detectron2.structures._polygons import (
    Polygon,
    PolygonsLike,
    as_polygons,
    fill,
    fill_on_grids,
    polygon_area,
    polygons_to_bitmask,
    rasterize_polygons_within_box,
)
from detectron2.structures._rows import selected_rows
from detectron2.structures.boxes import Boxes
from detectron2.utils.memory import retry_if_cuda_oom

# ROIAlign and retry_if_cuda_oom: downstream code imports them from this address.
__all__ = [
    "BitMasks",
    "Boxes",
    "PolygonMasks",
    "ROIAlign",
    "ROIMasks",
    "polygon_area",
    "polygons_to_bitmask",
    "rasterize_polygons_within_box",
    "retry_if_cuda_oom",
]


class PolygonMasks:
    """Masks of N objects, each the union of polygons.

    Args:
        polygons: for each object a list of arrays (x0, y0, x1, y1, ...) with at least three
            corners, in pixels; (0, 0) is the top left corner of the image.

    Attributes:
        polygons: the same as lists of float64 arrays.

    Raises:
        ValueError: this is no list of lists, or an array does not hold three (x, y) or more.
    """

    def __init__(self, polygons: Sequence[PolygonsLike]) -> None:
        if not isinstance(polygons, (list, tuple)):
            raise ValueError(
                "PolygonMasks takes a list with a list of polygons for each object, not "
                f"{type(polygons).__name__}."
            )
        self.polygons: list[list[Polygon]] = [as_polygons(each) for each in polygons]

    @classmethod
    def _of(cls, polygons: list[list[Polygon]]) -> "PolygonMasks":
        """From polygons that have been checked before."""
        masks = cls([])
        masks.polygons = polygons
        return masks

    def to(self, *args: Any, **kwargs: Any) -> "PolygonMasks":
        """The object itself: polygons stay on the CPU."""
        return self

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def get_bounding_boxes(self) -> Boxes:
        """The smallest box around the corners of each object; zeros for one without polygons."""
        boxes = np.zeros((len(self), 4), dtype=np.float64)
        for box, polygons in zip(boxes, self.polygons):
            if polygons:
                corners = np.concatenate(polygons).reshape(-1, 2)
                box[:2], box[2:] = corners.min(axis=0), corners.max(axis=0)
        return Boxes(torch.from_numpy(boxes))

    def nonempty(self) -> Tensor:
        """(N,) True for objects that have a polygon."""
        return torch.tensor([len(polygons) > 0 for polygons in self.polygons], dtype=torch.bool)

    def area(self) -> Tensor:
        """(N,) float64: the areas of the polygons of each object added up, overlaps twice."""
        return torch.tensor(
            [
                sum(polygon_area(polygon[0::2], polygon[1::2]) for polygon in polygons)
                for polygons in self.polygons
            ],
            dtype=torch.float64,
        )

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Fill the polygons of each object on a grid that is laid over its box.

        This makes the targets of mask heads. A side of a box counts as 0.1 pixels at least.

        Args:
            boxes: (N, 4) of (x0, y0, x1, y1), in pixels.
            mask_size: M, cells of the grid per side.

        Returns:
            (N, M, M) bool, on the device of `boxes`.

        Raises:
            ValueError: there are not N boxes.
        """
        check_one_box_each(boxes, len(self))
        return fill_on_grids(self.polygons, boxes, mask_size).to(boxes.device)

    def __getitem__(self, item: int | slice | Sequence[int] | Tensor) -> "PolygonMasks":
        """Masks of some of the objects, by what indexes the first dimension of a tensor.

        Raises:
            IndexError: `item` does not index the N objects.
        """
        if isinstance(item, (int, np.integer)):
            return self._of([self.polygons[item]])
        if isinstance(item, slice):
            return self._of(self.polygons[item])
        if (later := _selected(self, item)) is not None:
            return later
        return self._of([self.polygons[row] for row in selected_rows(item, len(self))])

    def __iter__(self) -> Iterator[list[Polygon]]:
        """The polygons of one object after the other."""
        return iter(self.polygons)

    def __len__(self) -> int:
        return len(self.polygons)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    @staticmethod
    def cat(polymasks_list: Sequence["PolygonMasks"]) -> "PolygonMasks":
        """Masks of all objects of a list, in order.

        Raises:
            ValueError: the list is empty.
        """
        if len(polymasks_list) == 0:
            raise ValueError("PolygonMasks.cat needs at least one PolygonMasks.")
        return type(polymasks_list[0])._of(
            list(chain.from_iterable(masks.polygons for masks in polymasks_list))
        )


class BitMasks:
    """Masks of N objects as bitmaps of the whole image.

    Args:
        tensor: (N, H, W); what is not 0 or False belongs to the object.

    Attributes:
        tensor: (N, H, W) bool.
        image_size: (H, W).

    Raises:
        ValueError: the shape is not (N, H, W).
    """

    def __init__(self, tensor: Tensor | NDArray[Any] | Sequence[Any]) -> None:
        tensor = torch.as_tensor(tensor).to(torch.bool)
        if tensor.dim() != 3:
            raise ValueError(
                f"BitMasks takes a tensor of shape (N, H, W), not {tuple(tensor.shape)}."
            )
        self.tensor = tensor
        self.image_size = (tensor.shape[1], tensor.shape[2])

    def to(self, *args: Any, **kwargs: Any) -> "BitMasks":
        """The masks moved by `torch.Tensor.to`; they stay bool."""
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __getitem__(self, item: int | slice | Tensor) -> "BitMasks":
        """Masks of some of the objects; a single index gives the mask of one object.

        Where an index takes objects several times, as for the proposals that are matched with
        them, their bitmaps are copied only when somebody reads `tensor`.

        Raises:
            IndexError: `item` does not index the N objects.
        """
        if isinstance(item, (int, np.integer)):
            return BitMasks(self.tensor[item].unsqueeze(0))
        if (shared := _repeated(self, item)) is not None:
            return shared
        selected = self.tensor[item]
        if selected.dim() != 3:
            raise IndexError(f"BitMasks cannot be indexed with {item!r}: it does not select rows.")
        return BitMasks(selected)

    def __iter__(self) -> Iterator[Tensor]:
        """One (H, W) bitmap after the other."""
        yield from self.tensor

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def nonempty(self) -> Tensor:
        """(N,) True for objects that have a pixel."""
        return any_pixel(self.tensor.flatten(1), dim=1)

    @staticmethod
    def from_polygon_masks(
        polygon_masks: PolygonMasks | Sequence[PolygonsLike], height: int, width: int
    ) -> "BitMasks":
        """Fill polygons.

        Args:
            polygon_masks: N objects, or what `PolygonMasks` takes.
            height: H, of the image.
            width: W, of the image.
        """
        if not isinstance(polygon_masks, PolygonMasks):
            polygon_masks = PolygonMasks(polygon_masks)
        return BitMasks(fill(polygon_masks.polygons, (height, width)))

    @staticmethod
    def from_roi_masks(
        roi_masks: "ROIMasks", height: int, width: int, boxes: Boxes | Tensor | None = None
    ) -> "BitMasks":
        """Draw masks that were predicted inside of boxes: `ROIMasks.to_bitmasks`.

        Args:
            roi_masks: N objects.
            height: H, of the image.
            width: W, of the image.
            boxes: their N boxes, in pixels.

        Raises:
            ValueError: there are no boxes.
        """
        if boxes is None:
            raise ValueError("ROI masks do not know where they lie: pass their boxes=...")
        return roi_masks.to_bitmasks(boxes, height, width)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Sample each mask on a grid that is laid over its box, by ROIAlign.

        This makes the targets of mask heads.

        Args:
            boxes: (N, 4) of (x0, y0, x1, y1), in pixels.
            mask_size: M, cells of the grid per side.

        Returns:
            (N, M, M) bool, on the device of the masks: where at least half of the samples of a
            cell lie on the object.

        Raises:
            ValueError: there are not N boxes.
        """
        check_one_box_each(boxes, len(self))
        rows = torch.arange(len(self), device=self.device)
        return crop_bitmaps(self.tensor, rows, boxes, mask_size)

    def get_bounding_boxes(self) -> Boxes:
        """The smallest box around the pixels of each object; zeros for one without pixels."""
        x0, x1 = extent(any_pixel(self.tensor, dim=1))
        y0, y1 = extent(any_pixel(self.tensor, dim=2))
        return Boxes(torch.stack((x0, y0, x1, y1), dim=1))

    @staticmethod
    def cat(bitmasks_list: Sequence["BitMasks"]) -> "BitMasks":
        """Masks of all objects of a list, in order.

        Raises:
            ValueError: the list is empty.
        """
        if len(bitmasks_list) == 0:
            raise ValueError("BitMasks.cat needs at least one BitMasks.")
        return type(bitmasks_list[0])(torch.cat([masks.tensor for masks in bitmasks_list]))


def _selected(masks: PolygonMasks, item: Any) -> PolygonMasks | None:
    # Its subclass lives in a module that imports this one.
    from detectron2.structures._selected_polygons import selected

    return selected(masks, item)


def _repeated(masks: BitMasks, item: Any) -> BitMasks | None:
    # Its subclass lives in a module that imports this one.
    from detectron2.structures._repeated_masks import repeated

    return repeated(masks, item)


def check_one_box_each(boxes: Tensor, count: int) -> None:
    if boxes.dim() != 2 or tuple(boxes.shape) != (count, 4):
        raise ValueError(f"{count} masks need boxes of shape ({count}, 4), not {boxes.shape}.")


class ROIMasks:
    """Masks of N objects on grids inside of their boxes, as mask heads predict them.

    Args:
        tensor: (N, M, M), values in [0, 1].

    Attributes:
        tensor: as given.

    Raises:
        ValueError: the shape is not (N, M, M).
    """

    def __init__(self, tensor: Tensor) -> None:
        if tensor.dim() != 3:
            raise ValueError(
                f"ROIMasks takes a tensor of shape (N, M, M), not {tuple(tensor.shape)}."
            )
        self.tensor = tensor

    def to(self, device: torch.device | str) -> "ROIMasks":
        """The masks on `device`."""
        return ROIMasks(self.tensor.to(device))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, item: int | slice | Tensor) -> "ROIMasks":
        """Masks of some of the objects; a single index gives the mask of one object.

        Raises:
            IndexError: `item` does not index the N objects.
        """
        if isinstance(item, (int, np.integer)):
            return ROIMasks(self.tensor[item].unsqueeze(0))
        selected = self.tensor[item]
        if selected.dim() != 3:
            raise IndexError(f"ROIMasks cannot be indexed with {item!r}: it does not select rows.")
        return ROIMasks(selected)

    @staticmethod
    def cat(masks_list: Sequence["ROIMasks"]) -> "ROIMasks":
        """All masks of several objects, on grids of one size, in order.

        Raises:
            ValueError: the list is empty.
        """
        if len(masks_list) == 0:
            raise ValueError("ROIMasks.cat needs at least one ROIMasks.")
        return ROIMasks(torch.cat([masks.tensor for masks in masks_list]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def to_bitmasks(
        self, boxes: Boxes | Tensor, height: int, width: int, threshold: float = 0.5
    ) -> BitMasks:
        """Draw every mask into an image of its own.

        Args:
            boxes: N boxes, in pixels.
            height: H, of the image.
            width: W, of the image.
            threshold: the value at the centre of a pixel from which on it belongs to an object.
        """
        corners = boxes if isinstance(boxes, Tensor) else boxes.tensor
        paste = retry_if_cuda_oom(paste_masks_in_image)
        return BitMasks(paste(self.tensor, corners, (height, width), threshold))


def __getattr__(name: str) -> Any:
    if name == "mask_utils":  # downstream code found the COCO mask functions here
        import hotcoco.mask

        return hotcoco.mask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
