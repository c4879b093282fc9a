"""Images of different sizes in one tensor."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detectron2.layers.wrappers import move_device_like, shapes_to_tensor
from detectron2.utils.torch_version_utils import min_torch_version

# The last three are not used here; downstream code imports them from this address.
__all__ = ["ImageList", "min_torch_version", "move_device_like", "shapes_to_tensor"]


class ImageList:
    """N images, padded at the right and at the bottom to one size.

    Args:
        tensor: (N, ..., H, W), usually (N, C, H, W).
        image_sizes: (height, width) of each image without its padding.

    Attributes:
        tensor: as given.
        image_sizes: as given.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        """Image `idx` without its padding: (..., h, w), a view of `tensor`."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[idx] for idx in range(len(self)))

    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        """The list with its tensor moved or converted by `torch.Tensor.to`."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: Sequence[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: Mapping[str, int] | None = None,
    ) -> "ImageList":
        """Pad images at the right and at the bottom, and stack them.

        Args:
            tensors: N images of shape (..., Hi, Wi); the leading dimensions agree.
            size_divisibility: height and width of the result are multiples of it, if above 1.
            pad_value: what the padding is filled with.
            padding_constraints: what a backbone asks for: ``size_divisibility``, which then
                replaces the argument, and ``square_size``, the side of a square that every
                image is padded to (0: no square).

        Returns:
            Images of shape (N, ..., H, W), with dtype and device of the first.

        Raises:
            ValueError: no images, different leading dimensions, or an image larger than the
                square.
        """
        tensors = list(tensors)
        _check_stackable(tensors)
        image_sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        height, width = _padded_size(image_sizes, size_divisibility, padding_constraints or {})
        return ImageList(_stacked(tensors, height, width, pad_value), image_sizes)


def _check_stackable(tensors: list[Tensor]) -> None:
    if not tensors:
        raise ValueError("ImageList.from_tensors got no images.")
    shapes = [tuple(image.shape) for image in tensors]
    if any(len(shape) < 2 or shape[:-2] != shapes[0][:-2] for shape in shapes):
        raise ValueError(
            f"Images of shapes {shapes} cannot form one batch: all but height and width must agree."
        )


def _stacked(tensors: list[Tensor], height: int, width: int, pad_value: float) -> Tensor:
    """(N, ..., height, width) with the images in the top left corners."""
    first = tensors[0]
    batch = first.new_full((len(tensors), *first.shape[:-2], height, width), pad_value)
    for index, image in enumerate(tensors):
        # Not by iterating over `batch`: autograd has no way through views that come in a row.
        batch[index, ..., : image.shape[-2], : image.shape[-1]].copy_(image)
    return batch


def _padded_size(
    image_sizes: list[tuple[int, int]], size_divisibility: int, constraints: Mapping[str, int]
) -> tuple[int, int]:
    """(H, W) that hold every image and obey the constraints."""
    size_divisibility = constraints.get("size_divisibility", size_divisibility)
    square_size = constraints.get("square_size", 0)
    height = max(height for height, _ in image_sizes)
    width = max(width for _, width in image_sizes)
    if square_size > 0:
        if max(height, width) > square_size:
            raise ValueError(
                f"An image of {height} x {width} pixels does not fit into the square of "
                f"{square_size} that the model pads to; resize images to at most {square_size}."
            )
        height = width = square_size
    if size_divisibility > 1:
        # Not in place: while a model is traced, sides are tensors that `image_sizes` holds, too.
        height = height + -height % size_divisibility
        width = width + -width % size_divisibility
    return height, width
