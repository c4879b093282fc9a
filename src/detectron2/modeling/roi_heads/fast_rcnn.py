"""The last layers of a box head, their losses, and the choice of final detections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.config import configurable
from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping.roi_heads import BOX_TRANSFORM, FAST_RCNN_OUTPUT_LAYERS
from detectron2.layers import ShapeSpec, batched_nms, cat, cross_entropy
from detectron2.modeling.box_regression import (
    Box2BoxTransform,
    Box2BoxTransformRotated,
    _dense_box_regression_loss,
)
from detectron2.modeling.roi_heads._candidates import deal_out, find_candidates
from detectron2.modeling.roi_heads._federated import checked_class_weights, dataset_class_weights
from detectron2.structures import Boxes, Instances, RotatedBoxes
from detectron2.utils._deferred import put_scalars_later
from detectron2.utils.events import get_event_storage, has_event_storage

__all__ = ["FastRCNNOutputLayers", "fast_rcnn_inference"]


def fast_rcnn_inference(
    boxes: list[Tensor],
    scores: list[Tensor],
    image_shapes: list[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[Tensor]]:
    """Final detections: scores above a threshold, suppressed class by class, the best of them.

    All images go through one suppression.

    Args:
        boxes: for each image, (R, K * 4) xyxy with a box for each of K classes, or (R, 4) if
            the classes share one.
        scores: for each image, (R, K + 1); the last column is background. Rows with a number
            that is not finite are left out.
        image_shapes: (height, width) of each image; boxes are clipped to it.
        score_thresh: a detection scores more.
        nms_thresh: of two detections of one class with a higher IoU the better one stays.
        topk_per_image: detections to keep, all if negative.

    Returns:
        For each image, Instances with `pred_boxes`, `scores` and `pred_classes` by descending
        score; and for each image, (D,) the row of `boxes` that each detection comes from,
        counted without the rows that are left out.
    """
    found = find_candidates(boxes, scores, image_shapes, score_thresh, box_dim=4)
    limits = found.image_sizes.flip(1).repeat(1, 2)  # (width, height, width, height)
    corners = torch.minimum(found.boxes.clamp(min=0), limits.to(found.boxes.dtype))
    kept = batched_nms(corners, found.scores, found.groups, nms_thresh)
    return deal_out(found, Boxes(corners), kept, image_shapes, topk_per_image)


def fast_rcnn_inference_single_image(
    boxes: Tensor,
    scores: Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[Instances, Tensor]:
    """`fast_rcnn_inference` of one image."""
    results, kept = fast_rcnn_inference(
        [boxes], [scores], [image_shape], score_thresh, nms_thresh, topk_per_image
    )
    return results[0], kept[0]


def _log_classification_stats(
    pred_logits: Tensor, gt_classes: Tensor, prefix: str = "fast_rcnn"
) -> None:
    """Write the accuracy of a classifier into the event storage.

    Args:
        pred_logits: (R, K + 1), background last.
        gt_classes: (R,).
        prefix: of the names of the metrics: `cls_accuracy` of all R, and of those that belong
            to an object, `fg_cls_accuracy` and the share called background, `false_negative`.
    """
    if gt_classes.numel() == 0 or not has_event_storage():
        return
    background = pred_logits.shape[1] - 1
    predicted = pred_logits.argmax(dim=1)
    is_object = (gt_classes >= 0) & (gt_classes < background)
    correct = predicted == gt_classes
    counts = torch.stack(
        [
            correct.sum(),
            is_object.sum(),
            (correct & is_object).sum(),
            ((predicted == background) & is_object).sum(),
        ]
    )
    total = gt_classes.numel()
    put_scalars_later(
        get_event_storage(), counts, lambda read: _classification_stats(*read, total, prefix)
    )


def _classification_stats(
    num_correct: float,
    num_objects: float,
    num_correct_objects: float,
    num_missed: float,
    total: int,
    prefix: str,
) -> dict[str, float]:
    stats = {f"{prefix}/cls_accuracy": num_correct / total}
    if num_objects > 0:
        stats[f"{prefix}/fg_cls_accuracy"] = num_correct_objects / num_objects
        stats[f"{prefix}/false_negative"] = num_missed / num_objects
    return stats


class FastRCNNOutputs:
    """Removed: what it did is in the methods of `FastRCNNOutputLayers`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(
            "FastRCNNOutputs was removed; call losses(), inference(), predict_boxes() or "
            "predict_probs() of detectron2.modeling.roi_heads.fast_rcnn.FastRCNNOutputLayers."
        )


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers that score each proposal for each class and refine its box."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec | int,
        *,
        box2box_transform: Box2BoxTransform | Box2BoxTransformRotated,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | dict[str, float] = 1.0,
        use_fed_loss: bool = False,
        use_sigmoid_ce: bool = False,
        get_fed_loss_cls_weights: Callable[[], Tensor] | None = None,
        fed_loss_num_classes: int = 50,
    ) -> None:
        """
        Args:
            input_shape: of the features of one box, or their number.
            box2box_transform: encoding of the box deltas.
            num_classes: foreground classes K.
            test_score_thresh, test_nms_thresh, test_topk_per_image: see `fast_rcnn_inference`.
            cls_agnostic_bbox_reg: one box for all classes instead of one for each.
            smooth_l1_beta: where smooth L1 turns from quadratic to linear; 0 is plain L1.
            box_reg_loss_type: ``smooth_l1``, ``giou``, ``diou`` or ``ciou``.
            loss_weight: factor of both losses, or of each by its name, 1 if not named.
            use_fed_loss: only a sample of the absent classes counts in the classification
                loss (federated loss, Zhou et al., 2021); needs `use_sigmoid_ce`.
            use_sigmoid_ce: independent classes instead of a softmax.
            get_fed_loss_cls_weights: returns (K,) probabilities of being sampled.
            fed_loss_num_classes: classes that count in one batch.
        """
        super().__init__()
        if use_fed_loss and not use_sigmoid_ce:
            raise ValueError("The federated loss needs sigmoid scores: set use_sigmoid_ce=True.")
        size = input_shape if isinstance(input_shape, int) else _flat_size(input_shape)
        box_dim = len(box2box_transform.weights)
        self.cls_score = nn.Linear(size, num_classes + 1)
        self.bbox_pred = nn.Linear(size, (1 if cls_agnostic_bbox_reg else num_classes) * box_dim)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        self.num_classes = num_classes
        self.box2box_transform = box2box_transform
        self.smooth_l1_beta = smooth_l1_beta
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        self.box_reg_loss_type = box_reg_loss_type
        if isinstance(loss_weight, (int, float)):
            loss_weight = {"loss_cls": loss_weight, "loss_box_reg": loss_weight}
        self.loss_weight = {"loss_cls": 1.0, "loss_box_reg": 1.0, **loss_weight}
        self.use_fed_loss = use_fed_loss
        self.use_sigmoid_ce = use_sigmoid_ce
        self.fed_loss_num_classes = fed_loss_num_classes
        if use_fed_loss:
            self.register_buffer(
                "fed_loss_cls_weights", checked_class_weights(get_fed_loss_cls_weights, num_classes)
            )

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        return {
            "input_shape": input_shape,
            "box2box_transform": Box2BoxTransform(**read_arguments(cfg, BOX_TRANSFORM)),
            "loss_weight": {"loss_box_reg": lookup(cfg, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT")},
            "get_fed_loss_cls_weights": lambda: dataset_class_weights(cfg),
            **read_arguments(cfg, FAST_RCNN_OUTPUT_LAYERS),
        }

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            x: (R, ...) features of R boxes; what follows the first dimension is flattened.

        Returns:
            (R, K + 1) scores before softmax or sigmoid, background last; and (R, K * B) box
            deltas, or (R, B) if the classes share one.
        """
        x = x.flatten(start_dim=1)
        return self.cls_score(x), self.bbox_pred(x)

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """Classification and box loss of a batch.

        Args:
            predictions: what `forward` returned for the proposals of all images.
            proposals: with `proposal_boxes`, `gt_classes` and, where there is ground truth,
                `gt_boxes`.

        Returns:
            Scalars `loss_cls` and `loss_box_reg`, weighted.
        """
        scores, deltas = predictions
        if proposals:
            gt_classes = cat([p.gt_classes for p in proposals])
            proposal_boxes = cat([p.proposal_boxes.tensor for p in proposals])
            # An image without ground truth has background only, and its targets are not read.
            gt_boxes = cat([_target_boxes(p) for p in proposals])
        else:
            gt_classes = scores.new_empty(0, dtype=torch.int64)
            proposal_boxes = gt_boxes = deltas.new_empty(0, len(self.box2box_transform.weights))
        _log_classification_stats(scores, gt_classes)
        classify = self.sigmoid_cross_entropy_loss if self.use_sigmoid_ce else cross_entropy
        losses = {
            "loss_cls": classify(scores, gt_classes),
            "loss_box_reg": self.box_reg_loss(proposal_boxes, gt_boxes, deltas, gt_classes),
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def get_fed_loss_classes(
        self,
        gt_classes: Tensor,
        num_fed_loss_classes: int,
        num_classes: int,
        weight: Tensor | None,
    ) -> Tensor:
        """Classes that count in the federated loss: those present, and a sample of the others.

        Args:
            gt_classes: (R,), background included.
            num_fed_loss_classes: number of classes wanted; more if more are present.
            num_classes: foreground classes K.
            weight: (K,) probabilities of being sampled, all alike if None.

        Returns:
            (C,) int64, each class once.
        """
        present = torch.unique(gt_classes)
        missing = min(num_fed_loss_classes, num_classes + 1) - present.shape[0]
        if missing <= 0:
            return present
        chances = torch.ones(num_classes + 1, device=gt_classes.device)
        if weight is not None:
            chances[:num_classes] = weight.to(chances)
        chances[num_classes] = 0  # background is no class to be sampled
        chances[present] = 0
        return torch.cat([present, torch.multinomial(chances, missing, replacement=False)])

    def sigmoid_cross_entropy_loss(self, pred_class_logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Binary cross entropy of each class, summed over classes, mean over boxes.

        Args:
            pred_class_logits: (R, K + 1); the background column is not used.
            gt_classes: (R,), K for background.
        """
        if pred_class_logits.numel() == 0:
            return pred_class_logits.sum() * 0.0
        logits = pred_class_logits[:, :-1]
        num_boxes, num_classes = logits.shape
        target = F.one_hot(gt_classes, num_classes + 1)[:, :-1].to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if self.use_fed_loss:
            counted = self.get_fed_loss_classes(
                gt_classes, self.fed_loss_num_classes, num_classes, self.fed_loss_cls_weights
            )
            mask = logits.new_zeros(num_classes + 1).index_fill_(0, counted, 1.0)
            loss = loss * mask[:-1]
        return loss.sum() / num_boxes

    def box_reg_loss(
        self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor
    ) -> Tensor:
        """Sum of the box loss over the proposals of objects, over the number of all proposals.

        Dividing by all R keeps the weight of one object the same in an image with many of them
        and in one with few.

        Args:
            proposal_boxes: (R, B).
            gt_boxes: (R, B) targets; those of background proposals are not read.
            pred_deltas: (R, K * B) or (R, B).
            gt_classes: (R,), K for background.
        """
        box_dim = proposal_boxes.shape[1]
        is_object = (gt_classes >= 0) & (gt_classes < self.num_classes)
        deltas = self._deltas_of_class(pred_deltas, gt_classes, box_dim)
        boxes_type = Boxes if box_dim == 4 else RotatedBoxes
        total = _dense_box_regression_loss(
            [boxes_type(proposal_boxes)],
            self.box2box_transform,
            [deltas[None]],
            [gt_boxes],
            is_object[None],
            self.box_reg_loss_type,
            self.smooth_l1_beta,
        )
        return total / max(gt_classes.numel(), 1.0)

    def _deltas_of_class(self, deltas: Tensor, classes: Tensor, box_dim: int) -> Tensor:
        """(R, B) the deltas for one class of each row; any class for background."""
        if deltas.shape[1] == box_dim:
            return deltas
        rows = torch.arange(deltas.shape[0], device=deltas.device)
        columns = classes.clamp(0, self.num_classes - 1)
        return deltas.unflatten(1, (self.num_classes, box_dim))[rows, columns]

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Final detections of each image, and the proposals they come from.

        See `fast_rcnn_inference`.
        """
        return fast_rcnn_inference(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [p.image_size for p in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )

    def predict_boxes_for_gt_classes(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> list[Tensor]:
        """For each image, (R, B) the boxes predicted for the true class of each proposal."""
        if not proposals:
            return []
        _, deltas = predictions
        boxes = cat([p.proposal_boxes.tensor for p in proposals])
        classes = cat([p.gt_classes for p in proposals])
        chosen = self._deltas_of_class(deltas, classes, boxes.shape[1])
        return self._per_image(self.box2box_transform.apply_deltas(chosen, boxes), proposals)

    def predict_boxes(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> list[Tensor]:
        """For each image, (R, K * B) or (R, B) boxes, not clipped."""
        if not proposals:
            return []
        _, deltas = predictions
        boxes = cat([p.proposal_boxes.tensor for p in proposals])
        return self._per_image(self.box2box_transform.apply_deltas(deltas, boxes), proposals)

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> list[Tensor]:
        """For each image, (R, K + 1) probabilities, background last, at least float32."""
        scores, _ = predictions
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        probs = scores.sigmoid() if self.use_sigmoid_ce else F.softmax(scores, dim=-1)
        return self._per_image(probs, proposals)

    @staticmethod
    def _per_image(rows: Tensor, proposals: list[Instances]) -> list[Tensor]:
        # Sizes of tensors, unlike lengths of lists, stay variables when the model is traced.
        return list(rows.split([p.proposal_boxes.tensor.shape[0] for p in proposals]))


def _flat_size(shape: ShapeSpec) -> int:
    return shape.channels * (shape.height or 1) * (shape.width or 1)


def _target_boxes(proposals: Instances) -> Tensor:
    field = "gt_boxes" if proposals.has("gt_boxes") else "proposal_boxes"
    return proposals.get(field).tensor
