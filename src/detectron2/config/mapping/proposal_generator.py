"""Keys of the anchor generators, the region proposal network and its head."""

ANCHOR_GENERATOR = {
    "sizes": "MODEL.ANCHOR_GENERATOR.SIZES",
    "aspect_ratios": "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    "offset": "MODEL.ANCHOR_GENERATOR.OFFSET",
}

ROTATED_ANCHOR_GENERATOR = {**ANCHOR_GENERATOR, "angles": "MODEL.ANCHOR_GENERATOR.ANGLES"}

ANCHOR_MATCHER = {
    "thresholds": "MODEL.RPN.IOU_THRESHOLDS",
    "labels": "MODEL.RPN.IOU_LABELS",
}

BOX_TRANSFORM = {"weights": "MODEL.RPN.BBOX_REG_WEIGHTS"}

RPN = {
    "in_features": "MODEL.RPN.IN_FEATURES",
    "batch_size_per_image": "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
    "positive_fraction": "MODEL.RPN.POSITIVE_FRACTION",
    "nms_thresh": "MODEL.RPN.NMS_THRESH",
    "min_box_size": "MODEL.PROPOSAL_GENERATOR.MIN_SIZE",
    "anchor_boundary_thresh": "MODEL.RPN.BOUNDARY_THRESH",
    "box_reg_loss_type": "MODEL.RPN.BBOX_REG_LOSS_TYPE",
    "smooth_l1_beta": "MODEL.RPN.SMOOTH_L1_BETA",
}

# One argument, two keys: the value in training and the value at test time.
RPN_TRAIN_TEST = {
    "pre_nms_topk": ("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "MODEL.RPN.PRE_NMS_TOPK_TEST"),
    "post_nms_topk": ("MODEL.RPN.POST_NMS_TOPK_TRAIN", "MODEL.RPN.POST_NMS_TOPK_TEST"),
}

RPN_LOSS_WEIGHTS = {
    "all": "MODEL.RPN.LOSS_WEIGHT",
    "box": "MODEL.RPN.BBOX_REG_LOSS_WEIGHT",
}

RPN_HEAD = {"conv_dims": "MODEL.RPN.CONV_DIMS"}
