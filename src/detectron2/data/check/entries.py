"""Checks of images and annotations whose fields are in order: sizes, boxes, shapes, classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectron2.data.check.images import ImageFacts
from detectron2.data.check.problems import Problem, shortened
from detectron2.data.check.shapes import crosses_itself, polygon_bounds, rle_counts

__all__ = ["AnnotationCheck", "class_problems", "image_problems"]

# A box may reach this many pixels out of the image: annotation tools round.
TOLERANCE = 1.0
# A class with less than this share of the objects of the most frequent one is called rare, and
# one with fewer objects than this in any case.
RARE_SHARE, RARE_COUNT = 0.001, 10
# So many names are listed in a sentence.
LISTED = 8


# These leave the size as it is.
_UNSURE = "; draw them to be sure, the size does not tell"


def image_problems(
    image: dict[str, Any], position: int, file: str, facts: ImageFacts
) -> Iterator[Problem]:
    """What is wrong with the file of an image, and with its size in the annotations."""
    about: dict[str, Any] = {"file": file, "image_id": image["id"], "image": position}
    if not facts.readable:
        yield Problem(facts.fault, facts.reason, **about)
        return
    said = (int(image["width"]), int(image["height"]))
    stored, upright = (facts.width, facts.height), facts.upright_size
    size = {"width": upright[0], "height": upright[1]}
    if said == upright:
        if facts.orientation != 1:
            yield Problem(
                "exif-rotated",
                f"The image {file!r} has the EXIF orientation {facts.orientation}. It is turned "
                "when it is read. The annotations have its turned size and are taken to be drawn "
                f"on the turned image{_UNSURE if facts.orientation in (2, 3, 4) else ''}.",
                **about,
            )
    elif said == stored:
        yield Problem(
            "exif-unturned",
            f"The image {file!r} is {upright[0]} x {upright[1]} pixels (width x height) once it is "
            f"turned by its EXIF orientation {facts.orientation}, but was annotated unturned, as "
            f"{said[0]} x {said[1]}.",
            repair=size,
            orientation=facts.orientation,
            **about,
        )
    else:
        yield Problem(
            "wrong-size",
            f"The image {file!r} is {upright[0]} x {upright[1]} pixels (width x height), the "
            f"annotations say {said[0]} x {said[1]}.",
            repair=size,
            **about,
        )


@dataclass(frozen=True)
class AnnotationCheck:
    """Checks the annotations of one image.

    Attributes:
        file: of the image, for reports.
        width, height: of the image, in pixels.
        num_keypoints: of each category id that has keypoints.
    """

    file: str
    width: int
    height: int
    num_keypoints: Mapping[Any, int]

    def problems(self, annotation: dict[str, Any], position: int) -> Iterator[Problem]:
        """What is wrong with an annotation that has all its fields."""
        name = f"Annotation {annotation.get('id', position)!r} of {self.file!r}"
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict):
            found = self._rle_problems(segmentation, name)
        else:
            found = self._polygon_problems(segmentation or [], name)
        for kind, reason, repair in [
            *self._box_problems(annotation, name),
            *found,
            *self._keypoint_problems(annotation, name),
        ]:
            yield Problem(
                kind,
                reason,
                self.file,
                image_id=annotation["image_id"],
                annotation_id=annotation.get("id"),
                annotation=position,
                repair=repair,
            )

    def _box_problems(self, annotation: dict[str, Any], name: str) -> Iterator[_Finding]:
        box = [float(value) for value in annotation["bbox"]]
        text = shortened(annotation["bbox"])
        if not all(map(math.isfinite, box)):
            yield (
                "bad-box",
                f"{name} has the box {text}, which is not finite.",
                self._box_of(annotation),
            )
            return
        x, y, w, h = box[:4]
        if w <= 0 or h <= 0:
            reason = f"{name} has the box {text}, which is empty: its sides must be positive."
            yield "bad-box", reason, self._box_of(annotation)
            return
        if len(box) == 5:  # rotated: x and y are the centre
            if not (0 <= x <= self.width and 0 <= y <= self.height):
                yield "outside-box", f"{name} has the box {text}; {self._outside}.", None
            return
        clipped = (max(x, 0.0), max(y, 0.0), min(x + w, self.width), min(y + h, self.height))
        if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            yield "outside-box", f"{name} has the box {text}; {self._outside}.", None
            return
        overhang = max(-x, -y, x + w - self.width, y + h - self.height)
        if overhang > TOLERANCE:
            reason = (
                f"{name} has the box {text}, which reaches {overhang:.1f} pixels out of the image "
                f"of {self.width} x {self.height} pixels."
            )
            x0, y0, x1, y1 = clipped
            yield "overhanging-box", reason, {"bbox": [x0, y0, x1 - x0, y1 - y0]}

    @property
    def _outside(self) -> str:
        return f"it lies outside of the image of {self.width} x {self.height} pixels"

    def _box_of(self, annotation: dict[str, Any]) -> dict[str, Any] | None:
        """Box around the polygons, where there are usable ones."""
        segmentation = annotation.get("segmentation")
        if not isinstance(segmentation, list):
            return None
        usable = [_points(p) for p in segmentation if _is_usable(p)]
        if not usable or not all(np.isfinite(points).all() for points in usable):
            return None
        x0, y0, x1, y1 = polygon_bounds(usable)
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, self.width), min(y1, self.height)
        return {"bbox": [x0, y0, x1 - x0, y1 - y0]} if x1 > x0 and y1 > y0 else None

    def _polygon_problems(self, polygons: Sequence[Any], name: str) -> Iterator[_Finding]:
        if not polygons:
            return
        usable = [p for p in polygons if _is_usable(p)]
        if not usable:
            sizes = ", ".join(str(len(p)) for p in polygons)
            reason = f"{name} has no polygon of at least three points (x, y): {sizes} numbers."
            yield "bad-polygon", reason, None
            return
        if len(usable) < len(polygons):
            worst = next(p for p in polygons if not _is_usable(p))
            reason = f"{name} has a polygon of {len(worst)} numbers; three points have six."
            yield "short-polygon", reason, {"segmentation": usable}
        outlines = [_points(polygon) for polygon in usable]
        x0, y0, x1, y1 = polygon_bounds(outlines)
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            yield "bad-polygon", f"{name} has a polygon with coordinates that are not finite.", None
        elif x1 <= 0 or y1 <= 0 or x0 >= self.width or y0 >= self.height:
            where = f"({x0:.0f}, {y0:.0f}) to ({x1:.0f}, {y1:.0f})"
            reason = f"{name} has polygons from {where}; {self._outside}."
            yield "outside-polygon", reason.replace("; it lies", "; they lie"), None
        elif any(crosses_itself(outline) for outline in outlines):
            yield "crossing-polygon", f"{name} has a polygon that crosses itself.", None
        elif all(_area(outline) == 0 for outline in outlines):
            yield "bad-polygon", f"{name} has only polygons without area.", None

    def _rle_problems(self, rle: dict[str, Any], name: str) -> Iterator[_Finding]:
        height, width = (int(side) for side in rle["size"])
        try:
            runs = rle_counts(rle)
            if sum(runs) != height * width:
                raise ValueError(f"runs over {sum(runs)} pixels instead of {height * width}")
        except ValueError as error:
            yield "bad-rle", f"{name} has a run-length mask that cannot be decoded: {error}.", None
            return
        if (width, height) != (self.width, self.height):
            reason = (
                f"{name} has a run-length mask of {width} x {height} pixels (width x height), the "
                f"image has {self.width} x {self.height}."
            )
            yield "rle-size", reason, None
        elif sum(runs[1::2]) == 0:
            yield "bad-rle", f"{name} has an empty run-length mask.", None

    def _keypoint_problems(self, annotation: dict[str, Any], name: str) -> Iterator[_Finding]:
        keypoints = annotation.get("keypoints")
        if not keypoints:
            return
        expected = self.num_keypoints.get(annotation["category_id"])
        count = len(keypoints) / 3
        if count != int(count) or (expected is not None and count != expected):
            should = "a multiple of three" if expected is None else f"3 x {expected}"
            reason = f"{name} has keypoints of {len(keypoints)} numbers; there must be {should}."
            yield "bad-keypoints", reason, None
        elif not all(map(math.isfinite, keypoints)):
            yield "bad-keypoints", f"{name} has keypoints that are not finite.", None


_Finding = tuple[str, str, dict[str, Any] | None]


def _is_usable(polygon: Sequence[float]) -> bool:
    return len(polygon) >= 6 and len(polygon) % 2 == 0


def _points(polygon: Sequence[float]) -> np.ndarray:
    """(P, 2)"""
    return np.asarray(polygon, dtype=np.float64).reshape(-1, 2)


def _area(points: np.ndarray) -> float:
    x, y = (points - points[0]).T  # the edges at the first point add nothing
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:]))) / 2


def class_problems(names: Sequence[str], counts: Counter[str], source: str) -> Iterator[Problem]:
    """Classes that have no objects, or very few beside the most frequent one."""
    most = max(counts.values(), default=0)
    absent = [name for name in names if counts[name] == 0]
    if absent:
        yield Problem(
            "class-imbalance",
            f"{len(absent)} of {len(names)} classes of {source!r} {_has(absent)} no object: "
            f"{_listed(absent)}.",
            source,
        )
    rare = [n for n in names if 0 < counts[n] < max(RARE_COUNT, most * RARE_SHARE)]
    if rare:
        shown = [f"{name} ({counts[name]})" for name in sorted(rare, key=counts.__getitem__)]
        yield Problem(
            "class-imbalance",
            f"{len(rare)} of {len(names)} classes of {source!r} {_has(rare)} few objects, the most "
            f"frequent has {most}: {_listed(shown)}.",
            source,
        )


def _has(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
