"""Augmentations that see whole samples, and several of them: mosaic, mixup, copy-paste.

A `SampleAugmentation` comes before the augmentations of single images. `DatasetMapper` takes a
list of them (``mixers``) and gives them further samples of the dataset, drawn at random. Random
numbers come from NumPy's global generator, which data loading workers seed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from detectron2.config.mapping import lookup
from detectron2.data import transforms as T
from detectron2.data._annotations import transform_instance_annotations
from detectron2.data.errors import SampleError
from detectron2.structures import polygons_to_bitmask
from detectron2.utils.logger import log_first_n

__all__ = [
    "CopyPaste",
    "MixUp",
    "Mosaic",
    "Sample",
    "SampleAugmentation",
    "build_sample_augmentations",
    "draw_sample",
    "read_sample",
]

Annotation = dict[str, Any]

# Label of pixels that no sample covers.
IGNORED_LABEL = 255
# What is left of a cut object is kept if its sides are at least so many pixels.
MIN_SIDE = 1.0
# How many samples are drawn until one can be read.
DRAWS = 20


@dataclass(frozen=True)
class Sample:
    """An image with its annotations, as the mapper has read them.

    Attributes:
        image: (H, W, C) uint8 or float32.
        annotations: of the objects, without crowds: "bbox" as xyxy in pixels of `image`,
            "segmentation" as flat polygons or an (H, W) mask, "keypoints" as (K, 3).
        sem_seg: (H, W) labels, or None.
        keypoint_hflip_indices: see `create_keypoint_hflip_indices`; for mirroring.
    """

    image: np.ndarray
    annotations: list[Annotation] = field(default_factory=list)
    sem_seg: np.ndarray | None = None
    keypoint_hflip_indices: Sequence[int] | np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        height, width = self.image.shape[:2]
        return height, width

    def transformed(self, transform: T.Transform) -> Sample:
        """Image, labels and annotations after a transform, without objects that leave it."""
        image = transform.apply_image(self.image)
        size = image.shape[:2]
        moved = [
            transform_instance_annotations(
                dict(annotation),
                transform,
                size,
                keypoint_hflip_indices=self.keypoint_hflip_indices,
            )
            for annotation in self.annotations
        ]
        labels = self.sem_seg
        return replace(
            self,
            image=image,
            annotations=[annotation for annotation in moved if _has_area(annotation)],
            sem_seg=None if labels is None else transform.apply_segmentation(labels),
        )


def read_sample(
    record: dict[str, Any],
    image: np.ndarray,
    sem_seg: np.ndarray | None,
    keypoint_hflip_indices: Sequence[int] | np.ndarray | None = None,
) -> Sample:
    """A record's annotations and its image as a sample."""
    as_it_is, size = T.NoOpTransform(), image.shape[:2]
    annotations = [
        # A mirrored image is nothing new here: indices are for augmentations to come.
        transform_instance_annotations(dict(annotation), as_it_is, size)
        for annotation in record.get("annotations", [])
        if annotation.get("iscrowd", 0) == 0
    ]
    return Sample(image, annotations, sem_seg, keypoint_hflip_indices)


def draw_sample(dataset: Any, read: Callable[[dict[str, Any]], Sample]) -> Sample:
    """A random sample of a dataset; one that cannot be read is logged and another one drawn.

    Raises:
        SampleError: many in a row cannot be read.
    """
    reason = ""
    for _ in range(DRAWS):
        index = np.random.randint(len(dataset))
        try:
            return read(dataset[int(index)])
        except (OSError, SampleError) as error:
            reason = str(error)
            log_first_n(
                logging.WARNING, f"A sample cannot be mixed in, another is drawn: {reason}", n=10
            )
    raise SampleError(f"No sample could be read to be mixed in, {DRAWS} times; the last: {reason}")


def _has_area(annotation: Annotation) -> bool:
    x0, y0, x1, y1 = annotation["bbox"]
    return bool(x1 - x0 >= MIN_SIDE and y1 - y0 >= MIN_SIDE)


