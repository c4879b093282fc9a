"""A detector with one small map as the graph that ExecuTorch files are made of.

To write, load and prove a file takes a minute and more even of this one (`test_export.py`); so do
graphs of unknown sizes, as pt2 files hold.
"""

import pytest
import torch
from small_models import picture, vary
from torch import nn

from detectron2.export import _executorch
from detectron2.export.compare import TOLERANCE, first_difference
from detectron2.export.exporter import _fix_sizes, _form_of
from detectron2.export.results import as_tensors, results_of_batch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead


class OneMap(Backbone):
    _out_features = ("p3",)
    _out_feature_channels = {"p3": 8}
    _out_feature_strides = {"p3": 8}
    size_divisibility = 8

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=8, padding=3)

    def forward(self, x):
        return {"p3": self.stem(x).relu()}


def tiny_retinanet():
    torch.manual_seed(0)
    backbone = OneMap()
    head = RetinaNetHead(
        input_shape=list(backbone.output_shape().values()),
        num_classes=3,
        num_anchors=3,
        conv_dims=[8],
        prior_prob=0.3,
    )
    model = RetinaNet(
        backbone=backbone,
        head=head,
        head_in_features=("p3",),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[24]], aspect_ratios=[[0.5, 1, 2]], strides=[8]
        ),
        box2box_transform=Box2BoxTransform(weights=(1, 1, 1, 1)),
        anchor_matcher=Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        num_classes=3,
        test_topk_candidates=100,
        test_nms_thresh=0.2,
        max_detections_per_image=40,
        pixel_mean=(110, 110, 110),
        pixel_std=(60, 60, 60),
    )
    return vary(model)


@pytest.mark.filterwarnings("ignore")  # of what torch.export imports
@torch.no_grad()
def test_the_graph_of_a_tiny_detector_finds_what_the_detector_finds():
    model = tiny_retinanet()
    batched, info = _form_of(model, "executorch", "in", "out")
    _fix_sizes(info, batched, 1, (64, 96))
    image = torch.from_numpy(picture(64, 96, 3).transpose(2, 0, 1)).float()
    expected = model([{"image": image, "height": 64, "width": 96}])[0]
    assert 10 < len(expected["instances"]) < 40
    graph = _executorch._program(batched, info).module()
    outputs = as_tensors(info, graph(image[None], torch.tensor([[64, 96]])))
    (found,) = results_of_batch(info, outputs, [(64, 96)], [(64, 96)])
    assert not first_difference(info, expected, found, TOLERANCE)
