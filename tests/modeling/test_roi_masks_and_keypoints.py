import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    BaseKeypointRCNNHead,
    BaseMaskRCNNHead,
    FastRCNNConvFCHead,
    KRCNNConvDeconvUpsampleHead,
    MaskRCNNConvUpsampleHead,
    build_keypoint_head,
    build_mask_head,
)
from detectron2.modeling.roi_heads.keypoint_head import (
    keypoint_rcnn_inference,
    keypoint_rcnn_loss,
)
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage

SIZE = (32, 32)


# ---- box head


def test_box_head_layers_are_named_and_shaped():
    head = FastRCNNConvFCHead(
        ShapeSpec(channels=4, height=3, width=2), conv_dims=[6, 5], fc_dims=[7], conv_norm="BN"
    ).eval()
    assert head.output_shape == ShapeSpec(channels=7)
    assert head(torch.randn(2, 4, 3, 2)).shape == (2, 7)
    assert head.fc1.in_features == 5 * 3 * 2
    assert head.conv1.bias is None
    assert head(torch.randn(0, 4, 3, 2)).shape == (0, 7)


def test_box_head_without_linear_layers_keeps_the_grid():
    shape = ShapeSpec(channels=4, height=3, width=2)
    head = FastRCNNConvFCHead(shape, conv_dims=[6], fc_dims=[])
    assert head.output_shape == ShapeSpec(channels=6, height=3, width=2)
    assert head(torch.randn(2, 4, 3, 2)).shape == (2, 6, 3, 2)


def test_box_head_without_any_layer_is_refused():
    with pytest.raises(ValueError, match="conv_dims and fc_dims"):
        FastRCNNConvFCHead(ShapeSpec(channels=4, height=3, width=2), conv_dims=[], fc_dims=[])


# ---- masks


def masked(*classes, image=0):
    bits = torch.zeros(len(classes), *SIZE, dtype=torch.bool)
    bits[:, :16] = True
    return Instances(
        SIZE,
        proposal_boxes=Boxes(torch.tensor([[0.0, 0, 32, 32]] * len(classes)).reshape(-1, 4)),
        gt_classes=torch.tensor(classes, dtype=torch.int64),
        gt_masks=BitMasks(bits),
    )


def test_mask_loss_looks_at_the_true_class_only():
    logits = torch.zeros(3, 5, 8, 8, requires_grad=True)
    loss = mask_rcnn_loss(logits, [masked(4, 0), masked(2)])
    assert_close(loss.item(), math.log(2), rtol=1e-6, atol=0)
    loss.backward()
    touched = logits.grad.abs().sum((2, 3)) > 0
    assert touched.nonzero().tolist() == [[0, 4], [1, 0], [2, 2]]


def test_mask_loss_of_a_shared_mask_has_one_channel():
    target = torch.zeros(8, 8)
    target[:4] = 1
    logits = torch.randn(2, 1, 8, 8)
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], target.expand(2, 8, 8))
    assert_close(mask_rcnn_loss(logits, [masked(4, 0)]), expected)


def test_mask_loss_without_boxes_is_zero_with_a_gradient():
    logits = torch.zeros(0, 5, 8, 8, requires_grad=True)
    for instances in ([], [masked()]):
        loss = mask_rcnn_loss(logits, instances)
        loss.backward()
        assert loss.item() == 0


def test_mask_metrics_have_the_names_dashboards_know():
    logits = torch.full((1, 1, 8, 8), -3.0)
    logits[:, :, :2] = 3.0  # half of the object
    logits[:, :, 7] = 3.0  # and a quarter of the background
    with EventStorage() as storage:
        mask_rcnn_loss(logits, [masked(0)])
        latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest == {
        "mask_rcnn/accuracy": 1 - 24 / 64,
        "mask_rcnn/false_positive": 8 / 32,
        "mask_rcnn/false_negative": 16 / 32,
    }


def test_masks_are_drawn_every_vis_period():
    logits = torch.zeros(2, 1, 8, 8)
    with EventStorage(start_iter=10) as storage:
        mask_rcnn_loss(logits, [masked(0, 1)], vis_period=5)
        assert len(storage._vis_data) == 2
        assert storage._vis_data[0][1].shape == (3, 8, 16)
        storage.step()
        mask_rcnn_loss(logits, [masked(0, 1)], vis_period=5)
        assert len(storage._vis_data) == 2


def test_each_detection_gets_the_mask_of_its_class():
    logits = torch.randn(3, 4, 8, 8)
    found = [
        Instances(SIZE, pred_classes=torch.tensor([3, 1])),
        Instances(SIZE, pred_classes=torch.tensor([0])),
    ]
    mask_rcnn_inference(logits, found)
    assert_close(found[0].pred_masks, logits[[0, 1], [3, 1]][:, None].sigmoid())
    assert_close(found[1].pred_masks, logits[2:, :1].sigmoid())


def test_a_shared_mask_needs_no_class():
    logits = torch.randn(1, 1, 8, 8)
    found = [Instances(SIZE, pred_classes=torch.tensor([7]))]
    mask_rcnn_inference(logits, found)
    assert_close(found[0].pred_masks, logits.sigmoid())


def test_convention_mask_heads_override_layers():
    class Custom(BaseMaskRCNNHead):
        def layers(self, x):
            return x

    head = Custom(loss_weight=2.0)
    loss = head.train()(torch.zeros(1, 5, 8, 8), [masked(1)])["loss_mask"]
    assert_close(loss.item(), 2 * math.log(2), rtol=1e-6, atol=0)
    found = [Instances(SIZE, pred_classes=torch.tensor([3]))]
    assert head.eval()(torch.zeros(1, 5, 8, 8), found)[0].pred_masks.shape == (1, 1, 8, 8)
    with pytest.raises(NotImplementedError, match="BaseMaskRCNNHead"):
        BaseMaskRCNNHead().layers(torch.zeros(1))


