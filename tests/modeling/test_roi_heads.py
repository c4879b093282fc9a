import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    Res5ROIHeads,
    ROIHeads,
    StandardROIHeads,
    build_roi_heads,
    select_foreground_proposals,
)
from detectron2.modeling.roi_heads.roi_heads import select_proposals_with_visible_keypoints
from detectron2.structures import Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage

SIZE = (64, 96)
K = 3  # foreground classes
CHANNELS = 4


def sampling(**kwargs):
    arguments = {
        "num_classes": K,
        "batch_size_per_image": 8,
        "positive_fraction": 0.5,
        "proposal_matcher": Matcher([0.5], [0, 1], allow_low_quality_matches=False),
    }
    return {**arguments, **kwargs}


def shape(size):
    return ShapeSpec(channels=CHANNELS, height=size, width=size)


def standard_heads(cls=StandardROIHeads, masks=True, **kwargs):
    torch.manual_seed(0)
    arguments = {
        "box_in_features": ["p2", "p3"],
        "box_pooler": ROIPooler(4, (1 / 4, 1 / 8), 0, "ROIAlignV2"),
        "box_head": FastRCNNConvFCHead(shape(4), conv_dims=[], fc_dims=[6]),
        "box_predictor": FastRCNNOutputLayers(
            6, box2box_transform=Box2BoxTransform((10.0, 10, 5, 5)), num_classes=K
        ),
    }
    if masks:
        arguments |= {
            "mask_in_features": ["p2"],
            "mask_pooler": ROIPooler(4, (1 / 4,), 0, "ROIAlignV2"),
            "mask_head": MaskRCNNConvUpsampleHead(shape(4), num_classes=K, conv_dims=[4]),
        }
    return cls(**sampling(), **{**arguments, **kwargs})


def features(num_images=2):
    torch.manual_seed(1)
    return {
        f"p{level}": torch.randn(num_images, CHANNELS, SIZE[0] >> level, SIZE[1] >> level)
        for level in (2, 3)
    }


def proposals(num_images=2, count=12):
    result = []
    for seed in range(num_images):
        generator = torch.Generator().manual_seed(seed)
        corner = torch.rand(count, 2, generator=generator) * 30
        sides = 10 + torch.rand(count, 2, generator=generator) * 20
        result.append(
            Instances(
                SIZE,
                proposal_boxes=Boxes(torch.cat([corner, corner + sides], 1)),
                objectness_logits=torch.rand(count, generator=generator),
            )
        )
    return result


def targets(num_images=2):
    result = []
    for index in range(num_images):
        boxes = torch.tensor([[2.0, 3, 30, 28], [40, 10, 80, 50]]) + index
        corners = [[x0, y0, x1, y0, x1, y1, x0, y1] for x0, y0, x1, y1 in boxes.tolist()]
        result.append(
            Instances(
                SIZE,
                gt_boxes=Boxes(boxes),
                gt_classes=torch.tensor([index, 2]),
                gt_masks=PolygonMasks([[polygon] for polygon in corners]),
                difficulty=torch.tensor([0, 1]),
            )
        )
    return result


# ---- which proposals are trained on


def test_sampled_proposals_carry_the_ground_truth_they_match():
    heads = ROIHeads(**sampling())
    for sampled, t in zip(heads.label_and_sample_proposals(proposals(), targets()), targets()):
        assert len(sampled) == 8
        objects = sampled[sampled.gt_classes < K]
        # the ground-truth boxes themselves are proposals, so both objects are found
        assert {tuple(box) for box in objects.gt_boxes.tensor.tolist()} == {
            tuple(box) for box in t.gt_boxes.tensor.tolist()
        }
        assert len(sampled.gt_masks) == 8
        assert not sampled.has("difficulty")


def test_at_most_the_positive_fraction_is_foreground():
    many = proposals(1)[0]
    many.proposal_boxes.tensor[:10] = targets(1)[0].gt_boxes.tensor[0]
    (sampled,) = ROIHeads(**sampling()).label_and_sample_proposals([many], targets(1))
    # 13 of the boxes match an object, 4 are background
    assert (sampled.gt_classes < K).sum() == 4


