"""Two-stage detection in tensors of fixed shape: the host waits once, for the results.

How many proposals and detections there are is known to the device alone. The plain form asks for
these numbers several times on the way, and while the device answers it has nothing to do. Here
every image has room for all proposals and detections that it may have; a mask and a count say
which places are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detectron2.engine.inference.graphed import Graphed
from detectron2.engine.inference.prepared import runs_prepared
from detectron2.layers import shapes_to_tensor
from detectron2.modeling._forms import runs_in_fixed_form
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN
from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN
from detectron2.modeling.proposal_generator.proposal_utils import (
    clipped_candidates,
    keep_best_anchors,
)
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.modeling.roi_heads.cascade_rcnn import CascadeROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.roi_heads import Res5ROIHeads, StandardROIHeads
from detectron2.ops import detect_boxes, dispatch, nms_topk
from detectron2.structures import Boxes, ImageList, Instances

__all__ = [
    "FixedShapePanopticFPN",
    "FixedShapeRCNN",
    "FixedShapes",
    "find_detections",
    "find_proposals",
    "is_untouched",
    "read_counts",
]


class Proposals(NamedTuple):
    """P proposals of each of N images, of which some count."""

    instances: list[Instances]
    """With `proposal_boxes`; zeros in places without a proposal."""
    exist: Tensor
    """(N, P) bool."""


class HeadOutput(NamedTuple):
    """What the box heads say about P proposals of each of N images."""

    predictor: FastRCNNOutputLayers
    deltas: Tensor
    """(N * P, K * 4) or (N * P, 4)"""
    probabilities: list[Tensor]
    """For each image, (P, K + 1)."""
    proposals: list[Instances]
    """The boxes that the deltas start from."""


def _standard_output(heads: Any, features: Any, proposals: list[Instances]) -> HeadOutput:
    predictor = heads.box_predictor
    predictions = heads._predict_boxes(features, proposals)
    probabilities = predictor.predict_probs(predictions, proposals)
    return HeadOutput(predictor, predictions[1], probabilities, proposals)


def _res5_output(heads: Any, features: Any, proposals: list[Instances]) -> HeadOutput:
    predictor = heads.box_predictor
    _, predictions = heads._predict_boxes(features, proposals)
    probabilities = predictor.predict_probs(predictions, proposals)
    return HeadOutput(predictor, predictions[1], probabilities, proposals)


def _cascade_output(heads: Any, features: Any, proposals: list[Instances]) -> HeadOutput:
    outputs = heads._run_stages(features, proposals)
    predictor, predictions, of_last_stage = outputs[-1]
    return HeadOutput(predictor, predictions[1], heads._mean_scores(outputs), of_last_stage)


_OUTPUTS: dict[type, Callable[[Any, Any, list[Instances]], HeadOutput]] = {
    CascadeROIHeads: _cascade_output,
    Res5ROIHeads: _res5_output,
    StandardROIHeads: _standard_output,
}


class TrunkMaps(dict[str, Tensor]):
    """Feature maps by name, with the output of the RPN head for them, if it ran."""

    head_output: tuple[Any, Any] | None = None


def find_proposals(rpn: RPN, images: ImageList, features: dict[str, Tensor]) -> Proposals:
    """What ``rpn(images, features)`` returns in inference, padded to one number."""
    head_output = features.head_output if isinstance(features, TrunkMaps) else None
    anchors, logits, deltas = rpn._predict(features, head_output)
    topk = rpn.pre_nms_topk[False]
    anchors, logits, deltas = keep_best_anchors(anchors, logits, deltas, topk)
    decoded = rpn._decode_proposals(anchors, deltas)
    boxes, scores, groups, usable = clipped_candidates(
        decoded, logits, images.image_sizes, topk, rpn.min_box_size, training=False
    )
    places = min(rpn.post_nms_topk[False], boxes.shape[1])
    kept, counts = nms_topk(boxes, scores, groups, usable, rpn.nms_thresh, places)
    exist = torch.arange(places, device=boxes.device) < counts[:, None]
    chosen = boxes.gather(1, kept[..., None].expand(-1, -1, 4)).masked_fill(~exist[..., None], 0)
    instances = [
        Instances(size, proposal_boxes=Boxes(of_image))
        for size, of_image in zip(images.image_sizes, chosen, strict=True)
    ]
    return Proposals(instances, exist)


def find_detections(
    heads: nn.Module, images: ImageList, features: dict[str, Tensor], proposals: Proposals
) -> list[Instances]:
    """Final boxes, scores and classes of each image, as the box heads of `heads` find them."""
    output = _OUTPUTS[type(heads)](heads, features, proposals.instances)
    predictor = output.predictor
    probabilities = torch.stack(output.probabilities)  # (N, P, K + 1)
    found = detect_boxes(
        output.deltas.unflatten(0, (len(proposals.instances), -1)),
        torch.stack([p.proposal_boxes.tensor for p in output.proposals]),
        probabilities[..., :-1],
        proposals.exist & probabilities.isfinite().all(dim=2),
        shapes_to_tensor(images.image_sizes, device=probabilities.device),
        weights=predictor.box2box_transform.weights,
        scale_clamp=predictor.box2box_transform.scale_clamp,
        score_threshold=predictor.test_score_thresh,
        iou_threshold=predictor.test_nms_thresh,
        topk=predictor.test_topk_per_image,
    )
    boxes, scores, classes, _, counts = found
    fields = {"pred_boxes": boxes, "scores": scores, "pred_classes": classes}
    return read_counts(fields, counts, images.image_sizes)


def read_counts(
    fields: dict[str, Tensor], counts: Tensor, image_sizes: Sequence[tuple[int, int]]
) -> list[Instances]:
    """The places that are taken, of each image; here the host waits for the device.

    Args:
        fields: (N, places, ...) each, `pred_boxes` among them.
        counts: (N,) how many places are taken.
        image_sizes: (height, width) of each image.
    """
    detections = []
    for image, (size, count) in enumerate(zip(image_sizes, counts.tolist(), strict=True)):
        taken: dict[str, Any] = {name: value[image, :count] for name, value in fields.items()}
        taken["pred_boxes"] = Boxes(taken["pred_boxes"])
        detections.append(Instances(size, **taken))
    return detections


class FixedShapes(Graphed):
    """Whole models that detect in fixed shapes where that is faster and their parts are known.

    Attributes:
        fixed_shapes: whether to; None means on GPUs whose kernels run.
    """

    fixed_shapes: bool | None = None

    def become_plain(self) -> None:
        super().become_plain()
        self.__dict__.pop("fixed_shapes", None)

    def runs_in_fixed_shapes(self) -> bool:
        """Whether the fixed form runs now."""
        model: Any = self
        wanted = self.fixed_shapes
        if wanted is None:
            wanted = runs_in_fixed_form(model.device) and _kernels_run(model.device)
        return wanted and runs_prepared(model) and self.is_known()

    def is_known(self) -> bool:
        """Whether the fixed form computes what the model's own methods would."""
        raise NotImplementedError(f"{type(self).__name__} has to define is_known().")


