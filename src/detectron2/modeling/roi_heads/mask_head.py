"""Mask R-CNN: a mask for each detected box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.config import configurable
from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping.roi_heads import BASE_MASK_HEAD, MASK_HEAD
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec, cat, get_norm
from detectron2.structures import Instances
from detectron2.structures._selected_polygons import crop_masks
from detectron2.structures._transfer import on_device
from detectron2.utils._deferred import put_scalars_later
from detectron2.utils.events import get_event_storage, has_event_storage
from detectron2.utils.registry import Registry, registered

__all__ = [
    "ROI_MASK_HEAD_REGISTRY",
    "BaseMaskRCNNHead",
    "MaskRCNNConvUpsampleHead",
    "build_mask_head",
]

ROI_MASK_HEAD_REGISTRY = Registry("ROI_MASK_HEAD")
ROI_MASK_HEAD_REGISTRY.__doc__ = """
Heads that predict masks from the features of boxes, looked up by
``cfg.MODEL.ROI_MASK_HEAD.NAME`` and called as ``entry(cfg, input_shape)``.
"""


_MAX_DRAWN_MASKS = 20


def build_mask_head(cfg: Any, input_shape: ShapeSpec) -> nn.Module:
    """The head named by ``cfg.MODEL.ROI_MASK_HEAD.NAME``."""
    return registered(ROI_MASK_HEAD_REGISTRY, cfg.MODEL.ROI_MASK_HEAD.NAME)(cfg, input_shape)


def mask_rcnn_loss(
    pred_mask_logits: Tensor, instances: list[Instances], vis_period: int = 0
) -> Tensor:
    """Mean binary cross entropy of the mask of each box's true class.

    Args:
        pred_mask_logits: (K, C, h, w) for the K boxes of all images, or (K, 1, h, w) if the
            classes share a mask; h equals w.
        instances: of each image, with `proposal_boxes`, `gt_classes` and `gt_masks`.
        vis_period: draw predicted and true masks every so many iterations, 0 for never.

    Returns:
        scalar, 0 if there is no box.
    """
    num_boxes, num_channels, height, width = pred_mask_logits.shape
    if height != width:
        raise ValueError(f"Masks are predicted on a square grid, not on {height} x {width}.")
    annotated = [x for x in instances if len(x) > 0]
    if not annotated:
        return pred_mask_logits.sum() * 0
    targets = cat(_cropped_masks(annotated, width, pred_mask_logits.device))
    channels = torch.zeros(num_boxes, dtype=torch.int64, device=pred_mask_logits.device)
    if num_channels > 1:
        channels = cat([x.gt_classes for x in annotated]).to(torch.int64)
    rows = torch.arange(num_boxes, device=pred_mask_logits.device)
    logits = pred_mask_logits[rows, channels]  # (K, h, w)

    is_object = targets if targets.dtype == torch.bool else targets > 0.5
    _log_mask_stats(logits, is_object)
    if vis_period > 0 and get_event_storage().iter % vis_period == 0:
        _draw_masks(logits, targets)
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


def _cropped_masks(instances: list[Instances], side: int, device: torch.device) -> list[Tensor]:
    """For each image, (N, side, side) ground truth inside of each proposal."""
    boxes = [x.proposal_boxes.tensor for x in instances]
    crops = crop_masks([x.gt_masks for x in instances], boxes, side)
    return [on_device(crop, device) for crop in crops]


def _log_mask_stats(logits: Tensor, is_object: Tensor) -> None:
    """Pixel accuracy and error rates of (K, h, w) logits."""
    if not has_event_storage():
        return
    wrong = (logits > 0) != is_object
    counts = torch.stack([is_object.sum(), wrong.sum(), (wrong & is_object).sum()])
    total = is_object.numel()
    put_scalars_later(get_event_storage(), counts, lambda read: _mask_stats(*read, total))


def _mask_stats(
    num_object: float, num_wrong: float, num_missed: float, total: int
) -> dict[str, float]:
    num_background = total - num_object
    return {
        "mask_rcnn/accuracy": 1 - num_wrong / max(total, 1),
        "mask_rcnn/false_positive": (num_wrong - num_missed) / max(num_background, 1),
        "mask_rcnn/false_negative": num_missed / max(num_object, 1),
    }


def _draw_masks(logits: Tensor, targets: Tensor) -> None:
    """Put prediction and truth, side by side, of the first boxes into the event storage."""
    pairs = torch.cat([logits.detach().sigmoid(), targets.to(logits.dtype)], dim=2)
    for index, pair in enumerate(pairs[:_MAX_DRAWN_MASKS]):
        name = f"Left: mask prediction;  right: ground truth ({index})"
        get_event_storage().put_image(name, pair.expand(3, -1, -1))


def mask_rcnn_inference(pred_mask_logits: Tensor, pred_instances: list[Instances]) -> None:
    """Write the mask of each detection's class as `pred_masks` into `pred_instances`.

    Args:
        pred_mask_logits: (K, C, h, w) for the K detections of all images, or (K, 1, h, w).
        pred_instances: of each image, with `pred_classes`. They get `pred_masks`,
            (N, 1, h, w) probabilities on a grid over each box.
    """
    masks = pred_mask_logits
    if masks.shape[1] > 1:
        classes = cat([x.pred_classes for x in pred_instances])
        rows = torch.arange(masks.shape[0], device=masks.device)
        masks = masks[rows, classes][:, None]
    counts = [x.pred_classes.shape[0] for x in pred_instances]
    for instances, probabilities in zip(pred_instances, masks.sigmoid().split(counts)):
        instances.pred_masks = probabilities


class BaseMaskRCNNHead(nn.Module):
    """Losses and inference of Mask R-CNN around the `layers` of a subclass."""

    @configurable
    def __init__(self, *, loss_weight: float = 1.0, vis_period: int = 0) -> None:
        """
        Args:
            vis_period: see `mask_rcnn_loss`.
        """
        super().__init__()
        self.loss_weight = loss_weight
        self.vis_period = vis_period

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        return read_arguments(cfg, BASE_MASK_HEAD)

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:
        """
        Args:
            x: (K, C, h, w) features of the K boxes of all images.
            instances: when training the proposals that hold objects, see `mask_rcnn_loss`;
                else the detections, see `mask_rcnn_inference`.

        Returns:
            ``{"loss_mask": scalar}`` when training; else `instances`, with `pred_masks`.
        """
        logits = self.layers(x)
        if self.training:
            loss = mask_rcnn_loss(logits, instances, self.vis_period)
            return {"loss_mask": loss * self.loss_weight}
        mask_rcnn_inference(logits, instances)
        return instances

    def layers(self, x: Tensor) -> Tensor:
        """(K, classes, 2h, 2w) logits, or any other grid that is square."""
        raise NotImplementedError(f"{type(self).__name__} has to define layers().")


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNConvUpsampleHead(BaseMaskRCNNHead, nn.Sequential):
    """3x3 convolutions `mask_fcn1`, ..., a doubling `deconv`, and a 1x1 `predictor`."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: Sequence[int],
        conv_norm: Any = "",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: of the features of one box.
            num_classes: foreground classes, or 1 if they share a mask.
            conv_dims: output channels of each convolution; the last one is of `deconv`.
            conv_norm: normalisation after each convolution, as `get_norm` takes it.
            kwargs: arguments of `BaseMaskRCNNHead`.
        """
        super().__init__(**kwargs)
        if not conv_dims:
            raise ValueError("conv_dims is empty: its last number is the width of the deconv.")
        channels = input_shape.channels
        for k, width in enumerate(conv_dims[:-1], start=1):
            conv = Conv2d(
                channels,
                width,
                kernel_size=3,
                padding=1,
                bias=not conv_norm,
                norm=get_norm(conv_norm, width),
                activation=nn.ReLU(inplace=True),
            )
            weight_init.c2_msra_fill(conv)
            self.add_module(f"mask_fcn{k}", conv)
            channels = width
        self.deconv = ConvTranspose2d(channels, conv_dims[-1], kernel_size=2, stride=2)
        weight_init.c2_msra_fill(self.deconv)
        self.deconv_relu = nn.ReLU(inplace=True)
        self.predictor = Conv2d(conv_dims[-1], num_classes, kernel_size=1)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        head = lookup(cfg, "MODEL.ROI_MASK_HEAD")
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            # one more than the convolutions, for the deconv
            "conv_dims": [head.CONV_DIM] * (head.NUM_CONV + 1),
            "num_classes": 1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            **read_arguments(cfg, MASK_HEAD),
        }

    def layers(self, x: Tensor) -> Tensor:
        # With channels last PyTorch's CPU kernels need no copies between layouts: 100 boxes take
        # 0.97 instead of 1.14 seconds on one core (benchmarks/inference.py).
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self:
            x = layer(x)
        return x
