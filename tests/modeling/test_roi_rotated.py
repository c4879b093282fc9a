import pytest
import torch
from torch.testing import assert_close

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.modeling.roi_heads.rotated_fast_rcnn import (
    fast_rcnn_inference_rotated,
    fast_rcnn_inference_single_image_rotated,
)
from detectron2.structures import Instances, RotatedBoxes

SIZE = (64, 96)
SHAPES = {"p2": ShapeSpec(channels=4, stride=4)}


def rotated_cfg():
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NAME = "RROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 6
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 2
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIAlignRotated"
    cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = 2
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0, 1.0)
    return cfg


def proposals():
    boxes = torch.tensor([[30.0, 30, 20, 10, 45], [50, 20, 30, 30, 0], [70, 40, 10, 20, -80]])
    return [Instances(SIZE, proposal_boxes=RotatedBoxes(boxes), objectness_logits=torch.zeros(3))]


def test_rotated_heads_train_and_infer():
    heads = build_roi_heads(rotated_cfg(), SHAPES)
    maps = {"p2": torch.randn(1, 4, 16, 24)}
    target = Instances(
        SIZE,
        gt_boxes=RotatedBoxes(torch.tensor([[30.0, 30, 21, 10, 44]])),
        gt_classes=torch.tensor([1]),
    )
    sampled, losses = heads.train()(None, maps, proposals(), [target])
    assert set(losses) == {"loss_cls", "loss_box_reg"}
    assert losses["loss_box_reg"] > 0
    # the proposal that differs by one degree matches, and so does the object itself
    assert (sampled[0].gt_classes == 1).sum() == 2
    detections, _ = heads.eval()(None, maps, proposals())
    assert isinstance(detections[0].pred_boxes, RotatedBoxes)
    assert len(detections[0]) > 0


def test_suppression_looks_at_the_angle():
    boxes = torch.tensor([[30.0, 30, 40, 4, 0], [30, 30, 40, 4, 3], [30, 30, 40, 4, 90]])
    scores = torch.tensor([[0.9, 0], [0.8, 0], [0.7, 0]])
    found, rows = fast_rcnn_inference_single_image_rotated(boxes, scores, SIZE, 0.1, 0.5, 10)
    assert rows.tolist() == [0, 2]
    assert_close(found.scores, torch.tensor([0.9, 0.7]))


def test_images_are_independent():
    boxes = torch.tensor([[30.0, 30, 40, 4, 0]])
    scores = torch.tensor([[0.9, 0.1]])
    results, rows = fast_rcnn_inference_rotated(
        [boxes, boxes], [scores, scores * 0], [SIZE, (32, 32)], 0.1, 0.5, 10
    )
    assert [len(r) for r in results] == [1, 0]
    assert [r.image_size for r in results] == [SIZE, (32, 32)]
    assert [len(r) for r in rows] == [1, 0]


def test_rotated_heads_need_the_rotated_pooler_and_have_no_masks():
    cfg = rotated_cfg()
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIAlignV2"
    with pytest.raises(ValueError, match="'ROIAlignRotated'"):
        build_roi_heads(cfg, SHAPES)
    cfg = rotated_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 4
    with pytest.raises(ValueError, match="mask"):
        build_roi_heads(cfg, SHAPES)
