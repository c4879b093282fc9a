"""The two heads of Panoptic-DeepLab: semantic classes; centres and offsets of things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.config import configurable
from detectron2.config.mapping import lookup, read_arguments
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.deeplab.head_parts import (
    crop_size,
    pixel_loss,
    predictor,
    separable_convs,
    two_convs,
    upsampled,
)
from detectron2.projects.deeplab.loss import DeepLabCE
from detectron2.projects.deeplab.semantic_seg import DeepLabV3PlusHead
from detectron2.projects.panoptic_deeplab.config import INS_EMBED_HEAD, SEM_SEG_HEAD
from detectron2.utils.registry import Registry, registered

__all__ = [
    "INS_EMBED_BRANCHES_REGISTRY",
    "PanopticDeepLabInsEmbedHead",
    "PanopticDeepLabSemSegHead",
    "build_ins_embed_branch",
]

INS_EMBED_BRANCHES_REGISTRY = Registry("INS_EMBED_BRANCHES")
INS_EMBED_BRANCHES_REGISTRY.__doc__ = """
Heads that find the things in feature maps, looked up by ``cfg.MODEL.INS_EMBED_HEAD.NAME`` and
called as ``entry(cfg, input_shape)``.
"""


def build_ins_embed_branch(cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> nn.Module:
    """The head named by ``cfg.MODEL.INS_EMBED_HEAD.NAME``."""
    return registered(INS_EMBED_BRANCHES_REGISTRY, cfg.MODEL.INS_EMBED_HEAD.NAME)(cfg, input_shape)


def _decoder_arguments(cfg: Any, head: str, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
    """Arguments of `DeepLabV3PlusHead` that are computed from several keys.

    Args:
        head: node of the config, "SEM_SEG_HEAD" or "INS_EMBED_HEAD".
    """
    names = lookup(cfg, f"MODEL.{head}.IN_FEATURES")
    convs_dim = lookup(cfg, f"MODEL.{head}.CONVS_DIM")
    aspp_channels = lookup(cfg, f"MODEL.{head}.ASPP_CHANNELS")
    return {
        "input_shape": {name: input_shape[name] for name in names},
        "decoder_channels": [convs_dim] * (len(names) - 1) + [aspp_channels],
        "train_size": crop_size(cfg),
    }


@SEM_SEG_HEADS_REGISTRY.register()
class PanopticDeepLabSemSegHead(DeepLabV3PlusHead):
    """DeepLabv3+ with two more convolutions before the classifier, and weights in its loss."""

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        decoder_channels: Sequence[int],
        norm: Any = "GN",
        head_channels: int = 256,
        loss_weight: float = 1.0,
        loss_type: str = "hard_pixel_mining",
        loss_top_k: float = 0.2,
        ignore_value: int = -1,
        num_classes: int,
        use_depthwise_separable_conv: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            head_channels: of the classifier's input.
            loss_top_k: share of the hardest pixels that count.
            kwargs: and the others: see `DeepLabV3PlusHead`.
        """
        super().__init__(
            input_shape,
            decoder_channels=decoder_channels,
            norm=norm,
            loss_weight=loss_weight,
            loss_type=loss_type,
            ignore_value=ignore_value,
            num_classes=None,
            use_depthwise_separable_conv=use_depthwise_separable_conv,
            **kwargs,
        )
        width = decoder_channels[0]
        convs = separable_convs if use_depthwise_separable_conv else two_convs
        self.head = convs(width, width, head_channels, norm)
        self.predictor = predictor(head_channels, num_classes)
        self.loss = pixel_loss(loss_type, ignore_value, loss_top_k)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        return {
            **_decoder_arguments(cfg, "SEM_SEG_HEAD", input_shape),
            **read_arguments(cfg, SEM_SEG_HEAD),
        }

    def forward(
        self,
        features: Mapping[str, Tensor],
        targets: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """
        Returns:
            When training, (None, losses by name) for `targets` (N, H, W) of class labels and
            `weights` (N, H, W) of pixels; else ((N, num_classes, H, W) scores at the size of the
            network's input, {}).
        """
        scores = self.layers(features)
        if self.training:
            return None, self.losses(scores, targets, weights)
        return upsampled(scores, self.common_stride), {}

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """(N, num_classes, H / common_stride, W / common_stride) scores."""
        return self.predictor(self.head(super().layers(features)))

    def losses(
        self, predictions: Tensor, targets: Tensor, weights: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Loss of what `layers` returns, for `targets` (N, H, W) and `weights` (N, H, W).

        Plain cross entropy has no weights.
        """
        scores = upsampled(predictions.float(), self.common_stride)
        if isinstance(self.loss, DeepLabCE):
            loss = self.loss(scores, targets, weights)
        else:
            loss = self.loss(scores, targets)
        return {"loss_sem_seg": loss * self.loss_weight}


@INS_EMBED_BRANCHES_REGISTRY.register()
class PanopticDeepLabInsEmbedHead(DeepLabV3PlusHead):
    """Of each pixel, the probability that it is the centre of a thing and the way to its own."""

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        decoder_channels: Sequence[int],
        norm: Any = "SyncBN",
        head_channels: int = 32,
        center_loss_weight: float = 200.0,
        offset_loss_weight: float = 0.01,
        use_depthwise_separable_conv: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            head_channels: of the inputs of the two last convolutions.
            kwargs: and the others: see `DeepLabV3PlusHead`.
        """
        super().__init__(
            input_shape,
            decoder_channels=decoder_channels,
            norm=norm,
            num_classes=None,
            use_depthwise_separable_conv=use_depthwise_separable_conv,
            **kwargs,
        )
        self.center_loss_weight = center_loss_weight
        self.offset_loss_weight = offset_loss_weight
        width = decoder_channels[0]
        self.center_head = two_convs(width, width, head_channels, norm)
        self.center_predictor = predictor(head_channels, 1)
        convs = separable_convs if use_depthwise_separable_conv else two_convs
        self.offset_head = convs(width, width, head_channels, norm)
        self.offset_predictor = predictor(head_channels, 2)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        return {
            **_decoder_arguments(cfg, "INS_EMBED_HEAD", input_shape),
            **read_arguments(cfg, INS_EMBED_HEAD),
        }

    def forward(
        self,
        features: Mapping[str, Tensor],
        center_targets: Tensor | None = None,
        center_weights: Tensor | None = None,
        offset_targets: Tensor | None = None,
        offset_weights: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor], dict[str, Tensor]]:
        """
        Args:
            center_targets, center_weights, offset_weights: (N, 1, H, W).
            offset_targets: (N, 2, H, W), y first, in pixels.

        Returns:
            When training, (None, None, losses of centres by name, losses of offsets by name);
            else ((N, 1, H, W) centre probabilities, (N, 2, H, W) offsets in pixels, {}, {}) at
            the size of the network's input.
        """
        center, offset = self.layers(features)
        if self.training:
            return (
                None,
                None,
                self.center_losses(center, center_targets, center_weights),
                self.offset_losses(offset, offset_targets, offset_weights),
            )
        return self._upsampled_center(center), self._upsampled_offset(offset), {}, {}

    def layers(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(N, 1, h, w) centres and (N, 2, h, w) offsets, both in cells of `common_stride`."""
        x = super().layers(features)
        center = self.center_predictor(self.center_head(x))
        offset = self.offset_predictor(self.offset_head(x))
        return center, offset

    def _upsampled_center(self, center: Tensor) -> Tensor:
        return upsampled(center.float(), self.common_stride)

    def _upsampled_offset(self, offset: Tensor) -> Tensor:
        """From cells to pixels, in number and in value."""
        return upsampled(offset.float(), self.common_stride) * self.common_stride

    def center_losses(
        self, predictions: Tensor, targets: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """Mean squared error of the centres of `layers`, weighted."""
        errors = F.mse_loss(self._upsampled_center(predictions), targets, reduction="none")
        return {"loss_center": _weighted_mean(errors, weights) * self.center_loss_weight}

    def offset_losses(
        self, predictions: Tensor, targets: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """Mean distance of the offsets of `layers`, |y| + |x| in pixels, weighted."""
        errors = F.l1_loss(self._upsampled_offset(predictions), targets, reduction="none")
        return {"loss_offset": _weighted_mean(errors, weights) * self.offset_loss_weight}


def _weighted_mean(errors: Tensor, weights: Tensor) -> Tensor:
    """Sum of `errors` (N, C, H, W) times `weights` (N, 1, H, W) over the sum of weights.

    Without any weight it is 0, with gradients of 0.
    """
    total = weights.sum()
    return (errors * weights).sum() / total.where(total > 0, total.new_ones(()))
