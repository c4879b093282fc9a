"""ROIAlign (Mask R-CNN paper, section 3): fixed grids of features from boxes of any size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectron2 import ops

__all__ = ["ROIAlign", "roi_align"]


def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Average bilinear samples of a feature map in every bin of a grid laid over each box.

    Args:
        input: (N, C, H, W).
        boxes: (K, 5) of (image index, x0, y0, x1, y1); or one (Ki, 4) tensor per image.
        output_size: (h, w) of the grid, or one number for both.
        spatial_scale: cells of `input` per unit of `boxes`.
        sampling_ratio: samples per bin and direction; 0 or less takes one per cell, rounded up.
        aligned: put the centre of the first cell at 0.5, as pixels do; False puts it at 0,
            half a cell off, which models trained that way need.

    Returns:
        (K, C, h, w), dtype of `input`.
    """
    if not isinstance(boxes, Tensor):
        boxes = _with_image_index(boxes)
    if isinstance(output_size, int):
        output_size = (output_size, output_size)
    return ops.roi_align(
        input, boxes.to(input.dtype), output_size, spatial_scale, sampling_ratio, aligned
    )


def _with_image_index(boxes: Sequence[Tensor]) -> Tensor:
    """(K, 5) from one (Ki, 4) tensor per image."""
    return torch.cat(
        [
            torch.cat((torch.full_like(of_image[:, :1], index), of_image), dim=1)
            for index, of_image in enumerate(boxes)
        ]
    )


class ROIAlign(nn.Module):
    """`roi_align` with its settings.

    Args:
        output_size: (h, w) of the grid.
        spatial_scale: cells of the input per unit of the boxes.
        sampling_ratio: samples per bin and direction; 0 takes one per cell, rounded up.
        aligned: put the centre of the first cell at 0.5, not at 0.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Sample the boxes.

        Args:
            input: (N, C, H, W).
            rois: (K, 5) of (image index, x0, y0, x1, y1).

        Returns:
            (K, C, h, w).

        Raises:
            ValueError: the shape of `rois` is not (K, 5).
        """
        if rois.dim() != 2 or rois.shape[1] != 5:
            raise ValueError(
                f"ROIAlign takes rois of shape (K, 5): (image index, x0, y0, x1, y1), not "
                f"{tuple(rois.shape)}."
            )
        return roi_align(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
