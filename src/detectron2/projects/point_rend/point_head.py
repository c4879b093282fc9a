"""Heads that predict at points, and their loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.config import configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.structures import Instances
from detectron2.utils._deferred import put_scalars_later
from detectron2.utils.events import get_event_storage, has_event_storage
from detectron2.utils.registry import Registry, registered

__all__ = [
    "POINT_HEAD_REGISTRY",
    "ImplicitPointHead",
    "StandardPointHead",
    "build_point_head",
    "roi_mask_point_loss",
]

POINT_HEAD_REGISTRY = Registry("POINT_HEAD")
POINT_HEAD_REGISTRY.__doc__ = """
Heads that predict logits at points, looked up by ``cfg.MODEL.POINT_HEAD.NAME`` and called as
``entry(cfg, input_shape)``.
"""

# Channels of a positional encoding: as many sines as cosines.
_ENCODING = 256


def build_point_head(cfg: Any, input_channels: ShapeSpec) -> nn.Module:
    """The head named by ``cfg.MODEL.POINT_HEAD.NAME``.

    Args:
        input_channels: has `channels`, those of the fine-grained features.
    """
    return registered(POINT_HEAD_REGISTRY, cfg.MODEL.POINT_HEAD.NAME)(cfg, input_channels)


def roi_mask_point_loss(
    mask_logits: Tensor, instances: list[Instances], point_labels: Tensor
) -> Tensor:
    """Mean binary cross entropy at points of the true class's logits.

    Args:
        mask_logits: (R, C, P), or (R, 1, P) if the classes share a mask.
        instances: of each image, R in all, with `gt_classes`.
        point_labels: (R, P) of 0 to 1; -1 counts for nothing.

    Returns:
        scalar; the points that count for nothing are among those of the mean.
    """
    annotated = [x.gt_classes for x in instances if len(x) > 0]
    if not annotated:
        return mask_logits.sum() * 0
    channels = torch.zeros(len(mask_logits), dtype=torch.int64, device=mask_logits.device)
    if mask_logits.shape[1] > 1:
        channels = cat(annotated).to(torch.int64)
    logits = mask_logits[torch.arange(len(mask_logits), device=mask_logits.device), channels]
    counts = point_labels != -1
    _log_accuracy(logits, point_labels, counts)
    return F.binary_cross_entropy_with_logits(
        logits, point_labels.to(logits.dtype), weight=counts.to(logits.dtype)
    )


def _log_accuracy(logits: Tensor, labels: Tensor, counts: Tensor) -> None:
    if not has_event_storage():
        return
    right = ((logits > 0) == (labels > 0.5)) & counts
    numbers = torch.stack([right.sum(), counts.sum()])
    put_scalars_later(
        get_event_storage(), numbers, lambda read: {"point/accuracy": read[0] / max(read[1], 1)}
    )


@POINT_HEAD_REGISTRY.register()
class StandardPointHead(nn.Module):
    """Layers `fc1`, ... shared by all points, and `predictor`; 1x1 convolutions.

    Each sees the coarse prediction at its point beside the features.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        fc_dims: list[int],
        cls_agnostic_mask: bool = False,
        coarse_pred_each_layer: bool = True,
    ) -> None:
        """
        Args:
            input_shape: has `channels`, those of the fine-grained features.
            num_classes: channels of the coarse prediction.
            fc_dims: channels of each layer.
            cls_agnostic_mask: one logit for all classes.
            coarse_pred_each_layer: the coarse prediction enters every layer, not only the first.
        """
        super().__init__()
        self.coarse_pred_each_layer = coarse_pred_each_layer
        repeated = num_classes if coarse_pred_each_layer else 0
        channels = input_shape.channels + num_classes
        self.fc_layers: list[nn.Module] = []
        for k, width in enumerate(fc_dims, start=1):
            layer = nn.Conv1d(channels, width, kernel_size=1)
            weight_init.c2_msra_fill(layer)
            self.add_module(f"fc{k}", layer)
            self.fc_layers.append(layer)
            channels = width + repeated
        self.predictor = nn.Conv1d(channels, 1 if cls_agnostic_mask else num_classes, kernel_size=1)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        head = cfg.MODEL.POINT_HEAD
        return {
            "input_shape": input_shape,
            "num_classes": head.NUM_CLASSES,
            "fc_dims": [head.FC_DIM] * head.NUM_FC,
            "cls_agnostic_mask": head.CLS_AGNOSTIC_MASK,
            "coarse_pred_each_layer": head.COARSE_PRED_EACH_LAYER,
        }

    def forward(self, fine_grained_features: Tensor, coarse_features: Tensor) -> Tensor:
        """(R, classes, P) logits.

        Args:
            fine_grained_features: (R, C, P).
            coarse_features: (R, num_classes, P), the coarse prediction.
        """
        x = torch.cat([fine_grained_features, coarse_features], dim=1)
        for layer in self.fc_layers:
            x = F.relu(layer(x))
            if self.coarse_pred_each_layer:
                x = torch.cat([x, coarse_features], dim=1)
        return self.predictor(x)


