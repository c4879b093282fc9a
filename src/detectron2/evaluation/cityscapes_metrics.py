"""The measures of the Cityscapes benchmark, on label maps and masks.

M. Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.

Label maps hold the ids of the dataset's files. Classes that the benchmark does not evaluate count
neither for nor against a prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "CATEGORIES",
    "CLASS_IDS",
    "INSTANCE_CLASSES",
    "ImageMatches",
    "SemanticCounts",
    "instance_average_precision",
    "match_instances",
]

# Ids of the evaluated classes by category, and in that order.
CATEGORIES: dict[str, tuple[int, ...]] = {
    "flat": (7, 8),
    "construction": (11, 12, 13),
    "object": (17, 19, 20),
    "nature": (21, 22),
    "sky": (23,),
    "human": (24, 25),
    "vehicle": (26, 27, 28, 31, 32, 33),
}
CLASS_IDS = tuple(label for labels in CATEGORIES.values() for label in labels)

# Mean size in pixels of an instance in the training set, by id.
INSTANCE_CLASSES: dict[int, float] = {
    24: 3462.4756337644,
    25: 3930.4788056518,
    26: 12794.0202738185,
    27: 27855.1264367816,
    28: 35732.1511111111,
    31: 67583.7075812274,
    32: 6298.7200839748,
    33: 4672.3249222261,
}
# Pixels of these ids within an instance of the category count as found, evaluated or not
# (caravan and trailer are not).
_FOUND_IN_CATEGORY = {"human": (24, 25), "vehicle": (26, 27, 28, 29, 30, 31, 32, 33)}
_INSTANCE_FACTOR = 1000  # an instance map holds 1000 * id + number; without instances, the id
_MIN_PIXELS = 100  # smaller instances are not required
OVERLAPS = np.arange(0.5, 1.0, 0.05)


# ------------------------------------------------------------------------------ semantic


@dataclass
class SemanticCounts:
    """Pixels counted over images; the counts of several processes can be added.

    confusion: (256, 256) pixels by true and predicted id.
    found, missed: pixels of instances that are found and missed, each weighted by the mean size of
        its class over its own size, by id and by category.
    """

    confusion: np.ndarray
    found: dict[int | str, float]
    missed: dict[int | str, float]

    @classmethod
    def empty(cls) -> SemanticCounts:
        return cls(np.zeros((256, 256), dtype=np.int64), {}, {})

    def add_image(self, predicted: np.ndarray, truth: np.ndarray, instances: np.ndarray) -> None:
        """Count an image.

        Args:
            predicted, truth: (H, W) ids; 255 is none.
            instances: (H, W) true instance map.
        """
        pairs = truth.astype(np.int64) * 256 + predicted
        self.confusion += np.bincount(pairs.ravel(), minlength=256 * 256).reshape(256, 256)
        for instance in np.unique(instances[instances > _INSTANCE_FACTOR]).tolist():
            label = instance // _INSTANCE_FACTOR
            if label in INSTANCE_CLASSES:
                self._add_instance(label, predicted[instances == instance])

    def _add_instance(self, label: int, predicted: np.ndarray) -> None:
        weight = INSTANCE_CLASSES[label] / predicted.size
        category = next(name for name, labels in CATEGORIES.items() if label in labels)
        accepted: dict[int | str, Sequence[int]] = {
            label: (label,),
            category: _FOUND_IN_CATEGORY[category],
        }
        for key, labels in accepted.items():
            found = int(np.isin(predicted, labels).sum())
            self.found[key] = self.found.get(key, 0.0) + found * weight
            self.missed[key] = self.missed.get(key, 0.0) + (predicted.size - found) * weight

    def __add__(self, other: SemanticCounts) -> SemanticCounts:
        def total(first: Mapping, second: Mapping) -> dict:
            return {key: first.get(key, 0.0) + second.get(key, 0.0) for key in {**first, **second}}

        return SemanticCounts(
            self.confusion + other.confusion,
            total(self.found, other.found),
            total(self.missed, other.missed),
        )

    def metrics(self) -> dict[str, float]:
        """IoU of classes and categories (IoU_sup) and the same weighted by instance (iIoU)."""
        classes = {label: (label,) for label in CLASS_IDS}
        return {
            "IoU": _mean(self._iou(labels) for labels in classes.values()),
            "iIoU": _mean(self._instance_iou(key, labels) for key, labels in classes.items()),
            "IoU_sup": _mean(self._iou(labels) for labels in CATEGORIES.values()),
            "iIoU_sup": _mean(self._instance_iou(*item) for item in CATEGORIES.items()),
        }

    def _false_positives(self, labels: Sequence[int]) -> float:
        """Pixels of other evaluated classes that are predicted to be one of `labels`."""
        others = [label for label in CLASS_IDS if label not in labels]
        return float(self.confusion[np.ix_(others, list(labels))].sum())

    def _iou(self, labels: Sequence[int]) -> float:
        rows = self.confusion[list(labels)]
        wrong = self._false_positives(labels)
        return _ratio(float(rows[:, list(labels)].sum()), float(rows.sum()) + wrong)

    def _instance_iou(self, key: int | str, labels: Sequence[int]) -> float:
        if key not in self.found and key not in INSTANCE_CLASSES and key not in _FOUND_IN_CATEGORY:
            return float("nan")
        found, missed = self.found.get(key, 0.0), self.missed.get(key, 0.0)
        return _ratio(found, found + missed + self._false_positives(labels))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def _mean(values: Iterable[float]) -> float:
    """Mean of what is not NaN."""
    valid = [value for value in values if not np.isnan(value)]
    return float(np.mean(valid)) if valid else float("nan")


# ------------------------------------------------------------------------------ instances


@dataclass(frozen=True)
class ImageMatches:
    """Predicted and true instances of one class in one image.

    scores, sizes, void: (P,) confidence, pixels, and pixels on classes that are not evaluated.
    true_sizes, is_group: (G,) pixels, and whether a region is a group of uncounted instances.
    shared: (P, G) common pixels.
    """

    scores: np.ndarray
    sizes: np.ndarray
    void: np.ndarray
    true_sizes: np.ndarray
    is_group: np.ndarray
    shared: np.ndarray


def match_instances(
    instances: np.ndarray, masks: np.ndarray, scores: np.ndarray, labels: np.ndarray
) -> dict[int, ImageMatches]:
    """What the score of an image needs, by id of the class.

    Args:
        instances: (H, W) true instance map.
        masks: (P, H, W) bool. scores: (P,). labels: (P,) ids of the predictions.
    """
    true_ids = np.unique(instances)
    void_ids = [i for i in true_ids.tolist() if i < _INSTANCE_FACTOR and i not in CLASS_IDS]
    void = np.isin(instances, void_ids)
    # One pass over the pixels of each mask counts what it shares with every region.
    region = np.searchsorted(true_ids, instances)
    histograms = [np.bincount(region[mask], minlength=len(true_ids)) for mask in masks]
    shared = np.array(histograms).reshape(len(masks), len(true_ids))
    sizes, on_void = masks.sum(axis=(1, 2)), np.array([(void & mask).sum() for mask in masks])
    true_sizes = np.bincount(region.ravel(), minlength=len(true_ids))
    true_labels = np.where(true_ids < _INSTANCE_FACTOR, true_ids, true_ids // _INSTANCE_FACTOR)
    matches = {}
    for label in INSTANCE_CLASSES:
        mine, theirs = (labels == label) & (sizes > 0), true_labels == label
        matches[label] = ImageMatches(
            scores[mine],
            sizes[mine],
            on_void[mine] if len(masks) else sizes,
            true_sizes[theirs],
            (true_ids < _INSTANCE_FACTOR)[theirs],
            shared[np.ix_(mine, theirs)],
        )
    return matches


def instance_average_precision(
    images: Sequence[Mapping[int, ImageMatches]],
) -> dict[int, np.ndarray]:
    """(T,) AP at each of `OVERLAPS` by id of the class; NaN for a class that does not occur."""
    return {
        label: np.array(
            [_class_precision([i[label] for i in images], overlap) for overlap in OVERLAPS]
        )
        for label in INSTANCE_CLASSES
    }


def _class_precision(images: Sequence[ImageMatches], overlap: float) -> float:
    if not any(_required(image).any() for image in images):
        return float("nan")
    parts = [_judge(image, overlap) for image in images]
    scores = np.concatenate([part[0] for part in parts])
    is_true = np.concatenate([part[1] for part in parts])
    missed = sum(part[2] for part in parts)
    return _area_under_curve(scores, is_true, missed)


def _required(image: ImageMatches) -> np.ndarray:
    return ~image.is_group & (image.true_sizes >= _MIN_PIXELS)


def _judge(image: ImageMatches, overlap: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores of the predictions that count, whether each is right, and how many are missed."""
    union = image.sizes[:, None] + image.true_sizes[None, :] - image.shared
    hits = (image.shared > 0) & (image.shared / np.maximum(union, 1) > overlap)
    required = _required(image)
    hits = hits & required
    # The most confident prediction of an instance is right, further ones are false alarms.
    scores, is_true = [], []
    for column in np.flatnonzero(required):
        found = np.sort(image.scores[hits[:, column]])[::-1]
        scores.extend(found.tolist())
        is_true.extend([True, *[False] * (len(found) - 1)] if len(found) else [])
    missed = int(required.sum() - hits.any(axis=0)[required].sum())
    # A prediction without partner is wrong, unless it lies on what is not evaluated.
    excused = image.void + image.shared[:, image.is_group].sum(axis=1)
    excused = excused + image.shared[:, image.true_sizes < _MIN_PIXELS].sum(axis=1)
    wrong = ~hits.any(axis=1) & (excused / np.maximum(image.sizes, 1) <= overlap)
    scores.extend(image.scores[wrong].tolist())
    is_true.extend([False] * int(wrong.sum()))
    return np.array(scores), np.array(is_true, dtype=bool), missed


def _area_under_curve(scores: np.ndarray, is_true: np.ndarray, missed: int) -> float:
    """Area by the trapezoid rule, over the recalls at each distinct score and recall 0."""
    if len(scores) == 0:
        return 0.0
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(is_true[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of equal scores
    precision = np.concatenate([[1.0], right[last] / (last + 1.0)])
    total = right[-1] + missed
    recall = np.concatenate([[0.0], right[last] / total if total else np.zeros(len(last))])
    # Each precision counts for half of the recall gained on either side of it.
    before, after = np.append(0.0, recall[:-1]), np.append(recall[1:], recall[-1])
    return float(np.dot(precision, (after - before) / 2))
