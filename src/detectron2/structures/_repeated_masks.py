"""Bitmaps of proposals, many of which share the bitmap of one object."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detectron2.structures._bitmaps import crop_bitmaps
from detectron2.structures.masks import BitMasks, check_one_box_each

__all__ = ["RepeatedBitMasks", "bitmaps_and_rows", "repeated"]


class RepeatedBitMasks(BitMasks):
    """`BitMasks` whose objects share bitmaps until `tensor` is asked for.

    512 proposals that are matched with 8 objects of an image of 800 x 1333 would be 546 MB as
    bitmaps of their own, and only a grid inside of each box is ever looked at.

    Attributes:
        tensor: (N, H, W) bool, copied when it is first read; from then on this is an ordinary
            `BitMasks`.
    """

    def __init__(self, source: BitMasks, rows: Tensor) -> None:
        """
        Args:
            source: the objects.
            rows: (N,) int64, not negative.
        """
        self._source = source
        self._rows = rows
        self._copied: Tensor | None = None
        self.image_size = source.image_size

    @property
    def tensor(self) -> Tensor:
        if self._copied is None:
            self.tensor = self._source.tensor[self._rows]
        assert self._copied is not None
        return self._copied

    @tensor.setter
    def tensor(self, tensor: Tensor) -> None:
        self._copied = tensor
        self._source = BitMasks(tensor[:0])  # no longer needed

    def to(self, *args: Any, **kwargs: Any) -> BitMasks:
        if self._copied is not None:
            return super().to(*args, **kwargs)
        source = self._source.to(*args, **kwargs)
        return RepeatedBitMasks(source, self._rows.to(source.device))

    @property
    def device(self) -> torch.device:
        return self._source.device

    def __len__(self) -> int:
        return len(self._rows) if self._copied is None else len(self._copied)

    def __getitem__(self, item: Any) -> BitMasks:
        if self._copied is not None:
            return super().__getitem__(item)
        rows = self._rows[item]
        if rows.dim() > 1:
            raise IndexError(f"BitMasks cannot be indexed with {item!r}: it does not select rows.")
        return RepeatedBitMasks(self._source, rows if rows.dim() else rows[None])

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        if self._copied is not None:
            return super().crop_and_resize(boxes, mask_size)
        check_one_box_each(boxes, len(self))
        return crop_bitmaps(self._source.tensor, self._rows, boxes, mask_size)


def repeated(masks: BitMasks, item: Any) -> BitMasks | None:
    """``masks[item]`` where `item` takes objects more than once on average; else None."""
    if not isinstance(item, Tensor) or item.dtype != torch.int64 or item.dim() != 1:
        return None
    if len(item) <= len(masks) or len(masks) == 0:
        return None
    every = torch.arange(len(masks), device=masks.device)
    return RepeatedBitMasks(masks, every[item.to(masks.device)])


def bitmaps_and_rows(masks: BitMasks) -> tuple[Tensor, Tensor]:
    """(M, H, W) bool and (N,) int64, the bitmap of each of N objects, without copying bitmaps."""
    if isinstance(masks, RepeatedBitMasks) and masks._copied is None:
        return masks._source.tensor, masks._rows
    return masks.tensor, torch.arange(len(masks), device=masks.device)
