"""Albumentations' transforms (https://albumentations.ai) as an augmentation of samples.

The package is imported when the augmentation is made; it is not installed with ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from detectron2.data.mixing import MIN_SIDE, Annotation, Sample, SampleAugmentation
from detectron2.data.transforms._polygon_clip import clip_polygons

__all__ = ["Albumentations"]

# Three points tell whether an image was mirrored: they change their sense of rotation.
_CORNERS = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75]])


class Albumentations(SampleAugmentation):
    """Transforms of Albumentations on image, boxes, polygons, masks, keypoints and labels.

    Polygons are moved by their corners; those that a bent image would bend stay straight between
    them. Random numbers follow NumPy's global generator, as those of all our augmentations.

    .. code-block:: python

        import albumentations as A

        mapper = DatasetMapper(cfg, mixers=[Albumentations([A.CLAHE(p=0.3), A.Affine(shear=8)])])
    """

    def __init__(self, transforms: Sequence[Any], prob: float = 1.0) -> None:
        """
        Args:
            transforms: of Albumentations, applied one after the other.
            prob: how often they are applied.

        Raises:
            ImportError: the package is not installed.
        """
        super().__init__(prob)
        try:
            import albumentations
        except ImportError as error:
            raise ImportError(
                "Albumentations is not installed; `pip install albumentations` installs it."
            ) from error
        points = albumentations.KeypointParams(format="xy", remove_invisible=False)
        self.transforms = list(transforms)
        # NoOp takes points: without a transform that does, Albumentations warns.
        steps = [albumentations.NoOp(p=1.0), *self.transforms]
        self._compose = albumentations.Compose(steps, keypoint_params=points)

    def __repr__(self) -> str:
        return f"Albumentations({self.transforms!r}, prob={self.prob})"

    def combine(self, sample: Sample, others: Sequence[Sample]) -> Sample:
        self._compose.set_random_seed(int(np.random.randint(2**31)))
        points = _Points(sample)
        masks = [a["segmentation"] for a in sample.annotations if _has_mask(a)]
        labels = sample.sem_seg
        inputs = {"image": sample.image, "keypoints": points.array()}
        all_masks = [mask.astype(np.uint8) for mask in masks]
        if labels is not None:
            all_masks.append(labels)
        if all_masks:
            inputs["masks"] = all_masks
        result = self._compose(**inputs)
        moved = list(result.get("masks", []))
        if labels is not None:
            labels = np.asarray(moved.pop())
        image = np.asarray(result["image"])
        annotations = points.annotations(
            np.asarray(result["keypoints"], dtype=np.float64).reshape(-1, 2),
            [np.asarray(mask) for mask in moved],
            image.shape[:2],
        )
        return replace(sample, image=image, annotations=annotations, sem_seg=labels)


def _has_mask(annotation: Annotation) -> bool:
    return isinstance(annotation.get("segmentation"), np.ndarray)


def _corners(box: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


class _Points:
    """All coordinates of a sample in one array, and the way back to its annotations."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        height, width = sample.size
        self._parts: list[np.ndarray] = [_CORNERS * [width, height]]
        for annotation in sample.annotations:
            self._parts.append(_corners(annotation["bbox"]))
            if "segmentation" in annotation and not _has_mask(annotation):
                self._parts += [p.reshape(-1, 2) for p in annotation["segmentation"]]
            if "keypoints" in annotation:
                self._parts.append(annotation["keypoints"][:, :2])

    def array(self) -> np.ndarray:
        """(P, 2) in pixel indices, as Albumentations has them: the first centre is (0, 0)."""
        return np.concatenate(self._parts) - 0.5

    def annotations(
        self, moved: np.ndarray, masks: list[np.ndarray], size: tuple[int, int]
    ) -> list[Annotation]:
        """The annotations at their new place, without objects that have left the image."""
        ends = np.cumsum([len(part) for part in self._parts])[:-1]
        parts = iter(np.split(moved + 0.5, ends))
        mirrored = _is_mirrored(next(parts))
        remaining = iter(masks)
        results = [
            self._annotation(annotation, parts, remaining, mirrored, size)
            for annotation in self.sample.annotations
        ]
        return [result for result in results if result is not None]

    def _annotation(
        self, annotation: Annotation, parts: Any, masks: Any, mirrored: bool, size: tuple[int, int]
    ) -> Annotation | None:
        height, width = size
        result = dict(annotation)
        outline = next(parts)
        if _has_mask(annotation):
            mask = next(masks)
            result["segmentation"] = mask.astype(annotation["segmentation"].dtype)
            outline = _outline_of_mask(mask)
        elif annotation.get("segmentation"):
            polygons = [next(parts) for _ in annotation["segmentation"]]
            inside = clip_polygons(polygons, (0, 0, width, height))
            result["segmentation"] = [polygon.reshape(-1) for polygon in inside]
            outline = np.concatenate(inside) if inside else outline[:0]
        if "keypoints" in annotation:
            result["keypoints"] = self._keypoints(
                annotation["keypoints"], next(parts), mirrored, size
            )
        if not len(outline):
            return None
        limits = [width, height]
        box = np.concatenate([outline.min(axis=0), outline.max(axis=0)]).clip(0, limits * 2)
        result["bbox"] = box
        return result if (box[2:] - box[:2] >= MIN_SIDE).all() else None

    def _keypoints(
        self, keypoints: np.ndarray, xy: np.ndarray, mirrored: bool, size: tuple[int, int]
    ) -> np.ndarray:
        height, width = size
        inside = ((xy >= 0) & (xy <= [width, height])).all(axis=1)
        points = np.column_stack([xy, np.where(inside, keypoints[:, 2], 0)])
        if mirrored:
            indices = self.sample.keypoint_hflip_indices
            if indices is None:
                raise ValueError(
                    "Albumentations mirrored an image with keypoints; the mapper needs "
                    "keypoint_hflip_indices to exchange left and right."
                )
            points = points[np.asarray(indices, dtype=np.int64)]
        points[points[:, 2] == 0] = 0
        return points


def _is_mirrored(corners: np.ndarray) -> bool:
    right, down = corners[1:] - corners[0]
    return bool(right[0] * down[1] - right[1] * down[0] < 0)


def _outline_of_mask(mask: np.ndarray) -> np.ndarray:
    """Two corners of the box around a mask, (2, 2); (0, 2) of an empty one."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return np.zeros((0, 2))
    return np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]], float)
