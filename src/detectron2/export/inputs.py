"""What a file takes for images, by what it says about itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectron2.data import transforms as T
from detectron2.export.info import ExportInfo

__all__ = ["batch_of_images", "inputs_of_file", "prepare_image"]


def prepare_image(info: ExportInfo, image: np.ndarray) -> dict[str, Any]:
    """The file's input for an (H, W, 3) BGR image, resized as the model was trained to see it.

    Raises:
        ValueError: the array has another shape.
    """
    if getattr(image, "ndim", None) != 3 or image.shape[2] != 3:
        raise ValueError(
            "An image is an array of shape (height, width, 3), not "
            f"{getattr(image, 'shape', type(image).__name__)}."
        )
    height, width = image.shape[:2]
    pixels = image[:, :, ::-1] if info.input_format == "RGB" else image
    if info.shortest_edge is not None:
        shortest = info.shortest_edge
        resize = T.ResizeShortestEdge([shortest, shortest], info.longest_edge)
        pixels = resize.get_transform(pixels).apply_image(pixels)
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return {"image": tensor.float(), "height": height, "width": width}


def batch_of_images(info: ExportInfo, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) float32 images padded to one size, and (N, 2) int64 their sizes.

    Raises:
        ValueError: the file takes another number of images, or smaller ones.
    """
    if not images:
        raise ValueError("There is no image to predict on.")
    if info.batch is not None and len(images) != info.batch:
        raise ValueError(
            f"The file takes batches of {info.batch} images, not {len(images)}; export with "
            "batch='dynamic' (--batch dynamic) for any number."
        )
    sizes = torch.tensor([image.shape[-2:] for image in images])
    unit = info.side_multiple
    largest = [-(-side // unit) * unit for side in sizes.amax(dim=0).tolist()]
    height, width = info.image_size or largest
    if bool((sizes > torch.tensor([height, width])).any()):
        raise ValueError(
            f"The file takes images of at most {height} x {width} pixels, one has "
            f"{sizes.amax(dim=0).tolist()}; export without image_size for any size."
        )
    if max(height, width) <= info.side_above:
        raise ValueError(
            f"The file takes images with a side of more than {info.side_above} pixels, these fit "
            f"into {height} x {width}; enlarge them or use another format."
        )
    batch = torch.zeros(len(images), images[0].shape[0], height, width)
    for row, image in zip(batch, images):
        if info.pixel_mean:
            mean, std = (
                torch.tensor(each)[:, None, None] for each in (info.pixel_mean, info.pixel_std)
            )
            image = (image - mean) / std
        row[:, : image.shape[1], : image.shape[2]] = image
    return batch, sizes


def inputs_of_file(
    info: ExportInfo, images: Sequence[Tensor], wanted: Sequence[tuple[int, int]]
) -> tuple[Tensor, ...]:
    """What a file takes, for images and the (height, width) that results are wanted for."""
    batch = batch_of_images(info, images)
    return (*batch, torch.tensor(wanted)) if info.postprocess == "in" else batch