def test_without_appended_ground_truth_proposals_stand_alone():
    heads = ROIHeads(**sampling(proposal_append_gt=False, batch_size_per_image=100))
    (sampled,) = heads.label_and_sample_proposals(proposals(1), targets(1))
    assert len(sampled) == 12


def test_ignored_proposals_are_not_sampled():
    matcher = Matcher([0.01, 0.9], [0, -1, 1], allow_low_quality_matches=False)
    heads = ROIHeads(**sampling(proposal_matcher=matcher, batch_size_per_image=100))
    (sampled,) = heads.label_and_sample_proposals(proposals(1), targets(1))
    assert (sampled.gt_classes >= 0).all()
    assert len(sampled) < 14


def test_an_image_without_objects_gives_background_only():
    heads = ROIHeads(**sampling())
    empty = targets(1)[0][:0]
    (sampled,) = heads.label_and_sample_proposals(proposals(1), [empty])
    assert (sampled.gt_classes == K).all()
    assert not sampled.has("gt_boxes")


def test_sample_counts_are_logged_as_means_over_images():
    heads = ROIHeads(**sampling(batch_size_per_image=100))
    with EventStorage() as storage:
        sampled = heads.label_and_sample_proposals(proposals(), targets())
        latest = {name: value for name, (value, _) in storage.latest().items()}
    background = sum(int((p.gt_classes == K).sum()) for p in sampled)
    assert latest["roi_head/num_bg_samples"] == background / 2
    assert latest["roi_head/num_fg_samples"] == (28 - background) / 2


def test_foreground_is_neither_background_nor_ignored():
    p = Instances(SIZE, gt_classes=torch.tensor([0, K, -1, 2]), row=torch.arange(4))
    (chosen,), (mask,) = select_foreground_proposals([p], K)
    assert chosen.row.tolist() == [0, 3]
    assert mask.tolist() == [True, False, False, True]


def test_keypoints_count_only_when_visible_and_inside_of_the_proposal():
    keypoints = torch.tensor(
        [
            [[5.0, 5, 2], [50, 50, 2]],  # one inside
            [[5.0, 5, 0], [50, 50, 2]],  # inside but not labelled
            [[50.0, 50, 2], [5, 20, 1]],  # outside
            [[10.0, 0, 1], [5, 20, 1]],  # on the border
        ]
    )
    p = Instances(
        SIZE,
        proposal_boxes=Boxes(torch.tensor([[0.0, 0, 10, 10]] * 4)),
        gt_keypoints=Keypoints(keypoints),
        row=torch.arange(4),
    )
    nothing = Instances(SIZE, proposal_boxes=Boxes(torch.zeros(0, 4)))
    with EventStorage() as storage:
        chosen = select_proposals_with_visible_keypoints([p, nothing])
        assert storage.latest()["keypoint_head/num_fg_samples"][0] == 1.0
    assert chosen[0].row.tolist() == [0, 3]
    assert len(chosen[1]) == 0


# ---- standard heads


def test_training_gives_the_losses_of_every_head():
    heads = standard_heads().train()
    sampled, losses = heads(None, features(), proposals(), targets())
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask"}
    assert [len(p) for p in sampled] == [8, 8]
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in heads.parameters())


def test_inference_gives_boxes_and_masks():
    heads = standard_heads().eval()
    detections, losses = heads(None, features(), proposals())
    assert losses == {}
    for found in detections:
        assert len(found) > 0
        assert found.pred_masks.shape == (len(found), 1, 8, 8)


def test_given_boxes_get_masks_and_keep_their_order():
    heads = standard_heads().eval()
    given = [
        Instances(SIZE, pred_boxes=p.proposal_boxes, pred_classes=torch.arange(12) % K)
        for p in proposals()
    ]
    results = heads.forward_with_given_boxes(features(), given)
    assert_close(results[0].pred_boxes.tensor, proposals()[0].proposal_boxes.tensor)
    assert results[1].pred_masks.shape == (12, 1, 8, 8)


def test_given_boxes_are_refused_in_training_and_without_classes():
    heads = standard_heads()
    with pytest.raises(RuntimeError, match="model.eval"):
        heads.train().forward_with_given_boxes(features(), [])
    boxes_only = Instances(SIZE, pred_boxes=Boxes(torch.zeros(0, 4)))
    with pytest.raises(ValueError, match="pred_classes"):
        heads.eval().forward_with_given_boxes(features(1), [boxes_only])


