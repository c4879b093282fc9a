import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import PanopticFPN, SemanticSegmentor, build_model, build_sem_seg_head
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.structures import Boxes, Instances
from host_waits import FAR, host_waits

SHAPES = {
    "p4": ShapeSpec(channels=3, stride=16),
    "p2": ShapeSpec(channels=5, stride=4),
}


def fpn_head(**kwargs):
    torch.manual_seed(0)
    arguments = {"num_classes": 7, "conv_dims": 4, "common_stride": 4, "norm": None}
    return SemSegFPNHead(SHAPES, **{**arguments, **kwargs})


def maps():
    torch.manual_seed(1)
    return {"p2": torch.randn(2, 5, 8, 12), "p4": torch.randn(2, 3, 2, 3)}


# ---- semantic head


def test_levels_are_brought_to_the_common_stride_and_summed():
    head = fpn_head().eval()
    features = maps()
    fine = head.p2(features["p2"])
    coarse = head.p4(features["p4"])
    assert fine.shape == coarse.shape == (2, 4, 8, 12)
    assert_close(head.layers(features), head.predictor(fine + coarse))


def test_each_level_doubles_as_often_as_its_stride_needs():
    head = fpn_head()
    assert head.in_features == ["p2", "p4"]
    assert [len(level) for level in head.scale_heads] == [1, 4]
    assert [type(layer).__name__ for layer in head.p4] == ["Conv2d", "Upsample"] * 2


def test_scores_have_the_size_of_the_input_at_inference():
    scores, losses = fpn_head().eval()(maps())
    assert scores.shape == (2, 7, 32, 48)
    assert losses == {}


def test_semantic_loss_leaves_out_ignored_pixels():
    head = fpn_head(ignore_value=255, loss_weight=3.0).train()
    targets = torch.randint(0, 7, (2, 32, 48))
    targets[:, :10] = 255
    _, losses = head(maps(), targets)
    scores = F.interpolate(head.layers(maps()), scale_factor=4, mode="bilinear")
    counted = targets != 255
    expected = F.cross_entropy(scores.permute(0, 2, 3, 1)[counted], targets[counted])
    assert_close(losses["loss_sem_seg"], 3 * expected)


def test_semantic_loss_of_an_unlabelled_batch_is_zero_not_nan():
    head = fpn_head(ignore_value=255).train()
    _, losses = head(maps(), torch.full((2, 32, 48), 255))
    losses["loss_sem_seg"].backward()
    assert losses["loss_sem_seg"].item() == 0
    assert head.predictor.weight.grad.abs().sum() == 0


