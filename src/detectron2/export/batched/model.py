"""What the batched form of every architecture has in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["BatchedModel", "first_of_each_image", "flat_results", "limits_of"]


class BatchedModel(nn.Module):
    """A model whose images are one tensor and whose detections are one table for the batch.

    The modules and their weights are those of the model. What loops over a list of images there
    is done for all images at once here, so a trace holds for any number and size of images.

    Attributes:
        model: the model.
        output_names: of the tensors that `forward` returns.
        normalizes: whether it subtracts the mean of pixels; otherwise the caller has done so.
    """

    output_names: tuple[str, ...]
    normalizes = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            images: (N, C, H, W) float32 in 0..255, not normalised, channels in the order of
                INPUT.FORMAT; smaller images lie in the top left corner.
            image_sizes: (N, 2) int64 height and width of each image, at most H and W.

        Returns:
            Tensors by `output_names`. Those of detections have D rows, image after image and by
            descending score, in the frame of the network's input; `image_index` (D,) int64
            says whose they are.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define forward().")

    def prepared(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """What the backbone takes: (N, C, H', W')."""
        if self.normalizes:
            images = normalized_images(self.model, images, image_sizes)
        return padded_images(self.model.backbone, images)


def normalized_images(model: Any, images: Tensor, image_sizes: Tensor) -> Tensor:
    """Images without the mean of pixels, with zeros around them whatever was there."""
    normalized = (images - model.pixel_mean) / model.pixel_std
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    inside = (rows[:, None] < image_sizes[:, 0, None, None]) & (
        columns[None, :] < image_sizes[:, 1, None, None]
    )  # (N, H, W)
    return torch.where(inside[:, None], normalized, torch.zeros_like(normalized))


def padded_images(backbone: Any, images: Tensor) -> Tensor:
    """Images padded with zeros as the backbone asks."""
    height, width = images.shape[-2:]
    constraints = backbone.padding_constraints
    divisor = constraints.get("size_divisibility", backbone.size_divisibility)
    square = constraints.get("square_size", 0)
    if square > 0:
        return F.pad(images, (0, square - width, 0, square - height))
    if divisor > 1:
        return F.pad(images, (0, -width % divisor, 0, -height % divisor))
    return images


def limits_of(image_sizes: Tensor, images: Tensor, boxes: Tensor) -> Tensor:
    """(K, 4) width, height, width, height of the image that each of K rows belongs to."""
    return image_sizes[images].to(boxes.dtype).flip(1).repeat(1, 2)


def first_of_each_image(images: Tensor, limit: int, num_images: Any) -> Tensor:
    """Positions of the first `limit` rows of each image, image after image; all if negative.

    Args:
        images: (K,) int64 image of each row.
    """
    count = images.shape[0]
    position = torch.arange(count, device=images.device)
    # Unique keys, because not every runtime has a stable sort.
    order = (images * count + position).sort().values - images.sort().values * count
    if limit < 0:
        return order
    image_numbers = torch.arange(num_images, device=images.device)
    per_image = (images[:, None] == image_numbers).to(torch.int64).sum(dim=0)  # (N,)
    rank = position - (per_image.cumsum(0) - per_image)[images[order]]
    return order[(rank < limit).nonzero()[:, 0]]


def flat_results(**fields: Any) -> Any:
    """Instances of all images together, which heads take like those of one image."""
    from detectron2.structures import Instances

    return Instances((0, 0), **fields)