def test_mask_head_comes_from_the_config():
    cfg = get_cfg()
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 2
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 6
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    cfg.VIS_PERIOD = 3
    head = build_mask_head(cfg, ShapeSpec(channels=4, height=7, width=7))
    assert head.layers(torch.randn(2, 4, 7, 7)).shape == (2, 1, 14, 14)
    assert head.vis_period == 3
    assert [name for name, _ in head.named_children()] == [
        "mask_fcn1",
        "mask_fcn2",
        "deconv",
        "deconv_relu",
        "predictor",
    ]


def test_mask_head_without_a_deconv_is_refused():
    with pytest.raises(ValueError, match="conv_dims"):
        MaskRCNNConvUpsampleHead(ShapeSpec(channels=4), num_classes=2, conv_dims=[])


# ---- keypoints


def with_keypoints(*points):
    """One box of 8 x 8 pixels for each list of (x, y, visibility)."""
    count = len(points)
    keypoints = torch.tensor(points, dtype=torch.float32).reshape(count, -1, 3)
    return Instances(
        SIZE,
        proposal_boxes=Boxes(torch.tensor([[0.0, 0, 8, 8]] * count).reshape(-1, 4)),
        gt_keypoints=Keypoints(keypoints),
    )


def test_keypoint_loss_is_a_cross_entropy_over_cells():
    logits = torch.randn(2, 2, 4, 4)
    instances = [
        with_keypoints([(1.0, 3.0, 2), (5.0, 7.0, 1)]),
        with_keypoints([(7.5, 0.5, 2), (3.0, 3.0, 0)]),  # the second one is not labelled
    ]
    cells = [(0, 0, 1, 0), (0, 1, 3, 2), (1, 0, 0, 3)]  # box, keypoint, row, column
    expected = -sum(
        logits[n, k].flatten().log_softmax(0)[row * 4 + column] for n, k, row, column in cells
    )
    assert_close(keypoint_rcnn_loss(logits, instances, None), expected / 3)
    assert_close(keypoint_rcnn_loss(logits, instances, 10.0), expected / 10)


def test_a_batch_without_visible_keypoints_costs_nothing_and_is_counted():
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    with EventStorage() as storage:
        for instances in ([with_keypoints([(1.0, 1.0, 0)])], []):
            loss = keypoint_rcnn_loss(logits, instances, None)
            loss.backward()
            assert loss.item() == 0
        first, second = (value for value, _ in storage.history("kpts_num_skipped_batches").values())
    assert second == first + 1


def test_keypoints_are_found_at_the_peak_in_the_frame_of_the_box():
    logits = torch.full((2, 1, 14, 14), -10.0)
    logits[0, 0, 3, 7] = 10.0
    logits[1, 0, 10, 2] = 10.0
    boxes = torch.tensor([[0.0, 0, 28, 28], [10, 4, 24, 18]])
    found = [Instances(SIZE, pred_boxes=Boxes(boxes[i : i + 1])) for i in range(2)]
    keypoint_rcnn_inference(logits, found)
    assert found[0].pred_keypoints.shape == (1, 1, 3)
    assert_close(found[0].pred_keypoints[0, 0, :2], torch.tensor([15.0, 7.0]), atol=1.0, rtol=0)
    assert_close(found[1].pred_keypoints[0, 0, :2], torch.tensor([12.5, 14.5]), atol=1.0, rtol=0)
    assert 0 < found[0].pred_keypoints[0, 0, 2] <= 1
    assert_close(found[1].pred_keypoint_heatmaps, logits[1:])


def test_keypoint_loss_normalizer_is_visible_or_a_number_per_image():
    class Custom(BaseKeypointRCNNHead):
        def layers(self, x):
            return x

    logits = torch.zeros(2, 1, 4, 4)
    instances = [with_keypoints([(1.0, 1, 2)]), with_keypoints([(1.0, 1, 2)])]
    nats = math.log(16)
    visible = Custom(num_keypoints=1, loss_normalizer="visible", loss_weight=3.0)
    assert_close(visible(logits, instances)["loss_keypoint"].item(), 3 * nats)
    fixed = Custom(num_keypoints=1, loss_normalizer=5.0)
    assert_close(fixed(logits, instances)["loss_keypoint"].item(), 2 * nats / (2 * 5))
    with pytest.raises(ValueError, match="'all'.*'visible'"):
        Custom(num_keypoints=1, loss_normalizer="all")


def test_keypoint_head_comes_from_the_config():
    cfg = get_cfg()
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 5
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [6, 7]
    cfg.MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT = 4.0
    cfg.MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS = False
    head = build_keypoint_head(cfg, ShapeSpec(channels=4, height=7, width=7))
    assert head.loss_normalizer == 5 * 512 * 0.25
    assert head.loss_weight == 4.0
    assert head.layers(torch.randn(2, 4, 7, 7)).shape == (2, 5, 28, 28)


def test_keypoint_head_starts_with_zero_biases():
    head = KRCNNConvDeconvUpsampleHead(ShapeSpec(channels=4), num_keypoints=2, conv_dims=[3])
    assert all((p == 0).all() for name, p in head.named_parameters() if name.endswith("bias"))
    assert isinstance(head.score_lowres, nn.ConvTranspose2d)
    with pytest.raises(NotImplementedError, match="BaseKeypointRCNNHead"):
        BaseKeypointRCNNHead(num_keypoints=1).layers(torch.zeros(1))
