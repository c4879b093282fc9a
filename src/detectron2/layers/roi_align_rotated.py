"""ROIAlign for rotated boxes."""

from torch import Tensor, nn

from detectron2 import ops
from detectron2.layers.wrappers import disable_torch_compiler

__all__ = ["ROIAlignRotated", "disable_torch_compiler", "roi_align_rotated"]


def roi_align_rotated(
    input: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
) -> Tensor:
    """Average bilinear samples in every bin of a grid laid over each rotated box.

    Pixel centres are at 0.5, as in `ROIAlign` with ``aligned=True``. The grid turns with the
    box: its first row lies along the side that is the top one at angle 0.

    Args:
        input: (N, C, H, W).
        rois: (K, 6) of (image index, x centre, y centre, width, height, angle), degrees
            counter-clockwise.
        output_size: (h, w) of the grid, or one number for both.
        spatial_scale: cells of `input` per unit of `rois`.
        sampling_ratio: samples per bin and direction; 0 or less takes one per cell, rounded up.

    Returns:
        (K, C, h, w), dtype of `input`.
    """
    if isinstance(output_size, int):
        output_size = (output_size, output_size)
    dtype = input.dtype
    if input.element_size() < 4:  # half an angle is too coarse: positions would be off by pixels
        input = input.float()
    aligned = ops.roi_align_rotated(
        input, rois.to(input.dtype), output_size, spatial_scale, sampling_ratio
    )
    return aligned.to(dtype)


class ROIAlignRotated(nn.Module):
    """`roi_align_rotated` with its settings.

    Args:
        output_size: (h, w) of the grid.
        spatial_scale: cells of the input per unit of the boxes.
        sampling_ratio: samples per bin and direction; 0 takes one per cell, rounded up.
    """

    def __init__(
        self, output_size: int | tuple[int, int], spatial_scale: float, sampling_ratio: int
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Sample the boxes.

        Args:
            input: (N, C, H, W).
            rois: (K, 6) of (image index, x centre, y centre, width, height, angle).

        Returns:
            (K, C, h, w).

        Raises:
            ValueError: the shape of `rois` is not (K, 6).
        """
        if rois.dim() != 2 or rois.shape[1] != 6:
            raise ValueError(
                "ROIAlignRotated takes rois of shape (K, 6): (image index, x centre, y centre, "
                f"width, height, angle), not {tuple(rois.shape)}."
            )
        return roi_align_rotated(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}"
        )