def test_training_without_ground_truth_is_refused():
    with pytest.raises(ValueError, match="instances"):
        standard_heads().train()(None, features(), proposals())


def test_training_on_predicted_boxes_moves_the_boxes_of_the_other_heads():
    class RecordingMaskHead(nn.Module):
        def forward(self, x, instances):
            self.boxes = [p.proposal_boxes.tensor for p in instances]
            return {}

    predicted = torch.tensor([[0.0, 0, 20, 20]])
    heads = standard_heads(train_on_pred_boxes=True, mask_head=RecordingMaskHead()).train()
    heads.box_predictor.predict_boxes_for_gt_classes = lambda predictions, proposals: [
        predicted.expand(len(p), -1) for p in proposals
    ]
    heads(None, features(), proposals(), targets())
    assert all((boxes == predicted).all() for boxes in heads.mask_head.boxes)


def test_a_mask_head_without_pooler_gets_the_feature_maps():
    class WholeMaps(nn.Module):
        def forward(self, x, instances):
            self.names = list(x)
            return instances

    heads = standard_heads(mask_pooler=None, mask_head=WholeMaps()).eval()
    heads(None, features(), proposals())
    assert heads.mask_head.names == ["p2"]


def test_features_that_are_not_finite_give_no_detections():
    broken = {name: torch.full_like(x, float("nan")) for name, x in features().items()}
    detections, _ = standard_heads().eval()(None, broken, proposals())
    assert [len(found) for found in detections] == [0, 0]


def test_no_proposals_give_no_detections_but_all_fields():
    nothing = [p[:0] for p in proposals()]
    detections, _ = standard_heads().eval()(None, features(), nothing)
    assert [found.pred_masks.shape for found in detections] == [(0, 1, 8, 8)] * 2


def test_convention_subclasses_override_single_steps():
    calls = []

    class Custom(StandardROIHeads):
        def label_and_sample_proposals(self, proposals, targets):
            calls.append("label_and_sample_proposals")
            return super().label_and_sample_proposals(proposals, targets)

        def _forward_box(self, features, proposals):
            calls.append("_forward_box")
            return super()._forward_box(features, proposals)

        def _forward_mask(self, features, instances):
            calls.append("_forward_mask")
            return super()._forward_mask(features, instances)

        def _forward_keypoint(self, features, instances):
            calls.append("_forward_keypoint")
            return super()._forward_keypoint(features, instances)

        def forward_with_given_boxes(self, features, instances):
            calls.append("forward_with_given_boxes")
            return super().forward_with_given_boxes(features, instances)

    heads = standard_heads(Custom)
    heads.train()(None, features(), proposals(), targets())
    heads.eval()(None, features(), proposals())
    steps = ["_forward_box", "_forward_mask", "_forward_keypoint"]
    assert calls == [
        "label_and_sample_proposals",
        *steps,
        "_forward_box",
        "forward_with_given_boxes",
        *steps[1:],
    ]


# ---- from a config


def fpn_cfg():
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = K
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 6
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 4
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [4]
    cfg.MODEL.MASK_ON = True
    return cfg


SHAPES = {
    "p2": ShapeSpec(channels=CHANNELS, stride=4),
    "p3": ShapeSpec(channels=CHANNELS, stride=8),
}


def test_config_values_reach_the_heads():
    cfg = fpn_cfg()
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 77
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.3
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT = 2.5
    cfg.TEST.DETECTIONS_PER_IMAGE = 9
    cfg.MODEL.KEYPOINT_ON = True
    heads = build_roi_heads(cfg, SHAPES)
    assert type(heads) is StandardROIHeads
    assert heads.batch_size_per_image == 77
    assert heads.box_pooler.scales == (1 / 4, 1 / 8)
    assert heads.box_predictor.test_score_thresh == 0.3
    assert heads.box_predictor.test_topk_per_image == 9
    assert heads.box_predictor.loss_weight == {"loss_cls": 1.0, "loss_box_reg": 2.5}
    assert heads.mask_head.predictor.out_channels == K
    assert heads.keypoint_head.num_keypoints == 17


