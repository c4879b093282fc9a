"""FCOS with ResNet-50 and levels 3 to 7 of a feature pyramid."""

from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead

from .retinanet import model

model._target_ = FCOS

# FCOS has no anchors and the boxes it predicts are distances.
for anchor_part in ("anchor_generator", "box2box_transform", "anchor_matcher", "input_format"):
    model.pop(anchor_part)

# Level 6 is computed from level 5 of the pyramid, not from the last stage of the ResNet.
model.backbone.top_block.in_channels = 256
model.backbone.top_block.in_feature = "p5"

model.head._target_ = FCOSHead
model.head.pop("num_anchors")
model.head.norm = "GN"

model.test_score_thresh = 0.2
model.test_nms_thresh = 0.6
