"""Polygons of proposals on a GPU: the polygons are on the host, the choice of them is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detectron2.layers.wrappers import copy_to_device
from detectron2.structures._polygons import Polygon, fill_on_grids
from detectron2.structures.masks import PolygonMasks, check_one_box_each
from detectron2.utils._deferred import fetch, fetch_ahead, is_remote

__all__ = ["SelectedPolygonMasks", "crop_masks", "read_ahead", "selected"]


class SelectedPolygonMasks(PolygonMasks):
    """`PolygonMasks` of objects whose numbers stay on a GPU until polygons are asked for.

    A proposal is matched, sampled and found to be foreground before its polygons are filled:
    the host waits once, not at every step and for every image.

    Attributes:
        polygons: of each of the N rows; the first time it is read the host waits.
    """

    def __init__(self, source: PolygonMasks, rows: Tensor) -> None:
        """
        Args:
            source: the objects.
            rows: (N,) int64, not negative, on a GPU.
        """
        self._source = source
        self._rows = rows
        self._read: list[list[Polygon]] | None = None
        self._ahead: _Ahead | None = None

    def __getstate__(self) -> dict[str, Any]:
        # What is on its way to the host cannot be written to a file.
        return {**self.__dict__, "_ahead": None}

    @classmethod
    def _of(cls, polygons: list[list[Polygon]]) -> PolygonMasks:
        return PolygonMasks._of(polygons)

    @property
    def polygons(self) -> list[list[Polygon]]:  # type: ignore[override]
        if self._read is None:
            self._read = [self._source.polygons[row] for row in self._rows.tolist()]
        return self._read

    @polygons.setter
    def polygons(self, polygons: list[list[Polygon]]) -> None:
        self._read = polygons

    def __len__(self) -> int:
        return len(self._rows) if self._read is None else len(self._read)

    def __getitem__(self, item: Any) -> PolygonMasks:
        if self._read is None and _is_remote_index(item):
            return SelectedPolygonMasks(self._source, self._rows[item])
        return self._of(self.polygons)[item]

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        if self._read is not None:
            return super().crop_and_resize(boxes, mask_size)
        return crop_masks([self], [boxes], mask_size)[0]


def selected(masks: PolygonMasks, item: Any) -> PolygonMasks | None:
    """``masks[item]`` where `item` holds numbers on a GPU; else None."""
    return SelectedPolygonMasks(masks, item) if _is_remote_index(item) else None


def _is_remote_index(item: Any) -> bool:
    return (
        isinstance(item, Tensor)
        and item.dtype == torch.int64
        and item.dim() == 1
        and is_remote(item)
    )


@dataclass(frozen=True)
class _Ahead:
    """Rows and boxes of an image on their way to the host, together with those of others."""

    boxes: Tensor
    version: int
    read: Callable[[], list[list[float]]]
    place: int

    def is_of(self, boxes: Tensor) -> bool:
        return self.boxes is boxes and self.version == boxes._version


def read_ahead(masks: Sequence[Any], boxes: Sequence[Tensor]) -> None:
    """Begin to copy to the host what `crop_masks` of the same masks and boxes needs there.

    What a GPU is asked for in between then runs while the host fills polygons.
    """
    waiting = _waiting(masks)
    read = fetch_ahead([_rows_and_boxes(masks[index], boxes[index]) for index in waiting])
    for place, index in enumerate(waiting):
        masks[index]._ahead = _Ahead(boxes[index], boxes[index]._version, read, place)


def crop_masks(masks: Sequence[Any], boxes: Sequence[Tensor], mask_size: int) -> list[Tensor]:
    """``masks[i].crop_and_resize(boxes[i], mask_size)`` of some images.

    The host waits for the polygons of all of them at once.
    """
    waiting = _waiting(masks)
    crops: dict[int, Tensor] = {}
    numbers = _numbers([masks[index] for index in waiting], [boxes[index] for index in waiting])
    for index, read in zip(waiting, numbers, strict=True):
        table = torch.tensor(read, dtype=torch.float64).view(-1, 5)
        polygons = [masks[index]._source.polygons[int(row)] for row in table[:, 0].tolist()]
        on_grids = fill_on_grids(polygons, table[:, 1:], mask_size)
        crops[index] = copy_to_device(on_grids, boxes[index].device)
    return [
        crops[index] if index in crops else of_image.crop_and_resize(boxes[index], mask_size)
        for index, of_image in enumerate(masks)
    ]


def _waiting(masks: Sequence[Any]) -> list[int]:
    """Which of them have to be read from the device."""
    return [
        index
        for index, of_image in enumerate(masks)
        if isinstance(of_image, SelectedPolygonMasks) and of_image._read is None
    ]


def _numbers(masks: Sequence[SelectedPolygonMasks], boxes: Sequence[Tensor]) -> list[list[float]]:
    """Rows and boxes of each image, (row, x0, y0, x1, y1) for each of its masks."""
    ahead = [of_image._ahead for of_image in masks]
    begun = [x for x, y in zip(ahead, boxes, strict=True) if x is not None and x.is_of(y)]
    if ahead and len(begun) == len(ahead) and len({id(x.read) for x in begun}) == 1:
        numbers = begun[0].read()
        return [numbers[x.place] for x in begun]
    return fetch([_rows_and_boxes(*each) for each in zip(masks, boxes, strict=True)])


def _rows_and_boxes(masks: SelectedPolygonMasks, boxes: Tensor) -> Tensor:
    check_one_box_each(boxes, len(masks))
    return torch.cat([masks._rows[:, None].double(), boxes.detach().double()], dim=1)