class SampleAugmentation:
    """Makes a sample of a sample and, if it wants, of others.

    A subclass defines `combine`, and `num_others` where it wants others.
    """

    num_others = 0
    """How many other samples `combine` gets."""

    makes_masks = False
    """Whether polygons may become (H, W) masks."""

    def __init__(self, prob: float = 1.0) -> None:
        """
        Args:
            prob: how often it is applied.

        Raises:
            ValueError: `prob` is no probability.
        """
        if not 0.0 <= prob <= 1.0:
            raise ValueError(f"prob={prob} is no probability; it lies between 0 and 1.")
        self.prob = prob

    def __call__(self, sample: Sample, draw: Callable[[], Sample]) -> Sample:
        """Apply it with its probability.

        Args:
            sample: of the record that the mapper is called with.
            draw: another sample of the dataset, chosen at random.
        """
        if np.random.uniform() >= self.prob:
            return sample
        return self.combine(sample, [draw() for _ in range(self.num_others)])

    def combine(self, sample: Sample, others: Sequence[Sample]) -> Sample:
        """
        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define combine().")

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


class Mosaic(SampleAugmentation):
    """Four samples in the quarters around a random point (YOLOv4, arXiv:2004.10934).

    Each is resized so that it covers its quarter, with a random zoom, and cropped at a random
    place.
    """

    num_others = 3

    def __init__(
        self,
        size: tuple[int, int] = (640, 640),
        prob: float = 1.0,
        center_range: tuple[float, float] = (0.3, 0.7),
        zoom_range: tuple[float, float] = (1.0, 1.5),
    ) -> None:
        """
        Args:
            size: (h, w) of the result.
            prob: how often it is applied.
            center_range: where the quarters meet, as a share of width and height.
            zoom_range: enlargement beyond what covers a quarter.
        """
        super().__init__(prob)
        self.size = (int(size[0]), int(size[1]))
        self.center_range = center_range
        self.zoom_range = zoom_range

    def combine(self, sample: Sample, others: Sequence[Sample]) -> Sample:
        height, width = self.size
        middle_x = int(width * np.random.uniform(*self.center_range))
        middle_y = int(height * np.random.uniform(*self.center_range))
        quarters = [
            (0, 0, middle_x, middle_y),
            (middle_x, 0, width, middle_y),
            (0, middle_y, middle_x, height),
            (middle_x, middle_y, width, height),
        ]
        samples = [sample, *others]
        _check_channels(samples)
        placed = [self._place(one, quarter) for one, quarter in zip(samples, quarters)]
        image = np.empty((height, width, *sample.image.shape[2:]), sample.image.dtype)
        labels = None
        if any(one.sem_seg is not None for one in placed):
            labels = np.full((height, width), IGNORED_LABEL, np.uint8)
        for one, (x0, y0, x1, y1) in zip(placed, quarters):
            image[y0:y1, x0:x1] = one.image[y0:y1, x0:x1]
            if labels is not None and one.sem_seg is not None:
                labels[y0:y1, x0:x1] = one.sem_seg[y0:y1, x0:x1]
        annotations = [annotation for one in placed for annotation in one.annotations]
        return replace(sample, image=image, annotations=annotations, sem_seg=labels)

    def _place(self, sample: Sample, quarter: tuple[int, int, int, int]) -> Sample:
        """The sample on the whole canvas, seen only in its quarter."""
        x0, y0, x1, y1 = quarter
        width, height = x1 - x0, y1 - y0
        h, w = sample.size
        ratio = max(width / w, height / h) * np.random.uniform(*self.zoom_range)
        new_h, new_w = max(height, round(h * ratio)), max(width, round(w * ratio))
        left = np.random.randint(new_w - width + 1)
        top = np.random.randint(new_h - height + 1)
        cut = T.TransformList(
            [
                T.ResizeTransform(h, w, new_h, new_w),
                T.CropTransform(int(left), int(top), width, height, new_w, new_h),
            ]
        )
        canvas_h, canvas_w = self.size
        # Boxes are clipped to the quarter by the crop before they are moved to it.
        return sample.transformed(cut).transformed(
            T.PadTransform(x0, y0, canvas_w - x1, canvas_h - y1, width, height)
        )


class MixUp(SampleAugmentation):
    """Two images blended, with the objects of both (arXiv:1902.04103)."""

    num_others = 1

    def __init__(self, prob: float = 1.0, alpha: float = 1.5) -> None:
        """
        Args:
            prob: how often it is applied.
            alpha: the share of the first image is drawn from Beta(alpha, alpha).
        """
        super().__init__(prob)
        self.alpha = alpha

    def combine(self, sample: Sample, others: Sequence[Sample]) -> Sample:
        _check_channels([sample, *others])
        other, (height, width) = _fitted(others[0], sample.size)
        share = np.random.beta(self.alpha, self.alpha)
        image = sample.image.astype(np.float32)
        covered = image[:height, :width]
        covered *= share
        covered += (1 - share) * other.image[:height, :width]
        if sample.image.dtype == np.uint8:
            image = np.rint(image)
        return replace(
            sample,
            image=image.astype(sample.image.dtype),
            annotations=[*sample.annotations, *other.annotations],
        )


class CopyPaste(SampleAugmentation):
    """Objects of another sample pasted on this one (Simple Copy-Paste, arXiv:2012.07177).

    The other sample is fitted into the frame of this one. Objects that are covered lose what is
    covered; those of which less than `min_visible` is left are dropped. Objects without a
    segmentation are not pasted.
    """

    num_others = 1
    makes_masks = True

    def __init__(self, prob: float = 1.0, share: float = 0.5, min_visible: float = 0.1) -> None:
        """
        Args:
            prob: how often it is applied.
            share: how likely each object of the other sample is pasted.
            min_visible: share of an object's area that must be left of it.
        """
        super().__init__(prob)
        self.share = share
        self.min_visible = min_visible

    def combine(self, sample: Sample, others: Sequence[Sample]) -> Sample:
        _check_channels([sample, *others])
        other, _ = _fitted(others[0], sample.size)
        objects = [a for a in other.annotations if _is_segmented(a)]
        chosen = [a for a in objects if np.random.uniform() < self.share]
        if not chosen:
            return sample
        covered = np.zeros(sample.size, dtype=bool)
        for annotation in chosen:
            covered |= _mask(annotation, sample.size)
        left = [self._uncovered(a, covered) for a in sample.annotations]
        labels = sample.sem_seg
        if labels is not None and other.sem_seg is not None:
            labels = np.where(covered, other.sem_seg, labels)
        return replace(
            sample,
            image=np.where(covered[:, :, None], other.image, sample.image),
            annotations=[*(a for a in left if a is not None), *chosen],
            sem_seg=labels,
        )

    def _uncovered(self, annotation: Annotation, covered: np.ndarray) -> Annotation | None:
        """The annotation without what is covered; None if too little is left."""
        result = dict(annotation)
        if "keypoints" in annotation:
            result["keypoints"] = _hidden(annotation["keypoints"], covered)
        if not _is_segmented(annotation):
            return result
        mask = _mask(annotation, covered.shape)
        visible = mask & ~covered
        area = int(visible.sum())
        if area == mask.sum():
            return result
        if area == 0 or area < self.min_visible * mask.sum():
            return None
        rows, columns = (np.flatnonzero(visible.any(axis=axis)) for axis in (1, 0))
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        return {**result, "segmentation": visible, "bbox": np.array(box, dtype=np.float64)}


def _hidden(keypoints: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Keypoints of which the covered ones are labelled, but not visible (1 instead of 2)."""
    points = np.array(keypoints, dtype=np.float64)
    height, width = covered.shape
    columns = points[:, 0].astype(int).clip(0, width - 1)
    rows = points[:, 1].astype(int).clip(0, height - 1)
    points[covered[rows, columns] & (points[:, 2] == 2), 2] = 1
    return points


