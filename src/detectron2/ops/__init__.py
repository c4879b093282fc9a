"""Numeric kernels on plain tensors: tensors in, tensors out, the same numbers on every device.

:mod:`detectron2.ops.dispatch` says which implementation of an op runs.
"""

from detectron2.ops.box_iou import box_iou
from detectron2.ops.box_iou_rotated import box_iou_rotated
from detectron2.ops.deform_conv import deform_conv
from detectron2.ops.detect_boxes import detect_boxes
from detectron2.ops.mask_runs import mask_runs
from detectron2.ops.matcher import matcher
from detectron2.ops.nms import batched_nms, nms
from detectron2.ops.nms_rotated import batched_nms_rotated, nms_rotated
from detectron2.ops.nms_topk import nms_topk
from detectron2.ops.paste_masks import paste_masks
from detectron2.ops.rasterize_polygons import rasterize_polygons
from detectron2.ops.roi_align import multilevel_roi_align, roi_align
from detectron2.ops.roi_align_rotated import roi_align_rotated
from detectron2.ops.roi_pool import roi_pool
from detectron2.ops.sigmoid_focal_loss import sigmoid_focal_loss
from detectron2.ops.winograd_conv import winograd_conv

__all__ = [
    "batched_nms",
    "batched_nms_rotated",
    "box_iou",
    "box_iou_rotated",
    "deform_conv",
    "detect_boxes",
    "mask_runs",
    "matcher",
    "multilevel_roi_align",
    "nms",
    "nms_rotated",
    "nms_topk",
    "paste_masks",
    "rasterize_polygons",
    "roi_align",
    "roi_align_rotated",
    "roi_pool",
    "sigmoid_focal_loss",
    "winograd_conv",
]
