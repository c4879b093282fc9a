"""The keys of PointRend."""

from detectron2.config import CfgNode

__all__ = ["add_pointrend_config"]

_MASK_HEAD = {
    "IN_FEATURES": ("p2",),  # maps of which the coarse head sees a grid of POOLER_RESOLUTION
    "FC_DIM": 1024,
    "NUM_FC": 2,
    "OUTPUT_SIDE_RESOLUTION": 7,  # cells along a side of the coarse mask
    "POINT_HEAD_ON": False,
}

_POINT_HEAD = {
    # StandardPointHead or ImplicitPointHead.
    "NAME": "StandardPointHead",
    "NUM_CLASSES": 80,
    "IN_FEATURES": ("p2",),
    # Training: of OVERSAMPLE_RATIO times as many random points the most uncertain ones are taken
    # for IMPORTANCE_SAMPLE_RATIO of TRAIN_NUM_POINTS; the rest is random.
    "TRAIN_NUM_POINTS": 14 * 14,
    "OVERSAMPLE_RATIO": 3,
    "IMPORTANCE_SAMPLE_RATIO": 0.75,
    # Inference: how often the size is doubled, and how many points are predicted each time.
    "SUBDIVISION_STEPS": 5,
    "SUBDIVISION_NUM_POINTS": 28 * 28,
    "FC_DIM": 256,
    "NUM_FC": 3,
    "CLS_AGNOSTIC_MASK": False,
    # Every layer sees the coarse prediction, not only the first one.
    "COARSE_PRED_EACH_LAYER": True,
    "COARSE_SEM_SEG_HEAD_NAME": "SemSegFPNHead",
}

_IMPLICIT = {
    "IMAGE_FEATURE_ENABLED": True,
    "POS_ENC_ENABLED": True,
    "PARAMS_L2_REGULARIZER": 0.00001,
}


def add_pointrend_config(cfg: CfgNode) -> None:
    """Add the keys of PointRend, with their defaults, to `cfg`."""
    # Of a crop of the image no class may cover more; 1 takes any crop.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    cfg.INPUT.COLOR_AUG_SSD = False
    for key, value in _MASK_HEAD.items():
        cfg.MODEL.ROI_MASK_HEAD[key] = value
    cfg.MODEL.POINT_HEAD = CfgNode(dict(_POINT_HEAD))
    cfg.MODEL.IMPLICIT_POINTREND = CfgNode(dict(_IMPLICIT))
