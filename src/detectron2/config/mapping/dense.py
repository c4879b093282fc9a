"""Keys of the one-stage detectors."""

RETINANET = {
    "head_in_features": "MODEL.RETINANET.IN_FEATURES",
    "num_classes": "MODEL.RETINANET.NUM_CLASSES",
    "focal_loss_alpha": "MODEL.RETINANET.FOCAL_LOSS_ALPHA",
    "focal_loss_gamma": "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
    "smooth_l1_beta": "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA",
    "box_reg_loss_type": "MODEL.RETINANET.BBOX_REG_LOSS_TYPE",
    "test_score_thresh": "MODEL.RETINANET.SCORE_THRESH_TEST",
    "test_topk_candidates": "MODEL.RETINANET.TOPK_CANDIDATES_TEST",
    "test_nms_thresh": "MODEL.RETINANET.NMS_THRESH_TEST",
    "max_detections_per_image": "TEST.DETECTIONS_PER_IMAGE",
    "pixel_mean": "MODEL.PIXEL_MEAN",
    "pixel_std": "MODEL.PIXEL_STD",
    "vis_period": "VIS_PERIOD",
    "input_format": "INPUT.FORMAT",
}

RETINANET_HEAD = {
    "num_classes": "MODEL.RETINANET.NUM_CLASSES",
    "norm": "MODEL.RETINANET.NORM",
    "prior_prob": "MODEL.RETINANET.PRIOR_PROB",
}

RETINANET_MATCHER = {
    "thresholds": "MODEL.RETINANET.IOU_THRESHOLDS",
    "labels": "MODEL.RETINANET.IOU_LABELS",
}

RETINANET_BOX_TRANSFORM = {"weights": "MODEL.RETINANET.BBOX_REG_WEIGHTS"}

RETINANET_NUM_CONVS = "MODEL.RETINANET.NUM_CONVS"
