"""PointRend's heads for the masks of boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, cat
from detectron2.modeling.roi_heads.mask_head import (
    ROI_MASK_HEAD_REGISTRY,
    mask_rcnn_loss,
)
from detectron2.projects.point_rend._point_masks import (
    PointMaskHead,
    Sampler,
    calculate_uncertainty,
    of_classes,
)
from detectron2.projects.point_rend.point_features import (
    get_point_coords_wrt_image,
    get_uncertain_point_coords_with_randomness,
    point_sample,
    sample_point_labels,
)
from detectron2.projects.point_rend.point_head import build_point_head, roi_mask_point_loss
from detectron2.structures import Boxes, Instances

__all__ = [
    "ConvFCHead",
    "ImplicitPointRendMaskHead",
    "PointRendMaskHead",
    "calculate_uncertainty",
]


class ConvFCHead(nn.Module):
    """A convolution that halves the size, `fc1`, ..., and `prediction`."""

    _version = 2

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dim: int,
        fc_dims: Sequence[int],
        output_shape: Sequence[int],
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the features of one box.
            conv_dim: channels of the convolutions; more channels than that are reduced first.
            fc_dims: width of each fully connected layer.
            output_shape: of the prediction for one box.
        """
        super().__init__()
        channels, height, width = input_shape.channels, input_shape.height, input_shape.width
        self.conv_layers: list[nn.Module] = []
        if channels > conv_dim:
            self.reduce_channel_dim_conv = Conv2d(
                channels, conv_dim, kernel_size=1, activation=F.relu
            )
            self.conv_layers.append(self.reduce_channel_dim_conv)
            channels = conv_dim
        self.reduce_spatial_dim_conv = Conv2d(
            channels, conv_dim, kernel_size=2, stride=2, activation=F.relu
        )
        self.conv_layers.append(self.reduce_spatial_dim_conv)
        size = conv_dim * (height // 2) * (width // 2)
        self.fcs: list[nn.Module] = []
        for k, fc_dim in enumerate(fc_dims, start=1):
            fc = nn.Linear(size, fc_dim)
            self.add_module(f"fc{k}", fc)
            self.fcs.append(fc)
            size = fc_dim
        self.output_shape = tuple(output_shape)
        self.prediction = nn.Linear(size, math.prod(self.output_shape))
        nn.init.normal_(self.prediction.weight, std=0.001)
        nn.init.zeros_(self.prediction.bias)
        for layer in self.conv_layers:
            weight_init.c2_msra_fill(layer)
        for layer in self.fcs:
            weight_init.c2_xavier_fill(layer)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        head = cfg.MODEL.ROI_MASK_HEAD
        side = head.OUTPUT_SIDE_RESOLUTION
        num_classes = 1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES
        return {
            "input_shape": input_shape,
            "conv_dim": head.CONV_DIM,
            "fc_dims": [head.FC_DIM] * head.NUM_FC,
            "output_shape": (num_classes, side, side),
        }

    def forward(self, x: Tensor) -> Tensor:
        """(K, *output_shape) of (K, C, h, w) features."""
        for layer in self.conv_layers:
            x = layer(x)
        x = x.flatten(start_dim=1)
        for fc in self.fcs:
            x = F.relu(fc(x))
        return self.prediction(x).unflatten(1, self.output_shape)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        version = local_metadata.get("version")
        if version is None or version < 2:  # the layers had the name of the head in theirs
            old = f"{prefix}coarse_mask_fc"
            for key in [key for key in state_dict if key.startswith(old)]:
                state_dict[f"{prefix}fc{key[len(old) :]}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


@ROI_MASK_HEAD_REGISTRY.register()
class PointRendMaskHead(PointMaskHead):
    """A coarse mask of each box, and a head that mends it at points."""

    @configurable
    def __init__(
        self,
        *,
        coarse_head: nn.Module,
        point_head: nn.Module | None,
        oversample_ratio: float,
        importance_sample_ratio: float,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            coarse_head: from (K, C, box_side, box_side) features to (K, classes, h, h) logits;
                has `output_shape`.
            point_head: such as `StandardPointHead`; None leaves the coarse masks.
            oversample_ratio, importance_sample_ratio: see
                `get_uncertain_point_coords_with_randomness`.
            kwargs: feature_scales, box_in_features, box_side, point_in_features,
                train_num_points, subdivision_steps, subdivision_num_points.
        """
        super().__init__(**kwargs)
        self.coarse_head = coarse_head
        self.mask_point_on = point_head is not None
        if self.mask_point_on:
            self.point_head = point_head
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        points = cfg.MODEL.POINT_HEAD
        point_head = None
        if cfg.MODEL.ROI_MASK_HEAD.POINT_HEAD_ON:
            point_head = build_point_head(cfg, _joined(input_shape, points.IN_FEATURES, 1))
        return {
            **super().from_config(cfg, input_shape),
            "coarse_head": ConvFCHead(cfg, _box_shape(cfg, input_shape)),
            "point_head": point_head,
            "oversample_ratio": points.OVERSAMPLE_RATIO,
            "importance_sample_ratio": points.IMPORTANCE_SAMPLE_RATIO,
        }

    def mask_logits(self, sample: Sampler, classes: Tensor) -> Tensor:
        coarse = self.coarse_head(self.box_features(sample, classes))
        if not self.mask_point_on:
            return of_classes(coarse, classes)
        return self._refined(
            lambda coords: self._point_logits(sample, coarse, coords), classes, *self.first_grid()
        )

    def first_grid(self) -> tuple[int, int]:
        """Side of the first mask of the inference, and how often it is doubled."""
        side, doublings = self.coarse_head.output_shape[-1], self.subdivision_steps
        # As long as all points of the next grid can be predicted nothing has to be chosen.
        while 4 * side**2 <= self.subdivision_num_points:
            side, doublings = 2 * side, doublings - 1
        return side, doublings

    def _point_logits(self, sample: Sampler, coarse: Tensor, coords: Tensor) -> Tensor:
        return self.point_head(sample(self.point_in_features, coords), point_sample(coarse, coords))

    def losses(
        self, features: Mapping[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor]:
        boxes = [x.proposal_boxes for x in instances]
        classes = cat([x.gt_classes for x in instances])
        sample = self.sampler(features, boxes)
        coarse = self.coarse_head(self.box_features(sample, classes))
        losses = {"loss_mask": mask_rcnn_loss(coarse, instances)}
        if not self.mask_point_on:
            return losses
        with torch.no_grad():
            coords = get_uncertain_point_coords_with_randomness(
                coarse,
                lambda logits: calculate_uncertainty(logits, classes),
                self.train_num_points,
                self.oversample_ratio,
                self.importance_sample_ratio,
            )
        logits = self._point_logits(sample, coarse, coords)
        labels = _labels(instances, boxes, coords)
        losses["loss_mask_point"] = roi_mask_point_loss(logits, instances, labels)
        return losses


@ROI_MASK_HEAD_REGISTRY.register()
class ImplicitPointRendMaskHead(PointMaskHead):
    """A perceptron for each box, whose weights the box predicts, gives the mask at any point."""

    @configurable
    def __init__(
        self, *, parameter_head: nn.Module, point_head: nn.Module, regularizer: float, **kwargs: Any
    ) -> None:
        """
        Args:
            parameter_head: from (K, C, box_side, box_side) features to (K, num_params).
            point_head: such as `ImplicitPointHead`; has `num_params`.
            regularizer: weight of the mean square of the parameters in the loss.
            kwargs: as of `PointRendMaskHead`.
        """
        super().__init__(**kwargs)
        self.parameter_head = parameter_head
        self.point_head = point_head
        self.regularizer = regularizer

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.ROI_MASK_HEAD
        point_shape = _joined(input_shape, cfg.MODEL.POINT_HEAD.IN_FEATURES, 1)
        point_head = build_point_head(cfg, point_shape)
        return {
            **super().from_config(cfg, input_shape),
            "point_head": point_head,
            "parameter_head": ConvFCHead(
                _box_shape(cfg, input_shape),
                conv_dim=head.CONV_DIM,
                fc_dims=[head.FC_DIM] * head.NUM_FC,
                output_shape=(point_head.num_params,),
            ),
            "regularizer": cfg.MODEL.IMPLICIT_POINTREND.PARAMS_L2_REGULARIZER,
        }

    def mask_logits(self, sample: Sampler, classes: Tensor) -> Tensor:
        parameters = self.parameter_head(self.box_features(sample, classes))
        return self._refined(
            lambda coords: self._point_logits(sample, parameters, coords),
            classes,
            *self.first_grid(),
        )

    def first_grid(self) -> tuple[int, int]:
        """Side of the first mask of the inference, and how often it is doubled."""
        side = math.isqrt(self.subdivision_num_points)
        if side**2 != self.subdivision_num_points:
            raise ValueError(
                f"MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS is {self.subdivision_num_points}, which "
                "is no square: the first mask of implicit PointRend is a square grid of that many "
                "points."
            )
        return side, self.subdivision_steps

    def _point_logits(self, sample: Sampler, parameters: Tensor, coords: Tensor) -> Tensor:
        return self.point_head(sample(self.point_in_features, coords), coords, parameters)

    def losses(
        self, features: Mapping[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor]:
        boxes = [x.proposal_boxes for x in instances]
        sample = self.sampler(features, boxes)
        like = cat([x.gt_classes for x in instances])
        parameters = self.parameter_head(self.box_features(sample, like))
        coords = torch.rand(len(like), self.train_num_points, 2, device=like.device)
        logits = self._point_logits(sample, parameters, coords)
        labels = _labels(instances, boxes, coords)
        return {
            "loss_l2": self.regularizer * _mean_square(parameters),
            "loss_mask_point": roi_mask_point_loss(logits, instances, labels),
        }


def _mean_square(numbers: Tensor) -> Tensor:
    """0 of none, float32: the sum is beyond the range of float16."""
    return numbers.float().square().sum() / max(numbers.numel(), 1)


def _labels(instances: list[Instances], boxes: list[Boxes], coords: Tensor) -> Tensor:
    """(R, P) whether points, fractions of the boxes, are of the objects of their rows."""
    in_image = get_point_coords_wrt_image(Boxes.cat(boxes).tensor, coords)
    return sample_point_labels(instances, in_image)


def _box_shape(cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> ShapeSpec:
    """Shape of what is read of the maps in a box."""
    head = cfg.MODEL.ROI_MASK_HEAD
    return _joined(input_shape, head.IN_FEATURES, head.POOLER_RESOLUTION)


def _joined(input_shape: Mapping[str, ShapeSpec], names: Sequence[str], side: int) -> ShapeSpec:
    channels = sum(input_shape[name].channels for name in names)
    return ShapeSpec(channels=channels, height=side, width=side)
