"""A panoptic map taken apart into the masks of its segments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

__all__ = ["_PanopticPrediction"]

SegmentInfo = dict[str, Any]
_VOID = -1


class _PanopticPrediction:
    """Masks and descriptions of the segments of one picture."""

    def __init__(
        self,
        panoptic_seg: torch.Tensor,
        segments_info: list[SegmentInfo] | None,
        metadata: Any = None,
    ) -> None:
        """
        Args:
            panoptic_seg: (H, W) integer id of the segment of each pixel; ids without a
                description are void.
            segments_info: one dictionary per segment with "id", "category_id", "isthing". None:
                an id is ``category * label_divisor + instance`` and -1 is void.
            metadata: of the dataset, needed only without `segments_info`.
        """
        ids, areas = torch.unique(panoptic_seg, sorted=True, return_counts=True)
        if segments_info is None:
            segments_info = _decode_ids(ids.tolist(), metadata)
        self._seg = panoptic_seg
        self._areas: dict[int, int] = dict(zip(ids.tolist(), areas.tolist()))
        self._by_size = sorted(self._areas, key=lambda segment: -self._areas[segment])
        # Copies: the caller's dictionaries do not gain an area.
        self._info: dict[int, SegmentInfo] = {
            info["id"]: {**info, "area": float(self._areas[info["id"]])}
            for info in segments_info
            if info["id"] in self._areas
        }

    def non_empty_mask(self) -> np.ndarray:
        """(H, W) bool, True where a segment is; all False where no pixel is void.

        Raises:
            AssertionError: several ids have no description, so which one is void is unclear.
        """
        void = [segment for segment in self._areas if segment not in self._info]
        if not void:
            return np.zeros(tuple(self._seg.shape), dtype=np.uint8)
        if len(void) > 1:
            raise AssertionError(
                f"Only one id may lack a description (void), but {sorted(void)} do."
            )
        return (self._seg != void[0]).numpy().astype(bool)

    def semantic_masks(self) -> Iterator[tuple[np.ndarray, SegmentInfo]]:
        """(H, W) bool mask and description of every stuff segment, the largest first."""
        return self._masks(things=False)

    def instance_masks(self) -> Iterator[tuple[np.ndarray, SegmentInfo]]:
        """(H, W) bool mask and description of every thing segment, the largest first."""
        return self._masks(things=True)

    def _masks(self, things: bool) -> Iterator[tuple[np.ndarray, SegmentInfo]]:
        for segment in self._by_size:
            info = self._info.get(segment)
            if info is not None and bool(info["isthing"]) == things:
                mask = (self._seg == segment).numpy().astype(bool)
                if mask.any():
                    yield mask, info


def _decode_ids(ids: list[int], metadata: Any) -> list[SegmentInfo]:
    """Descriptions read out of ids that are ``category * label_divisor + instance``."""
    if metadata is None:
        raise ValueError("Without segments_info a panoptic map needs metadata.label_divisor.")
    things = set(metadata.thing_dataset_id_to_contiguous_id.values())
    described = []
    for segment in ids:
        if segment != _VOID:
            category = segment // metadata.label_divisor
            described.append(
                {"id": segment, "category_id": category, "isthing": category in things}
            )
    return described
