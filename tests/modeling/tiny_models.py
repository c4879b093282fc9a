"""Every architecture of the zoo, narrow enough to train on a core in a second.

A model is a config of the zoo with small numbers in it, so what is tested is what the zoo builds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.config import get_cfg, instantiate
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import MViT, SwinTransformer, build_model
from detectron2.modeling.backbone import BottleneckBlock, RegNet, ResNet, _resnet_plan
from detectron2.modeling.backbone.regnet import (
    ResBottleneckBlock,
    SimpleStem,
    VanillaBlock,
)
from detectron2.projects import point_rend
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, RotatedBoxes

# Both fill a canvas of 64 x 96 when the backbone asks for multiples of 32.
SIZES = ((50, 90), (64, 70))
NUM_KEYPOINTS = 4
NUM_STUFF = 4

FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"

SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.PIXEL_STD": [57.4, 57.1, 58.4],
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 60,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 60,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 30,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 30,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.RETINANET.NUM_CLASSES": 3,
    "MODEL.RETINANET.NUM_CONVS": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 16,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 4,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 4,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (8, 8),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": 4,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": NUM_KEYPOINTS,
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": 0,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": NUM_STUFF,
}
# Group norm has 32 groups.
WIDE = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 32,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
}


@dataclass(frozen=True)
class Architecture:
    """How to build a model and what its training images carry.

    Attributes:
        build: takes a factor on how easily detections are reported: 0 reports all boxes,
            infinity none.
        output: names of the results of inference.
        annotations: of the training images: "boxes" or "rotated boxes", "masks", "keypoints",
            "stuff", "proposals".
        classes: number of classes.
    """

    build: Callable[[float], nn.Module]
    output: set[str]
    annotations: set[str] = field(default_factory=lambda: {"boxes"})
    classes: int = 3


def from_yaml(
    path: str | Path, *changes: dict[str, Any], add_keys: Callable[[Any], None] | None = None
) -> Callable[[float], nn.Module]:
    """Builder of a YAML config with `SMALL` and `changes` in it.

    Args:
        path: of the zoo, or with `add_keys` of a project, which are its keys.
    """

    def build(threshold: float) -> nn.Module:
        if add_keys is None:
            cfg = model_zoo.get_config(path)
        else:
            cfg = get_cfg()
            add_keys(cfg)
            cfg.merge_from_file(str(path))
        levels = len(cfg.MODEL.ANCHOR_GENERATOR.SIZES)
        sizes = [[8 * 2**i] for i in range(levels)] if levels > 1 else [[8, 16, 32]]
        options: dict[str, Any] = {**SMALL, "MODEL.ANCHOR_GENERATOR.SIZES": sizes}
        for change in changes:
            options.update(change)
        for key in ("MODEL.ROI_HEADS", "MODEL.RETINANET"):
            options[f"{key}.SCORE_THRESH_TEST"] = threshold
        cfg.merge_from_list([item for pair in options.items() for item in pair])
        with mock.patch.dict(_resnet_plan._BLOCKS_PER_STAGE, {50: (1, 2, 1, 1), 101: (1, 2, 1, 1)}):
            return build_model(cfg)

    return build


def from_python(path: str, edit: Callable[[Any], None]) -> Callable[[float], nn.Module]:
    """Builder of a LazyConfig after `edit` made it small."""

    def build(threshold: float) -> nn.Module:
        model = model_zoo.get_config(path).model
        edit(model)
        if "roi_heads" in model:
            _shrink_rcnn(model)
            model.roi_heads.box_predictor.test_score_thresh = threshold
        else:
            model.test_score_thresh = threshold
        return instantiate(model)

    return build


def _shrink_rcnn(model: Any) -> None:
    channels = 16
    model.backbone.out_channels = channels
    model.proposal_generator.head.in_channels = channels
    model.proposal_generator.anchor_generator.sizes = [[8], [16], [32], [64], [128]]
    model.proposal_generator.batch_size_per_image = 32
    model.proposal_generator.pre_nms_topk = model.proposal_generator.post_nms_topk = (60, 30)
    heads = model.roi_heads
    heads.num_classes, heads.batch_size_per_image = 3, 16
    heads.box_pooler.output_size = heads.mask_pooler.output_size = 4
    box, mask = heads.box_head, heads.mask_head
    for head in (box, mask):
        head.input_shape.channels, head.input_shape.height, head.input_shape.width = channels, 4, 4
    box.conv_dims = [channels for _ in box.conv_dims][:1]
    box.fc_dims = [channels for _ in box.fc_dims]
    heads.box_predictor.input_shape.channels = channels
    mask.conv_dims = [channels, channels]


def _regnet(model: Any, block: type, se_ratio: float = 0.0) -> None:
    model.backbone.bottom_up = L(RegNet)(
        stem_class=SimpleStem,
        stem_width=8,
        block_class=block,
        depth=8,
        w_a=8.0,
        w_0=8,
        w_m=2.0,
        group_width=4,
        se_ratio=se_ratio,
        norm="BN",
        out_features=["s1", "s2", "s3", "s4"],
    )
    model.pixel_std = SMALL["MODEL.PIXEL_STD"]


def _vit(model: Any) -> None:
    net = model.backbone.net
    net.img_size, net.patch_size, net.window_size = 96, 16, 4
    net.embed_dim, net.depth, net.num_heads = 16, 4, 2
    net.window_block_indexes, net.drop_path_rate = [0, 2], 0.0
    model.backbone.square_pad = 96


def _swin(model: Any) -> None:
    model.backbone.bottom_up = L(SwinTransformer)(
        embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4), window_size=4, drop_path_rate=0.0
    )
    model.backbone.in_features = ("p0", "p1", "p2", "p3")
    model.pixel_std = SMALL["MODEL.PIXEL_STD"]


def _mvit(model: Any) -> None:
    model.backbone.bottom_up = L(MViT)(
        img_size=64,
        embed_dim=8,
        depth=5,
        num_heads=1,
        last_block_indexes=(0, 2, 3, 4),
        adaptive_window_size=16,
        out_features=("scale2", "scale3", "scale4", "scale5"),
    )
    model.backbone.in_features = "${.bottom_up.out_features}"
    model.pixel_std = SMALL["MODEL.PIXEL_STD"]


def _fcos(model: Any) -> None:
    bottom_up = model.backbone.bottom_up
    bottom_up.stages, bottom_up.stem.out_channels = L(_stages)(), 8
    model.backbone.out_channels = model.backbone.top_block.in_channels = 64
    model.head.input_shape = [ShapeSpec(channels=64)] * 5
    model.head.conv_dims, model.num_classes = (
        [64],
        3,
    )  # group norm of 32 groups needs two channels each
    model.pixel_std = SMALL["MODEL.PIXEL_STD"]


def _stages() -> list[list[nn.Module]]:
    """A ResNet with one block per stage."""
    return [
        ResNet.make_stage(
            BottleneckBlock,
            num_blocks=1,
            stride_per_block=[1 if i == 0 else 2],
            in_channels=8 if i == 0 else 4 * 2**i,
            out_channels=8 * 2**i,
            bottleneck_channels=4,
            norm="FrozenBN",
        )
        for i in range(4)
    ]


ROTATED = {
    "MODEL.PROPOSAL_GENERATOR.NAME": "RRPN",
    "MODEL.ANCHOR_GENERATOR.NAME": "RotatedAnchorGenerator",
    "MODEL.ANCHOR_GENERATOR.ANGLES": [[-45, 0, 45]],
    "MODEL.RPN.BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0, 1.0),
    "MODEL.ROI_HEADS.NAME": "RROIHeads",
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignRotated",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0, 1.0),
}
BOX_LOSS = {
    kind: {"MODEL.RPN.BBOX_REG_LOSS_TYPE": kind, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": kind}
    for kind in ("giou", "diou", "ciou")
}
MISC = "Misc/mask_rcnn_R_50_FPN_"
LAZY_MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"


def _lvis(threshold: float) -> nn.Module:
    """Federated loss over 30 classes, of which few are common."""
    MetadataCatalog.get("tiny_lvis").class_image_count = [
        {"id": i + 1, "image_count": 1000 // (i + 1)} for i in range(30)
    ]
    options = {
        "DATASETS.TRAIN": ("tiny_lvis",),
        "MODEL.ROI_HEADS.NUM_CLASSES": 30,
        "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": True,
        "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": True,
        "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": 10,
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True,
    }
    return from_yaml("LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", options)(threshold)


POINT_REND = Path(point_rend.__file__).parent / "configs"
SMALL_POINT_REND = {
    "MODEL.POINT_HEAD.NUM_CLASSES": 3,
    "MODEL.POINT_HEAD.FC_DIM": 16,
    "MODEL.POINT_HEAD.TRAIN_NUM_POINTS": 32,
    "MODEL.POINT_HEAD.SUBDIVISION_STEPS": 2,
    "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS": 64,
    "MODEL.ROI_MASK_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION": 4,
}


def _point_rend(path: str, *changes: dict[str, Any]) -> Callable[[float], nn.Module]:
    path = POINT_REND / f"{path}.yaml"
    return from_yaml(path, SMALL_POINT_REND, *changes, add_keys=add_pointrend_config)


INSTANCES, WITH_MASKS = {"instances"}, {"boxes", "masks"}


def _masks(build: Callable[[float], nn.Module], **kwargs: Any) -> Architecture:
    return Architecture(build, INSTANCES, WITH_MASKS, **kwargs)


ARCHITECTURES: dict[str, Architecture] = {
    "C4": _masks(from_yaml("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml")),
    "DC5": _masks(from_yaml("COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x.yaml")),
    "FPN": _masks(from_yaml(MASK)),
    "ResNeXt": _masks(
        from_yaml(
            "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x.yaml",
            {"MODEL.RESNETS.NUM_GROUPS": 2},
        )
    ),
    "deformable v1": _masks(from_yaml(f"{MISC}1x_dconv_c3-c5.yaml")),
    "deformable v2": _masks(
        from_yaml(
            f"{MISC}1x_dconv_c3-c5.yaml",
            {"MODEL.RESNETS.DEFORM_MODULATED": True, "MODEL.RESNETS.DEFORM_NUM_GROUPS": 2},
        )
    ),
    "GN": _masks(from_yaml(f"{MISC}3x_gn.yaml", WIDE)),
    "SyncBN": _masks(from_yaml(f"{MISC}3x_syncbn.yaml")),
    "torch SyncBN": _masks(from_yaml(MASK, {"MODEL.RESNETS.NORM": "nnSyncBN"})),
    "BN": _masks(from_yaml(MASK, {"MODEL.RESNETS.NORM": "BN", "MODEL.FPN.NORM": "BN"})),
    "LN": _masks(from_yaml(MASK, {"MODEL.RESNETS.NORM": "LN", "MODEL.FPN.NORM": "LN"})),
    "cascade": _masks(from_yaml("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml")),
    "class-agnostic": _masks(from_yaml(f"{MISC}1x_cls_agnostic.yaml")),
    **{name: Architecture(from_yaml(FASTER, BOX_LOSS[name]), INSTANCES) for name in BOX_LOSS},
    "LVIS": _masks(_lvis, classes=30),
    "RPN": Architecture(from_yaml("COCO-Detection/rpn_R_50_FPN_1x.yaml"), {"proposals"}),
    "Fast R-CNN": Architecture(
        from_yaml("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml"), INSTANCES, {"boxes", "proposals"}
    ),
    "keypoints": Architecture(
        from_yaml(
            "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", {"MODEL.ROI_HEADS.NUM_CLASSES": 1}
        ),
        INSTANCES,
        {"boxes", "keypoints"},
        classes=1,
    ),
    "RetinaNet": Architecture(from_yaml(RETINANET), INSTANCES),
    "RetinaNet, GIoU": Architecture(
        from_yaml(RETINANET, {"MODEL.RETINANET.BBOX_REG_LOSS_TYPE": "giou"}), INSTANCES
    ),
    "RetinaNet, cycled BN": Architecture(
        from_yaml(RETINANET, {"MODEL.RETINANET.NORM": "BN"}), INSTANCES
    ),
    "FCOS": Architecture(from_python("COCO-Detection/fcos_R_50_FPN_1x.py", _fcos), INSTANCES),
    "Panoptic FPN": Architecture(
        from_yaml("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"),
        {"instances", "sem_seg", "panoptic_seg"},
        {"boxes", "masks", "stuff"},
    ),
    "semantic FPN": Architecture(
        from_yaml("Misc/semantic_R_50_FPN_1x.yaml"), {"sem_seg"}, {"stuff"}
    ),
    "PointRend": _masks(_point_rend("InstanceSegmentation/pointrend_rcnn_R_50_FPN_1x_coco")),
    "implicit PointRend": _masks(
        _point_rend("InstanceSegmentation/implicit_pointrend_R_50_FPN_1x_coco")
    ),
    "semantic PointRend": Architecture(
        _point_rend(
            "SemanticSegmentation/pointrend_semantic_R_101_FPN_1x_cityscapes",
            {
                "MODEL.SEM_SEG_HEAD.NUM_CLASSES": NUM_STUFF,
                "MODEL.POINT_HEAD.NUM_CLASSES": NUM_STUFF,
            },
        ),
        {"sem_seg"},
        {"stuff"},
    ),
    "rotated": Architecture(from_yaml(FASTER, ROTATED), INSTANCES, {"rotated boxes"}),
    "RegNetX": _masks(from_python(LAZY_MASK, partial(_regnet, block=VanillaBlock))),
    "RegNetY": _masks(
        from_python(LAZY_MASK, partial(_regnet, block=ResBottleneckBlock, se_ratio=0.25))
    ),
    "ViTDet": _masks(from_python("common/models/mask_rcnn_vitdet.py", _vit)),
    "MViT": _masks(from_python(LAZY_MASK, _mvit)),
    "Swin": _masks(from_python(LAZY_MASK, _swin)),
}


# --- images and their annotations -----------------------------------------------------------


def images(architecture: Architecture, *, objects: int = 3) -> list[dict[str, Any]]:
    """Two training images of `SIZES` with coloured boxes in them, the same on every call."""
    batch = [_image(architecture, i, size, objects) for i, size in enumerate(SIZES)]
    return batch


def _image(
    architecture: Architecture, index: int, size: tuple[int, int], objects: int
) -> dict[str, Any]:
    height, width = size
    generator = np.random.default_rng(index)
    boxes = _boxes(generator, objects, height, width)
    classes = torch.arange(objects) % min(architecture.classes, 3)
    pixels = torch.from_numpy(generator.uniform(60, 120, (3, height, width))).float()
    masks = torch.zeros(objects, height, width, dtype=torch.bool)
    for box, label, mask in zip(boxes.int().tolist(), classes.tolist(), masks):
        x0, y0, x1, y1 = box
        mask[y0:y1, x0:x1] = True
        pixels[label, mask] += 120
    sample: dict[str, Any] = {"image": pixels, "height": 2 * height, "width": 2 * width}
    wanted = architecture.annotations
    if "stuff" in wanted:
        rows = torch.arange(height)[:, None] * NUM_STUFF // height
        sample["sem_seg"] = rows.expand(height, width).clone()
    if not wanted - {"stuff"}:
        return sample
    target = Instances(size, gt_classes=classes)
    if "rotated boxes" in wanted:
        target.gt_boxes = RotatedBoxes(_rotated(boxes))
    else:
        target.gt_boxes = Boxes(boxes)
    if "masks" in wanted:
        target.gt_masks = BitMasks(masks)
    if "keypoints" in wanted:
        target.gt_keypoints = Keypoints(_keypoints(boxes))
    sample["instances"] = target
    if "proposals" in wanted:
        sample["proposals"] = _proposals(generator, boxes, size)
    return sample


def _boxes(generator: np.random.Generator, count: int, height: int, width: int) -> Tensor:
    corners = generator.uniform((0, 0), (width - 30, height - 30), (count, 2))
    sides = generator.uniform(14, 28, (count, 2))
    return torch.from_numpy(np.hstack([corners, corners + sides])).float()


def _rotated(boxes: Tensor) -> Tensor:
    """(N, 5) the same boxes, turned by 15 degrees."""
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return torch.cat([centres, sides, torch.full((len(boxes), 1), 15.0)], dim=1)


def _keypoints(boxes: Tensor) -> Tensor:
    """(N, NUM_KEYPOINTS, 3) visible points on the diagonal of each box."""
    steps = torch.linspace(0.2, 0.8, NUM_KEYPOINTS)[None, :, None]
    points = boxes[:, None, :2] + steps * (boxes[:, None, 2:] - boxes[:, None, :2])
    return torch.cat([points, torch.full_like(points[..., :1], 2.0)], dim=2)


def _proposals(generator: np.random.Generator, boxes: Tensor, size: tuple[int, int]) -> Instances:
    shifts = torch.from_numpy(generator.normal(0, 2, (4, *boxes.shape))).float()
    others = _boxes(generator, 10, *size)
    candidates = Boxes(torch.cat([*(boxes + shifts), others]))
    candidates.clip(size)
    return Instances(
        size, proposal_boxes=candidates, objectness_logits=torch.linspace(2, -2, len(candidates))
    )
