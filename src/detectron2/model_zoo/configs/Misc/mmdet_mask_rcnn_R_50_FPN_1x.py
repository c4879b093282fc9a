"""A model of MMDetection under the same trainer, data and evaluation. Needs mmdet.

The dictionaries are MMDetection's own config of Mask R-CNN R50-FPN.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.mmdet_wrapper import MMDetDetector

from ..common.coco_schedule import lr_multiplier_1x as lr_multiplier
from ..common.data.coco import dataloader
from ..common.data.constants import constants
from ..common.optim import SGD as optimizer
from ..common.train import train


def roi_extractor(size):
    """ROIAlign to (size, size) from levels of strides 4 to 32."""
    return dict(
        type="SingleRoIExtractor",
        roi_layer=dict(type="RoIAlign", output_size=size, sampling_ratio=0),
        out_channels=256,
        featmap_strides=[4, 8, 16, 32],
    )


def cross_entropy(**kind):
    return dict(type="CrossEntropyLoss", loss_weight=1.0, **kind)


def box_coder(deviations):
    return dict(
        type="DeltaXYWHBBoxCoder", target_means=[0.0, 0.0, 0.0, 0.0], target_stds=deviations
    )


def assigner(pos, neg, lowest, low_quality):
    return dict(
        type="MaxIoUAssigner",
        pos_iou_thr=pos,
        neg_iou_thr=neg,
        min_pos_iou=lowest,
        match_low_quality=low_quality,
        ignore_iof_thr=-1,
    )


def sampler(count, share, add_ground_truth):
    return dict(
        type="RandomSampler",
        num=count,
        pos_fraction=share,
        neg_pos_ub=-1,
        add_gt_as_proposals=add_ground_truth,
    )


l1_loss = dict(type="L1Loss", loss_weight=1.0)

detector = dict(
    type="MaskRCNN",
    pretrained="torchvision://resnet50",
    backbone=dict(
        type="ResNet",
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=True,
        style="pytorch",
    ),
    neck=dict(type="FPN", in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5),
    rpn_head=dict(
        type="RPNHead",
        in_channels=256,
        feat_channels=256,
        anchor_generator=dict(
            type="AnchorGenerator",
            scales=[8],
            ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
        ),
        bbox_coder=box_coder([1.0, 1.0, 1.0, 1.0]),
        loss_cls=cross_entropy(use_sigmoid=True),
        loss_bbox=l1_loss,
    ),
    roi_head=dict(
        type="StandardRoIHead",
        bbox_roi_extractor=roi_extractor(7),
        bbox_head=dict(
            type="Shared2FCBBoxHead",
            in_channels=256,
            fc_out_channels=1024,
            roi_feat_size=7,
            num_classes=80,
            bbox_coder=box_coder([0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False,
            loss_cls=cross_entropy(use_sigmoid=False),
            loss_bbox=l1_loss,
        ),
        mask_roi_extractor=roi_extractor(14),
        mask_head=dict(
            type="FCNMaskHead",
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            num_classes=80,
            loss_mask=cross_entropy(use_mask=True),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=assigner(0.7, 0.3, 0.3, True),
            sampler=sampler(256, 0.5, False),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(
            nms_pre=2000,
            max_per_img=1000,
            nms=dict(type="nms", iou_threshold=0.7),
            min_bbox_size=0,
        ),
        rcnn=dict(
            assigner=assigner(0.5, 0.5, 0.5, True),
            sampler=sampler(512, 0.25, True),
            mask_size=28,
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        rpn=dict(
            nms_pre=1000,
            max_per_img=1000,
            nms=dict(type="nms", iou_threshold=0.7),
            min_bbox_size=0,
        ),
        rcnn=dict(
            score_thr=0.05,
            nms=dict(type="nms", iou_threshold=0.5),
            max_per_img=100,
            mask_thr_binary=0.5,
        ),
    ),
)

model = L(MMDetDetector)(
    detector=detector,
    pixel_mean=constants.imagenet_rgb256_mean,
    pixel_std=constants.imagenet_rgb256_std,
)

# torchvision's weights expect RGB; mmdet loads them itself.
dataloader.train.mapper.image_format = "RGB"
train.init_checkpoint = None

del detector, l1_loss
