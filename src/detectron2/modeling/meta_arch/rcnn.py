"""Detectors in two stages: proposals from a pyramid, then a head on each proposal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.config.mapping import read_arguments
from detectron2.config.mapping.meta_arch import GENERALIZED_RCNN, PROPOSAL_NETWORK
from detectron2.layers import move_device_like
from detectron2.modeling.backbone import Backbone, build_backbone
from detectron2.modeling.meta_arch._inputs import (
    InputDict,
    batch_for_backbone,
    given_proposals,
    ground_truth,
    output_size,
    pixel_statistics,
)
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import detector_postprocess, to_output_frames
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage

__all__ = ["GeneralizedRCNN", "ProposalNetwork"]

_MAX_DRAWN_PROPOSALS = 20


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(nn.Module):
    """Backbone, proposal generator and ROI heads: Fast, Faster, Mask, Keypoint, Cascade R-CNN.

    Input: one dictionary for each image, with
        image: (C, H, W), not normalised, channels in the order of INPUT.FORMAT;
        height, width: size the results are wanted for, in pixels (default: that of `image`);
        instances: ground truth, for training;
        proposals: Instances with `proposal_boxes` and `objectness_logits`, for a model
            without a proposal generator.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module | None,
        roi_heads: nn.Module,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        input_format: str | None = None,
        vis_period: int = 0,
    ) -> None:
        """
        Args:
            proposal_generator: None if the input dictionaries bring proposals.
            pixel_mean, pixel_std: one number for each channel; images are normalised by them.
            input_format: order of the channels, such as ``"BGR"``; only drawing needs it.
            vis_period: draw a training image every so many iterations, 0 for never.
        """
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.input_format = input_format
        self.vis_period = vis_period
        if vis_period > 0 and input_format is None:
            raise ValueError("Drawing training images (vis_period > 0) needs an input_format.")
        mean, std = pixel_statistics(pixel_mean, pixel_std)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, backbone.output_shape()),
            "roi_heads": build_roi_heads(cfg, backbone.output_shape()),
            **read_arguments(cfg, GENERALIZED_RCNN),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def _move_to_current_device(self, x: Tensor) -> Tensor:
        return move_device_like(x, self.pixel_mean)

    def forward(self, batched_inputs: list[InputDict]) -> Any:
        """Losses by name when training (scalars); else what `inference` returns."""
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        gt_instances = ground_truth(batched_inputs, self.device)
        features = self.backbone(images.tensor)
        proposals, proposal_losses = self._propose(batched_inputs, images, features, gt_instances)
        _, detector_losses = self.roi_heads(images, features, proposals, gt_instances)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        return {**detector_losses, **proposal_losses}

    def _propose(
        self,
        batched_inputs: list[InputDict],
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Proposals of each image, and the losses of the generator (none in inference)."""
        if self.proposal_generator is None:
            return given_proposals(batched_inputs, self.device), {}
        return self.proposal_generator(images, features, gt_instances)

    def _features(self, images: ImageList) -> dict[str, Tensor]:
        """The maps that inference works on, by name."""
        return self.backbone(images.tensor)

    def _detect(
        self, batched_inputs: list[InputDict], images: ImageList, features: dict[str, Tensor]
    ) -> list[Instances]:
        """Detections of each image, in the frame of the network's input."""
        proposals, _ = self._propose(batched_inputs, images, features, None)
        results, _ = self.roi_heads(images, features, proposals, None)
        return results

    def inference(
        self,
        batched_inputs: list[InputDict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> Any:
        """Detections of each image.

        Args:
            detected_instances: boxes to use instead of proposals, with `pred_boxes` (in the
                frame of the network's input) and `pred_classes`; only masks and keypoints
                are then predicted.
            do_postprocess: rescale to the size asked for, paste masks.

        Returns:
            ``[{"instances": Instances}, ...]``, or without `do_postprocess` the Instances
            themselves, in the frame of the network's input.
        """
        if self.training:
            raise RuntimeError("Call model.eval() before inference: the model is in training mode.")
        images = self.preprocess_image(batched_inputs)
        features = self._features(images)
        if detected_instances is None:
            results = self._detect(batched_inputs, images, features)
        else:
            given = [x.to(self.device) for x in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, given)
        if not do_postprocess:
            return results
        return self._postprocess(results, batched_inputs, images.image_sizes)

    def preprocess_image(self, batched_inputs: list[InputDict]) -> ImageList:
        """Images of the batch on the model's device, normalised and padded to one size."""
        images = [self._move_to_current_device(x["image"]) for x in batched_inputs]
        normalized = [(x - self.pixel_mean) / self.pixel_std for x in images]
        return batch_for_backbone(normalized, self.backbone, pad_value=0.0)

    @staticmethod
    def _postprocess(
        instances: list[Instances],
        batched_inputs: list[InputDict],
        image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Instances]]:
        """Detections at the size each input dictionary asks for."""
        sizes = [output_size(*image) for image in zip(batched_inputs, image_sizes)]
        return [{"instances": results} for results in to_output_frames(instances, sizes)]

    def visualize_training(
        self, batched_inputs: list[InputDict], proposals: list[Instances]
    ) -> None:
        """Draw ground truth and best proposals of the first image into the event storage."""
        from detectron2.data.detection_utils import convert_image_to_rgb
        from detectron2.utils.visualizer import Visualizer

        first = batched_inputs[0]
        image = convert_image_to_rgb(first["image"].permute(1, 2, 0), self.input_format)
        drawings = []
        for boxes in (
            first["instances"].gt_boxes,
            proposals[0].proposal_boxes[:_MAX_DRAWN_PROPOSALS],
        ):
            canvas = Visualizer(image, None).overlay_instances(boxes=boxes.to("cpu"))
            drawings.append(torch.from_numpy(canvas.get_image().copy()))
        side_by_side = torch.cat(drawings, dim=1).permute(2, 0, 1)
        get_event_storage().put_image(
            "Left: ground-truth boxes;  right: best proposals", side_by_side
        )


@META_ARCH_REGISTRY.register()
class ProposalNetwork(nn.Module):
    """Backbone and proposal generator alone; inputs as in `GeneralizedRCNN`."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        mean, std = pixel_statistics(pixel_mean, pixel_std)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, backbone.output_shape()),
            **read_arguments(cfg, PROPOSAL_NETWORK),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def _move_to_current_device(self, x: Tensor) -> Tensor:
        return move_device_like(x, self.pixel_mean)

    def forward(self, batched_inputs: list[InputDict]) -> Any:
        """Losses by name when training; else ``[{"proposals": Instances}, ...]``."""
        images = [self._move_to_current_device(x["image"]) for x in batched_inputs]
        normalized = [(x - self.pixel_mean) / self.pixel_std for x in images]
        batch = batch_for_backbone(normalized, self.backbone, pad_value=0.0)
        features = self.backbone(batch.tensor)
        gt_instances = ground_truth(batched_inputs, self.device)
        proposals, losses = self.proposal_generator(batch, features, gt_instances)
        if self.training:
            return losses
        return [
            {"proposals": detector_postprocess(found, *output_size(input_dict, image_size))}
            for found, input_dict, image_size in zip(proposals, batched_inputs, batch.image_sizes)
        ]
