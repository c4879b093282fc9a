"""ROIAlign of rotated boxes."""

from collections.abc import Sequence

from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import as_pair, check_features, check_rois
from detectron2.ops.roi_align_rotated.reference import roi_align_rotated_reference

__all__ = ["roi_align_rotated"]


def roi_align_rotated(
    input: Tensor,
    rois: Tensor,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
) -> Tensor:
    """Average bilinear samples in a regular grid of bins over each rotated box.

    From RRPN, https://arxiv.org/abs/1703.01086. Differentiable in `input`.

    Args:
        input: (N, C, H, W).
        rois: (K, 6) rows of (image index, center x, center y, width, height, angle): pixels of
            the image, and degrees counter-clockwise.
        output_size: (h, w) bins, or one number for both.
        spatial_scale: feature cells per image pixel.
        sampling_ratio: samples per bin and axis; 0 or less takes ``ceil(bin side in cells)``.

    Returns:
        (K, C, h, w), dtype of `input`. Cell centers lie at half-integers of the scaled frame.

    Raises:
        ValueError: wrong shapes, or tensors on two devices.
        TypeError: a tensor does not hold floating point numbers.
    """
    height, width = as_pair(output_size, "output_size")
    check_features(input)
    check_rois(rois, input, 6)
    return dispatch.call(
        "roi_align_rotated",
        input,
        rois.detach(),
        height,
        width,
        float(spatial_scale),
        int(sampling_ratio),
    )


dispatch.register("roi_align_rotated", reference=roi_align_rotated_reference)