class _FixedShapeTwoStages(FixedShapes):
    """What `FixedShapeRCNN` and `FixedShapePanopticFPN` share."""

    def inference(self, *args: Any, **kwargs: Any) -> Any:
        with self.trunk_in_use():
            return super().inference(*args, **kwargs)  # type: ignore[misc]

    def _features(self, images: ImageList) -> dict[str, Tensor]:
        model: Any = self
        if not self.runs_in_fixed_shapes():
            return self.run_trunk(model.backbone, images.tensor, (model.backbone,))
        rpn = model.proposal_generator

        def trunk(batch: Tensor) -> TrunkMaps:
            features = TrunkMaps(model.backbone(batch))
            features.head_output = rpn.rpn_head([features[name] for name in rpn.in_features])
            return features

        return self.run_trunk(trunk, images.tensor, (model.backbone, rpn.rpn_head))

    def _detect(
        self, batched_inputs: list[dict[str, Any]], images: ImageList, features: dict[str, Tensor]
    ) -> list[Instances]:
        model: Any = self
        if not self.runs_in_fixed_shapes():
            return super()._detect(batched_inputs, images, features)  # type: ignore[misc]
        proposals = find_proposals(model.proposal_generator, images, features)
        detections = find_detections(model.roi_heads, images, features, proposals)
        return model.roi_heads.forward_with_given_boxes(features, detections)

    def is_known(self) -> bool:
        return _is_known(self)


class FixedShapeRCNN(_FixedShapeTwoStages, GeneralizedRCNN):
    """A `GeneralizedRCNN` that waits for the device once."""


class FixedShapePanopticFPN(_FixedShapeTwoStages, PanopticFPN):
    """A `PanopticFPN` that waits for the device once for its instances."""


def _kernels_run(device: torch.device) -> bool:
    return all(
        dispatch.choose(name, device.type).implementation == "triton"
        for name in ("nms_topk", "detect_boxes")
    )


def _is_known(model: Any) -> bool:
    """Whether the functions above compute what the model's own methods would."""
    rpn, heads = model.proposal_generator, model.roi_heads
    if type(rpn) is not RPN or type(heads) not in _OUTPUTS:
        return False
    predictors = heads.box_predictor
    predictors = list(predictors) if isinstance(predictors, nn.ModuleList) else [predictors]
    return (
        all(is_untouched(module) for module in (rpn, heads, *predictors))
        and all(type(predictor) is FastRCNNOutputLayers for predictor in predictors)
        and type(predictors[-1].box2box_transform) is Box2BoxTransform
        and predictors[-1].test_topk_per_image >= 0
        and min(rpn.post_nms_topk[False], rpn.pre_nms_topk[False]) > 0
        and getattr(rpn.anchor_generator, "box_dim", 4) == 4
    )


def is_untouched(module: nn.Module) -> bool:
    """Whether nobody listens to the module, or put a function in the place of a method."""
    listened_to = module._forward_hooks or module._forward_pre_hooks
    return not listened_to and not any(
        callable(getattr(type(module), name, None)) for name in module.__dict__
    )