def test_convention_init_methods_can_be_overridden_as_class_methods():
    class Custom(StandardROIHeads):
        @classmethod
        def _init_box_head(cls, cfg, input_shape):
            arguments = super()._init_box_head(cfg, input_shape)
            arguments["box_predictor"].marked = True
            return arguments

        @classmethod
        def _init_mask_head(cls, cfg, input_shape):
            return {}

    heads = Custom(fpn_cfg(), SHAPES)
    assert heads.box_predictor.marked
    assert not heads.mask_on


def test_convention_old_instance_methods_are_left_to_the_subclass():
    class Old(StandardROIHeads):
        @classmethod
        def from_config(cls, cfg, input_shape):
            return {**super().from_config(cfg, input_shape), "mask_in_features": None}

        def _init_mask_head(self, cfg, input_shape):
            raise RuntimeError("called by from_config")

    assert not Old(fpn_cfg(), SHAPES).mask_on


def test_features_of_different_width_cannot_share_a_head():
    shapes = {**SHAPES, "p3": ShapeSpec(channels=7, stride=8)}
    with pytest.raises(ValueError, match=r"\[4, 7\]"):
        build_roi_heads(fpn_cfg(), shapes)


def test_an_empty_pooler_type_hands_shapes_of_whole_maps_to_the_mask_head(monkeypatch):
    cfg = fpn_cfg()
    cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = ""
    seen = {}
    monkeypatch.setattr(
        "detectron2.modeling.roi_heads.roi_heads.build_mask_head",
        lambda cfg, shape: seen.update(shape) or nn.Identity(),
    )
    assert build_roi_heads(cfg, SHAPES).mask_pooler is None
    assert seen == SHAPES


# ---- heads on a shared stage


def res5_heads(**kwargs):
    torch.manual_seed(0)
    arguments = {
        "in_features": ["p3"],
        "pooler": ROIPooler(4, (1 / 8,), 0, "ROIAlignV2"),
        "res5": [nn.Conv2d(CHANNELS, 6, 3, stride=2, padding=1), nn.ReLU()],
        "box_predictor": FastRCNNOutputLayers(
            6, box2box_transform=Box2BoxTransform((10.0, 10, 5, 5)), num_classes=K
        ),
        "mask_head": MaskRCNNConvUpsampleHead(
            ShapeSpec(channels=6, height=2, width=2), num_classes=K, conv_dims=[4]
        ),
    }
    return Res5ROIHeads(**sampling(), **{**arguments, **kwargs})


def test_res5_heads_train_and_infer():
    heads = res5_heads()
    _, losses = heads.train()(None, features(), proposals(), targets())
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask"}
    detections, _ = heads.eval()(None, features(), proposals())
    assert detections[0].pred_masks.shape == (len(detections[0]), 1, 4, 4)


def test_res5_mask_features_are_those_of_the_foreground():
    class Recording(nn.Module):
        def forward(self, x, instances):
            self.rows, self.count = x.shape[0], sum(len(p) for p in instances)
            return {}

    heads = res5_heads(mask_head=Recording()).train()
    heads(None, features(), proposals(), targets())
    assert heads.mask_head.rows == heads.mask_head.count > 0


def test_res5_heads_without_masks_only_find_boxes():
    heads = res5_heads(mask_head=None).eval()
    detections, _ = heads(None, features(), proposals())
    assert not detections[0].has("pred_masks")


def test_res5_heads_refuse_what_they_cannot_do():
    cfg = get_cfg()
    shapes = {"res4": ShapeSpec(channels=1024, stride=16)}
    with_keypoints, deformable, two_maps = (copy.deepcopy(cfg) for _ in range(3))
    with_keypoints.MODEL.KEYPOINT_ON = True
    with pytest.raises(ValueError, match="keypoint"):
        build_roi_heads(with_keypoints, shapes)
    deformable.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False, False, False, True]
    with pytest.raises(ValueError, match="DEFORM_ON_PER_STAGE"):
        build_roi_heads(deformable, shapes)
    two_maps.MODEL.ROI_HEADS.IN_FEATURES = ["res3", "res4"]
    with pytest.raises(ValueError, match="one feature map"):
        build_roi_heads(two_maps, shapes)
