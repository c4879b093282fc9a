import numpy as np
import pytest
import torch
from fvcore.transforms.transform import HFlipTransform, TransformList
from torch import nn
from torch.testing import assert_close

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Boxes, Instances


def model_input(height=40, width=60, output=(40, 60)):
    pixels = torch.arange(height * width * 3, dtype=torch.int64).reshape(3, height, width) % 251
    return {"image": pixels.to(torch.uint8), "height": output[0], "width": output[1]}


# ---- versions of an image


def test_each_size_comes_plain_and_mirrored():
    versions = DatasetMapperTTA([20, 40], 100, True)(model_input())
    assert [tuple(v["image"].shape) for v in versions] == [(3, 20, 30)] * 2 + [(3, 40, 60)] * 2
    plain, mirrored = versions[2]["image"], versions[3]["image"]
    assert torch.equal(mirrored, plain.flip(2))
    assert plain.dtype == torch.uint8
    assert {(v["height"], v["width"]) for v in versions} == {(40, 60)}


def test_without_flip_each_size_comes_once():
    assert len(DatasetMapperTTA([20, 40], 100, False)(model_input())) == 2


def test_the_longer_edge_is_limited():
    (version,) = DatasetMapperTTA([40], 45, False)(model_input())
    assert tuple(version["image"].shape) == (3, 30, 45)


def test_transforms_lead_from_the_output_to_the_version():
    versions = DatasetMapperTTA([80], 1000, True)(model_input(output=(20, 30)))
    box = np.array([[3.0, 2.0, 9.0, 10.0]])
    plain, mirrored = (v["transforms"].apply_box(box) for v in versions)
    assert plain.tolist() == [[12, 8, 36, 40]]
    assert mirrored.tolist() == [[84, 8, 108, 40]]
    back = versions[1]["transforms"].inverse().apply_box(mirrored)
    np.testing.assert_allclose(back, box)


def test_mapper_comes_from_the_config():
    cfg = get_cfg()
    cfg.TEST.AUG.MIN_SIZES = (20,)
    cfg.TEST.AUG.FLIP = False
    assert len(DatasetMapperTTA(cfg)(model_input())) == 1


# ---- a model


class TinyBackbone(Backbone):
    def forward(self, x):
        return {"p2": x}

    def output_shape(self):
        return {"p2": ShapeSpec(channels=3, stride=1)}


class NoProposals(nn.Module):
    def forward(self, images, features, gt_instances=None):
        self.batch_sizes = [*getattr(self, "batch_sizes", []), len(images)]
        boxes = Boxes(torch.zeros(1, 4))
        return [Instances(size, proposal_boxes=boxes) for size in images.image_sizes], {}


class SeesTheLeftHalf(nn.Module):
    """Finds one object: the left half of the original image, wherever it is in a version.

    The test image is 0 there and 255 on the right. The mask is 1 on the left of the version.
    """

    def __init__(self):
        super().__init__()
        self.mask_on = True

    def forward(self, images, features, proposals, targets=None):
        self.had_masks = self.mask_on
        results = []
        for image, (height, width) in zip(images.tensor, images.image_sizes):
            columns = image[0, :height, :width].mean(0)
            dark = (columns < 128).nonzero().flatten()
            box = torch.tensor([[float(dark[0]), 0.0, float(dark[-1]) + 1, float(height)]])
            results.append(
                Instances(
                    (height, width),
                    pred_boxes=Boxes(box),
                    scores=torch.tensor([0.5 + height / 1000]),
                    pred_classes=torch.tensor([1]),
                )
            )
        return results, {}

    def forward_with_given_boxes(self, features, instances):
        self.given = instances
        for x in instances:
            x.pred_masks = torch.tensor([1.0, 0, 0, 0]).expand(len(x), 1, 4, 4)
        return instances


def tta_model(cls=GeneralizedRCNNWithTTA, mask_on=False, **kwargs):
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = mask_on
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.TEST.AUG.MIN_SIZES = (20, 40)
    model = GeneralizedRCNN(
        backbone=TinyBackbone(),
        proposal_generator=NoProposals(),
        roi_heads=SeesTheLeftHalf(),
        pixel_mean=(0.0,) * 3,
        pixel_std=(1.0,) * 3,
        input_format="RGB",
    )
    return cls(cfg, model.eval(), **kwargs).eval()


def half_dark():
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, :, 30:] = 255
    return {"image": image, "height": 80, "width": 120}


def test_detections_of_all_versions_are_merged_in_the_frame_of_the_output():
    tta = tta_model()
    (result,) = tta([half_dark()])
    found = result["instances"]
    assert found.image_size == (80, 120)
    assert len(found) == 1  # the same object in four versions
    assert_close(found.pred_boxes.tensor, torch.tensor([[0.0, 0, 60, 80]]), atol=4.0, rtol=0)
    assert_close(found.scores, torch.tensor([0.54]))  # the best of them
    assert found.pred_classes.tolist() == [1]


def test_versions_go_through_the_model_in_batches():
    tta = tta_model(batch_size=3)
    tta([half_dark()])
    assert tta.model.proposal_generator.batch_sizes == [3, 1]


def test_masks_are_predicted_for_the_merged_boxes_and_averaged():
    tta = tta_model(mask_on=True, batch_size=4)
    (result,) = tta([half_dark()])
    assert not tta.model.roi_heads.had_masks  # off while boxes are searched
    assert tta.model.roi_heads.mask_on  # and on again
    _, _, plain, mirrored = tta.model.roi_heads.given
    assert plain.image_size == (40, 60)
    assert_close(mirrored.pred_boxes.tensor[:, 2], torch.tensor([60.0]))
    # half of the versions say left, the mirrored ones right: neither is above one half
    masks = tta._reduce_pred_masks(
        [plain, mirrored], [TransformList([]), TransformList([HFlipTransform(60)])]
    )
    assert masks[0, 0, 0].tolist() == [0.5, 0, 0, 0.5]
    assert result["instances"].pred_masks.shape == (1, 80, 120)


def test_switches_are_restored_after_an_error():
    tta = tta_model()
    with pytest.raises(ZeroDivisionError), tta._turn_off_roi_heads(["mask_on", "absent"]):
        assert not tta.model.roi_heads.mask_on
        raise ZeroDivisionError
    assert tta.model.roi_heads.mask_on
    assert not hasattr(tta.model.roi_heads, "absent")


def test_an_image_is_read_from_its_file(tmp_path):
    from PIL import Image

    path = tmp_path / "image.png"
    Image.fromarray(half_dark()["image"].permute(1, 2, 0).numpy()).save(path)
    (result,) = tta_model()([{"file_name": str(path)}])
    assert result["instances"].image_size == (40, 60)


def test_convention_subclasses_override_single_steps():
    calls = []

    class Custom(GeneralizedRCNNWithTTA):
        def _inference_one_image(self, input):
            calls.append("_inference_one_image")
            return super()._inference_one_image(input)

        def _get_augmented_boxes(self, augmented_inputs, tfms):
            calls.append("_get_augmented_boxes")
            return super()._get_augmented_boxes(augmented_inputs, tfms)

    tta_model(Custom)([half_dark()])
    assert calls == ["_inference_one_image", "_get_augmented_boxes"]


def test_other_models_are_refused():
    cfg = get_cfg()
    with pytest.raises(TypeError, match="Linear"):
        GeneralizedRCNNWithTTA(cfg, nn.Linear(1, 1))
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(ValueError, match="KEYPOINT_ON"):
        GeneralizedRCNNWithTTA(cfg, tta_model().model)
