"""The heads of DeepLabv3 and DeepLabv3+."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.config import configurable
from detectron2.config.mapping import lookup, read_arguments
from detectron2.layers import ASPP, ShapeSpec, cat
from detectron2.modeling.meta_arch.semantic_seg import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.deeplab.config import DEEPLAB_V3_HEAD, DEEPLAB_V3_PLUS_HEAD
from detectron2.projects.deeplab.head_parts import (
    averaged_window,
    crop_size,
    decoder_stage,
    pixel_loss,
    predictor,
    separable_convs,
    two_convs,
    upsampled,
)

__all__ = ["DeepLabV3Head", "DeepLabV3PlusHead"]

HeadResult = tuple[Tensor | None, dict[str, Tensor]]


@SEM_SEG_HEADS_REGISTRY.register()
class DeepLabV3Head(nn.Module):
    """Atrous spatial pyramid pooling and a 1x1 convolution on one feature (arXiv:1706.05587)."""

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        aspp_channels: int = 256,
        aspp_dilations: Sequence[int] = (6, 12, 18),
        aspp_dropout: float = 0.1,
        common_stride: int,
        norm: Any = "GN",
        train_size: tuple[int, int] | None,
        loss_weight: float = 1.0,
        loss_type: str = "hard_pixel_mining",
        ignore_value: int = -1,
        num_classes: int,
        use_depthwise_separable_conv: bool = False,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the one feature to use.
            aspp_channels: of each view of the pyramid, and of the classifier's input.
            aspp_dilations: one view of the pyramid for each.
            aspp_dropout: probability of dropping a value before the classifier.
            common_stride: stride of the feature; scores are upsampled by it.
            norm: normalisation of the pyramid, as `get_norm` takes it.
            train_size: (height, width) of the crops in training, in pixels: the window over which
                the pyramid averages, in inference too. None averages over the whole image.
            loss_type: "hard_pixel_mining" (the hardest fifth of the pixels) or "cross_entropy".
            ignore_value: label of pixels that count for nothing.
            use_depthwise_separable_conv: for the pyramid's 3x3 convolutions.

        Raises:
            ValueError: several features, an unknown loss, or a crop that is no multiple of the
                stride.
        """
        super().__init__()
        if len(input_shape) != 1:
            raise ValueError(
                f"DeepLabV3Head uses one feature; MODEL.SEM_SEG_HEAD.IN_FEATURES names "
                f"{list(input_shape)}."
            )
        ((name, shape),) = input_shape.items()
        self.in_features = [name]
        self.common_stride = common_stride
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        self.loss_type = loss_type
        self.loss = pixel_loss(loss_type, ignore_value)
        self.aspp = ASPP(
            shape.channels,
            aspp_channels,
            aspp_dilations,
            norm=norm,
            activation=F.relu,
            pool_kernel_size=averaged_window(train_size, common_stride),
            dropout=aspp_dropout,
            use_depthwise_separable_conv=use_depthwise_separable_conv,
        )
        self.predictor = predictor(aspp_channels, num_classes)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        names = lookup(cfg, "MODEL.SEM_SEG_HEAD.IN_FEATURES")
        return {
            "input_shape": {name: input_shape[name] for name in names},
            "train_size": crop_size(cfg),
            **read_arguments(cfg, DEEPLAB_V3_HEAD),
        }

    def forward(self, features: Mapping[str, Tensor], targets: Tensor | None = None) -> HeadResult:
        """
        Returns:
            When training, (None, losses by name) for `targets` (N, H, W) of class labels;
            else ((N, num_classes, H, W) scores at the size of the network's input, {}).
        """
        scores = self.layers(features)
        if self.training:
            return None, self.losses(scores, targets)
        return upsampled(scores, self.common_stride), {}

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """(N, num_classes, H / common_stride, W / common_stride) scores."""
        return self.predictor(self.aspp(features[self.in_features[0]]))

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Loss of what `layers` returns, for `targets` (N, H, W)."""
        scores = upsampled(predictions.float(), self.common_stride)
        return {"loss_sem_seg": self.loss(scores, targets) * self.loss_weight}


@SEM_SEG_HEADS_REGISTRY.register()
class DeepLabV3PlusHead(nn.Module):
    """Atrous spatial pyramid pooling on the coarsest feature, and a decoder that adds finer ones
    (arXiv:1802.02611, figure 2).

    The decoder goes from coarse to fine: what it has is upsampled, joined with the reduced
    channels of the next feature and fused by convolutions.

    Attributes:
        decoder: by feature, ``project_conv`` and ``fuse_conv``. Of the coarsest feature the
            former is the pyramid and the latter None.
        predictor: the classifier; a head without classes has none.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        project_channels: Sequence[int] = (48,),
        aspp_dilations: Sequence[int] = (6, 12, 18),
        aspp_dropout: float = 0.1,
        decoder_channels: Sequence[int],
        common_stride: int,
        norm: Any = "GN",
        train_size: tuple[int, int] | None,
        loss_weight: float = 1.0,
        loss_type: str = "hard_pixel_mining",
        ignore_value: int = -1,
        num_classes: int | None = None,
        use_depthwise_separable_conv: bool = False,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of each feature to use.
            project_channels: what the channels of each feature but the coarsest are reduced to,
                finest first.
            aspp_dilations, aspp_dropout, norm, loss_type, ignore_value: as for `DeepLabV3Head`.
            decoder_channels: of the decoder after each feature, finest first; the last number is
                that of the pyramid.
            common_stride: stride of the finest feature; scores are upsampled by it.
            train_size: as for `DeepLabV3Head`; a multiple of the coarsest stride.
            num_classes: None leaves out the classifier; `forward` then returns the features.
            use_depthwise_separable_conv: for the pyramid and the decoder.

        Raises:
            ValueError: numbers of channels do not fit the features, an unknown loss, or a crop
                that is no multiple of the stride.
        """
        super().__init__()
        by_stride = sorted(input_shape.items(), key=lambda item: item[1].stride)
        _check_channels(len(by_stride), project_channels, decoder_channels)
        self.in_features = [name for name, _ in by_stride]
        self.common_stride = common_stride
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        self.loss_type = loss_type
        self.decoder_only = num_classes is None
        coarsest = by_stride[-1][1]
        pyramid = ASPP(
            coarsest.channels,
            decoder_channels[-1],
            aspp_dilations,
            norm=norm,
            activation=F.relu,
            pool_kernel_size=averaged_window(train_size, coarsest.stride),
            dropout=aspp_dropout,
            use_depthwise_separable_conv=use_depthwise_separable_conv,
        )
        fuse = separable_convs if use_depthwise_separable_conv else two_convs
        self.decoder = nn.ModuleDict(
            {
                name: decoder_stage(shape.channels, reduced, coarser, channels, norm, fuse)
                for (name, shape), reduced, channels, coarser in zip(
                    by_stride[:-1], project_channels, decoder_channels, decoder_channels[1:]
                )
            }
        )
        self.decoder[self.in_features[-1]] = nn.ModuleDict(
            {"project_conv": pyramid, "fuse_conv": None}
        )
        if num_classes is not None:
            self.loss = pixel_loss(loss_type, ignore_value)
            self.predictor = predictor(decoder_channels[0], num_classes)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        names = lookup(cfg, "MODEL.SEM_SEG_HEAD.IN_FEATURES")
        convs_dim = lookup(cfg, "MODEL.SEM_SEG_HEAD.CONVS_DIM")
        aspp_channels = lookup(cfg, "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS")
        return {
            "input_shape": {name: input_shape[name] for name in names},
            "decoder_channels": [convs_dim] * (len(names) - 1) + [aspp_channels],
            "train_size": crop_size(cfg),
            **read_arguments(cfg, DEEPLAB_V3_PLUS_HEAD),
        }

    def forward(self, features: Mapping[str, Tensor], targets: Tensor | None = None) -> Any:
        """
        Returns:
            When training, (None, losses by name) for `targets` (N, H, W) of class labels;
            else ((N, num_classes, H, W) scores at the size of the network's input, {}). Without a
            classifier, what `layers` returns.
        """
        outputs = self.layers(features)
        if self.decoder_only:
            return outputs
        if self.training:
            return None, self.losses(outputs, targets)
        return upsampled(outputs, self.common_stride), {}

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """(N, num_classes, H / common_stride, W / common_stride) scores; without a classifier
        (N, decoder_channels[0], ...) features."""
        *finer, coarsest = self.in_features
        x = self.decoder[coarsest]["project_conv"](features[coarsest])
        for name in reversed(finer):
            reduced = self.decoder[name]["project_conv"](features[name])
            x = F.interpolate(x, size=reduced.shape[-2:], mode="bilinear", align_corners=False)
            x = self.decoder[name]["fuse_conv"](cat([reduced, x], dim=1))
        return x if self.decoder_only else self.predictor(x)

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Loss of what `layers` returns, for `targets` (N, H, W)."""
        scores = upsampled(predictions.float(), self.common_stride)
        return {"loss_sem_seg": self.loss(scores, targets) * self.loss_weight}


def _check_channels(
    features: int, project_channels: Sequence[int], decoder_channels: Sequence[int]
) -> None:
    if features < 2 or len(project_channels) != features - 1 or len(decoder_channels) != features:
        raise ValueError(
            f"The decoder has {features} features, which need {features - 1} PROJECT_CHANNELS and "
            f"{features} decoder channels; there are {list(project_channels)} and "
            f"{list(decoder_channels)}. It needs two features at least."
        )
