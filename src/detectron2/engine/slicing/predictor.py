"""A predictor for images of any size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from detectron2.engine.defaults import DefaultPredictor
from detectron2.engine.slicing.merge import merge_slices
from detectron2.engine.slicing.windows import Window, reduced, windows_over
from detectron2.modeling.postprocessing import masks_stay_on_boxes
from detectron2.structures import Instances

__all__ = ["SlicedPredictor"]


class SlicedPredictor:
    """Detects objects in a large image slice by slice, and small ones at full resolution.

    A model that resizes its input to 800 pixels does not see a bird in an aerial photograph of
    20,000. Each slice is resized as if it were an image; objects that are larger than the overlap
    of slices are looked for once more in the image as a whole.

    Memory does not depend on the size of the image: slices are copied out one after another, so
    the image may be a `numpy.memmap` or anything else that is sliced like an array, and masks
    stay on the grids of their boxes.

    Attributes:
        predictor: runs on each slice.
        image_format: the predictor's.
    """

    def __init__(
        self,
        predictor: DefaultPredictor,
        slice_size: int = 1024,
        overlap: float = 0.25,
        *,
        threshold: float = 0.5,
        whole_image: bool = True,
        batch_size: int = 1,
    ) -> None:
        """
        Args:
            predictor: of an instance detector: boxes, masks, keypoints or rotated boxes.
            slice_size: sides of a slice, in pixels of the image.
            overlap: fraction of a slice that it shares with its neighbour.
            threshold: see `merge_slices`.
            whole_image: also look at the image as a whole, reduced to about the size of a slice.
            batch_size: slices that go through the model together.
        """
        self.predictor = predictor
        self.slice_size = slice_size
        self.overlap = overlap
        self.threshold = threshold
        self.whole_image = whole_image
        self.batch_size = batch_size
        self.image_format = predictor.image_format

    def __call__(self, image: np.ndarray) -> dict[str, Instances]:
        """Detect in one image; one of the size of a slice gives what the predictor gives.

        Args:
            image: (H, W, C) as the predictor takes it.

        Returns:
            ``{"instances": Instances}`` in the frame of the image. `pred_masks` is a ROIMasks;
            ``pred_masks.to_bitmasks(pred_boxes, H, W)`` draws (N, H, W) bitmaps, which may not
            fit in memory. There is no limit to the number of detections but that of each slice.

        Raises:
            ValueError: the model does not return instances.
        """
        height, width = image.shape[:2]
        windows = list(windows_over(height, width, self.slice_size, self.overlap))
        with masks_stay_on_boxes():
            cuts: Iterator[np.ndarray] = (window.cut(image) for window in windows)
            outputs = self.predictor.stream(cuts, self.batch_size)
            parts = [(window, _instances(each)) for window, each in zip(windows, outputs)]
            if self.whole_image and len(windows) > 1:
                parts.append(self._as_a_whole(image))
        return {"instances": merge_slices(parts, (height, width), self.threshold)}

    def _as_a_whole(self, image: np.ndarray) -> tuple[Window, Instances]:
        """Detections of the reduced image, in the frame of the image."""
        height, width = image.shape[:2]
        # Not below a slice's size: the predictor resizes what is left of the difference.
        factor = max(min(max(height, width) // self.slice_size, height, width), 1)
        small = reduced(image, factor)
        instances = _instances(self.predictor(small))
        instances.pred_boxes.scale(factor, factor)
        if instances.has("pred_keypoints"):
            instances.pred_keypoints[..., :2] *= factor
        return Window(0, 0, width, height, height, width), instances


def _instances(outputs: Any) -> Instances:
    if not isinstance(outputs, dict) or "instances" not in outputs:
        found = sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__
        raise ValueError(
            f"The model returns {found}, not 'instances': detections of slices can be merged, "
            "segmentations of whole images cannot. Predict without slices."
        )
    return outputs["instances"]
