import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, ProposalNetwork, build_model
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

BOX = torch.tensor([[4.0, 2, 12, 10]])


class TinyBackbone(Backbone):
    size_divisibility = 16

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        self.images = x
        return {"res4": x[:, :, ::16, ::16] * self.scale}

    def output_shape(self):
        return {"res4": ShapeSpec(channels=3, stride=16)}


class OneProposal(nn.Module):
    def forward(self, images, features, gt_instances=None):
        self.gt_instances = gt_instances
        proposals = [
            Instances(size, proposal_boxes=Boxes(BOX), objectness_logits=torch.zeros(1))
            for size in images.image_sizes
        ]
        return proposals, {"loss_rpn": features["res4"].sum()} if self.training else {}


class OneDetection(nn.Module):
    def forward(self, images, features, proposals, targets=None):
        self.proposals, self.targets = proposals, targets
        if self.training:
            return proposals, {"loss_cls": features["res4"].sum()}
        return [self.detection(p.image_size, p.proposal_boxes) for p in proposals], {}

    def forward_with_given_boxes(self, features, instances):
        self.given = instances
        return instances

    @staticmethod
    def detection(size, boxes):
        return Instances(
            size, pred_boxes=boxes, scores=torch.ones(1), pred_classes=torch.zeros(1).long()
        )


def rcnn(cls=GeneralizedRCNN, **kwargs):
    arguments = {
        "backbone": TinyBackbone(),
        "proposal_generator": OneProposal(),
        "roi_heads": OneDetection(),
        "pixel_mean": (10.0, 20.0, 30.0),
        "pixel_std": (1.0, 2.0, 4.0),
    }
    return cls(**{**arguments, **kwargs})


def image(height=20, width=30, value=50.0):
    return torch.full((3, height, width), value)


def test_images_are_normalised_and_padded_with_zeros():
    images = rcnn().preprocess_image([{"image": image()}, {"image": image(32, 16)}])
    assert images.tensor.shape == (2, 3, 32, 32)
    assert images.image_sizes == [(20, 30), (32, 16)]
    assert images.tensor[0, :, 0, 0].tolist() == [40.0, 15.0, 5.0]
    assert (images.tensor[0, :, 20:] == 0).all()
    assert (images.tensor[1, :, :, 16:] == 0).all()


def test_uint8_images_are_normalised_as_numbers():
    images = rcnn().preprocess_image([{"image": image(value=5).to(torch.uint8)}])
    assert images.tensor[0, :, 0, 0].tolist() == [-5.0, -7.5, -6.25]


def test_results_have_the_size_asked_for():
    model = rcnn().eval()
    first, second = model([{"image": image(), "height": 40, "width": 90}, {"image": image()}])
    assert first["instances"].image_size == (40, 90)
    assert first["instances"].pred_boxes.tensor.tolist() == [[12, 4, 36, 20]]
    assert second["instances"].image_size == (20, 30)
    assert second["instances"].pred_boxes.tensor.tolist() == BOX.tolist()


def test_results_can_stay_in_the_frame_of_the_input():
    (found,) = (
        rcnn()
        .eval()
        .inference([{"image": image(), "height": 40, "width": 90}], do_postprocess=False)
    )
    assert found.image_size == (20, 30)


def test_given_boxes_replace_the_proposals():
    model = rcnn().eval()
    given = OneDetection.detection((20, 30), Boxes(BOX + 1))
    (result,) = model.inference([{"image": image(), "height": 40, "width": 60}], [given])
    assert result["instances"].pred_boxes.tensor.tolist() == [[10, 6, 26, 22]]
    assert not hasattr(model.roi_heads, "proposals")


def test_training_gives_all_losses_and_hands_over_ground_truth():
    model = rcnn().train()
    target = Instances((20, 30), gt_boxes=Boxes(BOX), gt_classes=torch.zeros(1).long())
    losses = model([{"image": image(), "instances": target}])
    assert set(losses) == {"loss_rpn", "loss_cls"}
    for part in (model.proposal_generator.gt_instances, model.roi_heads.targets):
        assert part[0].gt_boxes.tensor.tolist() == BOX.tolist()


def test_inference_in_training_mode_is_refused():
    with pytest.raises(RuntimeError, match=r"model.eval\(\)"):
        rcnn().train().inference([{"image": image()}])


