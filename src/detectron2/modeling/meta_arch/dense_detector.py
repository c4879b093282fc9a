"""What one-stage detectors have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.layers import batched_nms, move_device_like
from detectron2.modeling._forms import in_two_forms
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.meta_arch._inputs import (
    InputDict,
    batch_for_backbone,
    ground_truth,
    output_size,
    pixel_statistics,
)
from detectron2.modeling.postprocessing import detector_postprocess, to_output_frames
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils._deferred import put_scalars_later
from detectron2.utils.events import get_event_storage

__all__ = ["DenseDetector", "permute_to_N_HWA_K"]

_MAX_DRAWN_RESULTS = 20


def best_of_level(
    transform: Any, anchors: Tensor, scores: Tensor, deltas: Tensor, topk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of an anchor and a class of every image, as many of each.

    Args:
        transform: decodes `deltas`.
        anchors: (R, 4).
        scores: (N, R, K).
        deltas: (N, R, 4).
        topk: at most this many of an image.

    Returns:
        (N, k, 4) boxes, (N, k) scores by descending score, and (N, k) int64 classes.
    """
    flat = scores.flatten(1)
    best, index = flat.topk(min(topk, flat.shape[1]), dim=1)
    rows = torch.div(index, scores.shape[2], rounding_mode="floor")
    chosen = deltas.gather(1, rows[..., None].expand(-1, -1, deltas.shape[2]))
    boxes = transform.apply_deltas(chosen.flatten(0, 1), anchors[rows.flatten()])
    return boxes.view(chosen.shape), best, index - rows * scores.shape[2]


@in_two_forms(fixed=lambda count: count)
def _number(count: Tensor) -> float | Tensor:
    """A count (), as a number where it is at hand."""
    return count.item()


def permute_to_N_HWA_K(tensor: Tensor, K: int) -> Tensor:
    """Predictions (N, A * K, H, W) as (N, H * W * A, K), in the order of the anchors."""
    return tensor.unflatten(1, (-1, K)).permute(0, 3, 4, 1, 2).flatten(1, 3)