@POINT_HEAD_REGISTRY.register()
class ImplicitPointHead(nn.Module):
    """A perceptron on a point's place and features whose weights are given for each object.

    Pointly-Supervised Instance Segmentation (Cheng et al., 2021), section 4; the encoding of
    places by random frequencies is that of Tancik et al. (2020).
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        hidden_dims: list[int],
        image_feature_enabled: bool = True,
        positional_encoding_enabled: bool = True,
    ) -> None:
        """
        Args:
            input_shape: has `channels`, those of the fine-grained features.
            num_classes: logits of a point.
            hidden_dims: width of each layer but the last.
            image_feature_enabled: the features are an input.
            positional_encoding_enabled: the encoded place is an input.
        """
        super().__init__()
        if not (image_feature_enabled or positional_encoding_enabled):
            raise ValueError(
                "IMPLICIT_POINTREND has neither IMAGE_FEATURE_ENABLED nor POS_ENC_ENABLED: the "
                "head would have no input."
            )
        self.image_feature_enabled = image_feature_enabled
        self.positional_encoding_enabled = positional_encoding_enabled
        channels = 0
        if positional_encoding_enabled:
            channels += _ENCODING
            self.register_buffer(
                "positional_encoding_gaussian_matrix", torch.randn(2, _ENCODING // 2)
            )
        if image_feature_enabled:
            channels += input_shape.channels
        self.widths = [channels, *hidden_dims, num_classes]
        self.num_weights = [a * b for a, b in zip(self.widths, self.widths[1:])]
        self.num_params = sum(self.num_weights) + sum(self.widths[1:])

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        head, implicit = cfg.MODEL.POINT_HEAD, cfg.MODEL.IMPLICIT_POINTREND
        return {
            "input_shape": input_shape,
            "num_classes": 1 if head.CLS_AGNOSTIC_MASK else head.NUM_CLASSES,
            "hidden_dims": [head.FC_DIM] * head.NUM_FC,
            "image_feature_enabled": implicit.IMAGE_FEATURE_ENABLED,
            "positional_encoding_enabled": implicit.POS_ENC_ENABLED,
        }

    def forward(
        self, fine_grained_features: Tensor, point_coords: Tensor, parameters: Tensor
    ) -> Tensor:
        """(R, num_classes, P) logits.

        Args:
            fine_grained_features: (R, C, P).
            point_coords: (R, P, 2) fractions of the boxes' size.
            parameters: (R, num_params): the weights of all layers, then their biases.
        """
        inputs = []
        if self.positional_encoding_enabled:
            inputs.append(self._encoded(point_coords))
        if self.image_feature_enabled:
            inputs.append(fine_grained_features)
        x = torch.cat(inputs, dim=1)
        # Encoded places are float32, parameters those of layers that may run in bfloat16.
        numbers = parameters.to(x.dtype).split([*self.num_weights, *self.widths[1:]], dim=1)
        depth = len(self.num_weights)
        for k in range(depth):
            weight = numbers[k].unflatten(1, (self.widths[k + 1], self.widths[k]))
            x = torch.baddbmm(numbers[depth + k][:, :, None], weight, x)
            x = x if k + 1 == depth else F.relu(x)
        return x

    def _encoded(self, point_coords: Tensor) -> Tensor:
        """(R, 256, P) sines and cosines of places."""
        angles = 2 * math.pi * ((2 * point_coords - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=2).transpose(1, 2)
