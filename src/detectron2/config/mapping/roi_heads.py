"""ROI heads: constructor argument -> yacs key."""

__all__ = [
    "BASE_KEYPOINT_HEAD",
    "BASE_MASK_HEAD",
    "BOX_HEAD",
    "BOX_POOLER",
    "BOX_TRANSFORM",
    "FAST_RCNN_OUTPUT_LAYERS",
    "KEYPOINT_HEAD",
    "KEYPOINT_POOLER",
    "MASK_HEAD",
    "MASK_POOLER",
    "PROPOSAL_MATCHER",
    "RES5_STAGE",
    "ROI_HEADS",
    "STANDARD_ROI_HEADS",
]

ROI_HEADS = {
    "num_classes": "MODEL.ROI_HEADS.NUM_CLASSES",
    "batch_size_per_image": "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "positive_fraction": "MODEL.ROI_HEADS.POSITIVE_FRACTION",
    "proposal_append_gt": "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT",
}

PROPOSAL_MATCHER = {
    "thresholds": "MODEL.ROI_HEADS.IOU_THRESHOLDS",
    "labels": "MODEL.ROI_HEADS.IOU_LABELS",
}

STANDARD_ROI_HEADS = {
    "train_on_pred_boxes": "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES",
}

BOX_POOLER = {
    "output_size": "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    "sampling_ratio": "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO",
    "pooler_type": "MODEL.ROI_BOX_HEAD.POOLER_TYPE",
}

MASK_POOLER = {
    "output_size": "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",
    "sampling_ratio": "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO",
    "pooler_type": "MODEL.ROI_MASK_HEAD.POOLER_TYPE",
}

KEYPOINT_POOLER = {
    "output_size": "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION",
    "sampling_ratio": "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO",
    "pooler_type": "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE",
}

BOX_TRANSFORM = {
    "weights": "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS",
}

BOX_HEAD = {
    "conv_norm": "MODEL.ROI_BOX_HEAD.NORM",
}

FAST_RCNN_OUTPUT_LAYERS = {
    "num_classes": "MODEL.ROI_HEADS.NUM_CLASSES",
    "test_score_thresh": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "test_nms_thresh": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "test_topk_per_image": "TEST.DETECTIONS_PER_IMAGE",
    "cls_agnostic_bbox_reg": "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
    "smooth_l1_beta": "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",
    "box_reg_loss_type": "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE",
    "use_fed_loss": "MODEL.ROI_BOX_HEAD.USE_FED_LOSS",
    "use_sigmoid_ce": "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE",
    "fed_loss_num_classes": "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES",
}

BASE_MASK_HEAD = {
    "vis_period": "VIS_PERIOD",
}

MASK_HEAD = {
    "conv_norm": "MODEL.ROI_MASK_HEAD.NORM",
}

BASE_KEYPOINT_HEAD = {
    "num_keypoints": "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",
    "loss_weight": "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT",
}

KEYPOINT_HEAD = {
    "conv_dims": "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS",
}

RES5_STAGE = {
    "num_groups": "MODEL.RESNETS.NUM_GROUPS",
    "norm": "MODEL.RESNETS.NORM",
    "stride_in_1x1": "MODEL.RESNETS.STRIDE_IN_1X1",
}
