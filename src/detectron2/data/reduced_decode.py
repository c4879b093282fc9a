"""Decoding large JPEG files at a half, a quarter or an eighth of their size, for training."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from PIL import Image

from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.dataset_mapper import DatasetMapper
from detectron2.utils.file_io import PathManager

__all__ = ["ReducedDecodeMapper", "read_reduced_jpeg"]

_DECODED_SIZE = "_decoded_size"
_EXIF_ORIENTATION = 0x0112


def read_reduced_jpeg(
    file_name: str, format: str, least: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int]] | None:
    """Decode a JPEG at the smallest size that its coding allows and that is large enough.

    The decoder leaves out the high frequencies of each block of 8 x 8 pixels, which costs less
    than decoding them and averaging. Pixels differ a little from those of a whole image that is
    resized.

    Args:
        file_name: anything that ``PathManager`` opens.
        format: "RGB", "BGR" or "L"; see `detection_utils.read_image`.
        least: (height, width) that the decoded image has at least.

    Returns:
        The image, upright, and the (height, width) of the whole image; None if the file is no
        JPEG, or the whole image is needed.
    """
    if format not in ("RGB", "BGR", "L"):
        return None
    with PathManager.open(file_name, "rb") as stream:
        image = Image.open(stream)
        # A turned image has the sides that are asked for the other way round; leave it.
        if image.format != "JPEG" or image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
            return None
        width, height = image.size
        if image.draft("L" if format == "L" else "RGB", (least[1], least[0])) is None:
            return None
        if image.size == (width, height):
            return None
        return utils.convert_PIL_to_numpy(image, format), (height, width)


class ReducedDecodeMapper(DatasetMapper):
    """A `DatasetMapper` for training that decodes no more of a JPEG than the resizing needs.

    ``INPUT.REDUCED_DECODE`` chooses it. It reads as `DatasetMapper` does where that could matter:
    for files other than JPEG, images with an EXIF orientation, a label map or proposals, and if
    the first augmentation is no `ResizeShortestEdge`.
    """

    def _read_image(self, dataset_dict: dict[str, Any]) -> np.ndarray:
        least = self._least_size(dataset_dict)
        reduced = None
        if least is not None:
            # If this fails, the whole image is read below, which says what is wrong.
            with contextlib.suppress(OSError, SyntaxError, ValueError):
                reduced = read_reduced_jpeg(dataset_dict["file_name"], self.image_format, least)
        if reduced is None:
            return super()._read_image(dataset_dict)
        image, whole = reduced
        # Only its shape is looked at: no memory is taken.
        utils.check_image_size(dataset_dict, np.broadcast_to(np.uint8(0), (*whole, 1)))
        dataset_dict[_DECODED_SIZE] = image.shape[:2]
        return image

    def _least_size(self, dataset_dict: dict[str, Any]) -> tuple[int, int] | None:
        """(height, width) of the largest image that the first augmentation may ask for."""
        first = self.augmentations.augs[0] if self.augmentations.augs else None
        if (
            not self.is_train
            or not isinstance(first, T.ResizeShortestEdge)
            or getattr(self, "mixers", None)
            or "sem_seg_file_name" in dataset_dict
            or "proposal_boxes" in dataset_dict
            or not dataset_dict.get("height")
            or not dataset_dict.get("width")
            or 0 in first.short_edge_length
        ):
            return None
        size = dataset_dict["height"], dataset_dict["width"]
        return first.get_output_shape(*size, max(first.short_edge_length), first.max_size)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        result = super().__call__(dataset_dict)
        if result is not None:
            result.pop(_DECODED_SIZE, None)
        return result

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.Transform, image_shape: tuple[int, int]
    ) -> None:
        decoded = dataset_dict.get(_DECODED_SIZE)
        if decoded is not None:
            whole = dataset_dict["height"], dataset_dict["width"]
            transforms = T.TransformList([T.ResizeTransform(*whole, *decoded), transforms])
        super()._transform_annotations(dataset_dict, transforms, image_shape)
