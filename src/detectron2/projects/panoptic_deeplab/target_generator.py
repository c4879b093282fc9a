"""What Panoptic-DeepLab learns from a panoptic label image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["PanopticDeepLabTargetGenerator", "panoptic_ids"]


def panoptic_ids(colors: np.ndarray) -> np.ndarray:
    """(H, W) int32 segment ids of an (H, W, 3) RGB label image: digits to the base 256."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return red + 256 * green + 65536 * blue


class PanopticDeepLabTargetGenerator:
    """Makes semantic classes, centres, offsets and their weights from a panoptic segmentation."""

    def __init__(
        self,
        ignore_label: int,
        thing_ids: Collection[int],
        sigma: int = 8,
        ignore_stuff_in_offset: bool = False,
        small_instance_area: int = 0,
        small_instance_weight: float = 1,
        ignore_crowd_in_semantic: bool = False,
    ) -> None:
        """
        Args:
            ignore_label: class of pixels that count for nothing.
            thing_ids: classes of things.
            sigma: standard deviation of the Gaussian that marks a centre, in pixels.
            ignore_stuff_in_offset: offsets of stuff, which are 0, have no weight.
            small_instance_area: things of fewer pixels have ...
            small_instance_weight: ... this weight in the semantic loss.
            ignore_crowd_in_semantic: crowds have no class.
        """
        self.ignore_label = ignore_label
        self.thing_ids = set(thing_ids)
        self.sigma = sigma
        self.ignore_stuff_in_offset = ignore_stuff_in_offset
        self.small_instance_area = small_instance_area
        self.small_instance_weight = small_instance_weight
        self.ignore_crowd_in_semantic = ignore_crowd_in_semantic
        reach = np.arange(6 * sigma + 3, dtype=np.float64) - (3 * sigma + 1)
        squared = reach[:, None] ** 2 + reach[None, :] ** 2
        self._gaussian = np.exp(-squared / (2 * sigma**2)).astype(np.float32)

    def __call__(
        self, panoptic: np.ndarray, segments_info: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        """
        Args:
            panoptic: (H, W) segment ids.
            segments_info: of each segment "id", "category_id" and "iscrowd". Pixels of other ids
                are ignored. A crowd has no centre, and no weight in the losses of centres and
                offsets.

        Returns:
            sem_seg: (H, W) int64 classes;
            center: (H, W) float32, 1 at the centre of a thing, falling off as a Gaussian;
            center_points: (y, x) of each centre;
            offset: (2, H, W) float32 from each pixel of a thing to its centre, y first;
            sem_seg_weights (H, W), center_weights (1, H, W), offset_weights (1, H, W): float32.
        """
        size = panoptic.shape
        segment = self._segment_of_pixels(panoptic, segments_info)
        table = self._table(segments_info)
        areas, centers = _areas_and_centers(segment.ravel(), len(table), size[1])
        is_instance = table["is_instance"] & (areas > 0)
        table["sem_seg_weight"][is_instance & (areas < self.small_instance_area)] = (
            self.small_instance_weight
        )
        offset = np.zeros((2, *size), np.float32)
        of_thing = is_instance[segment]
        rows, columns = np.nonzero(of_thing)
        offset[:, rows, columns] = centers[segment[of_thing]].T - np.stack([rows, columns])
        points = centers[is_instance]
        return {
            "sem_seg": torch.from_numpy(table["label"][segment]),
            "center": torch.from_numpy(self._heatmap(points, size)),
            "center_points": [tuple(point) for point in points.tolist()],
            "offset": torch.from_numpy(offset),
            "sem_seg_weights": torch.from_numpy(table["sem_seg_weight"][segment]),
            "center_weights": torch.from_numpy(table["center_weight"][segment])[None],
            "offset_weights": torch.from_numpy(table["offset_weight"][segment])[None],
        }

    def _segment_of_pixels(
        self, panoptic: np.ndarray, segments_info: Sequence[dict[str, Any]]
    ) -> np.ndarray:
        """(H, W) index into `segments_info`; pixels of no segment have the index after the last."""
        ids = np.array([info["id"] for info in segments_info], dtype=np.int64)
        order = np.argsort(ids)
        unique, inverse = np.unique(panoptic, return_inverse=True)
        place = np.searchsorted(ids[order], unique).clip(max=max(len(ids) - 1, 0))
        found = ids[order][place] == unique if len(ids) else np.zeros(len(unique), bool)
        index = np.full(len(unique), len(ids))
        index[found] = order[place[found]]
        return index[inverse].reshape(panoptic.shape)

    def _table(self, segments_info: Sequence[dict[str, Any]]) -> np.ndarray:
        """One row for each segment, and a last one for pixels of none."""
        table = np.zeros(len(segments_info) + 1, dtype=_ROW)
        table["sem_seg_weight"] = 1
        table["label"] = self.ignore_label
        for row, info in zip(table, segments_info):
            is_thing = info["category_id"] in self.thing_ids
            is_crowd = bool(info.get("iscrowd", 0))
            if not (is_crowd and self.ignore_crowd_in_semantic):
                row["label"] = info["category_id"]
            row["center_weight"] = not is_crowd
            row["offset_weight"] = not is_crowd and (is_thing or not self.ignore_stuff_in_offset)
            row["is_instance"] = is_thing and not is_crowd
        return table

    def _heatmap(self, points: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        """(H, W) float32: the Gaussians around `points` (K, 2); the larger where they overlap."""
        heatmap = np.zeros(size, np.float32)
        reach = 3 * self.sigma + 1
        for y, x in np.rint(points).astype(int).tolist():
            top, left = max(y - reach, 0), max(x - reach, 0)
            window = heatmap[top : y + reach + 1, left : x + reach + 1]
            first_row, first_column = top - (y - reach), left - (x - reach)
            part = self._gaussian[
                first_row : first_row + window.shape[0],
                first_column : first_column + window.shape[1],
            ]
            np.maximum(window, part, out=window)
        return heatmap


_ROW = np.dtype(
    [
        ("label", np.int64),
        ("sem_seg_weight", np.float32),
        ("center_weight", np.float32),
        ("offset_weight", np.float32),
        ("is_instance", bool),
    ]
)


def _areas_and_centers(segment: np.ndarray, count: int, width: int) -> tuple[np.ndarray, ...]:
    """(count,) pixels of each segment and (count, 2) mean (y, x) of them.

    Args:
        segment: (H * W,) segment of each pixel, row by row.
    """
    areas = np.bincount(segment, minlength=count)
    pixels = np.arange(len(segment))
    sums = [
        np.bincount(segment, weights=position, minlength=count)
        for position in (pixels // width, pixels % width)
    ]
    return areas, np.stack(sums, axis=1) / np.maximum(areas, 1)[:, None]