def _is_segmented(annotation: Annotation) -> bool:
    segmentation = annotation.get("segmentation")
    return segmentation is not None and len(segmentation) > 0


def _mask(annotation: Annotation, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool mask of an annotation."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, np.ndarray):
        return segmentation.astype(bool)
    return polygons_to_bitmask(segmentation, *size)


def _fitted(sample: Sample, size: tuple[int, int]) -> tuple[Sample, tuple[int, int]]:
    """A sample resized to fit into (H, W), in its upper left corner, and the (h, w) it covers."""
    height, width = size
    h, w = sample.size
    ratio = min(height / h, width / w)
    new_h, new_w = min(height, max(1, round(h * ratio))), min(width, max(1, round(w * ratio)))
    steps: list[T.Transform] = [T.ResizeTransform(h, w, new_h, new_w)]
    if (new_h, new_w) != (height, width):
        steps.append(T.PadTransform(0, 0, width - new_w, height - new_h, new_w, new_h))
    return sample.transformed(T.TransformList(steps)), (new_h, new_w)


def _check_channels(samples: Sequence[Sample]) -> None:
    shapes = {one.image.shape[2:] for one in samples}
    if len(shapes) > 1:
        raise ValueError(
            f"Images of {sorted(shapes)} channels cannot be mixed; set INPUT.FORMAT to a format "
            "with the same number for all."
        )


def build_sample_augmentations(cfg: Any) -> list[SampleAugmentation]:
    """What ``INPUT.MOSAIC``, ``INPUT.COPY_PASTE`` and ``INPUT.MIXUP`` ask for, in this order."""
    found: list[SampleAugmentation] = []
    if lookup(cfg, "INPUT.MOSAIC.PROB") > 0:
        size = tuple(lookup(cfg, "INPUT.MOSAIC.SIZE"))
        found.append(Mosaic(size, lookup(cfg, "INPUT.MOSAIC.PROB")))
    if lookup(cfg, "INPUT.COPY_PASTE.PROB") > 0:
        found.append(CopyPaste(lookup(cfg, "INPUT.COPY_PASTE.PROB")))
    if lookup(cfg, "INPUT.MIXUP.PROB") > 0:
        found.append(MixUp(lookup(cfg, "INPUT.MIXUP.PROB")))
    return found
