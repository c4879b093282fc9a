"""Masks that stay on their boxes until they are run lengths."""

import contextlib
import io
import json

import pytest
import torch
from torch import nn

from detectron2.engine.inference import speed_up
from detectron2.engine.inference.fixed_shapes import FixedShapeRCNN
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators, LVISEvaluator
from detectron2.evaluation.box_masks import box_masks_for
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.evaluation.evaluator import inference_on_dataset
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess, to_output_frame
from detectron2.structures import Boxes, Instances, ROIMasks


def detections(seed=0, count=20, size=(60, 80)):
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * 70 - 10
    extent = torch.rand(count, 2, generator=random) * 50
    instances = Instances(size, pred_boxes=Boxes(torch.cat([corner, corner + extent], dim=1)))
    instances.pred_boxes.clip(size)
    instances.scores = torch.rand(count, generator=random)
    instances.pred_classes = torch.arange(count) % 3
    instances.pred_masks = torch.rand(count, 1, 14, 14, generator=random)
    return instances


@pytest.mark.parametrize("output", [(60, 80), (333, 127)])
def test_convention_results_are_those_of_drawn_masks(output):
    found = detections()
    drawn = detector_postprocess(found, *output)
    with box_masks_for(Rcnn(), Takes()):
        on_boxes = to_output_frame(found, *output)
    assert isinstance(on_boxes.pred_masks, ROIMasks) and drawn.pred_masks.shape[1:] == output
    assert instances_to_coco_json(on_boxes, 1) == instances_to_coco_json(drawn, 1)


class Takes:
    @staticmethod
    def takes_box_masks():
        return True


class Rcnn(GeneralizedRCNN):
    """The real forward and inference over parts that return `detections`."""

    def __init__(self):
        nn.Module.__init__(self)
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1))
        self.register_buffer("pixel_std", torch.ones(3, 1, 1))
        self.input_format, self.vis_period = "BGR", 0
        self.backbone = Backbone()
        self.proposal_generator = lambda *args: ([None], {})
        self.roi_heads = lambda images, *args: ([detections(int(images.tensor[0, 0, 0, 0]))], {})


class Backbone(nn.Module):
    size_divisibility, padding_constraints = 0, {}

    def forward(self, x):
        return {}


class OwnInference(Rcnn):
    def inference(self, *args, **kwargs):
        outputs = super().inference(*args, **kwargs)
        assert isinstance(outputs[0]["instances"].pred_masks, torch.Tensor)
        return outputs


def batches(coco):
    image = torch.zeros(3, 60, 80)
    return [[{"image": image + i, "image_id": i, "height": 60, "width": 80}]
            for i in coco.detections]  # fmt: skip


class Watching(COCOEvaluator):
    """Looks at the outputs as a subclass of the user's does."""

    def process(self, inputs, outputs):
        assert isinstance(outputs[0]["instances"].pred_masks, torch.Tensor)
        super().process(inputs, outputs)


def score(coco, model, evaluator):
    with contextlib.redirect_stdout(io.StringIO()):
        return json.dumps(inference_on_dataset(model.eval(), batches(coco), evaluator))


def test_convention_evaluation_is_the_same_without_full_images(make_coco, monkeypatch):
    coco = make_coco()
    expected = score(coco, Rcnn(), Watching(coco.name))

    def draw(*args):
        raise AssertionError("a mask is drawn")

    monkeypatch.setattr(ROIMasks, "to_bitmasks", draw)
    assert score(coco, Rcnn(), COCOEvaluator(coco.name)) == expected
    fast = Rcnn()
    fast.__class__ = GeneralizedRCNN
    assert score(coco, speed_up(fast), COCOEvaluator(coco.name)) == expected
    assert isinstance(fast, FixedShapeRCNN)


def test_what_the_user_puts_in_between_sees_full_images(make_coco):
    coco = make_coco(images=2)
    expected = score(coco, Rcnn(), COCOEvaluator(coco.name))
    assert score(coco, OwnInference(), COCOEvaluator(coco.name)) == expected
    seen = []
    hooked = Rcnn()
    hooked.register_forward_hook(lambda *args: seen.append(args[2][0]["instances"].pred_masks))
    assert score(coco, hooked, COCOEvaluator(coco.name)) == expected
    assert len(seen) == 2 and all(isinstance(masks, torch.Tensor) for masks in seen)


def test_all_evaluators_have_to_take_them(make_coco):
    coco = make_coco(images=2)
    two = [COCOEvaluator(coco.name), LVISEvaluator(coco.name)]
    assert DatasetEvaluators(two).takes_box_masks()
    assert not DatasetEvaluators([*two, Watching(coco.name)]).takes_box_masks()


def test_masks_are_drawn_again_afterwards():
    found = detections(count=2)
    with box_masks_for(Rcnn(), Takes()):
        pass
    assert isinstance(to_output_frame(found, 60, 80).pred_masks, torch.Tensor)


class Wrapped(nn.Module):
    """As DistributedDataParallel is around a model."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, inputs):
        return self.module(inputs)


@pytest.mark.parametrize("hooked", ["neither", "inner", "outer"])
def test_wrapped_models_are_looked_into(make_coco, hooked):
    coco = make_coco(images=1)
    model = Wrapped(Rcnn())
    seen = []
    for name, module in (("inner", model.module), ("outer", model)):
        if name == hooked:
            module.register_forward_hook(lambda *args: seen.append(args[2][0]["instances"]))
    evaluator = COCOEvaluator(coco.name)
    with box_masks_for(model, evaluator), torch.no_grad():
        masks = model.eval()(batches(coco)[0])[0]["instances"].pred_masks
    assert isinstance(masks, ROIMasks if hooked == "neither" else torch.Tensor)
    assert len(seen) == (hooked != "neither")
