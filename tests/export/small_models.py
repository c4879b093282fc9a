"""Small randomly initialised models of every architecture, and pictures for them."""

import numpy as np
import torch

from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock

YAML = {
    "Faster R-CNN FPN": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "Faster R-CNN C4": "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
    "Faster R-CNN DC5": "COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml",
    "Mask R-CNN FPN": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "Mask R-CNN C4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "Mask R-CNN DC5": "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x.yaml",
    "Cascade Mask R-CNN": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "Keypoint R-CNN": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "RetinaNet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "Panoptic FPN": "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
    "Semantic FPN": "Misc/semantic_R_50_FPN_1x.yaml",
    "RPN": "COCO-Detection/rpn_R_50_FPN_1x.yaml",
    "PointRend": "PointRend/InstanceSegmentation/pointrend_rcnn_R_50_FPN_1x_coco.yaml",
    "Implicit PointRend": "PointRend/InstanceSegmentation/implicit_pointrend_R_50_FPN_1x_coco.yaml",
    "PointRend, semantic": "PointRend/SemanticSegmentation/"
    "pointrend_semantic_R_101_FPN_1x_cityscapes.yaml",
    "DeepLabv3": "DeepLab/Cityscapes-SemanticSegmentation/"
    "deeplab_v3_R_103_os16_mg124_poly_90k_bs16.yaml",
    "DeepLabv3+": "DeepLab/Cityscapes-SemanticSegmentation/"
    "deeplab_v3_plus_R_103_os16_mg124_poly_90k_bs16.yaml",
    "Rotated Faster R-CNN": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
}
LAZY = {"FCOS": "COCO-Detection/fcos_R_50_FPN_1x.py"}
ARCHITECTURES = [*YAML, *LAZY]

# The layers behind which outputs vary enough from box to box to be told apart.
GAINS = {"cls_score": 6.0, "objectness_logits": 30.0, "mask_head.predictor": 500.0}
GAINS.update({"point_head.predictor": 300.0, "_head.prediction": 100.0})

SMALL = {
    "RESNETS.STEM_OUT_CHANNELS": 8,
    "RESNETS.RES2_OUT_CHANNELS": 16,
    "RESNETS.WIDTH_PER_GROUP": 4,
    "FPN.OUT_CHANNELS": 16,
    "RPN.PRE_NMS_TOPK_TEST": 60,
    "RPN.POST_NMS_TOPK_TEST": 30,
    "ROI_HEADS.NUM_CLASSES": 5,
    "ROI_BOX_HEAD.FC_DIM": 32,
    "ROI_MASK_HEAD.CONV_DIM": 8,
    "ROI_MASK_HEAD.NUM_CONV": 1,
    "ROI_KEYPOINT_HEAD.CONV_DIMS": (8,),
    "ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 3,
    "RETINANET.NUM_CLASSES": 5,
    "RETINANET.NUM_CONVS": 1,
    "SEM_SEG_HEAD.CONVS_DIM": 32,
    "SEM_SEG_HEAD.NUM_CLASSES": 6,
    "PIXEL_STD": [60.0, 60.0, 60.0],
    "DEVICE": "cpu",
    "WEIGHTS": "",
}
ROTATED = {
    "ANCHOR_GENERATOR.NAME": "RotatedAnchorGenerator",
    "ANCHOR_GENERATOR.ANGLES": [[-45, 0, 45]],
    "PROPOSAL_GENERATOR.NAME": "RRPN",
    "RPN.BBOX_REG_WEIGHTS": (1, 1, 1, 1, 1),
    "RPN.HEAD_NAME": "StandardRPNHead",
    "ROI_HEADS.NAME": "RROIHeads",
    "ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignRotated",
    "ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (10, 10, 5, 5, 1),
}
# Dropping values, synchronised statistics and depth are no matter of exports.
DEEPLAB = {
    "RESNETS.DEPTH": 50,
    "RESNETS.NORM": "BN",
    "SEM_SEG_HEAD.NORM": "BN",
    "SEM_SEG_HEAD.ASPP_CHANNELS": 16,
    "SEM_SEG_HEAD.ASPP_DILATIONS": [1, 2],
}
POINT_REND = {
    "POINT_HEAD.FC_DIM": 16,
    "POINT_HEAD.SUBDIVISION_STEPS": 2,
    "POINT_HEAD.SUBDIVISION_NUM_POINTS": 196,
    "ROI_MASK_HEAD.FC_DIM": 16,
}


def small_config(architecture):
    """Config of a zoo model with few channels, classes and candidates."""
    if architecture in LAZY:
        return small_lazy_config(architecture)
    cfg = model_zoo.get_config(YAML[architecture])
    edits = {**SMALL, **(ROTATED if architecture.startswith("Rotated") else {})}
    if "PointRend" in architecture:
        edits.update(POINT_REND)
        edits["POINT_HEAD.NUM_CLASSES"] = 6 if "semantic" in architecture else 5
    if architecture.startswith("DeepLab"):
        edits.update(DEEPLAB)
        # Windows of the average are 8 x 10 cells: pictures are larger, smaller, and both.
        cfg.merge_from_list(["INPUT.CROP.SIZE", [128, 160]])
    for key, value in edits.items():
        cfg.merge_from_list([f"MODEL.{key}", value])
    cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 160])
    cfg.merge_from_list(["TEST.DETECTIONS_PER_IMAGE", 12])
    return cfg


def small_lazy_config(architecture):
    cfg = model_zoo.get_config(LAZY[architecture])
    model = cfg.model
    model.num_classes = 5
    model.max_detections_per_image = 12
    model.test_score_thresh = 0.001
    model.pixel_std = [60.0, 60.0, 60.0]
    bottom_up = model.backbone.bottom_up
    bottom_up.stem.out_channels = 8
    bottom_up.stages = [
        ResNet.make_stage(
            BasicBlock,
            1,
            stride_per_block=[stride],
            in_channels=8,
            out_channels=8,
            norm="FrozenBN",
        )
        for stride in (1, 2, 2, 2)
    ]
    model.backbone.out_channels = 32
    model.backbone.top_block.in_channels = 32
    model.head.input_shape = [ShapeSpec(channels=32)] * 5
    model.head.conv_dims = [32]
    cfg.dataloader.test.mapper.augmentations[0].short_edge_length = 96
    cfg.dataloader.test.mapper.augmentations[0].max_size = 160
    return cfg


def vary(model):
    """Random weights of the same size everywhere, so that no output is constant."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            gain = next((g for part, g in GAINS.items() if part in name), None)
            if gain is not None:
                parameter.data.mul_(gain)
        elif name.endswith("bias") and not name.endswith("cls_score.bias"):
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def small_model(architecture):
    torch.manual_seed(0)
    cfg = small_config(architecture)
    model = instantiate(cfg.model) if architecture in LAZY else build_model(cfg)
    if architecture.startswith("DeepLab"):
        model.sem_seg_head.predictor.weight.data.mul_(300.0)  # from a deviation of 0.001
    return vary(model)


def picture(height=72, width=96, seed=0):
    """(H, W, 3) uint8 blobs and edges."""
    random = np.random.default_rng(seed)
    canvas = np.full((height, width, 3), 110, dtype=np.uint8)
    for _ in range(12):
        y, x = random.integers(0, height - 12), random.integers(0, width - 12)
        h, w = random.integers(8, height // 2), random.integers(8, width // 2)
        canvas[y : y + h, x : x + w] = random.integers(0, 256, 3)
    return canvas
