import pytest
import torch
from torch.testing import assert_close

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    build_roi_heads,
)
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

SIZE = (64, 96)
K = 3


def cascade(cls=CascadeROIHeads, **kwargs):
    torch.manual_seed(0)
    weights = ((10.0, 10, 5, 5), (20.0, 20, 10, 10), (30.0, 30, 15, 15))
    shape = ShapeSpec(channels=4, height=4, width=4)
    arguments = {
        "num_classes": K,
        "batch_size_per_image": 8,
        "positive_fraction": 0.5,
        "box_in_features": ["p2"],
        "box_pooler": ROIPooler(4, (1 / 4,), 0, "ROIAlignV2"),
        "box_heads": [FastRCNNConvFCHead(shape, conv_dims=[], fc_dims=[6]) for _ in weights],
        "box_predictors": [
            FastRCNNOutputLayers(
                6, box2box_transform=Box2BoxTransform(w), num_classes=K, cls_agnostic_bbox_reg=True
            )
            for w in weights
        ],
        "proposal_matchers": [Matcher([iou], [0, 1]) for iou in (0.5, 0.6, 0.7)],
    }
    return cls(**{**arguments, **kwargs})


def features():
    torch.manual_seed(1)
    return {"p2": torch.randn(2, 4, 16, 24)}


def proposals():
    boxes = torch.tensor([[2.0, 3, 30, 28], [5, 5, 40, 40], [40, 10, 85, 50], [0, 0, 9, 9]])
    return [
        Instances(SIZE, proposal_boxes=Boxes(boxes + i), objectness_logits=torch.zeros(4))
        for i in range(2)
    ]


def targets():
    boxes = torch.tensor([[2.0, 3, 31, 29], [40, 10, 80, 50]])
    return [
        Instances(SIZE, gt_boxes=Boxes(boxes + i), gt_classes=torch.tensor([i, 2]))
        for i in range(2)
    ]


def test_every_stage_has_its_losses_and_metrics():
    heads = cascade().train()
    with EventStorage() as storage:
        _, losses = heads(None, features(), proposals(), targets())
        names = set(storage.latest())
    assert set(losses) == {
        f"{name}_stage{stage}" for name in ("loss_cls", "loss_box_reg") for stage in range(3)
    }
    assert {"stage0/fast_rcnn/cls_accuracy", "stage2/fast_rcnn/cls_accuracy"} <= names
    assert {"stage1/roi_head/num_fg_samples", "stage2/roi_head/num_bg_samples"} <= names
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in heads.parameters())


def test_scores_are_averaged_over_stages_and_boxes_are_those_of_the_last():
    heads = cascade().eval()
    probabilities = []
    for stage, predictor in enumerate(heads.box_predictor):
        probs = torch.zeros(4, K + 1)
        probs[:, 0] = (stage + 1) / 10
        probabilities.append(probs)
        predictor.predict_probs = lambda predictions, p, probs=probs: [probs, probs]
    last = torch.tensor([[1.0, 2, 30, 40], [50, 5, 60, 20], [5, 40, 20, 60], [70, 30, 90, 60]])
    heads.box_predictor[2].predict_boxes = lambda predictions, p: [last, last]
    detections, _ = heads(None, features(), proposals())
    assert_close(detections[0].scores[:4], torch.full((4,), 0.2))
    assert sorted(detections[0].pred_boxes.tensor[:4].tolist()) == sorted(last.tolist())


def test_a_stage_starts_from_the_clipped_boxes_of_the_one_before():
    heads = cascade().eval()
    boxes = torch.tensor([[-5.0, 2, 30, 400], [200, 5, 300, 20]], requires_grad=True)
    (made,) = heads._create_proposals_from_boxes([boxes * 1.0], [SIZE])
    assert made.proposal_boxes.tensor.tolist() == [[0, 2, 30, 64], [96, 5, 96, 20]]
    assert not made.proposal_boxes.tensor.requires_grad
    (made,) = heads.train()._create_proposals_from_boxes([boxes * 1.0], [SIZE])
    assert len(made) == 1  # an empty box cannot be trained on


