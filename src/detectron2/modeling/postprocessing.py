"""From the frame of the network's input to the frame of the image the user asked about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

from detectron2.modeling._forms import in_two_forms
from detectron2.structures import Boxes, Instances, ROIMasks
from detectron2.structures.boxes import clip_corners

__all__ = [
    "detector_postprocess",
    "masks_stay_on_boxes",
    "rescale_detections",
    "sem_seg_postprocess",
    "to_output_frame",
    "to_output_frames",
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
    return to_output_frames([results], [(output_height, output_width)])[0]


def to_output_frames(
    results: Sequence[Instances], sizes: Sequence[tuple[int, int]]
) -> list[Instances]:
    """`to_output_frame` of each image, to its (height, width); the host waits once for all."""
    rescaled = _rescale_all(results, sizes)
    return rescaled if _ON_BOXES.get() else [_with_full_masks(output) for output in rescaled]


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
    return _with_full_masks(output, mask_threshold)


def _with_full_masks(output: Instances, mask_threshold: float = 0.5) -> Instances:
    """The same instances with their masks drawn into the whole image."""
    if output.has("pred_masks"):
        boxes = output.get(_box_field(output))
        output.pred_masks = output.pred_masks.to_bitmasks(
            boxes, *output.image_size, mask_threshold
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
    return _rescale_all([results], [(output_height, output_width)])[0]


def _rescale_together(
    results: Sequence[Instances], sizes: Sequence[tuple[int, int]]
) -> list[Instances]:
    scaled = [_rescaled(*image, clips=False) for image in zip(results, sizes, strict=True)]
    boxes = [output.get(_box_field(output)) for output in scaled]
    bad = [(~x.tensor.isfinite()).sum() for x in boxes]
    for x, (height, width) in zip(boxes, sizes, strict=True):
        if type(x).clip is Boxes.clip:  # which asks the device whether all are finite
            x.tensor = clip_corners(x.tensor, (height, width))
        else:
            x.clip((height, width))
    full = [x.nonempty() for x in boxes]
    # Two numbers of each image, read together.
    numbers = torch.stack([torch.stack((x.sum(), y)) for x, y in zip(full, bad, strict=True)])
    outputs = []
    for output, keep, (count, num_bad) in zip(scaled, full, numbers.tolist(), strict=True):
        if num_bad:
            raise AssertionError(f"{num_bad} coordinates of detections are infinite or NaN.")
        if count < len(output):  # the full ones to the front, in their order
            output = output[(~keep).to(torch.uint8).argsort(stable=True)[:count]]
        outputs.append(_with_roi_masks(output))
    return outputs


@in_two_forms(fixed=_rescale_together)
def _rescale_all(results: Sequence[Instances], sizes: Sequence[tuple[int, int]]) -> list[Instances]:
    """`rescale_detections` of each image, to its (height, width)."""
    outputs = []
    for result, size in zip(results, sizes, strict=True):
        output = _rescaled(result, size)
        # Empty boxes go first, so that only what is returned is pasted; and by index, because a
        # boolean mask would make every field wait for the device.
        kept = output.get(_box_field(output)).nonempty().nonzero()[:, 0]
        outputs.append(_with_roi_masks(output[kept]))
    return outputs


def _rescaled(results: Instances, size: tuple[int, int], clips: bool = True) -> Instances:
    """Boxes and keypoints in the frame of an output of (height, width), empty boxes included."""
    output_height, output_width = size
    input_height, input_width = results.image_size
    scale_x, scale_y = output_width / input_width, output_height / input_height
    fields = dict(results.get_fields())

    box_field = _box_field(results)
    boxes = fields[box_field].clone()
    boxes.scale(scale_x, scale_y)
    if clips:
        boxes.clip((output_height, output_width))
    fields[box_field] = boxes

    if "pred_keypoints" in fields:
        keypoints = fields["pred_keypoints"].clone()
        keypoints[..., 0] *= scale_x
        keypoints[..., 1] *= scale_y
        fields["pred_keypoints"] = keypoints

    return Instances((output_height, output_width), **fields)


def _with_roi_masks(output: Instances) -> Instances:
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
