"""From the frame of the network's input to the frame of the image the user asked about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor
from torch.nn import functional as F

from detectron2.structures import Instances, ROIMasks

__all__ = [
    "detector_postprocess",
    "masks_stay_on_boxes",
    "rescale_detections",
    "sem_seg_postprocess",
    "to_output_frame",
]

_ON_BOXES: ContextVar[bool] = ContextVar("masks_stay_on_boxes", default=False)


@contextmanager
def masks_stay_on_boxes() -> Iterator[None]:
    """Within this block and thread `to_output_frame` does not draw masks into full images."""
    token = _ON_BOXES.set(True)
    try:
        yield
    finally:
        _ON_BOXES.reset(token)


def to_output_frame(results: Instances, output_height: int, output_width: int) -> Instances:
    """What a detector returns: `detector_postprocess`, unless masks are to stay on their boxes."""
    convert = rescale_detections if _ON_BOXES.get() else detector_postprocess
    return convert(results, output_height, output_width)


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Detections of one image, rescaled to an output of (output_height, output_width).

    The input is left as it is.

    Args:
        results: detections in the frame of the resized image that the network saw, with
            `pred_boxes` or `proposal_boxes`; optional `pred_masks`, (N, 1, h, w) probabilities
            on a grid over each box or a ROIMasks, and `pred_keypoints` (N, K, 3), whose first
            two columns are x and y.
        output_height, output_width: size of the image the results are wanted for, in pixels.
        mask_threshold: probability above which a pixel belongs to a mask.

    Returns:
        Instances of that size. Boxes are scaled and clipped, and those left empty are dropped
        with all their fields; `pred_masks` becomes (N, output_height, output_width) bool.
    """
    output = rescale_detections(results, output_height, output_width)
    if output.has("pred_masks"):
        boxes = output.get(_box_field(output))
        output.pred_masks = output.pred_masks.to_bitmasks(
            boxes, output_height, output_width, mask_threshold
        ).tensor
    return output


def _box_field(results: Instances) -> str:
    for field in ("pred_boxes", "proposal_boxes"):
        if results.has(field):
            return field
    raise ValueError(
        "detector_postprocess needs a field 'pred_boxes' or 'proposal_boxes'; "
        f"the instances have {sorted(results.get_fields())}."
    )


def rescale_detections(results: Instances, output_height: int, output_width: int) -> Instances:
    """As `detector_postprocess`, with `pred_masks` left on their boxes as ROIMasks."""
    input_height, input_width = results.image_size
    scale_x, scale_y = output_width / input_width, output_height / input_height
    fields = dict(results.get_fields())

    box_field = _box_field(results)
    boxes = fields[box_field].clone()
    boxes.scale(scale_x, scale_y)
    boxes.clip((output_height, output_width))
    fields[box_field] = boxes

    if "pred_keypoints" in fields:
        keypoints = fields["pred_keypoints"].clone()
        keypoints[..., 0] *= scale_x
        keypoints[..., 1] *= scale_y
        fields["pred_keypoints"] = keypoints

    # Empty boxes go first, so that only what is returned is pasted; and by index, because a
    # boolean mask would make every field wait for the device.
    kept = boxes.nonempty().nonzero()[:, 0]
    output = Instances((output_height, output_width), **fields)[kept]
    if output.has("pred_masks"):
        masks = output.pred_masks
        output.pred_masks = masks if isinstance(masks, ROIMasks) else ROIMasks(masks[:, 0])
    return output


def sem_seg_postprocess(
    result: Tensor, img_size: tuple[int, int], output_height: int, output_width: int
) -> Tensor:
    """Scores per pixel of one image, without the padding and at the size asked for.

    Args:
        result: (C, H, W) scores of the padded image.
        img_size: (h, w) of the image before padding, h <= H and w <= W.

    Returns:
        (C, output_height, output_width), bilinear, pixel centres aligned.
    """
    height, width = img_size
    unpadded = result[:, :height, :width]
    if (height, width) == (output_height, output_width):
        return unpadded  # the interpolation would be the identity
    resized = F.interpolate(
        unpadded[None], size=(output_height, output_width), mode="bilinear", align_corners=False
    )
    return resized[0]