def test_later_stages_demand_more_overlap():
    heads = cascade()
    # IoU with the object is 0.65: an object in the second stage, background in the third
    box = torch.tensor([[0.0, 0, 10, 6.5]])
    target = Instances(SIZE, gt_boxes=Boxes([[0.0, 0, 10, 10]]), gt_classes=torch.tensor([1]))
    for stage, label in ((1, 1), (2, K)):
        p = Instances(SIZE, proposal_boxes=Boxes(box))
        (labelled,) = heads._match_and_label_boxes([p], stage, [target])
        assert labelled.gt_classes.tolist() == [label]
        assert labelled.gt_boxes.tensor.tolist() == [[0, 0, 10, 10]]


def test_without_objects_every_box_is_background():
    p = Instances(SIZE, proposal_boxes=Boxes(torch.ones(3, 4)))
    nothing = Instances(SIZE, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0).long())
    (labelled,) = cascade()._match_and_label_boxes([p], 1, [nothing])
    assert labelled.gt_classes.tolist() == [K] * 3
    assert len(labelled.gt_boxes) == 3


def test_the_gradient_is_scaled_and_the_value_is_not():
    x = torch.randn(3, requires_grad=True)
    y = _ScaleGradient.apply(x, 0.25)
    assert_close(y, x)
    y.sum().backward()
    assert_close(x.grad, torch.full((3,), 0.25))


def test_convention_subclasses_override_single_steps():
    calls = []

    class Custom(CascadeROIHeads):
        def _forward_box(self, features, proposals, targets=None):
            calls.append("_forward_box")
            return super()._forward_box(features, proposals, targets)

        def _run_stage(self, features, proposals, stage):
            calls.append(f"_run_stage {stage}")
            return super()._run_stage(features, proposals, stage)

        def _create_proposals_from_boxes(self, boxes, image_sizes):
            calls.append("_create_proposals_from_boxes")
            return super()._create_proposals_from_boxes(boxes, image_sizes)

        def _match_and_label_boxes(self, proposals, stage, targets):
            calls.append(f"_match_and_label_boxes {stage}")
            return super()._match_and_label_boxes(proposals, stage, targets)

    cascade(Custom).train()(None, features(), proposals(), targets())
    assert calls == [
        "_forward_box",
        "_run_stage 0",
        "_create_proposals_from_boxes",
        "_match_and_label_boxes 1",
        "_run_stage 1",
        "_create_proposals_from_boxes",
        "_match_and_label_boxes 2",
        "_run_stage 2",
    ]


def test_stages_need_a_head_a_predictor_and_a_matcher_each():
    with pytest.raises(ValueError, match="3, 3 and 2"):
        cascade(proposal_matchers=[Matcher([0.5], [0, 1])] * 2)


def cascade_cfg():
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 6
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 2
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    return cfg


def test_stages_come_from_the_config():
    heads = build_roi_heads(cascade_cfg(), {"p2": ShapeSpec(channels=4, stride=4)})
    assert [p.box2box_transform.weights[0] for p in heads.box_predictor] == [10, 20, 30]
    assert [m.thresholds[1] for m in heads.proposal_matchers] == [0.5, 0.6, 0.7]
    assert {name.split(".")[1] for name, _ in heads.box_head.named_parameters()} == {"fc1"}


def test_a_config_that_does_not_fit_a_cascade_is_refused():
    shapes = {"p2": ShapeSpec(channels=4, stride=4)}
    cfg = cascade_cfg()
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = False
    with pytest.raises(ValueError, match="CLS_AGNOSTIC_BBOX_REG"):
        build_roi_heads(cfg, shapes)
    cfg = cascade_cfg()
    cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS = [0.4]
    with pytest.raises(ValueError, match="0.5.*0.4"):
        build_roi_heads(cfg, shapes)
