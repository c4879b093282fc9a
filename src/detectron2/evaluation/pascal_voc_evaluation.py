"""PASCAL VOC metrics of boxes.

M. Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010. Boxes of VOC
count pixels from 1 and include both ends, so a box from 3 to 5 is 3 pixels wide.
"""

from __future__ import annotations

import logging
import os
import xml.etree.ElementTree as ElementTree
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from detectron2.data import MetadataCatalog
from detectron2.evaluation.evaluator import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

__all__ = [
    "DatasetEvaluator",
    "MetadataCatalog",
    "PascalVOCDetectionEvaluator",
    "parse_rec",
    "voc_ap",
    "voc_eval",
]

# (image id, score, xmin, ymin, xmax, ymax)
Detection = tuple[str, float, float, float, float, float]
_THRESHOLDS = range(50, 100, 5)


class PascalVOCDetectionEvaluator(DatasetEvaluator):
    """AP of boxes with VOC's protocol, averaged over IoU thresholds from 0.5 to 0.95.

    The numbers are those of the official MATLAB code up to how it breaks ties. Scores count with
    three decimals and coordinates with one, as in VOC's result files.
    """

    def __init__(self, dataset_name: str) -> None:
        """
        Args:
            dataset_name: registered dataset whose metadata has dirname, split, year and
                thing_classes.

        Raises:
            AssertionError: the year is neither 2007 nor 2012.
        """
        self._dataset_name = dataset_name
        metadata = MetadataCatalog.get(dataset_name)
        annotations = PathManager.get_local_path(os.path.join(metadata.dirname, "Annotations/"))
        self._anno_file_template = os.path.join(annotations, "{}.xml")
        self._image_set_path = os.path.join(
            metadata.dirname, "ImageSets", "Main", metadata.split + ".txt"
        )
        self._class_names = metadata.thing_classes
        if metadata.year not in (2007, 2012):
            raise AssertionError(f"VOC is evaluated as of 2007 or 2012, not {metadata.year!r}.")
        self._is_2007 = metadata.year == 2007
        self._cpu_device = torch.device("cpu")
        self._logger = logging.getLogger(__name__)
        self.reset()

    def reset(self) -> None:
        self._predictions: dict[int, list[Detection]] = {}

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """
        Args:
            inputs: records with "image_id".
            outputs: dictionaries with "instances" (pred_boxes, scores, pred_classes).
        """
        for record, output in zip(inputs, outputs):
            instances = output["instances"].to(self._cpu_device)
            boxes = instances.pred_boxes.tensor + torch.tensor([1.0, 1.0, 0.0, 0.0])
            for box, score, index in zip(
                boxes.tolist(), instances.scores.tolist(), instances.pred_classes.tolist()
            ):
                if np.isfinite([*box, score]).all():
                    x0, y0, x1, y1 = (float(f"{edge:.1f}") for edge in box)
                    detection = (str(record["image_id"]), float(f"{score:.3f}"), x0, y0, x1, y1)
                    self._predictions.setdefault(index, []).append(detection)

    def evaluate(self) -> Mapping[str, Mapping[str, float]] | None:
        """``{"bbox": {"AP", "AP50", "AP75"}}`` in percent; None on other than the main process.

        Classes that the split does not contain are left out of the means.
        """
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return None
        detections: dict[int, list[Detection]] = {}
        for part in gathered:
            for index, rows in part.items():
                detections.setdefault(index, []).extend(rows)
        self._logger.info(
            f"Evaluating {self._dataset_name} using {2007 if self._is_2007 else 2012} metric."
        )
        images = _read_image_set(self._image_set_path)
        records = {image: parse_rec(self._anno_file_template.format(image)) for image in images}
        precisions = np.array(
            [
                self._class_precisions(_Truth.of_class(records, name), detections.get(index, []))
                for index, name in enumerate(self._class_names)
            ]
        )
        present = ~np.isnan(precisions[:, 0])
        means = 100 * precisions[present].mean(axis=0) if present.any() else precisions[0]
        by_threshold = dict(zip(_THRESHOLDS, means.tolist()))
        metrics = {
            "AP": float(np.mean(means)),
            "AP50": by_threshold[50],
            "AP75": by_threshold[75],
        }
        return OrderedDict({"bbox": metrics})

    def _class_precisions(self, truth: _Truth, detections: Sequence[Detection]) -> list[float]:
        """AP of a class at each IoU threshold; NaN if there is no object of it."""
        if truth.count == 0:
            return [float("nan")] * len(_THRESHOLDS)
        ranked = _rank(detections, truth)
        return [
            voc_ap(*ranked.recall_and_precision(threshold / 100), use_07_metric=self._is_2007)
            for threshold in _THRESHOLDS
        ]


def parse_rec(filename: str) -> list[dict[str, Any]]:
    """Objects of a VOC annotation file: name, pose, truncated, difficult, bbox (four integers)."""
    with PathManager.open(filename) as stream:
        tree = ElementTree.parse(stream)
    objects = []
    for element in tree.findall("object"):
        box = element.find("bndbox")
        if box is None:
            raise ValueError(f"{filename}: an object has no <bndbox>.")
        objects.append(
            {
                "name": element.findtext("name"),
                "pose": element.findtext("pose"),
                "truncated": int(element.findtext("truncated") or 0),
                "difficult": int(element.findtext("difficult") or 0),
                "bbox": [
                    int(float(box.findtext(edge) or "nan"))
                    for edge in ("xmin", "ymin", "xmax", "ymax")
                ],
            }
        )
    return objects


