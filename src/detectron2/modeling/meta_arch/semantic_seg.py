"""Semantic segmentation: one class for each pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.config import configurable
from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping.meta_arch import SEM_SEG_FPN_HEAD, SEMANTIC_SEGMENTOR
from detectron2.layers import Conv2d, ShapeSpec, get_norm, move_device_like
from detectron2.modeling.backbone import Backbone, build_backbone
from detectron2.modeling.meta_arch._inputs import (
    InputDict,
    batch_for_backbone,
    output_size,
    pixel_statistics,
)
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.utils.registry import Registry, registered

__all__ = [
    "SEM_SEG_HEADS_REGISTRY",
    "SemSegFPNHead",
    "SemanticSegmentor",
    "build_sem_seg_head",
]

SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")
SEM_SEG_HEADS_REGISTRY.__doc__ = """
Heads that turn feature maps into a score for every class and pixel, looked up by
``cfg.MODEL.SEM_SEG_HEAD.NAME`` and called as ``entry(cfg, input_shape)``.
"""


def build_sem_seg_head(cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> nn.Module:
    """The head named by ``cfg.MODEL.SEM_SEG_HEAD.NAME``."""
    return registered(SEM_SEG_HEADS_REGISTRY, cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)


@META_ARCH_REGISTRY.register()
class SemanticSegmentor(nn.Module):
    """Backbone and semantic segmentation head.

    Input: one dictionary for each image, with
        image: (C, H, W), not normalised;
        height, width: size the scores are wanted for, in pixels (default: that of `image`);
        sem_seg: (H, W) int64 class of each pixel, for training.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        mean, std = pixel_statistics(pixel_mean, pixel_std)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            **read_arguments(cfg, SEMANTIC_SEGMENTOR),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[InputDict]) -> Any:
        """Losses by name when training; else ``[{"sem_seg": (C, height, width) scores}, ...]``."""
        images = [move_device_like(x["image"], self.pixel_mean) for x in batched_inputs]
        normalized = [(x - self.pixel_mean) / self.pixel_std for x in images]
        batch = batch_for_backbone(normalized, self.backbone, pad_value=0.0)
        features = self.backbone(batch.tensor)
        targets = self._targets(batched_inputs)
        results, losses = self.sem_seg_head(features, targets)
        if self.training:
            return losses
        return [
            {"sem_seg": sem_seg_postprocess(scores, size, *output_size(input_dict, size))}
            for scores, input_dict, size in zip(results, batched_inputs, batch.image_sizes)
        ]

    def _targets(self, batched_inputs: list[InputDict]) -> Tensor | None:
        """(N, H, W) classes, padded like the images; None if the batch has none."""
        if "sem_seg" not in batched_inputs[0]:
            return None
        labels = [move_device_like(x["sem_seg"], self.pixel_mean) for x in batched_inputs]
        return batch_for_backbone(
            labels, self.backbone, pad_value=self.sem_seg_head.ignore_value
        ).tensor


@SEM_SEG_HEADS_REGISTRY.register()
class SemSegFPNHead(nn.Module):
    """Every level brought to one stride by convolutions and upsampling, then summed.

    Panoptic Feature Pyramid Networks (Kirillov et al., 2019), figure 3.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int,
        common_stride: int,
        loss_weight: float = 1.0,
        norm: Any = None,
        ignore_value: int = -1,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of each feature to use.
            conv_dims: channels of every convolution but the last.
            common_stride: stride at which the levels are summed; the scores are upsampled
                from it to the input's size.
            norm: normalisation after each convolution, as `get_norm` takes it.
            ignore_value: label of pixels that count for nothing.
        """
        super().__init__()
        if not input_shape:
            raise ValueError("SemSegFPNHead needs at least one input feature.")
        by_stride = sorted(input_shape.items(), key=lambda item: item[1].stride)
        self.in_features = [name for name, _ in by_stride]
        self.ignore_value = ignore_value
        self.common_stride = common_stride
        self.loss_weight = loss_weight
        for name, shape in by_stride:
            self.add_module(name, _scale_head(shape, conv_dims, common_stride, norm))
        self.predictor = Conv2d(conv_dims, num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.predictor)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        names = lookup(cfg, "MODEL.SEM_SEG_HEAD.IN_FEATURES")
        return {
            "input_shape": {name: input_shape[name] for name in names},
            **read_arguments(cfg, SEM_SEG_FPN_HEAD),
        }

    @property
    def scale_heads(self) -> list[nn.Module]:
        """One module for each of `in_features`; they are registered under the feature's name."""
        return [self.get_submodule(name) for name in self.in_features]

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """
        Returns:
            When training, (None, losses by name) for `targets` (N, H, W) of class labels;
            else ((N, num_classes, H, W) scores at the size of the network's input, {}).
        """
        scores = self.layers(features)
        if self.training:
            return None, self.losses(scores, targets)
        return self._upsampled(scores), {}

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """(N, num_classes, H / common_stride, W / common_stride) scores."""
        levels = [head(features[name]) for name, head in zip(self.in_features, self.scale_heads)]
        total = levels[0]
        for level in levels[1:]:
            total = total + level
        return self.predictor(total)

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Mean cross entropy over the pixels that are not `ignore_value`, 0 if all are.

        Args:
            predictions: (N, num_classes, H / common_stride, W / common_stride).
            targets: (N, H, W) int64.
        """
        # In half precision the interpolation of neighbouring scores would lose their difference.
        scores = self._upsampled(predictions.float())
        total = F.cross_entropy(scores, targets, ignore_index=self.ignore_value, reduction="sum")
        counted = (targets != self.ignore_value).sum().clamp(min=1)
        return {"loss_sem_seg": total / counted * self.loss_weight}

    def _upsampled(self, scores: Tensor) -> Tensor:
        return F.interpolate(
            scores, scale_factor=self.common_stride, mode="bilinear", align_corners=False
        )


def _scale_head(shape: ShapeSpec, conv_dims: int, common_stride: int, norm: Any) -> nn.Sequential:
    """Convolutions that bring one level to `common_stride`, doubling its size after each."""
    doublings = int(math.log2(shape.stride) - math.log2(common_stride))
    layers: list[nn.Module] = []
    for k in range(max(1, doublings)):
        conv = Conv2d(
            shape.channels if k == 0 else conv_dims,
            conv_dims,
            kernel_size=3,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, conv_dims),
            activation=F.relu,
        )
        weight_init.c2_msra_fill(conv)
        layers.append(conv)
        if doublings > 0:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)