def test_without_a_generator_proposals_come_with_the_input():
    model = rcnn(proposal_generator=None).eval()
    proposals = Instances((20, 30), proposal_boxes=Boxes(BOX + 3), objectness_logits=torch.zeros(1))
    (result,) = model([{"image": image(), "proposals": proposals}])
    assert result["instances"].pred_boxes.tensor.tolist() == (BOX + 3).tolist()
    with pytest.raises(ValueError, match="MODEL.LOAD_PROPOSALS"):
        model([{"image": image()}])


def test_convention_pixel_statistics_are_no_part_of_a_checkpoint():
    model = rcnn()
    assert list(model.state_dict()) == ["backbone.scale"]
    assert model.pixel_mean.shape == (3, 1, 1)
    assert model.device == torch.device("cpu")


def test_pixel_statistics_of_different_length_are_refused():
    with pytest.raises(ValueError, match="3 channels and PIXEL_STD 1"):
        rcnn(pixel_std=(1.0,))


def test_convention_subclasses_override_the_postprocessing():
    class Custom(GeneralizedRCNN):
        @staticmethod
        def _postprocess(instances, batched_inputs, image_sizes):
            return [len(x) for x in instances]

    assert rcnn(Custom).eval()([{"image": image()}]) == [1]


def test_training_images_are_drawn_every_vis_period():
    model = rcnn(vis_period=2, input_format="BGR").train()
    target = Instances((20, 30), gt_boxes=Boxes(BOX), gt_classes=torch.zeros(1).long())
    with EventStorage() as storage:
        for _ in range(3):
            model([{"image": image(), "instances": target}])
            storage.step()
        assert [iteration for _, _, iteration in storage._vis_data] == [0, 2]
        drawn = storage._vis_data[0][1]
    assert drawn.shape == (3, 20, 60)
    assert drawn.dtype == torch.uint8
    assert len(np.unique(drawn.reshape(3, -1).numpy(), axis=1).T) > 1


def test_drawing_needs_the_order_of_the_channels():
    with pytest.raises(ValueError, match="input_format"):
        rcnn(vis_period=2)


def test_proposal_network_returns_proposals_at_the_size_asked_for():
    model = ProposalNetwork(
        backbone=TinyBackbone(),
        proposal_generator=OneProposal(),
        pixel_mean=(0.0,) * 3,
        pixel_std=(1.0,) * 3,
    )
    (result,) = model.eval()([{"image": image(), "height": 40, "width": 60}])
    assert result["proposals"].proposal_boxes.tensor.tolist() == (BOX * 2).tolist()
    target = Instances((20, 30), gt_boxes=Boxes(BOX))
    assert set(model.train()([{"image": image(), "instances": target}])) == {"loss_rpn"}


# ---- from a config


def small_c4_cfg():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.DEPTH = 50
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 4
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 30
    return cfg


def test_a_whole_model_is_built_from_a_config_and_runs():
    cfg = small_c4_cfg()
    cfg.MODEL.PIXEL_MEAN = [1.0, 2.0, 3.0]
    model = build_model(cfg)
    assert type(model) is GeneralizedRCNN
    assert model.input_format == "BGR"
    assert_close(model.pixel_mean.flatten(), torch.tensor([1.0, 2, 3]))
    with torch.no_grad():
        (result,) = model.eval()([{"image": image(64, 96), "height": 32, "width": 48}])
    found = result["instances"]
    assert found.image_size == (32, 48)
    assert found.pred_masks.shape == (len(found), 32, 48)


def test_a_model_can_be_built_without_memory():
    cfg = small_c4_cfg()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert all(p.is_meta for p in model.parameters())


def test_an_unknown_architecture_is_named():
    cfg = small_c4_cfg()
    cfg.MODEL.META_ARCHITECTURE = "Nothing"
    with pytest.raises(KeyError, match="'META_ARCH' has no 'Nothing'; it has .*PanopticFPN"):
        build_model(cfg)
    cfg.MODEL.META_ARCHITECTURE = "GeneralisedRCNN"
    with pytest.raises(KeyError, match="did you mean 'GeneralizedRCNN'"):
        build_model(cfg)


def test_the_registry_holds_every_architecture():
    names = {name for name, _ in META_ARCH_REGISTRY}
    assert {"GeneralizedRCNN", "PanopticFPN", "ProposalNetwork", "SemanticSegmentor"} <= names
    assert "RetinaNet" in names
