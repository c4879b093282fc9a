"""Whole models: constructor argument -> yacs key."""

__all__ = [
    "DATASET_MAPPER_TTA",
    "GENERALIZED_RCNN",
    "PANOPTIC_FPN",
    "PROPOSAL_NETWORK",
    "SEMANTIC_SEGMENTOR",
    "SEM_SEG_FPN_HEAD",
]

_PIXELS = {
    "pixel_mean": "MODEL.PIXEL_MEAN",
    "pixel_std": "MODEL.PIXEL_STD",
}

GENERALIZED_RCNN = {
    **_PIXELS,
    "input_format": "INPUT.FORMAT",
    "vis_period": "VIS_PERIOD",
}

PROPOSAL_NETWORK = _PIXELS

SEMANTIC_SEGMENTOR = _PIXELS

PANOPTIC_FPN = {
    "combine_overlap_thresh": "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH",
    "combine_stuff_area_thresh": "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT",
    "combine_instances_score_thresh": "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH",
}

SEM_SEG_FPN_HEAD = {
    "num_classes": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    "conv_dims": "MODEL.SEM_SEG_HEAD.CONVS_DIM",
    "common_stride": "MODEL.SEM_SEG_HEAD.COMMON_STRIDE",
    "loss_weight": "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
    "norm": "MODEL.SEM_SEG_HEAD.NORM",
    "ignore_value": "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",
}

DATASET_MAPPER_TTA = {
    "min_sizes": "TEST.AUG.MIN_SIZES",
    "max_size": "TEST.AUG.MAX_SIZE",
    "flip": "TEST.AUG.FLIP",
}
