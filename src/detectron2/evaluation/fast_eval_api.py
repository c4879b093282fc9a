"""COCO's evaluation with the interface of pycocotools, computed by hotcoco."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from detectron2.evaluation.coco_dataset import as_hotcoco

__all__ = ["COCOeval_opt", "EvalParams"]

# (average precision?, IoU threshold or None for all, area, index into maxDets)
Row = tuple[bool, "float | None", str, int]

DETECTION_ROWS: tuple[Row, ...] = (
    (True, None, "all", 2),
    (True, 0.5, "all", 2),
    (True, 0.75, "all", 2),
    (True, None, "small", 2),
    (True, None, "medium", 2),
    (True, None, "large", 2),
    (False, None, "all", 0),
    (False, None, "all", 1),
    (False, None, "all", 2),
    (False, None, "small", 2),
    (False, None, "medium", 2),
    (False, None, "large", 2),
)
KEYPOINT_ROWS: tuple[Row, ...] = tuple(
    (precision, threshold, area, 0)
    for precision in (True, False)
    for threshold, area in (
        (None, "all"),
        (0.5, "all"),
        (0.75, "all"),
        (None, "medium"),
        (None, "large"),
    )
)


class EvalParams:
    """What is evaluated, in the names of pycocotools; every attribute may be changed in place.

    Attributes:
        imgIds, catIds: ids of the images and categories that count.
        iouThrs: (T,) thresholds. recThrs: (R,) recalls at which precision is read.
        maxDets: numbers of detections per image and category, the highest scores first.
        areaRng: [lowest, highest] area of each range, in pixels. areaRngLbl: their names.
        useCats: whether categories are kept apart.
        kpt_oks_sigmas: (K,) spread of each keypoint, for keypoints only.
    """

    def __init__(self, iouType: str = "segm") -> None:
        from hotcoco import Params

        defaults = Params(iouType)
        self.iouType = iouType
        self.imgIds: Sequence[int] = []
        self.catIds: Sequence[int] = []
        self.iouThrs = np.array(defaults.iouThrs)
        self.recThrs = np.array(defaults.recThrs)
        self.maxDets: Sequence[int] = list(defaults.maxDets)
        self.areaRng: Sequence[Sequence[float]] = [list(limits) for limits in defaults.areaRng]
        self.areaRngLbl: Sequence[str] = list(defaults.areaRngLbl)
        self.useCats: int = 1
        if iouType == "keypoints":
            self.kpt_oks_sigmas: Any = np.array(defaults.kpt_oks_sigmas)

    def sort(self) -> None:
        """Bring ids and numbers of detections into the order that results are reported in."""
        self.imgIds = np.unique(self.imgIds).tolist()
        if self.useCats:
            self.catIds = np.unique(self.catIds).tolist()
        self.maxDets = sorted(self.maxDets)

    def to_hotcoco(self) -> Any:
        from hotcoco import Params

        params = Params(self.iouType)
        params.imgIds = [int(image) for image in self.imgIds]
        params.catIds = [int(category) for category in self.catIds]
        params.iouThrs = [float(threshold) for threshold in self.iouThrs]
        params.recThrs = [float(recall) for recall in self.recThrs]
        params.maxDets = [int(count) for count in self.maxDets]
        params.areaRng = [[float(limit) for limit in limits] for limits in self.areaRng]
        params.areaRngLbl = [str(label) for label in self.areaRngLbl]
        params.useCats = bool(self.useCats)
        if self.iouType == "keypoints":
            params.kpt_oks_sigmas = [float(sigma) for sigma in self.kpt_oks_sigmas]
        return params


class COCOeval_opt:
    """Matches detections to ground truth and summarises precision and recall.

    The numbers are those of pycocotools' COCOeval, bit by bit; the work is done in hotcoco.

    Attributes:
        cocoGt, cocoDt: COCO objects of hotcoco or pycocotools.
        params: `EvalParams`. eval: after `accumulate`, a dictionary with "precision"
            (T, R, K, A, M), "recall" (T, K, A, M), "scores", "counts", "params" and "date".
        stats: after `summarize`, an array of 12 numbers (10 for keypoints).
    """

    def __init__(self, cocoGt: Any = None, cocoDt: Any = None, iouType: str = "segm") -> None:
        """
        Args:
            cocoGt: ground truth.
            cocoDt: detections, as ``cocoGt.loadRes`` returns them.
            iouType: "segm", "bbox" or "keypoints".
        """
        self.cocoGt, self.cocoDt = cocoGt, cocoDt
        self.params = EvalParams(iouType)
        self.eval: dict[str, Any] = {}
        self.stats: Any = []
        self._native: Any = None
        if cocoGt is not None:
            self.params.imgIds = sorted(cocoGt.getImgIds())
            self.params.catIds = sorted(cocoGt.getCatIds())

    def evaluate(self) -> None:
        """Match detections and ground truth, image by image and category by category."""
        self.params.sort()
        with warnings.catch_warnings():
            # hotcoco points out settings that no leaderboard uses; here the caller chose them.
            warnings.simplefilter("ignore", UserWarning)
            self._native = self._make_native()
            self._native.evaluate()

    def _make_native(self) -> Any:
        """The hotcoco evaluation of this ground truth, these detections and parameters."""
        from hotcoco import COCOeval

        task = self.params.iouType
        truth, detections = as_hotcoco(self.cocoGt, task), as_hotcoco(self.cocoDt, task, True)
        native = COCOeval(truth, detections, task)
        native.params = self.params.to_hotcoco()
        return native

    def accumulate(self) -> None:
        """Turn matches into `eval`.

        Raises:
            RuntimeError: `evaluate` has not run.
        """
        if self._native is None:
            raise RuntimeError("Call evaluate() before accumulate().")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self._native.accumulate()
        self.eval = dict(self._native.eval)
        self.eval["params"] = self.params

    @property
    def evalImgs(self) -> list[dict[str, Any] | None]:
        """Matches of each category, area range and image, as pycocotools lists them."""
        return [] if self._native is None else self._native.evalImgs

    def summarize(self) -> None:
        """Compute `stats` and print them as a table.

        Raises:
            RuntimeError: `accumulate` has not run.
        """
        if not self.eval:
            raise RuntimeError("Call evaluate() and accumulate() before summarize().")
        rows = KEYPOINT_ROWS if self.params.iouType == "keypoints" else DETECTION_ROWS
        self.stats = np.array([self._statistic(row) for row in rows])
        for row, value in zip(rows, self.stats.tolist()):
            print(self._line(row, value))

    def _max_dets(self, row: Row) -> int:
        """Number of detections per image that a row of the table is about."""
        if self.params.iouType == "keypoints":
            return 20
        # The first row is about 100 detections even where that is not among the numbers.
        return 100 if row == DETECTION_ROWS[0] else self.params.maxDets[row[3]]

    def _statistic(self, row: Row) -> float:
        """Mean over everything that the row leaves open; -1 if nothing was to be found."""
        is_precision, threshold, area, _ = row
        values = self.eval["precision" if is_precision else "recall"]
        if threshold is not None:
            values = values[np.asarray(self.params.iouThrs) == threshold]
        area_index = [i for i, label in enumerate(self.params.areaRngLbl) if label == area]
        counts = [i for i, n in enumerate(self.params.maxDets) if n == self._max_dets(row)]
        values = values[..., area_index, counts] if area_index and counts else np.zeros(0)
        valid = values[values > -1]
        return float(np.mean(valid)) if valid.size else -1.0

    def _line(self, row: Row, value: float) -> str:
        is_precision, threshold, area, _ = row
        thresholds = self.params.iouThrs
        iou = (
            f"{thresholds[0]:.2f}:{thresholds[-1]:.2f}" if threshold is None else f"{threshold:.2f}"
        )
        title = "Average Precision (AP)" if is_precision else "Average Recall    (AR)"
        return (
            f" {title} @[ IoU={iou:<9} | area={area:>6s} | "
            f"maxDets={self._max_dets(row):>3d} ] = {value:.3f}"
        )
