"""The detections of all images as one list that is never in memory as a whole."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from detectron2.evaluation.coco_results import CocoResults
from detectron2.evaluation.spool import PredictionSpool

__all__ = ["ResultStream"]

Change = Callable[[CocoResults], CocoResults]


class ResultStream(Sequence[dict[str, Any]]):
    """A read-only list of COCO results over predictions that may lie on disk.

    Attributes:
        image_ids: of the predictions that have "instances", in their order.
        masked, posed: whether every detection has a mask, or keypoints.
        memo: what those who read the stream keep for reading it again: a second task needs the
            same images. It is theirs to keep it small.
    """

    def __init__(
        self,
        predictions: Sequence[Mapping[str, Any]],
        numbers: list[int],
        image_ids: list[Hashable],
        ends: np.ndarray,
        masked: bool,
        posed: bool,
        changes: tuple[Change, ...] = (),
        kept: np.ndarray | None = None,
    ) -> None:
        self._predictions = predictions
        self._numbers = numbers  # of the predictions that have "instances"
        self._ends = ends  # how many detections there are up to the end of each
        self._changes = changes
        self._kept = kept  # which of all detections are in the list, None: all
        self.image_ids = image_ids
        self.masked, self.posed = masked, posed
        self.memo: dict[Any, Any] = {}

    @classmethod
    def over(cls, predictions: Sequence[Mapping[str, Any]]) -> ResultStream | None:
        """Stream over the "instances" of predictions; None if they are not `CocoResults`."""
        numbers, image_ids, lengths = [], [], []
        has: list[tuple[bool, bool]] = []  # masks, keypoints; of the parts that are not empty
        for number, (prediction, length) in enumerate(_peeks(predictions)):
            if "instances" not in prediction:
                continue
            part = prediction["instances"]
            if not isinstance(part, CocoResults):
                return None
            numbers.append(number)
            image_ids.append(prediction.get("image_id"))
            lengths.append(len(part) if length is None else length)
            if lengths[-1] or not has:
                has = has if any(lengths[:-1]) else []
                has.append((part.mask_counts is not None, part.keypoints is not None))
        masked, posed = (all(column) for column in zip(*has)) if has else (False, False)
        ends = np.cumsum(lengths, dtype=np.int64) if lengths else np.zeros(0, dtype=np.int64)
        return cls(predictions, numbers, image_ids, ends, masked, posed)

    def mapped(self, change: Change) -> ResultStream:
        """The stream whose parts are changed when they are read."""
        changes = (*self._changes, change)
        return ResultStream(
            self._predictions, self._numbers, self.image_ids, self._ends,
            self.masked, self.posed, changes, self._kept,
        )  # fmt: skip

    def filtered(self, kept: np.ndarray) -> ResultStream:
        """The detections with True in (N,) `kept`; a filtered stream is not filtered again."""
        assert self._kept is None and len(kept) == len(self)
        return ResultStream(
            self._predictions, self._numbers, self.image_ids, self._ends,
            self.masked, self.posed, self._changes, kept,
        )  # fmt: skip

    def renumbered(self, number_of: Callable[[Hashable], int]) -> ResultStream:
        """The stream with other image ids."""
        other = self.mapped(
            lambda part: part.replaced(
                image_ids=np.array([number_of(i) for i in part.image_ids], dtype=np.int64)
            )
        )
        other.image_ids = [number_of(image_id) for image_id in self.image_ids]
        return other

    def part(self, index: int) -> CocoResults:
        """The detections of one prediction."""
        return self.joined([index])

    def joined(self, indices: Sequence[int] | None = None) -> CocoResults:
        """The detections of some predictions, by default of all, in memory."""
        chosen = range(len(self._numbers)) if indices is None else indices
        joined = CocoResults.concatenate([self._read(index) for index in chosen])
        for change in self._changes:
            joined = change(joined)
        return joined

    def _read(self, index: int) -> CocoResults:
        part = self._predictions[self._numbers[index]]["instances"]
        return part if self._kept is None else part.selected(self._kept[self._span(index)])

    def _span(self, index: int) -> slice:
        """Places of a prediction's detections among those of all."""
        return slice(int(self._ends[index - 1]) if index else 0, int(self._ends[index]))

    def length_of(self, index: int) -> int:
        """How many detections a prediction has."""
        span = self._span(index)
        if self._kept is not None:
            return int(np.count_nonzero(self._kept[span]))
        return span.stop - span.start

    def __len__(self) -> int:
        if self._kept is not None:
            return int(np.count_nonzero(self._kept))
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        if self._kept is not None:
            position = int(np.flatnonzero(self._kept)[position])
        number = bisect.bisect_right(self._ends, position)
        before = self._span(number).start
        if self._kept is not None:
            before = position - int(np.count_nonzero(self._kept[before:position]))
        return self.part(number)[position - before]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        parts = (self.part(index) for index in range(len(self._numbers)))
        return itertools.chain.from_iterable(parts)


def _peeks(
    predictions: Sequence[Mapping[str, Any]],
) -> Iterable[tuple[Mapping[str, Any], int | None]]:
    """Predictions, and the number of detections where they have more than those of the image."""
    if isinstance(predictions, PredictionSpool):
        return predictions.peeks()
    return ((prediction, None) for prediction in predictions)
