"""ROI max pooling."""

from collections.abc import Sequence

from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import as_pair, check_features, check_rois
from detectron2.ops.roi_pool.reference import roi_pool_reference

__all__ = ["roi_pool"]


def roi_pool(
    input: Tensor, rois: Tensor, output_size: int | Sequence[int], spatial_scale: float = 1.0
) -> Tensor:
    """Largest cell in each bin of each box, boxes and bins rounded to whole cells.

    From Fast R-CNN, https://arxiv.org/abs/1504.08083, section 2.1. Differentiable in `input`:
    the gradient goes to the largest cell, the first one if several are equal.

    Args:
        input: (N, C, H, W).
        rois: (K, 5) rows of (image index, x0, y0, x1, y1), in pixels of the image.
        output_size: (h, w) bins, or one number for both.
        spatial_scale: feature cells per image pixel.

    Returns:
        (K, C, h, w), dtype of `input`. Bins outside of the map give zeros.

    Raises:
        ValueError: wrong shapes, or tensors on two devices.
        TypeError: a tensor does not hold floating point numbers.
    """
    height, width = as_pair(output_size, "output_size")
    check_features(input)
    check_rois(rois, input, 5)
    return dispatch.call("roi_pool", input, rois.detach(), height, width, float(spatial_scale))


dispatch.register("roi_pool", reference=roi_pool_reference)
