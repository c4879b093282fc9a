import math

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss
from torch import nn
from torch.testing import assert_close

from detectron2.config import get_cfg
from detectron2.layers import CycleBatchNormList, ShapeSpec
from detectron2.modeling import FCOS, Backbone, RetinaNet
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import DenseDetector
from detectron2.modeling.meta_arch import retinanet as retinanet_module
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead, permute_to_N_HWA_K
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

SHAPES = {"p3": ShapeSpec(channels=4, stride=8), "p4": ShapeSpec(channels=4, stride=16)}
PIXELS = {"pixel_mean": [1.0, 2.0, 3.0], "pixel_std": [1.0, 2.0, 4.0]}
K = 3  # classes


class Pyramid(Backbone):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 4, s.stride, s.stride) for s in SHAPES.values())

    @property
    def size_divisibility(self):
        return 16

    def output_shape(self):
        return dict(reversed(SHAPES.items()))  # an order that is not that of the strides

    def forward(self, x):
        return {name: conv(x) for name, conv in zip(SHAPES, self.convs)}


def retinanet(**kwargs):
    head_arguments = {key: kwargs.pop(key) for key in ("norm",) if key in kwargs}
    arguments = {
        "backbone": Pyramid(),
        "head": RetinaNetHead(
            input_shape=list(SHAPES.values()), num_classes=K, num_anchors=2, conv_dims=[4, 4],
            **head_arguments,
        ),
        "head_in_features": ["p3", "p4"],
        "anchor_generator": DefaultAnchorGenerator(
            sizes=[[16.0, 24.0], [32.0, 48.0]], aspect_ratios=[[1.0]], strides=[8, 16]
        ),
        "box2box_transform": Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        "anchor_matcher": Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        "num_classes": K,
        "test_score_thresh": 0.0,
        **PIXELS,
    }  # fmt: skip
    return RetinaNet(**{**arguments, **kwargs})


def fcos(**kwargs):
    arguments = {
        "backbone": Pyramid(),
        "head": FCOSHead(input_shape=list(SHAPES.values()), num_classes=K, conv_dims=[4]),
        "num_classes": K,
        "test_score_thresh": 0.0,
        **PIXELS,
    }
    return FCOS(**{**arguments, **kwargs})


def inputs(empty=False):
    torch.manual_seed(0)
    boxes = torch.tensor([[8.0, 8, 30, 30], [40, 4, 90, 60]])[: 0 if empty else None]
    classes = torch.tensor([0, 2])[: 0 if empty else None]
    first = {
        "image": torch.rand(3, 64, 96) * 9,
        "height": 128,
        "width": 192,
        "instances": Instances((64, 96), gt_boxes=Boxes(boxes), gt_classes=classes),
    }
    second = {
        "image": torch.rand(3, 50, 40) * 9,
        "instances": Instances((50, 40), gt_boxes=Boxes(boxes[:1]), gt_classes=classes[:1]),
    }
    return [first, second]


@pytest.mark.parametrize("make", [retinanet, fcos])
def test_detections_are_in_the_frame_asked_for(make):
    first, second = make().eval()(inputs())
    assert first["instances"].image_size == (128, 192)
    assert second["instances"].image_size == (50, 40)
    for output in (first, second):
        found = output["instances"]
        assert 0 < len(found) <= 100
        assert (found.scores.diff() <= 0).all()
        assert set(found.pred_classes.tolist()) <= set(range(K))
        height, width = found.image_size
        assert (found.pred_boxes.tensor[:, 2] <= width).all()
        assert (found.pred_boxes.tensor[:, 3] <= height).all()


@pytest.mark.parametrize(
    "make, names",
    [
        (retinanet, ["loss_box_reg", "loss_cls"]),
        (fcos, ["loss_fcos_cls", "loss_fcos_ctr", "loss_fcos_loc"]),
    ],
)
@pytest.mark.parametrize("empty", [False, True])
def test_training_reaches_every_parameter(make, names, empty):
    model = make().train()
    with EventStorage() as storage:
        losses = model(inputs(empty))
    assert sorted(losses) == names
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert (storage.latest()["num_pos_anchors"][0] == 0) == empty


@pytest.mark.parametrize("make", [retinanet, fcos])
def test_training_needs_ground_truth(make):
    batch = inputs()
    for x in batch:
        del x["instances"]
    with pytest.raises(ValueError, match="Training needs ground truth"):
        make().train()(batch)


@pytest.mark.parametrize("make", [retinanet, fcos])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_are_dropped(make, bad):
    model = make().eval()
    nn.init.constant_(model.head.bbox_pred.bias, bad)
    assert [len(x["instances"]) for x in model(inputs())] == [0, 0]


def test_images_are_normalised_and_padded():
    images = retinanet().preprocess_image(inputs())
    assert images.tensor.shape == (2, 3, 64, 96)
    assert images.image_sizes == [(64, 96), (50, 40)]
    expected = (inputs()[1]["image"][2] - 3) / 4
    assert_close(images.tensor[1, 2, :50, :40], expected)
    assert (images.tensor[1, :, 50:] == 0).all()