def test_semantic_head_comes_from_the_config():
    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["p4"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT = 0.5
    head = build_sem_seg_head(cfg, SHAPES)
    assert head.in_features == ["p4"]
    assert head.predictor.out_channels == 3
    assert head.ignore_value == 255
    assert head.loss_weight == 0.5
    assert isinstance(head.p4[0].norm, nn.GroupNorm)


def test_a_head_without_features_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        SemSegFPNHead({}, num_classes=2, conv_dims=2, common_stride=4)


class TinyBackbone(Backbone):
    size_divisibility = 8

    def forward(self, x):
        return {"p2": x[:, :, ::4, ::4]}

    def output_shape(self):
        return {"p2": ShapeSpec(channels=3, stride=4)}


def segmentor():
    torch.manual_seed(0)
    return SemanticSegmentor(
        backbone=TinyBackbone(),
        sem_seg_head=SemSegFPNHead(
            {"p2": ShapeSpec(channels=3, stride=4)}, num_classes=5, conv_dims=4, common_stride=4
        ),
        pixel_mean=(0.0,) * 3,
        pixel_std=(1.0,) * 3,
    )


def test_segmentor_returns_scores_at_the_size_asked_for():
    inputs = [{"image": torch.rand(3, 18, 30), "height": 9, "width": 60}]
    (result,) = segmentor().eval()(inputs)
    assert result["sem_seg"].shape == (5, 9, 60)


def test_segmentor_pads_labels_with_the_ignored_value():
    model = segmentor().train()
    seen = {}
    model.sem_seg_head.losses = lambda predictions, targets: seen.update(targets=targets) or {}
    labels = torch.ones(18, 30, dtype=torch.int64)
    model([{"image": torch.rand(3, 18, 30), "sem_seg": labels}])
    assert seen["targets"].shape == (1, 24, 32)
    assert (seen["targets"][0, :18, :30] == 1).all()
    assert (seen["targets"][0, 18:] == -1).all()


# ---- merging


def instances_of(masks, scores, classes=None):
    classes = list(range(len(masks))) if classes is None else classes
    return Instances(
        masks.shape[1:],
        pred_masks=masks,
        scores=torch.tensor(scores),
        pred_classes=torch.tensor(classes),
    )


def rows(*spans, size=(8, 8)):
    masks = torch.zeros(len(spans), *size, dtype=torch.bool)
    for mask, (start, stop) in zip(masks, spans):
        mask[start:stop] = True
    return masks


def test_the_best_instance_paints_first():
    nothing = torch.zeros(8, 8, dtype=torch.int64)
    things = instances_of(rows((0, 4), (3, 7)), [0.6, 0.9], [5, 6])
    panoptic, segments = combine_semantic_and_instance_outputs(things, nothing, 0.5, 4, 0.5)
    assert panoptic.dtype == torch.int32
    assert panoptic[:, 0].tolist() == [2, 2, 2, 1, 1, 1, 1, 0]
    assert segments == [
        {"id": 1, "isthing": True, "score": pytest.approx(0.9), "category_id": 6, "instance_id": 1},
        {"id": 2, "isthing": True, "score": pytest.approx(0.6), "category_id": 5, "instance_id": 0},
    ]


def test_a_hidden_a_weak_and_an_empty_instance_are_dropped():
    nothing = torch.zeros(8, 8, dtype=torch.int64)
    masks = rows((0, 4), (0, 5), (6, 6), (5, 8))
    things = instances_of(masks, [0.9, 0.8, 0.7, 0.4])
    panoptic, segments = combine_semantic_and_instance_outputs(things, nothing, 0.5, 4, 0.5)
    assert [s["instance_id"] for s in segments] == [0]
    assert panoptic[:, 0].tolist() == [1] * 4 + [0] * 4


def test_ids_are_counted_without_the_instances_that_are_dropped():
    nothing = torch.zeros(8, 8, dtype=torch.int64)
    things = instances_of(rows((0, 4), (0, 5), (6, 8)), [0.9, 0.8, 0.7])
    panoptic, segments = combine_semantic_and_instance_outputs(things, nothing, 0.5, 4, 0.5)
    assert [(s["id"], s["instance_id"]) for s in segments] == [(1, 0), (2, 2)]
    assert panoptic[:, 0].tolist() == [1] * 4 + [0] * 2 + [2] * 2


def test_exactly_the_threshold_of_overlap_is_allowed():
    nothing = torch.zeros(8, 8, dtype=torch.int64)
    things = instances_of(rows((0, 4), (2, 6)), [0.9, 0.8])
    _, segments = combine_semantic_and_instance_outputs(things, nothing, 0.5, 4, 0.5)
    assert len(segments) == 2


def test_stuff_fills_what_is_left_if_it_is_large_enough():
    semantic = torch.zeros(8, 8, dtype=torch.int64)
    semantic[2:6] = 3
    semantic[6:] = 9
    semantic[7, :6] = 1
    things = instances_of(rows((0, 4)), [0.9])
    panoptic, segments = combine_semantic_and_instance_outputs(things, semantic, 0.5, 8, 0.5)
    assert segments[1:] == [
        {"id": 2, "isthing": False, "category_id": 3, "area": 16},
        {"id": 3, "isthing": False, "category_id": 9, "area": 10},
    ]
    assert panoptic[:, 0].tolist() == [1, 1, 1, 1, 2, 2, 3, 0]


def test_without_instances_there_is_only_stuff():
    semantic = torch.ones(8, 8, dtype=torch.int64)
    things = instances_of(rows(), [], [])
    panoptic, segments = combine_semantic_and_instance_outputs(things, semantic, 0.5, 8, 0.5)
    assert (panoptic == 1).all()
    assert [s["category_id"] for s in segments] == [1]


def test_a_gpu_is_waited_for_as_often_for_many_instances_as_for_one():
    counts = []
    for number in (1, 7):
        with host_waits() as waits:
            masks = rows(*((start, start + 2) for start in range(number)))
            things = instances_of(masks, [0.9] * number).to(FAR, non_blocking=True)
            semantic = torch.ones(8, 8, dtype=torch.int64).to(FAR, non_blocking=True)
            waits.clear()
            combine_semantic_and_instance_outputs(things, semantic, 0.5, 1, 0.5)
        counts.append(len(waits))
    # Candidates, which of them stay, the histogram of stuff, its values, and the ids of stuff.
    assert counts == [5, 5], "\n".join(map(str, waits))


# ---- panoptic model


class Parts(nn.Module):
    """Proposal generator and ROI heads at once, with one detection for each image."""

    def forward(self, images, features, proposals=None, targets=None):
        if self.training:
            return [], {f"loss_{type(proposals).__name__}_{id(self)}": features["p2"].sum()}
        boxes = Boxes(torch.tensor([[0.0, 0, 16, 16]]))
        found = Instances(
            images.image_sizes[0],
            pred_boxes=boxes,
            scores=torch.tensor([0.9]),
            pred_classes=torch.tensor([2]),
            pred_masks=torch.ones(1, 1, 4, 4),
        )
        return [found], {}


def panoptic_model():
    torch.manual_seed(0)
    model = segmentor()
    return PanopticFPN(
        sem_seg_head=model.sem_seg_head,
        backbone=model.backbone,
        proposal_generator=Parts(),
        roi_heads=Parts(),
        pixel_mean=(0.0,) * 3,
        pixel_std=(1.0,) * 3,
        combine_stuff_area_thresh=16,
    )


def test_panoptic_model_returns_all_three_results():
    model = panoptic_model().eval()
    (result,) = model([{"image": torch.rand(3, 24, 32), "height": 48, "width": 64}])
    assert set(result) == {"instances", "sem_seg", "panoptic_seg"}
    panoptic, segments = result["panoptic_seg"]
    assert result["sem_seg"].shape == (5, 48, 64)
    assert panoptic.shape == (48, 64)
    assert segments[0]["category_id"] == 2
    assert (panoptic[4:28, 4:28] == 1).all()


def test_panoptic_model_can_leave_out_the_merging():
    detections, scores = (
        panoptic_model().eval().inference([{"image": torch.rand(3, 24, 32)}], do_postprocess=False)
    )
    assert len(detections) == 1
    assert scores.shape == (1, 5, 24, 32)


def test_panoptic_model_trains_on_all_losses():
    image = {
        "image": torch.rand(3, 24, 32),
        "sem_seg": torch.ones(24, 32, dtype=torch.int64),
        "instances": Instances((24, 32), gt_boxes=Boxes(torch.zeros(0, 4))),
    }
    losses = panoptic_model().train()([image])
    assert len(losses) == 3
    assert "loss_sem_seg" in losses


def panoptic_cfg():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "PanopticFPN"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.RPN.IN_FEATURES = ["p2"]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 8
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 2
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.MODEL.MASK_ON = True
    return cfg


def test_panoptic_model_comes_from_the_config():
    cfg = panoptic_cfg()
    cfg.MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH = 0.25
    cfg.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT = 0.5
    with torch.device("meta"):
        cfg.MODEL.DEVICE = "meta"
        model = build_model(cfg)
    assert model.combine_overlap_thresh == 0.25
    assert model.combine_stuff_area_thresh == 4096
    assert model.roi_heads.box_predictor.loss_weight == {"loss_box_reg": 0.5, "loss_cls": 0.5}
    assert model.roi_heads.mask_head.loss_weight == 0.5


def test_merging_cannot_be_switched_off_in_the_config():
    cfg = panoptic_cfg()
    cfg.MODEL.PANOPTIC_FPN.COMBINE.ENABLED = False
    with pytest.raises(ValueError, match="do_postprocess=False"):
        build_model(cfg)
