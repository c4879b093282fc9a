"""Options of the models with their default values; the other options are in `defaults`.

Comments give what a name does not say: units, choices, and what other options it depends on.
"""

from __future__ import annotations

from typing import Any

__all__ = ["MODEL"]

_Options = dict[str, Any]

# --- backbones --------------------------------------------------------------------------------

_BACKBONE: _Options = {
    "NAME": "build_resnet_backbone",
    # Stages that are not trained: 0 none, 1 the stem, 2 the stem and res2, ...
    "FREEZE_AT": 2,
}

_RESNETS: _Options = {
    "DEPTH": 50,  # 18, 34, 50, 101 or 152
    "OUT_FEATURES": ["res4"],
    # ResNeXt: groups of the 3x3 convolutions and channels per group.
    "NUM_GROUPS": 1,
    "WIDTH_PER_GROUP": 64,
    # FrozenBN, BN, SyncBN, GN, ...: see detectron2.layers.get_norm.
    "NORM": "FrozenBN",
    # Stride in the first 1x1 convolution (MSRA's weights) or in the 3x3 one (torchvision's).
    "STRIDE_IN_1X1": True,
    "RES5_DILATION": 1,
    "RES2_OUT_CHANNELS": 256,
    "STEM_OUT_CHANNELS": 64,
    # Deformable convolution in res2..res5; modulated is version 2 of the paper.
    "DEFORM_ON_PER_STAGE": [False, False, False, False],
    "DEFORM_MODULATED": False,
    "DEFORM_NUM_GROUPS": 1,
}

_FPN: _Options = {
    "IN_FEATURES": [],
    "OUT_CHANNELS": 256,
    "NORM": "",
    # How a level is combined with the one above it: sum or avg.
    "FUSE_TYPE": "sum",
}

# --- proposals --------------------------------------------------------------------------------

_PROPOSAL_GENERATOR: _Options = {
    "NAME": "RPN",  # RPN, RRPN, or PrecomputedProposals for none at all
    # Proposals with a side of at most this many pixels of the network input are dropped.
    "MIN_SIZE": 0,
}

_ANCHOR_GENERATOR: _Options = {
    "NAME": "DefaultAnchorGenerator",
    # Square root of the anchor area in pixels of the input: one list per feature level, or one
    # list for all levels.
    "SIZES": [[32, 64, 128, 256, 512]],
    # Height over width, lists as above.
    "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    # Degrees, counter-clockwise; only RotatedAnchorGenerator reads them.
    "ANGLES": [[-90, 0, 90]],
    # Centre of the first anchor, in strides.
    "OFFSET": 0.0,
}

_RPN: _Options = {
    "HEAD_NAME": "StandardRPNHead",
    "IN_FEATURES": ["res4"],
    # Channels of the hidden convolutions; -1 keeps the number of input channels.
    "CONV_DIMS": [-1],
    # Anchors that leave the image by more pixels are ignored; negative ignores none.
    "BOUNDARY_THRESH": -1,
    # Below the first IoU an anchor is background (0), above the second an object (1).
    "IOU_THRESHOLDS": [0.3, 0.7],
    "IOU_LABELS": [0, -1, 1],
    # Anchors per image in the loss, and the wanted share of objects among them.
    "BATCH_SIZE_PER_IMAGE": 256,
    "POSITIVE_FRACTION": 0.5,
    # Losses. Box regression: smooth_l1, giou, diou or ciou.
    "BBOX_REG_LOSS_TYPE": "smooth_l1",
    "BBOX_REG_LOSS_WEIGHT": 1.0,
    "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
    # Where smooth L1 changes from L2 to L1; 0 is plain L1.
    "SMOOTH_L1_BETA": 0.0,
    "LOSS_WEIGHT": 1.0,
    # Proposals kept before NMS (per level) and after it (over all levels).
    "PRE_NMS_TOPK_TRAIN": 12000,
    "PRE_NMS_TOPK_TEST": 6000,
    "POST_NMS_TOPK_TRAIN": 2000,
    "POST_NMS_TOPK_TEST": 1000,
    "NMS_THRESH": 0.7,
}

# --- ROI heads --------------------------------------------------------------------------------

_ROI_HEADS: _Options = {
    "NAME": "Res5ROIHeads",
    # Foreground classes.
    "NUM_CLASSES": 80,
    "IN_FEATURES": ["res4"],
    # A proposal below this IoU with every object is background.
    "IOU_THRESHOLDS": [0.5],
    "IOU_LABELS": [0, 1],
    # Proposals per image in the loss, and the wanted share of objects among them.
    "BATCH_SIZE_PER_IMAGE": 512,
    "POSITIVE_FRACTION": 0.25,
    # Ground-truth boxes join the proposals in training.
    "PROPOSAL_APPEND_GT": True,
    # Inference: lowest class score kept, and NMS within each class.
    "SCORE_THRESH_TEST": 0.05,
    "NMS_THRESH_TEST": 0.5,
}

_ROI_BOX_HEAD: _Options = {
    "NAME": "",
    "NUM_CONV": 0,
    "CONV_DIM": 256,
    "NUM_FC": 0,
    "FC_DIM": 1024,
    "NORM": "",
    "POOLER_TYPE": "ROIAlignV2",
    "POOLER_RESOLUTION": 14,
    # Samples per bin and axis; 0 adapts them to the size of the box.
    "POOLER_SAMPLING_RATIO": 0,
    "CLS_AGNOSTIC_BBOX_REG": False,
    # smooth_l1, giou, diou or ciou.
    "BBOX_REG_LOSS_TYPE": "smooth_l1",
    "BBOX_REG_LOSS_WEIGHT": 1.0,
    # Factors of (dx, dy, dw, dh), about one over their standard deviation.
    "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
    "SMOOTH_L1_BETA": 0.0,
    # Masks and keypoints are trained on the boxes that the box head predicts.
    "TRAIN_ON_PRED_BOXES": False,
    # Sigmoid per class instead of softmax.
    "USE_SIGMOID_CE": False,
    # Federated loss: only some classes are counted per batch, drawn by their image count to
    # this power. Needs USE_SIGMOID_CE.
    "USE_FED_LOSS": False,
    "FED_LOSS_NUM_CLASSES": 50,
    "FED_LOSS_FREQ_WEIGHT_POWER": 0.5,
}