def test_maps_are_used_from_fine_to_coarse_by_default():
    assert fcos().head_in_features == ["p3", "p4"]


def test_convention_pixel_statistics_are_not_in_the_state_dict():
    assert not [name for name in retinanet().state_dict() if "pixel" in name or "anchor" in name]
    assert retinanet().device == torch.device("cpu")


def test_predictions_are_rearranged_in_the_order_of_the_anchors():
    x = torch.arange(2 * 6 * 2 * 3).view(2, 6, 2, 3)  # 2 anchors of 3 numbers on 2 x 3 cells
    y = permute_to_N_HWA_K(x, 3)
    assert y.shape == (2, 12, 3)
    anchor, row, column = 1, 1, 2
    assert_close(y[1, (row * 3 + column) * 2 + anchor], x[1, anchor * 3 :, row, column])


def test_the_loss_normaliser_is_a_running_mean():
    model = retinanet()
    assert model._ema_update("loss_normalizer", 20, 100) == pytest.approx(92)
    assert model._ema_update("loss_normalizer", 0, 100) == pytest.approx(82.8)
    assert model.loss_normalizer == pytest.approx(82.8)


def dense_targets(model):
    anchors = model.anchor_generator([torch.zeros(2, 4, 8, 12), torch.zeros(2, 4, 4, 6)])
    return anchors, *model.label_anchors(anchors, [x["instances"] for x in inputs()])


def test_retinanet_labels_anchors_by_overlap():
    model = retinanet()
    anchors, labels, boxes = dense_targets(model)
    quality = Boxes.cat(anchors)
    assert labels[0].shape == (len(quality),)
    positive = (labels[0] >= 0) & (labels[0] < K)
    assert set(labels[0][positive].tolist()) == {0, 2}
    assert (labels[0] == -1).any() and (labels[0] == K).any()
    first = labels[0] == 0
    assert (boxes[0][first] == torch.tensor([8.0, 8, 30, 30])).all()


def test_retinanet_losses_are_the_formula():
    model = retinanet(smooth_l1_beta=0.1)
    anchors, labels, boxes = dense_targets(model)
    torch.manual_seed(1)
    logits = [torch.randn(2, len(a), K) for a in anchors]
    deltas = [torch.randn(2, len(a), 4) * 0.1 for a in anchors]
    with EventStorage():
        losses = model.losses(anchors, logits, labels, deltas, boxes)

    labels = torch.stack(labels)
    valid, positive = labels >= 0, (labels >= 0) & (labels < K)
    normalizer = 0.9 * 100 + 0.1 * positive.sum()
    one_hot = nn.functional.one_hot(labels[valid], K + 1)[:, :K].float()
    cls = sigmoid_focal_loss(torch.cat(logits, 1)[valid], one_hot, 0.25, 2.0, "sum")
    assert_close(losses["loss_cls"], cls / normalizer)
    sources = Boxes.cat(anchors).tensor.expand(2, -1, -1)[positive]
    targets = model.box2box_transform.get_deltas(sources, torch.stack(boxes)[positive])
    difference = torch.cat(deltas, 1)[positive] - targets
    box = nn.functional.smooth_l1_loss(
        difference, torch.zeros_like(difference), beta=0.1, reduction="sum"
    )
    assert_close(losses["loss_box_reg"], box / normalizer)


def test_a_new_head_scores_everything_with_the_prior():
    head = RetinaNetHead(
        input_shape=[SHAPES["p3"]], num_classes=K, num_anchors=2, conv_dims=[4], prior_prob=0.02
    )
    assert head.cls_score.bias.sigmoid().tolist() == pytest.approx([0.02] * 6)
    logits, deltas = head([torch.rand(2, 4, 5, 6)])
    assert (logits[0].shape, deltas[0].shape) == ((2, 6, 5, 6), (2, 8, 5, 6))


def test_head_refuses_another_number_of_maps():
    head = RetinaNetHead(input_shape=[SHAPES["p3"]], num_classes=K, num_anchors=2, conv_dims=[4])
    with pytest.raises(ValueError, match="made for 1 feature maps, not 2"):
        head([torch.rand(1, 4, 5, 5)] * 2)


@pytest.mark.parametrize("norm, kind", [("BN", CycleBatchNormList), ("", None)])
def test_batch_norm_keeps_levels_apart(norm, kind):
    layers = retinanet(norm=norm).head.cls_subnet
    assert any(isinstance(layer, CycleBatchNormList) for layer in layers) == (kind is not None)


def test_batch_norm_shared_between_levels_is_warned_of(monkeypatch):
    warnings = []
    monkeypatch.setattr(retinanet_module.logger, "warning", lambda *args: warnings.append(args))
    retinanet(norm="")
    assert not warnings
    retinanet(norm="naiveSyncBN")
    assert "mixes the statistics of all levels" in warnings[0][0]