def voc_ap(rec: np.ndarray, prec: np.ndarray, use_07_metric: bool = False) -> float:
    """Area under a precision-recall curve.

    Args:
        rec, prec: (D,) recall and precision after each detection, the highest score first.
        use_07_metric: mean of the best precision at 11 recalls (VOC 2007), in place of the exact
            area under the curve made monotonic (since VOC 2010).
    """
    rec, prec = np.asarray(rec, dtype=np.float64), np.asarray(prec, dtype=np.float64)
    if use_07_metric:
        reached = (prec[rec >= recall] for recall in np.arange(0.0, 1.1, 0.1))
        return sum(float(best.max()) if best.size else 0.0 for best in reached) / 11.0
    recall = np.concatenate([[0.0], rec, [1.0]])
    # The best precision at this recall or any higher one.
    envelope = np.maximum.accumulate(np.concatenate([prec, [0.0]])[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[steps + 1] - recall[steps]) * envelope[steps]))


def voc_eval(
    detpath: str,
    annopath: str,
    imagesetfile: str,
    classname: str,
    ovthresh: float = 0.5,
    use_07_metric: bool = False,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Evaluate one class from VOC's files.

    Args:
        detpath: path with "{}" for the class; lines of "image score xmin ymin xmax ymax".
        annopath: path with "{}" for the image, of annotation files.
        imagesetfile: ids of the images, one on a line.
        classname: class to evaluate.
        ovthresh: a detection is right above this IoU.
        use_07_metric: see `voc_ap`.

    Returns:
        Recall (D,), precision (D,) and average precision.
    """
    records = {name: parse_rec(annopath.format(name)) for name in _read_image_set(imagesetfile)}
    with PathManager.open(detpath.format(classname)) as stream:
        rows = [line.split() for line in stream if line.strip()]
    detections = [(row[0], *map(float, row[1:6])) for row in rows]
    truth = _Truth.of_class(records, classname)
    recall, precision = _rank(detections, truth).recall_and_precision(ovthresh)
    return recall, precision, voc_ap(recall, precision, use_07_metric)


def _read_image_set(path: str) -> list[str]:
    with PathManager.open(path) as stream:
        return [line.strip() for line in stream if line.strip()]


@dataclass(frozen=True)
class _Truth:
    """Objects of one class. boxes: (G, 4) by image; difficult: (G,) by image; count: others."""

    boxes: Mapping[str, np.ndarray]
    difficult: Mapping[str, np.ndarray]
    count: int

    @classmethod
    def of_class(cls, records: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> _Truth:
        boxes, difficult = {}, {}
        for image, objects in records.items():
            mine = [each for each in objects if each["name"] == name]
            boxes[image] = np.array([o["bbox"] for o in mine], np.float64).reshape(-1, 4)
            difficult[image] = np.array([o["difficult"] for o in mine], dtype=bool)
        return cls(boxes, difficult, sum(int((~flags).sum()) for flags in difficult.values()))


@dataclass(frozen=True)
class _Ranked:
    """Detections by falling score, each with the object that it overlaps most.

    iou: (D,) overlap. target: (D,) number of the object, -1 without one; difficult: (D,) flag.
    """

    iou: np.ndarray
    target: np.ndarray
    difficult: np.ndarray
    count: int

    def recall_and_precision(self, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        hits = self.iou > threshold
        # Of the hits on one object the first counts, the rest are false alarms.
        _, first = np.unique(np.where(hits, self.target, -1), return_index=True)
        is_first = np.zeros(len(hits), dtype=bool)
        is_first[first] = True
        right = np.cumsum(hits & ~self.difficult & is_first)
        wrong = np.cumsum(~(hits & (self.difficult | is_first)))
        with np.errstate(divide="ignore", invalid="ignore"):
            recall = right / float(self.count)
        return recall, right / np.maximum(right + wrong, np.finfo(np.float64).eps)


def _rank(detections: Sequence[Detection], truth: _Truth) -> _Ranked:
    # The order among equal scores is that of NumPy's default sort, as in the original.
    order = np.argsort(-np.array([detection[1] for detection in detections], dtype=np.float64))
    offsets, total = {}, 0
    for image, boxes in truth.boxes.items():
        offsets[image] = total
        total += len(boxes)
    iou, target = np.full(len(order), -np.inf), np.full(len(order), -1)
    difficult = np.zeros(len(order), dtype=bool)
    for rank, index in enumerate(order.tolist()):
        image, _, *box = detections[index]
        candidates = truth.boxes.get(image)
        if candidates is None or not len(candidates):
            continue
        overlaps = _inclusive_iou(np.array(box), candidates)
        best = int(overlaps.argmax())
        iou[rank], target[rank] = overlaps[best], offsets[image] + best
        difficult[rank] = truth.difficult[image][best]
    return _Ranked(iou, target, difficult, truth.count)


def _inclusive_iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(G,) IoU of one (4,) box with (G, 4) boxes, in inclusive pixel coordinates."""
    low = np.maximum(boxes[:, :2], box[:2])
    high = np.minimum(boxes[:, 2:], box[2:])
    shared = np.prod(np.maximum(high - low + 1.0, 0.0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1.0, axis=1)
    return shared / (np.prod(box[2:] - box[:2] + 1.0) + areas - shared)