# One entry per cascade stage; needs CLS_AGNOSTIC_BBOX_REG.
_ROI_BOX_CASCADE_HEAD: _Options = {
    "IOUS": (0.5, 0.6, 0.7),
    "BBOX_REG_WEIGHTS": tuple((2 * w, 2 * w, w, w) for w in (5.0, 10.0, 15.0)),
}

_ROI_MASK_HEAD: _Options = {
    "NAME": "MaskRCNNConvUpsampleHead",
    "NUM_CONV": 0,
    "CONV_DIM": 256,
    "NORM": "",
    "POOLER_TYPE": "ROIAlignV2",
    "POOLER_RESOLUTION": 14,
    "POOLER_SAMPLING_RATIO": 0,
    # One mask per box instead of one per class.
    "CLS_AGNOSTIC_MASK": False,
}

_ROI_KEYPOINT_HEAD: _Options = {
    "NAME": "KRCNNConvDeconvUpsampleHead",
    "NUM_KEYPOINTS": 17,  # COCO
    "CONV_DIMS": (512,) * 8,
    "POOLER_TYPE": "ROIAlignV2",
    "POOLER_RESOLUTION": 14,
    "POOLER_SAMPLING_RATIO": 0,
    # Training images with fewer visible keypoints are dropped.
    "MIN_KEYPOINTS_PER_IMAGE": 1,
    # Divide the loss by the visible keypoints, else by a constant: then few keypoints weigh less.
    "NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": True,
    "LOSS_WEIGHT": 1.0,
}

# --- semantic and panoptic segmentation, RetinaNet --------------------------------------------

_SEM_SEG_HEAD: _Options = {
    "NAME": "SemSegFPNHead",
    "IN_FEATURES": ["p2", "p3", "p4", "p5"],
    # 53 stuff classes of COCO and one class for all things.
    "NUM_CLASSES": 54,
    # Label of pixels that do not count.
    "IGNORE_VALUE": 255,
    "CONVS_DIM": 128,
    "NORM": "GN",
    # Stride of the map in which the levels are summed.
    "COMMON_STRIDE": 4,
    "LOSS_WEIGHT": 1.0,
}

_PANOPTIC_FPN: _Options = {
    # Weight of all losses of the instance branch.
    "INSTANCE_LOSS_WEIGHT": 1.0,
    "COMBINE": {
        "ENABLED": True,
        # An instance is dropped if more than this share of it is already taken.
        "OVERLAP_THRESH": 0.5,
        # Stuff regions below this many pixels become void.
        "STUFF_AREA_LIMIT": 4096,
        "INSTANCES_CONFIDENCE_THRESH": 0.5,
    },
}

_RETINANET: _Options = {
    "NUM_CLASSES": 80,
    "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "NUM_CONVS": 4,
    "NORM": "",
    # As in MODEL.RPN.
    "IOU_THRESHOLDS": [0.4, 0.5],
    "IOU_LABELS": [0, -1, 1],
    # Foreground probability that the bias of the classifier starts with.
    "PRIOR_PROB": 0.01,
    "FOCAL_LOSS_GAMMA": 2.0,
    "FOCAL_LOSS_ALPHA": 0.25,
    # smooth_l1, giou, diou or ciou.
    "BBOX_REG_LOSS_TYPE": "smooth_l1",
    "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
    "SMOOTH_L1_LOSS_BETA": 0.1,
    # Inference: lowest score, candidates per level before NMS, NMS.
    "SCORE_THRESH_TEST": 0.05,
    "TOPK_CANDIDATES_TEST": 1000,
    "NMS_THRESH_TEST": 0.5,
}

MODEL: _Options = {
    "META_ARCHITECTURE": "GeneralizedRCNN",
    # File or address of the weights to start from; empty: random weights.
    "WEIGHTS": "",
    "DEVICE": "cuda",
    # In the channel order of INPUT.FORMAT. The defaults are ImageNet's; the deviation of 1 goes
    # with the MSRA weights, whose first convolution contains it.
    "PIXEL_MEAN": [103.530, 116.280, 123.675],
    "PIXEL_STD": [1.0, 1.0, 1.0],
    "MASK_ON": False,
    "KEYPOINT_ON": False,
    "LOAD_PROPOSALS": False,
    "BACKBONE": _BACKBONE,
    "RESNETS": _RESNETS,
    "FPN": _FPN,
    "PROPOSAL_GENERATOR": _PROPOSAL_GENERATOR,
    "ANCHOR_GENERATOR": _ANCHOR_GENERATOR,
    "RPN": _RPN,
    "ROI_HEADS": _ROI_HEADS,
    "ROI_BOX_HEAD": _ROI_BOX_HEAD,
    "ROI_BOX_CASCADE_HEAD": _ROI_BOX_CASCADE_HEAD,
    "ROI_MASK_HEAD": _ROI_MASK_HEAD,
    "ROI_KEYPOINT_HEAD": _ROI_KEYPOINT_HEAD,
    "SEM_SEG_HEAD": _SEM_SEG_HEAD,
    "PANOPTIC_FPN": _PANOPTIC_FPN,
    "RETINANET": _RETINANET,
}
