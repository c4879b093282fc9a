"""MMDetection itself is not installed: its part is played by modules with its interface."""

import numpy as np
import pytest
import torch
from torch import nn

from detectron2.layers import ShapeSpec
from detectron2.modeling import MMDetBackbone, MMDetDetector
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage


class TwoMaps(nn.Module):
    def init_weights(self):
        self.initialised = True

    def forward(self, x):
        return x[:, :, ::4, ::4], x[:, :, ::8, ::8]


class Double(nn.Module):
    def init_weights(self):
        pass

    def forward(self, maps):
        return [2 * x for x in maps]


SHAPES = [ShapeSpec(channels=3, stride=4), ShapeSpec(channels=3, stride=8)]


def test_backbone_names_its_feature_maps():
    backbone = MMDetBackbone(TwoMaps(), Double(), output_shapes=SHAPES)
    features = backbone(torch.ones(1, 3, 16, 16))
    assert list(features) == ["out0", "out1"]
    assert (features["out1"] == 2).all()
    assert backbone.output_shape() == {"out0": SHAPES[0], "out1": SHAPES[1]}
    assert backbone.backbone.initialised


def test_backbone_takes_names():
    backbone = MMDetBackbone(TwoMaps(), output_shapes=SHAPES, output_names=["p2", "p3"])
    assert list(backbone(torch.ones(1, 3, 16, 16))) == ["p2", "p3"]


def test_backbone_with_a_wrong_number_of_maps_is_refused():
    backbone = MMDetBackbone(TwoMaps(), output_shapes=SHAPES[:1])
    with pytest.raises(ValueError, match="returns 2 maps; 1"):
        backbone(torch.ones(1, 3, 16, 16))


class Detector(nn.Module):
    def __init__(self, masks=False):
        super().__init__()
        self.masks = masks

    def init_weights(self):
        pass

    def forward_train(self, img, img_metas, gt_bboxes, gt_labels, gt_bboxes_ignore=None):
        self.batch, self.metas, self.boxes = img, img_metas, gt_bboxes
        return {"loss_a": [torch.ones(2), torch.ones(3)], "acc": torch.tensor([50.0, 100.0])}

    def simple_test(self, img, img_metas, rescale=False):
        assert rescale
        self.metas = img_metas
        height, width = img_metas[0]["ori_shape"][:2]
        boxes = [np.zeros((0, 5), np.float32), np.array([[1, 2, 3, 4, 0.9]] * 2, np.float32)]
        if not self.masks:
            return [boxes]
        return [(boxes, [[], [np.ones((height, width), bool)] * 2])]


def detector(**kwargs):
    return MMDetDetector(Detector(**kwargs), pixel_mean=(0.0,) * 3, pixel_std=(1.0,) * 3)


def test_detections_come_back_as_instances_of_the_size_asked_for():
    model = detector(masks=True).eval()
    (result,) = model([{"image": torch.ones(3, 20, 30), "height": 40, "width": 90}])
    found = result["instances"]
    assert found.image_size == (40, 90)
    assert found.pred_boxes.tensor.tolist() == [[1, 2, 3, 4]] * 2
    assert found.pred_classes.tolist() == [1, 1]
    assert found.pred_masks.shape == (2, 40, 90)
    meta = model.detector.metas[0]
    assert meta["img_shape"] == (20, 30, 3)
    assert meta["pad_shape"] == (32, 32, 3)
    np.testing.assert_allclose(meta["scale_factor"], [1 / 3, 0.5, 1 / 3, 0.5])


def test_detections_without_masks_have_none():
    (result,) = detector().eval()([{"image": torch.ones(3, 20, 30)}])
    assert not result["instances"].has("pred_masks")


def test_training_separates_losses_from_what_is_only_shown():
    model = detector().train()
    target = Instances((20, 30), gt_boxes=Boxes(torch.ones(1, 4)), gt_classes=torch.tensor([1]))
    with EventStorage() as storage:
        losses = model([{"image": torch.ones(3, 20, 30), "instances": target}])
        assert storage.latest()["acc"][0] == 75.0
    assert losses["loss_a"].item() == 2.0
    assert set(losses) == {"loss_a"}
    assert model.detector.boxes[0].tolist() == [[1, 1, 1, 1]]
    assert model.detector.batch.shape == (1, 3, 32, 32)
