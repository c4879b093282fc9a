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
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.projects.point_rend.point_features import (
    generate_regular_grid_point_coords,
    get_uncertain_point_coords_on_grid,
    get_uncertain_point_coords_with_randomness,
    point_sample,
    point_sample_fine_grained_features,
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


def calculate_uncertainty(logits: Tensor, classes: Tensor) -> Tensor:
    """(R, 1, ...) the negative distance from 0 of the logits of each object's class.

    Args:
        logits: (R, C, ...), or (R, 1, ...) if the classes share a mask.
        classes: (R,) int64, of the ground truth or predicted.
    """
    if logits.shape[1] > 1:
        rows = torch.arange(logits.shape[0], device=logits.device)
        logits = logits[rows, classes][:, None]
    return -logits.abs()


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
        return self.prediction(x).view(len(x), *self.output_shape)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        version = local_metadata.get("version")
        if version is None or version < 2:  # the layers had the name of the head in theirs
            old = f"{prefix}coarse_mask_fc"
            for key in [key for key in state_dict if key.startswith(old)]:
                state_dict[f"{prefix}fc{key[len(old) :]}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


class _PointMaskHead(nn.Module):
    """What the two heads share: points of boxes, and masks that grow."""

    def __init__(self, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> None:
        """
        Args:
            input_shape: channels and stride of each feature map.
        """
        super().__init__()
        self._feature_scales = {name: 1.0 / shape.stride for name, shape in input_shape.items()}
        points, classes = cfg.MODEL.POINT_HEAD, cfg.MODEL.ROI_HEADS.NUM_CLASSES
        if classes != points.NUM_CLASSES:
            raise ValueError(
                f"MODEL.POINT_HEAD.NUM_CLASSES is {points.NUM_CLASSES} and "
                f"MODEL.ROI_HEADS.NUM_CLASSES {classes}: they must be the same."
            )
        self.mask_point_in_features = points.IN_FEATURES
        self.mask_point_train_num_points = points.TRAIN_NUM_POINTS
        self.mask_point_subdivision_steps = points.SUBDIVISION_STEPS
        self.mask_point_subdivision_num_points = points.SUBDIVISION_NUM_POINTS
        self.mask_coarse_in_features = cfg.MODEL.ROI_MASK_HEAD.IN_FEATURES
        self.mask_coarse_side_size = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION

    def _box_features(self, features: Mapping[str, Tensor], boxes: list[Boxes]) -> Tensor:
        """(R, C, side, side) values of the coarse head's maps on a grid of each box."""
        side = self.mask_coarse_side_size
        corners = Boxes.cat(boxes).tensor
        grid = generate_regular_grid_point_coords(len(corners), side, corners.device)
        values, _ = self._at_points(features, self.mask_coarse_in_features, boxes, grid)
        return values.unflatten(2, (side, side))

    def _fine_features(
        self, features: Mapping[str, Tensor], boxes: list[Boxes], coords: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(R, C, P) values of the point head's maps, and (R, P, 2) the points in pixels."""
        return self._at_points(features, self.mask_point_in_features, boxes, coords)

    def _at_points(
        self,
        features: Mapping[str, Tensor],
        names: Sequence[str],
        boxes: list[Boxes],
        coords: Tensor,
    ) -> tuple[Tensor, Tensor]:
        maps = [features[name] for name in names]
        scales = [self._feature_scales[name] for name in names]
        return point_sample_fine_grained_features(maps, scales, boxes, coords)

    def _first_grid(self) -> tuple[int, int]:
        """Side of the first mask of the inference, and how often it is doubled."""
        raise NotImplementedError

    def _logits_at(
        self, features: Mapping[str, Tensor], boxes: list[Boxes], coords: Tensor, of_boxes: Tensor
    ) -> Tensor:
        """(R, C, P) logits at points; `of_boxes` is what the head made of each box."""
        raise NotImplementedError

    def _refined(
        self, features: Mapping[str, Tensor], instances: list[Instances], of_boxes: Tensor
    ) -> Tensor:
        """(R, C, h, w) logits: a grid of points, then doubled and mended where uncertain.

        PointRend (Kirillov et al., 2020), section 3.1 and figure 4.
        """
        boxes = [x.pred_boxes for x in instances]
        classes = cat([x.pred_classes for x in instances])
        side, doublings = self._first_grid()
        grid = generate_regular_grid_point_coords(len(classes), side, classes.device)
        logits = self._logits_at(features, boxes, grid, of_boxes)
        logits = logits.unflatten(2, (side, side))
        if len(classes) == 0:
            return logits
        for _ in range(doublings):
            logits = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
            indices, coords = get_uncertain_point_coords_on_grid(
                calculate_uncertainty(logits, classes), self.mask_point_subdivision_num_points
            )
            mended = self._logits_at(features, boxes, coords, of_boxes)
            shape = logits.shape
            places = indices[:, None].expand(-1, shape[1], -1)
            logits = logits.flatten(start_dim=2).scatter(2, places, mended).view(shape)
        return logits


@ROI_MASK_HEAD_REGISTRY.register()
class PointRendMaskHead(_PointMaskHead):
    """A coarse mask of each box, and a head that mends it at points."""

    def __init__(self, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> None:
        super().__init__(cfg, input_shape)
        self._init_coarse_head(cfg, input_shape)
        self.mask_point_on = cfg.MODEL.ROI_MASK_HEAD.POINT_HEAD_ON
        if self.mask_point_on:
            self._init_point_head(cfg, input_shape)

    def _init_coarse_head(self, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> None:
        side = self.mask_coarse_side_size
        channels = sum(input_shape[name].channels for name in self.mask_coarse_in_features)
        self.coarse_head = ConvFCHead(cfg, ShapeSpec(channels=channels, height=side, width=side))

    def _init_point_head(self, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> None:
        points = cfg.MODEL.POINT_HEAD
        self.mask_point_oversample_ratio = points.OVERSAMPLE_RATIO
        self.mask_point_importance_sample_ratio = points.IMPORTANCE_SAMPLE_RATIO
        channels = sum(input_shape[name].channels for name in self.mask_point_in_features)
        self.point_head = build_point_head(cfg, ShapeSpec(channels=channels, height=1, width=1))

    def forward(self, features: Mapping[str, Tensor], instances: list[Instances]) -> Any:
        """
        Args:
            features: maps of all images by name.
            instances: of each image; when training the proposals that hold objects, with
                `proposal_boxes`, `gt_classes` and `gt_masks`, else the detections, with
                `pred_boxes` and `pred_classes`.

        Returns:
            Losses by name when training, else `instances`, with `pred_masks`.
        """
        if self.training:
            boxes = [x.proposal_boxes for x in instances]
            coarse = self.coarse_head(self._box_features(features, boxes))
            losses = {"loss_mask": mask_rcnn_loss(coarse, instances)}
            if self.mask_point_on:
                losses["loss_mask_point"] = self._point_loss(features, instances, coarse)
            return losses
        boxes = [x.pred_boxes for x in instances]
        logits = self.coarse_head(self._box_features(features, boxes))
        if self.mask_point_on:
            logits = self._refined(features, instances, logits)
        mask_rcnn_inference(logits, instances)
        return instances

    def _point_loss(
        self, features: Mapping[str, Tensor], instances: list[Instances], coarse: Tensor
    ) -> Tensor:
        boxes = [x.proposal_boxes for x in instances]
        classes = cat([x.gt_classes for x in instances])
        with torch.no_grad():
            coords = get_uncertain_point_coords_with_randomness(
                coarse,
                lambda logits: calculate_uncertainty(logits, classes),
                self.mask_point_train_num_points,
                self.mask_point_oversample_ratio,
                self.mask_point_importance_sample_ratio,
            )
        fine, in_image = self._fine_features(features, boxes, coords)
        logits = self.point_head(fine, point_sample(coarse, coords))
        return roi_mask_point_loss(logits, instances, sample_point_labels(instances, in_image))

    def _first_grid(self) -> tuple[int, int]:
        side, doublings = self.coarse_head.output_shape[-1], self.mask_point_subdivision_steps
        # As long as all points of the next grid can be predicted nothing has to be chosen.
        while 4 * side**2 <= self.mask_point_subdivision_num_points:
            side, doublings = 2 * side, doublings - 1
        return side, doublings

    def _logits_at(
        self, features: Mapping[str, Tensor], boxes: list[Boxes], coords: Tensor, of_boxes: Tensor
    ) -> Tensor:
        fine, _ = self._fine_features(features, boxes, coords)
        return self.point_head(fine, point_sample(of_boxes, coords))


@ROI_MASK_HEAD_REGISTRY.register()
class ImplicitPointRendMaskHead(_PointMaskHead):
    """A perceptron for each box, whose weights the box predicts, gives the mask at any point."""

    def __init__(self, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> None:
        super().__init__(cfg, input_shape)
        side, head = self.mask_coarse_side_size, cfg.MODEL.ROI_MASK_HEAD
        channels = sum(input_shape[name].channels for name in self.mask_point_in_features)
        self.point_head = build_point_head(cfg, ShapeSpec(channels=channels, height=1, width=1))
        channels = sum(input_shape[name].channels for name in self.mask_coarse_in_features)
        self.parameter_head = ConvFCHead(
            ShapeSpec(channels=channels, height=side, width=side),
            conv_dim=head.CONV_DIM,
            fc_dims=[head.FC_DIM] * head.NUM_FC,
            output_shape=(self.point_head.num_params,),
        )
        self.regularizer = cfg.MODEL.IMPLICIT_POINTREND.PARAMS_L2_REGULARIZER

    def forward(self, features: Mapping[str, Tensor], instances: list[Instances]) -> Any:
        """As :meth:`PointRendMaskHead.forward`."""
        if self.training:
            return self._losses(features, instances)
        boxes = [x.pred_boxes for x in instances]
        parameters = self.parameter_head(self._box_features(features, boxes))
        mask_rcnn_inference(self._refined(features, instances, parameters), instances)
        return instances

    def _losses(
        self, features: Mapping[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor]:
        boxes = [x.proposal_boxes for x in instances]
        parameters = self.parameter_head(self._box_features(features, boxes))
        squares = parameters.square()
        coords = torch.rand(
            len(parameters), self.mask_point_train_num_points, 2, device=parameters.device
        )
        fine, in_image = self._fine_features(features, boxes, coords)
        logits = self.point_head(fine, coords, parameters)
        labels = sample_point_labels(instances, in_image)
        return {
            "loss_l2": self.regularizer * squares.sum() / max(squares.numel(), 1),
            "loss_mask_point": roi_mask_point_loss(logits, instances, labels),
        }

    def _first_grid(self) -> tuple[int, int]:
        num_points = self.mask_point_subdivision_num_points
        side = math.isqrt(num_points)
        if side**2 != num_points:
            raise ValueError(
                f"MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS is {num_points}, which is no square: "
                "the first mask of implicit PointRend is a square grid of that many points."
            )
        return side, self.mask_point_subdivision_steps

    def _logits_at(
        self, features: Mapping[str, Tensor], boxes: list[Boxes], coords: Tensor, of_boxes: Tensor
    ) -> Tensor:
        fine, _ = self._fine_features(features, boxes, coords)
        return self.point_head(fine, coords, of_boxes)