def test_fcos_anchors_match_the_smallest_object_of_their_level_and_centre():
    model = fcos()
    anchors = model.anchor_generator([torch.zeros(1, 4, 16, 16), torch.zeros(1, 4, 8, 8)])
    # A large box around a small one, and one whose extent only suits the coarse level.
    gt = Boxes(torch.tensor([[0.0, 0, 60, 60], [20, 20, 44, 44], [60, 0, 128, 128]]))
    fine, coarse = model._match_anchors(gt, anchors).split([256, 64])
    fine, coarse = fine.view(16, 16), coarse.view(8, 8)
    assert fine[4, 4] == 1  # (36, 36): both candidates, the smaller wins
    assert fine[0, 0] == -1  # inside the large box, far from its centre
    assert (fine != 2).all()  # extents of 64 and more are not for stride 8
    assert coarse[4, 5] == 2  # (88, 72)
    assert coarse[0, 5] == -1  # (88, 8): not near the centre
    assert (coarse[:3, :3] == -1).all()  # extents below 64 are not for stride 16


def test_fcos_background_has_the_last_class():
    model = fcos()
    anchors, labels, _ = dense_targets(model)
    assert set(labels[0].tolist()) <= {0, 2, K}
    assert (labels[0] == 0).any() and (labels[0] == K).any()


def test_centerness_is_one_in_the_middle_and_falls_to_the_border():
    model = fcos()
    anchors = [Boxes(torch.tensor([[6.0, 6, 14, 14], [1, 6, 9, 14], [6, 1, 14, 9]]))]
    gt = torch.tensor([[0.0, 0, 20, 20]]).expand(3, 4)
    centerness = model.compute_ctrness_targets(anchors, [gt])
    assert_close(centerness, torch.tensor([[1.0, math.sqrt(5 / 15), math.sqrt(5 / 15)]]))


def test_fcos_scores_are_the_geometric_mean_with_centerness():
    model = fcos().eval()
    seen = []

    def record(anchors, box_cls, box_delta, image_size):
        seen.append(box_cls)
        return Instances(image_size)

    model.inference_single_image = record
    maps = [torch.zeros(1, 4, 1, 1)] * 2
    predictions = [
        [torch.full((1, C, 1, 1), value)] * 2 for C, value in ((K, 0.0), (4, 0.0), (1, 2.0))
    ]
    model.forward_inference(model.preprocess_image(inputs()[:1]), maps, predictions)
    assert_close(seen[0][0], torch.sqrt(0.5 * torch.tensor(2.0).sigmoid()).expand(1, K))


def test_candidates_of_a_level_are_its_best_scores():
    model = retinanet()
    anchors = Boxes(torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 20]]))
    scores = torch.tensor([[0.1, 0.9, 0.3], [0.8, 0.2, 0.7]])
    found = model._decode_per_level_predictions(anchors, scores, torch.zeros(2, 4), 0.15, 3, (9, 9))
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert found.pred_classes.tolist() == [1, 0, 2]
    assert found.pred_boxes.tensor[:, 2].tolist() == [10, 20, 20]


def test_detections_suppress_each_other_within_a_class_only():
    model = retinanet(test_nms_thresh=0.5, max_detections_per_image=2)
    anchors = [Boxes(torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11]]))]
    scores = [torch.tensor([[0.9, 0.2, 0.5], [0.8, 0.1, 0.0]])]
    found = model.inference_single_image(anchors, scores, [torch.zeros(2, 4)], (50, 50))
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.pred_classes.tolist() == [0, 2]


def test_training_images_are_drawn_every_so_often():
    model = retinanet(vis_period=2, input_format="RGB").train()
    drawn = []
    model.visualize_training = lambda batch, results: drawn.append(len(results))
    with EventStorage() as storage:
        for _ in range(3):
            model(inputs())
            storage.step()
    assert drawn == [2, 2]  # iterations 0 and 2


def test_drawing_shows_ground_truth_above_detections():
    model = retinanet().eval()
    results = [x["instances"] for x in model(inputs())]
    with EventStorage() as storage:
        model.visualize_training(inputs(), results)
        ((name, image, _),) = storage._vis_data
    assert "ground-truth" in name
    assert image.shape == (3, 128, 96)


def test_a_detector_without_its_own_rules_says_so():
    detector = DenseDetector(Pyramid(), nn.Identity(), **PIXELS)
    with pytest.raises(NotImplementedError, match="DenseDetector has no forward_inference"):
        detector.eval()(inputs())


def test_retinanet_is_built_from_a_config():
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
            *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
            *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
            *("MODEL.RETINANET.NUM_CLASSES", 7),
            *("MODEL.RETINANET.NUM_CONVS", 2),
        ]
    )
    with torch.device("meta"):
        model = RetinaNet(cfg)
    assert model.head.cls_score.out_channels == 15 * 7
    assert len(model.head.cls_subnet) == 4
    assert model.smooth_l1_beta == 0.1
    assert model.head_in_features == ["p3", "p4", "p5", "p6", "p7"]
