"""Keypoint R-CNN: a heatmap for each keypoint of each detected box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.config import configurable
from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping.roi_heads import BASE_KEYPOINT_HEAD, KEYPOINT_HEAD
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec, cat, interpolate
from detectron2.structures import Instances, heatmaps_to_keypoints
from detectron2.utils.events import get_event_storage, has_event_storage
from detectron2.utils.registry import Registry, registered

__all__ = [
    "ROI_KEYPOINT_HEAD_REGISTRY",
    "BaseKeypointRCNNHead",
    "KRCNNConvDeconvUpsampleHead",
    "build_keypoint_head",
]

ROI_KEYPOINT_HEAD_REGISTRY = Registry("ROI_KEYPOINT_HEAD")
ROI_KEYPOINT_HEAD_REGISTRY.__doc__ = """
Heads that predict keypoints from the features of boxes, looked up by
``cfg.MODEL.ROI_KEYPOINT_HEAD.NAME`` and called as ``entry(cfg, input_shape)``.
"""

# Batches of this process without a single visible keypoint; a scalar in the event storage.
_TOTAL_SKIPPED = 0


def build_keypoint_head(cfg: Any, input_shape: ShapeSpec) -> nn.Module:
    """The head named by ``cfg.MODEL.ROI_KEYPOINT_HEAD.NAME``."""
    name = cfg.MODEL.ROI_KEYPOINT_HEAD.NAME
    return registered(ROI_KEYPOINT_HEAD_REGISTRY, name)(cfg, input_shape)


def keypoint_rcnn_loss(
    pred_keypoint_logits: Tensor, instances: list[Instances], normalizer: float | None
) -> Tensor:
    """Cross entropy over the cells of a heatmap: each visible keypoint is in one of them.

    Mask R-CNN (He et al., 2017), section 5.

    Args:
        pred_keypoint_logits: (N, K, S, S) for the N boxes of all images.
        instances: of each image, with `proposal_boxes` and `gt_keypoints`.
        normalizer: the sum over keypoints is divided by it; None stands for their number.

    Returns:
        scalar, 0 if no keypoint is visible.
    """
    side = pred_keypoint_logits.shape[-1]
    annotated = [x for x in instances if len(x) > 0]
    targets = [x.gt_keypoints.to_heatmap(x.proposal_boxes.tensor, side) for x in annotated]
    if targets:
        cells = cat([cell.flatten() for cell, _ in targets])
        visible = cat([inside.flatten() for _, inside in targets]).nonzero()[:, 0]
    if not targets or visible.numel() == 0:
        _count_skipped_batch()
        return pred_keypoint_logits.sum() * 0
    logits = pred_keypoint_logits.flatten(0, 1).flatten(1)  # (N * K, S * S)
    total = F.cross_entropy(logits[visible], cells[visible], reduction="sum")
    return total / (visible.numel() if normalizer is None else normalizer)


def _count_skipped_batch() -> None:
    global _TOTAL_SKIPPED
    _TOTAL_SKIPPED += 1
    if has_event_storage():
        storage = get_event_storage()
        storage.put_scalar("kpts_num_skipped_batches", _TOTAL_SKIPPED, smoothing_hint=False)


def keypoint_rcnn_inference(pred_keypoint_logits: Tensor, pred_instances: list[Instances]) -> None:
    """Write the best place of each keypoint into `pred_instances`.

    Args:
        pred_keypoint_logits: (N, K, S, S) for the N detections of all images.
        pred_instances: of each image, with `pred_boxes`. They get `pred_keypoints`, (N, K, 3)
            rows of (x, y, score) in the frame of the boxes, and `pred_keypoint_heatmaps`,
            (N, K, S, S) the logits.
    """
    boxes = cat([x.pred_boxes.tensor for x in pred_instances])
    heatmaps = pred_keypoint_logits.detach()
    found = heatmaps_to_keypoints(heatmaps, boxes.detach())  # (x, y, logit, probability)
    keypoints = found[:, :, [0, 1, 3]]
    counts = [x.pred_boxes.tensor.shape[0] for x in pred_instances]
    for instances, of_image, maps in zip(
        pred_instances, keypoints.split(counts), heatmaps.split(counts)
    ):
        instances.pred_keypoints = of_image
        instances.pred_keypoint_heatmaps = maps


class BaseKeypointRCNNHead(nn.Module):
    """Loss and inference of Keypoint R-CNN around the `layers` of a subclass."""

    @configurable
    def __init__(
        self,
        *,
        num_keypoints: int,
        loss_weight: float = 1.0,
        loss_normalizer: float | str = 1.0,
    ) -> None:
        """
        Args:
            loss_normalizer: the sum over the visible keypoints of a batch is divided by
                ``loss_normalizer * number of images``; ``"visible"`` divides by their number.
        """
        super().__init__()
        if isinstance(loss_normalizer, str) and loss_normalizer != "visible":
            raise ValueError(f"loss_normalizer is {loss_normalizer!r}; give a number or 'visible'.")
        self.num_keypoints = num_keypoints
        self.loss_weight = loss_weight
        self.loss_normalizer = loss_normalizer

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        normalizer: float | str = "visible"
        if not lookup(cfg, "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS"):
            # the keypoints of an image whose share of foreground proposals is full
            heads = lookup(cfg, "MODEL.ROI_HEADS")
            foreground = heads.BATCH_SIZE_PER_IMAGE * heads.POSITIVE_FRACTION
            normalizer = lookup(cfg, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS") * foreground
        return {"loss_normalizer": normalizer, **read_arguments(cfg, BASE_KEYPOINT_HEAD)}

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:
        """
        Args:
            x: (N, C, h, w) features of the N boxes of all images.
            instances: when training the proposals that hold visible keypoints, see
                `keypoint_rcnn_loss`; else the detections, see `keypoint_rcnn_inference`.

        Returns:
            ``{"loss_keypoint": scalar}`` when training; else `instances`, with their keypoints.
        """
        logits = self.layers(x)
        if not self.training:
            keypoint_rcnn_inference(logits, instances)
            return instances
        normalizer = None
        if not isinstance(self.loss_normalizer, str):
            normalizer = len(instances) * self.loss_normalizer
        loss = keypoint_rcnn_loss(logits, instances, normalizer=normalizer)
        return {"loss_keypoint": loss * self.loss_weight}

    def layers(self, x: Tensor) -> Tensor:
        """(N, num_keypoints, S, S) logits."""
        raise NotImplementedError(f"{type(self).__name__} has to define layers().")


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class KRCNNConvDeconvUpsampleHead(BaseKeypointRCNNHead, nn.Sequential):
    """3x3 convolutions `conv_fcn1`, ..., a doubling `score_lowres`, and bilinear doubling."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_keypoints: int,
        conv_dims: Sequence[int],
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: of the features of one box.
            conv_dims: output channels of each convolution.
            kwargs: arguments of `BaseKeypointRCNNHead`.
        """
        super().__init__(num_keypoints=num_keypoints, **kwargs)
        channels = input_shape.channels
        for k, width in enumerate(conv_dims, start=1):
            conv = Conv2d(channels, width, kernel_size=3, padding=1)
            self.add_module(f"conv_fcn{k}", conv)
            self.add_module(f"conv_fcn_relu{k}", nn.ReLU(inplace=True))
            channels = width
        self.score_lowres = ConvTranspose2d(
            channels, num_keypoints, kernel_size=4, stride=2, padding=1
        )
        self.up_scale = 2
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            **read_arguments(cfg, KEYPOINT_HEAD),
        }

    def layers(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return interpolate(x, scale_factor=self.up_scale, mode="bilinear", align_corners=False)
