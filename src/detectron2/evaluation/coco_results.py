"""Detections in COCO's result format, held as columns instead of one dictionary each.

A dictionary per detection with its lists and strings takes about a kilobyte. Columns take the
numbers plus the compressed mask, and reach hotcoco without a detour through dictionaries.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

__all__ = ["CocoResults", "EncodedMasks", "encode_masks", "no_garbage_collection"]


class _Collector:
    """How many threads want no garbage collection, and whether there was any before them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.opponents = 0
        self.was_enabled = False


_collector = _Collector()


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Build many objects without the collector walking over all others again and again.

    A dictionary for each of 180,000 masks took 0.6 s with it and 0.1 s without. Threads may
    overlap: the last one to leave lets the collector go on.
    """
    with _collector.lock:
        if _collector.opponents == 0:
            _collector.was_enabled = gc.isenabled()
            gc.disable()
        _collector.opponents += 1
    try:
        yield
    finally:
        with _collector.lock:
            _collector.opponents -= 1
            if _collector.opponents == 0 and _collector.was_enabled:
                gc.enable()


@dataclass(frozen=True)
class EncodedMasks:
    """N masks: sizes (N, 2) of (height, width), compressed run lengths, areas (N,) in pixels."""

    sizes: np.ndarray
    counts: list[bytes]
    areas: np.ndarray


class CocoResults(Sequence[dict[str, Any]]):
    """A read-only list of result dictionaries, each made when it is asked for.

    Attributes:
        image_ids: (N,) int64, or object where ids are text.
        category_ids: (N,) int64.
        scores: (N,) float64.
        boxes: (N, 4) XYWH or (N, 5) XYWHA float64 in pixels.
        mask_sizes: (N, 2) int64 (height, width); None without masks.
        mask_counts: N compressed run lengths; None without masks.
        mask_areas: (N,) float64 pixels of the masks; None without masks.
        keypoints: (N, 3K) float64 of x, y, score; None without keypoints.
    """

    __slots__ = (
        "boxes",
        "category_ids",
        "image_ids",
        "keypoints",
        "mask_areas",
        "mask_counts",
        "mask_sizes",
        "scores",
    )

    def __init__(
        self,
        image_ids: np.ndarray,
        category_ids: np.ndarray,
        scores: np.ndarray,
        boxes: np.ndarray,
        mask_sizes: np.ndarray | None = None,
        mask_counts: list[bytes] | None = None,
        mask_areas: np.ndarray | None = None,
        keypoints: np.ndarray | None = None,
    ) -> None:
        self.image_ids = image_ids
        self.category_ids = category_ids
        self.scores = scores
        self.boxes = boxes
        self.mask_sizes = mask_sizes
        self.mask_counts = mask_counts
        self.mask_areas = mask_areas
        self.keypoints = keypoints

    @classmethod
    def of_image(
        cls,
        image_id: Hashable,
        category_ids: np.ndarray,
        scores: np.ndarray,
        boxes: np.ndarray,
        masks: Sequence[dict[str, Any]] | EncodedMasks | None = None,
        keypoints: np.ndarray | None = None,
    ) -> CocoResults:
        """The detections of one image, with N masks (RLE dictionaries or columns of them) and
        (N, 3K) keypoints."""
        count = len(scores)
        whole = isinstance(image_id, (int, np.integer))
        ids = np.full(count, image_id, dtype=np.int64 if whole else object)
        sizes = counts = areas = None
        if isinstance(masks, EncodedMasks):
            sizes, counts, areas = masks.sizes, masks.counts, masks.areas
        elif masks is not None:
            sizes = np.array([mask["size"] for mask in masks], dtype=np.int64).reshape(-1, 2)
            counts = [_as_bytes(mask["counts"]) for mask in masks]
            areas = _areas(masks)
        return cls(
            ids,
            np.asarray(category_ids, dtype=np.int64),
            np.asarray(scores, dtype=np.float64),
            np.asarray(boxes, dtype=np.float64),
            sizes,
            counts,
            areas,
            None if keypoints is None else np.asarray(keypoints, dtype=np.float64),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[CocoResults]) -> CocoResults:
        """All detections of `parts`; masks and keypoints only where every part has them."""
        parts = [part for part in parts if len(part)] or list(parts[:1])
        if not parts:
            nothing = np.zeros(0)
            return cls(
                nothing.astype(np.int64), nothing.astype(np.int64), nothing, np.zeros((0, 4))
            )
        masked = all(part.mask_counts is not None for part in parts)
        posed = all(part.keypoints is not None for part in parts)
        return cls(
            np.concatenate([part.image_ids for part in parts]),
            np.concatenate([part.category_ids for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.mask_sizes for part in parts]) if masked else None,
            [counts for part in parts for counts in part.mask_counts or ()] if masked else None,
            np.concatenate([part.mask_areas for part in parts]) if masked else None,
            np.concatenate([part.keypoints for part in parts]) if posed else None,
        )

    def replaced(self, **columns: np.ndarray) -> CocoResults:
        """The same detections with some columns replaced."""
        return CocoResults(**{**{name: getattr(self, name) for name in self.__slots__}, **columns})

    def sliced(self, span: slice) -> CocoResults:
        """The detections in `span`, without a copy of the numbers."""
        return CocoResults(
            self.image_ids[span],
            self.category_ids[span],
            self.scores[span],
            self.boxes[span],
            None if self.mask_sizes is None else self.mask_sizes[span],
            None if self.mask_counts is None else self.mask_counts[span],
            None if self.mask_areas is None else self.mask_areas[span],
            None if self.keypoints is None else self.keypoints[span],
        )

    def selected(self, chosen: np.ndarray) -> CocoResults:
        """The detections at the places, or with True, in `chosen`."""
        columns = {name: getattr(self, name) for name in self.__slots__}
        counts = columns.pop("mask_counts")
        rows = {name: None if value is None else value[chosen] for name, value in columns.items()}
        if counts is not None:
            counts = [counts[index] for index in np.arange(len(self))[chosen].tolist()]
        return CocoResults(mask_counts=counts, **rows)

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        result: dict[str, Any] = {
            "image_id": self.image_ids[index],
            "category_id": int(self.category_ids[index]),
            "bbox": self.boxes[index].tolist(),
            "score": float(self.scores[index]),
        }
        if self.image_ids.dtype != object:
            result["image_id"] = int(result["image_id"])
        if self.mask_counts is not None:
            result["segmentation"] = self.mask(index)
        if self.keypoints is not None:
            result["keypoints"] = self.keypoints[index].tolist()
        return result

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def mask(self, index: int) -> dict[str, Any]:
        """RLE dictionary of one mask, with counts as text."""
        assert self.mask_sizes is not None and self.mask_counts is not None
        size = self.mask_sizes[index].tolist()
        return {"size": size, "counts": self.mask_counts[index].decode("ascii")}

    def masks(self) -> list[dict[str, Any]]:
        """RLE dictionaries of all masks."""
        assert self.mask_sizes is not None and self.mask_counts is not None
        # Masks of one size share its list: half of the objects, half of the time.
        keys = ((self.mask_sizes[:, 0] << 32) | self.mask_sizes[:, 1]).tolist()
        size_of = {key: [key >> 32, key & 0xFFFFFFFF] for key in set(keys)}
        return [{"size": size_of[key], "counts": c} for key, c in zip(keys, self.mask_counts)]


def _areas(masks: Sequence[dict[str, Any]]) -> np.ndarray:
    """(N,) float64 pixels of N RLE dictionaries."""
    from hotcoco import mask as rle_codec

    if not len(masks):
        return np.zeros(0)
    return np.asarray(rle_codec.area(list(masks)), dtype=np.float64)


def _as_bytes(counts: str | bytes) -> bytes:
    return counts.encode("ascii") if isinstance(counts, str) else counts


def encode_masks(masks: np.ndarray, boxes: np.ndarray | None = None) -> list[dict[str, Any]]:
    """COCO run lengths of N binary masks.

    Args:
        masks: (N, H, W) of zeros and ones.
        boxes: (N, 4) XYXY, a guess of where the pixels are. It only makes this faster: a mask
            that reaches out of its box is encoded as a whole.

    Returns:
        RLE dictionaries with counts as bytes.
    """
    from hotcoco import mask as rle_codec

    masks = masks if masks.dtype == np.bool_ else masks.astype(bool)
    height, width = masks.shape[1:]
    if boxes is None or not len(masks):
        return [rle_codec.encode(mask) for mask in masks]
    # Run lengths go down the columns. Reading a row-major picture that way misses the cache at
    # every pixel, so only the box is transposed, into an empty column-major picture.
    columns_first = np.zeros((height, width), dtype=bool, order="F")
    limits = np.array([width, height, width, height])
    corners = np.nan_to_num(boxes) + np.array([-1, -1, 2, 2])
    encoded = []
    for mask, corner in zip(masks, np.clip(corners, 0, limits).astype(np.int64).tolist()):
        x0, y0, x1, y1 = corner
        inside = mask[y0:y1, x0:x1]
        if np.count_nonzero(inside) != np.count_nonzero(mask):
            encoded.append(rle_codec.encode(mask))
            continue
        columns_first[y0:y1, x0:x1] = inside
        encoded.append(rle_codec.encode(columns_first))
        columns_first[y0:y1, x0:x1] = False
    return encoded
