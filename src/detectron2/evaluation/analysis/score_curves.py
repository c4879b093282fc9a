"""Precision, recall and F1 as functions of the score from which on detections are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectron2.evaluation.analysis.run import EvaluatedRun

__all__ = ["Matches", "best_threshold", "f1_curves"]

_GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Matches:
    """Which detections are right and which objects are found, at one IoU.

    Detections that lie on a crowd are neither, and left out.

    Attributes:
        rows: (N,) place of each detection among the run's results.
        scores, categories, images: (N,) of the detections. right: (N,) bool.
        objects: (G,) ids. object_categories, object_images: (G,).
        found_at: (G,) score of the detection that finds the object; -1 if none does.
    """

    rows: np.ndarray
    scores: np.ndarray
    categories: np.ndarray
    images: np.ndarray
    right: np.ndarray
    objects: np.ndarray
    object_categories: np.ndarray
    object_images: np.ndarray
    found_at: np.ndarray

    @classmethod
    def of(cls, run: EvaluatedRun, details: Mapping[str, Any]) -> Matches:
        """From hotcoco's image_diagnostics, whose detections count from 1."""
        status = details["dt_status"]
        numbers = np.fromiter(status, dtype=np.int64, count=len(status))
        right = np.fromiter((v == "tp" for v in status.values()), dtype=bool, count=len(status))
        order = np.argsort(numbers)
        rows, right = numbers[order] - 1, right[order]
        results, match = run.results, details["gt_match"]
        objects = [a for a in run.objects.values() if a["id"] in details["gt_status"]]
        found_at = [
            results.scores[match[a["id"]] - 1] if a["id"] in match else -1.0 for a in objects
        ]
        columns = {
            "objects": [a["id"] for a in objects],
            "object_categories": [a["category_id"] for a in objects],
            "object_images": [a["image_id"] for a in objects],
        }
        return cls(
            rows,
            results.scores[rows],
            results.category_ids[rows],
            results.image_ids[rows],
            right,
            **{name: np.array(values, dtype=np.int64) for name, values in columns.items()},
            found_at=np.array(found_at, dtype=np.float64),
        )

    def of_category(self, category: int) -> Matches:
        return self._selected(self.categories == category, self.object_categories == category)

    def of_image(self, image: int) -> Matches:
        return self._selected(self.images == image, self.object_images == image)

    def _selected(self, detections: np.ndarray, objects: np.ndarray) -> Matches:
        return Matches(
            self.rows[detections],
            self.scores[detections],
            self.categories[detections],
            self.images[detections],
            self.right[detections],
            self.objects[objects],
            self.object_categories[objects],
            self.object_images[objects],
            self.found_at[objects],
        )

    def counts_of_images(self, threshold: float) -> Mapping[int, tuple[int, int, int]]:
        """(right, wrong, missed) of every image with a detection or an object; else zeros."""
        taken = self.scores >= threshold
        counts: dict[int, list[int]] = {}
        groups = (
            self.images[taken & self.right],
            self.images[taken & ~self.right],
            self.object_images[self.found_at < threshold],
        )
        for place, images in enumerate(groups):
            for image, count in zip(*(a.tolist() for a in np.unique(images, return_counts=True))):
                counts.setdefault(image, [0, 0, 0])[place] = count
        return _Zeros({image: (c[0], c[1], c[2]) for image, c in counts.items()})


class _Zeros(dict[int, tuple[int, int, int]]):
    def __missing__(self, image: int) -> tuple[int, int, int]:
        return (0, 0, 0)


def _at_scores(matches: Matches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores, highest first, and how many detections from there on are right and taken."""
    order = np.argsort(-matches.scores, kind="stable")
    scores = matches.scores[order]
    right = np.cumsum(matches.right[order])
    last = np.append(scores[1:] != scores[:-1], True) if len(scores) else np.zeros(0, dtype=bool)
    return scores[last], right[last], (np.flatnonzero(last) + 1)


def best_threshold(matches: Matches) -> dict[str, float]:
    """The score from which on F1 is highest, and what it is there, in percent.

    NaN without objects; threshold 1 and F1 0 where no detection is right.
    """
    objects = len(matches.objects)
    if not objects:
        return dict.fromkeys(("threshold", "F1", "precision", "recall"), float("nan"))
    scores, right, taken = _at_scores(matches)
    f1 = 2 * right / (taken + objects)
    if not len(f1) or f1.max() == 0:
        return {"threshold": 1.0, "F1": 0.0, "precision": 0.0, "recall": 0.0}
    best = int(f1.argmax())
    return {
        "threshold": float(scores[best]),
        "F1": 100 * float(f1[best]),
        "precision": 100 * float(right[best] / taken[best]),
        "recall": 100 * float(right[best] / objects),
    }


def f1_curves(matches: Matches) -> dict[str, list[float]]:
    """ "threshold" from 0 to 1 with "F1", "precision at" and "recall at", in percent."""
    order = np.argsort(matches.scores)
    scores, right = matches.scores[order], matches.right[order]
    first = np.searchsorted(scores, _GRID, side="left")
    taken = len(scores) - first
    total = np.append(np.cumsum(right[::-1])[::-1], 0)[first] if len(right) else 0 * taken
    objects = len(matches.objects)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "threshold": _GRID.tolist(),
            "F1": (100 * 2 * total / (taken + objects)).tolist(),
            "precision at": (100 * total / taken).tolist(),
            "recall at": (100 * total / np.float64(objects)).tolist(),
        }
