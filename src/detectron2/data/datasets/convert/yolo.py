"""Writing YOLO: data.yaml, images/SPLIT and labels/SPLIT.

A dataset is written as one kind: poses if it has keypoints, oriented boxes if it has rotated
boxes, segments if it has masks, else boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detectron2.data.datasets.auto import ALL
from detectron2.data.datasets.auto.shapes import corners_of
from detectron2.data.datasets.convert.content import (
    Content,
    ImageCopier,
    Record,
    is_rotated,
    outlines,
    upright_box,
)

__all__ = ["join_parts", "write"]


def write(content: Content, folder: Path, images: str) -> None:
    """Write a dataset into an empty folder."""
    kind = _kind(content)
    content.remarks.append(f"The labels are written as {kind}.")
    if ALL in content.splits:
        content.remarks.append("The dataset has no splits; data.yaml calls all of it 'train'.")
    described: dict[str, Any] = {}
    for split, records in content.splits.items():
        name = "train" if split == ALL else split
        described[name] = f"images/{name}"
        _write_split(content, records, kind, name, folder, ImageCopier(images))
    described["names"] = dict(enumerate(content.classes))
    if kind == "poses":
        described["kpt_shape"] = [len(content.keypoints), 3]
        described["flip_idx"] = content.flip
        described["kpt_names"] = {0: content.keypoints}
    text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")


def _kind(content: Content) -> str:
    annotations = [a for a in content.annotations() if not a.get("iscrowd", 0)]
    if content.keypoints and any(a.get("keypoints") is not None for a in annotations):
        return "poses"
    if any(is_rotated(a) for a in annotations):
        return "oriented boxes"
    return "segments" if any(a.get("segmentation") is not None for a in annotations) else "boxes"


def _write_split(
    content: Content, records: list[Record], kind: str, name: str, folder: Path, copier: ImageCopier
) -> None:
    images, labels = folder / "images" / name, folder / "labels" / name
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for record in records:
        image = copier.put(record["file_name"], images)
        lines = [
            f"{annotation['category_id']} {_text(values, record)}\n"
            for annotation in record["annotations"]
            if (values := _values(annotation, kind, content)) is not None
        ]
        (labels / f"{image.stem}.txt").write_text("".join(lines), encoding="utf-8")


def _text(values: tuple[np.ndarray, np.ndarray], record: Record) -> str:
    """Points (x, y) and further numbers behind them, as parts of the width and height."""
    points, behind = values
    scaled = points / [record["width"], record["height"]]
    # Ten digits keep a millionth of a pixel in the largest images.
    rows = np.concatenate([scaled, behind], axis=1)
    return " ".join(f"{value:.10f}".rstrip("0").rstrip(".") for value in rows[~np.isnan(rows)])


def _values(
    annotation: dict[str, Any], kind: str, content: Content
) -> tuple[np.ndarray, np.ndarray] | None:
    """(P, 2) points and a column of numbers behind them (NaN for nothing), or None."""
    if annotation.get("iscrowd", 0):
        content.losses["crowd regions are left out: YOLO has no such mark"] += 1
        return None
    x0, y0, x1, y1 = upright_box(annotation)
    box = np.array([[(x0 + x1) / 2, (y0 + y1) / 2], [x1 - x0, y1 - y0]])
    if kind == "poses":
        return _pose(annotation, box, content)
    if kind == "oriented boxes":
        corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        points = corners_of(annotation["bbox"]) if is_rotated(annotation) else corners
        if annotation.get("segmentation") is not None:
            content.losses["masks are left out: oriented boxes have none"] += 1
    else:
        parts = outlines(annotation, content.losses) if kind == "segments" else []
        points = box if not parts else _outline(parts, (x0, y0, x1, y1), content)
    return points, np.full((len(points), 1), np.nan)


def _pose(
    annotation: dict[str, Any], box: np.ndarray, content: Content
) -> tuple[np.ndarray, np.ndarray]:
    if annotation.get("segmentation") is not None:
        content.losses["masks are left out: poses have none"] += 1
    keypoints = annotation.get("keypoints")
    if keypoints is None:
        keypoints = np.zeros(3 * len(content.keypoints))
    points = np.asarray(keypoints, dtype=np.float64).reshape(-1, 3)
    behind = np.concatenate([[np.nan, np.nan], points[:, 2]])[:, None]
    return np.concatenate([box, points[:, :2]]), behind


def _outline(
    parts: list[list[float]], box: tuple[float, float, float, float], content: Content
) -> np.ndarray:
    if len(parts) > 1:
        content.losses["objects of several parts are joined by lines of no width"] += 1
    points = join_parts([np.array(part).reshape(-1, 2) for part in parts])
    extent = np.concatenate([points.min(axis=0), points.max(axis=0)])
    if np.abs(extent - box).max() > 0.5:
        content.losses["boxes differ from their outlines, which alone are written"] += 1
    return points


def join_parts(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One polygon of several, each (P, 2): from part to part and back between nearest corners."""
    joined = parts[0]
    for part in parts[1:]:
        distances = ((joined[:, None] - part[None]) ** 2).sum(axis=2)
        i, j = np.unravel_index(distances.argmin(), distances.shape)
        around = np.concatenate([part[j:], part[: j + 1]])
        joined = np.concatenate([joined[: i + 1], around, joined[i:]])
    return joined
