"""Images with the objects that are there beside what the model found, coloured by what is right."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from detectron2.data.detection_utils import read_image
from detectron2.evaluation.analysis.run import EvaluatedRun
from detectron2.evaluation.analysis.score_curves import Matches
from detectron2.utils.visualizer import Visualizer

__all__ = ["COLORS", "draw_images"]

logger = logging.getLogger(__name__)

_WIDTH = 520  # of a picture in a report, in pixels
_RIGHT, _WRONG, _MISSED = (0.0, 0.62, 0.45), (0.84, 0.22, 0.0), (0.95, 0.62, 0.0)
COLORS = {
    "right, or found": "rgb(0,158,115)",
    "wrong": "rgb(213,56,0)",
    "missed": "rgb(242,158,0)",
}


def draw_images(
    run: EvaluatedRun,
    rows: Sequence[dict[str, Any]],
    matches: Matches,
    threshold: float,
    image_root: str,
    task: str,
    count: int,
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Up to `count` (caption, {"ground truth": picture, "prediction": picture}).

    Args:
        rows: images as a `Diagnosis` lists them, the first are drawn.
        image_root: folder that file names are relative to. Images that cannot be read are passed
            over, with a line in the log.
    """
    drawn = 0
    for row in rows:
        if drawn == count:
            return
        path = os.path.join(image_root, row["file"])
        try:
            pixels = read_image(path, format="RGB")
        except (OSError, ValueError) as error:
            logger.warning("%s is not drawn: %s", path, error)
            continue
        drawn += 1
        mine = matches.of_image(row["id"])
        caption = (
            f"{row['file'] or row['image']}: {row['right']} right, {row['wrong']} wrong, "
            f"{row['missed']} missed"
        )
        yield (
            caption,
            {
                "ground truth": _draw_truth(run, pixels, mine, threshold, task),
                "prediction": _draw_detections(run, pixels, mine, threshold, task),
            },
        )


def _draw_truth(
    run: EvaluatedRun, pixels: np.ndarray, matches: Matches, threshold: float, task: str
) -> np.ndarray:
    objects = [run.objects[i] for i in matches.objects.tolist()]
    found = (matches.found_at >= threshold).tolist()
    masks = None
    if task == "segm":
        masks = [run.truth.annToMask(annotation) for annotation in objects]
    return _draw(
        pixels,
        _corners(np.array([a["bbox"] for a in objects], dtype=np.float64).reshape(-1, 4)),
        masks,
        [run.categories[a["category_id"]] for a in objects],
        [_RIGHT if each else _MISSED for each in found],
    )


def _draw_detections(
    run: EvaluatedRun, pixels: np.ndarray, matches: Matches, threshold: float, task: str
) -> np.ndarray:
    from hotcoco import mask as codec

    taken = np.flatnonzero(matches.scores >= threshold)
    rows = matches.rows[taken]
    masks = None
    if task == "segm":
        masks = [codec.decode(run.results.mask(row)) for row in rows.tolist()]
    labels = [
        f"{run.categories[category]} {score:.0%}"
        for category, score in zip(matches.categories[taken].tolist(), matches.scores[taken])
    ]
    colors = [_RIGHT if right else _WRONG for right in matches.right[taken].tolist()]
    return _draw(pixels, _corners(run.results.boxes[rows]), masks, labels, colors)


def _corners(boxes: np.ndarray) -> np.ndarray:
    """XYXY of XYWH boxes."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _draw(
    pixels: np.ndarray, boxes: np.ndarray, masks: Any, labels: list[str], colors: list[Any]
) -> np.ndarray:
    scale = _WIDTH / pixels.shape[1]
    visualizer = Visualizer(pixels, scale=scale, font_size_scale=1.5)
    drawn = visualizer.overlay_instances(
        boxes=boxes, masks=masks or None, labels=labels, assigned_colors=colors, alpha=0.35
    ).get_image()
    height = round(pixels.shape[0] * scale)
    return np.asarray(Image.fromarray(np.ascontiguousarray(drawn)).resize((_WIDTH, height)))