class DenseDetector(nn.Module):
    """A backbone, and a head that predicts at every cell of its feature maps.

    A subclass implements `forward_training`, and `forward_inference` or what that is made of:
    `_scores_and_deltas`, and the attributes below.

    Args:
        backbone: from images to feature maps.
        head: from a list of feature maps to a tuple of lists of tensors, one per map.
        head_in_features: names of the maps; by default all, from fine to coarse.
        pixel_mean: one number per channel; subtracted from the images.
        pixel_std: one number per channel; the images are divided by it.

    Attributes:
        anchor_generator: from the maps to a list of boxes.
        box2box_transform: from anchors to detections.
        test_score_thresh: detections have a higher score.
        test_topk_candidates: per level, that enter NMS.
        test_nms_thresh: IoU of NMS.
        max_detections_per_image: after NMS.
    """

    anchor_generator: nn.Module
    box2box_transform: Any
    test_score_thresh: float
    test_topk_candidates: int
    test_nms_thresh: float
    max_detections_per_image: int

    # Draw a training image every so many iterations, 0 for never; and its order of channels.
    vis_period: int = 0
    input_format: str = "BGR"

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str] | None = None,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        if head_in_features is None:
            shapes = backbone.output_shape()
            head_in_features = sorted(shapes, key=lambda name: shapes[name].stride)
        self.head_in_features = head_in_features
        mean, std = pixel_statistics(pixel_mean, pixel_std)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def _move_to_current_device(self, x: Tensor) -> Tensor:
        return move_device_like(x, self.pixel_mean)

    def forward(self, batched_inputs: list[InputDict]) -> Any:
        """Detect, or compute losses in training.

        Args:
            batched_inputs: one dictionary per image: "image" (C, H, W); in training "instances"
                with `gt_boxes` and `gt_classes`; at test time optionally "height" and "width" of
                the output, in pixels.

        Returns:
            in training, scalar losses by name; else ``[{"instances": Instances}, ...]`` with
            `pred_boxes`, `scores` and `pred_classes`, by descending score.

        Raises:
            ValueError: there is no ground truth in training.
        """
        images = self.preprocess_image(batched_inputs)
        maps, predictions = self._predict(images)
        if self.training:
            return self._train(batched_inputs, images, maps, predictions)
        results = self.forward_inference(images, maps, predictions)
        sizes = [
            output_size(*image) for image in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        return [{"instances": found} for found in to_output_frames(results, sizes)]

    def _predict(self, images: ImageList) -> tuple[list[Tensor], Any]:
        """The feature maps that the head works on, and its output."""
        features = self.backbone(images.tensor)
        maps = [features[name] for name in self.head_in_features]
        return maps, self.head(maps)

    def _train(
        self,
        batched_inputs: list[InputDict],
        images: ImageList,
        features: list[Tensor],
        predictions: Any,
    ) -> dict[str, Tensor]:
        gt_instances = ground_truth(batched_inputs, self.device)
        if gt_instances is None:
            raise ValueError("Training needs ground truth: every input dictionary 'instances'.")
        losses = self.forward_training(images, features, predictions, gt_instances)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            with torch.no_grad():
                results = self.forward_inference(images, features, predictions)
            self.visualize_training(batched_inputs, results)
        return losses

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: Any,
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            images: N images.
            features: per level, (N, C, H, W).
            predictions: output of the head.
            gt_instances: per image.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward_training.")

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: Any
    ) -> list[Instances]:
        """Per image, detections in the frame of the network's input; arguments as in training."""
        scores, deltas = self._scores_and_deltas(predictions)
        anchors = self.anchor_generator(features)
        return [
            self.inference_single_image(
                anchors,
                [level[index] for level in scores],
                [level[index] for level in deltas],
                image_size,
            )
            for index, image_size in enumerate(images.image_sizes)
        ]

    def _scores_and_deltas(self, predictions: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Per level, (N, R_l, K) scores and (N, R_l, 4) deltas, from the head's output."""
        raise NotImplementedError(
            f"{type(self).__name__} has no forward_inference, nor _scores_and_deltas for it."
        )

    def inference_single_image(
        self,
        anchors: list[Boxes],
        box_cls: list[Tensor],
        box_delta: list[Tensor],
        image_size: tuple[int, int],
    ) -> Instances:
        """Detections of one image: top-k of each level, then NMS within each class.

        Args:
            anchors: per level.
            box_cls: per level, (R_l, K) scores.
            box_delta: per level, (R_l, 4).
            image_size: (height, width).

        Returns:
            Instances with `pred_boxes`, `scores` and `pred_classes`, by descending score.
        """
        candidates = self._decode_multi_level_predictions(
            anchors,
            box_cls,
            box_delta,
            self.test_score_thresh,
            self.test_topk_candidates,
            image_size,
        )
        keep = batched_nms(
            candidates.pred_boxes.tensor,
            candidates.scores,
            candidates.pred_classes,
            self.test_nms_thresh,
        )
        return candidates[keep[: self.max_detections_per_image]]

    def preprocess_image(self, batched_inputs: list[InputDict]) -> ImageList:
        """Images of the batch on the model's device, normalised and padded to one size."""
        images = [self._move_to_current_device(x["image"]) for x in batched_inputs]
        normalized = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return batch_for_backbone(normalized, self.backbone, pad_value=0.0)

    def _transpose_dense_predictions(
        self, predictions: Sequence[list[Tensor]], dims_per_anchor: Sequence[int]
    ) -> list[list[Tensor]]:
        """Each kind of prediction, per level (N, A * K, H, W), as (N, H * W * A, K)."""
        return [
            [permute_to_N_HWA_K(level, dim) for level in levels]
            for levels, dim in zip(predictions, dims_per_anchor, strict=True)
        ]

    def _mean_number_of_positives(self, positive: Tensor, initial_value: float) -> float | Tensor:
        """Running mean of the number of positive anchors in a batch, which is logged, too.

        On a GPU it stays there, so that the host does not wait.

        Args:
            positive: (N, R) bool.
            initial_value: before the first batch.
        """
        count, num_images = positive.sum(), len(positive)
        put_scalars_later(
            get_event_storage(),
            count[None],
            lambda counts: {"num_pos_anchors": counts[0] / num_images},
        )
        return self._ema_update("loss_normalizer", _number(count.clamp(min=1)), initial_value)

    def _ema_update(
        self, name: str, value: float | Tensor, initial_value: float, momentum: float = 0.9
    ) -> float | Tensor:
        """Exponential moving average in the attribute `name`; returns its new value.

        The number of positives of a batch is a noisy normaliser of losses: one batch of few
        objects would weigh as much as several others.
        """
        updated: Any = getattr(self, name, initial_value) * momentum + value * (1 - momentum)
        setattr(self, name, updated)
        return updated

    def _decode_per_level_predictions(
        self,
        anchors: Boxes,
        pred_scores: Tensor,
        pred_deltas: Tensor,
        score_thresh: float,
        topk_candidates: int,
        image_size: tuple[int, int],
    ) -> Instances:
        """The best candidates of one level of one image.

        Args:
            anchors: R boxes.
            pred_scores: (R, K), one score per anchor and class.
            pred_deltas: (R, 4).
            score_thresh: only higher scores are kept.
            topk_candidates: at most this many.
            image_size: (height, width).

        Returns:
            Instances with `pred_boxes`, `scores` and `pred_classes`, by descending score.
        """
        confident = pred_scores > score_thresh
        rows, classes = confident.nonzero(as_tuple=True)
        scores = pred_scores[rows, classes]
        scores, order = scores.topk(min(topk_candidates, len(scores)))
        rows, classes = rows[order], classes[order]
        boxes = self.box2box_transform.apply_deltas(pred_deltas[rows], anchors.tensor[rows])
        return Instances(image_size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)

    def _decode_multi_level_predictions(
        self,
        anchors: list[Boxes],
        pred_scores: list[Tensor],
        pred_deltas: list[Tensor],
        score_thresh: float,
        topk_candidates: int,
        image_size: tuple[int, int],
    ) -> Instances:
        """The best candidates of every level of one image; those that are not finite are left out.

        Arguments as in `_decode_per_level_predictions`, per level.
        """
        candidates = Instances.cat(
            [
                self._decode_per_level_predictions(
                    *level, score_thresh, topk_candidates, image_size
                )
                for level in zip(anchors, pred_scores, pred_deltas, strict=True)
            ]
        )
        finite = candidates.pred_boxes.tensor.isfinite().all(dim=1) & candidates.scores.isfinite()
        return candidates[finite]

    def visualize_training(self, batched_inputs: list[InputDict], results: list[Instances]) -> None:
        """Draw ground truth and best detections of the first image into the event storage."""
        from detectron2.data.detection_utils import convert_image_to_rgb
        from detectron2.utils.visualizer import Visualizer

        first = batched_inputs[0]
        image = convert_image_to_rgb(first["image"].permute(1, 2, 0), self.input_format)
        detected = detector_postprocess(results[0], *image.shape[:2])
        drawings = []
        for boxes in (first["instances"].gt_boxes, detected.pred_boxes[:_MAX_DRAWN_RESULTS]):
            canvas = Visualizer(image, None).overlay_instances(boxes=boxes.to("cpu"))
            drawings.append(torch.from_numpy(canvas.get_image().copy()))
        get_event_storage().put_image(
            "Top: ground-truth boxes;  bottom: best detections",
            torch.cat(drawings, dim=0).permute(2, 0, 1),
        )


def __getattr__(name: str) -> Any:
    # Part of this module's address; the data package is loaded only for who asks.
    if name == "convert_image_to_rgb":
        from detectron2.data.detection_utils import convert_image_to_rgb

        return convert_image_to_rgb
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
