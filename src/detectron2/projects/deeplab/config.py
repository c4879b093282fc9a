"""Keys that DeepLab adds to a config, and the constructor arguments that they set."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

__all__ = [
    "DEEPLAB_BACKBONE",
    "DEEPLAB_V3_HEAD",
    "DEEPLAB_V3_PLUS_HEAD",
    "POLY_LR",
    "add_deeplab_config",
    "add_options",
]

_OPTIONS: dict[str, Any] = {
    # Largest share of the labelled pixels of a crop that one class may have; 1.0 takes every crop.
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 1.0,
    # LR_SCHEDULER_NAME "WarmupPolyLR": exponent, and the share of BASE_LR below which the rate
    # does not fall (0.0: it falls to zero).
    "SOLVER.POLY_LR_POWER": 0.9,
    "SOLVER.POLY_LR_CONSTANT_ENDING": 0.0,
    # hard_pixel_mining or cross_entropy.
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE": "hard_pixel_mining",
    # DeepLabV3PlusHead: features that the decoder adds, and what it reduces their channels to.
    "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES": ["res2"],
    "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS": [48],
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS": 256,
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": [6, 12, 18],
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT": 0.1,
    "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV": False,
    # build_resnet_deeplab_backbone: dilation of res4, factors of the dilation of each block of
    # res5, and the stem: deeplab (three 3x3 convolutions) or basic (one of 7x7).
    "MODEL.RESNETS.RES4_DILATION": 1,
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 2, 4],
    "MODEL.RESNETS.STEM_TYPE": "deeplab",
}

DEEPLAB_BACKBONE = {
    "stem_type": "MODEL.RESNETS.STEM_TYPE",
    "res4_dilation": "MODEL.RESNETS.RES4_DILATION",
    "res5_multi_grid": "MODEL.RESNETS.RES5_MULTI_GRID",
}

_HEAD = {
    "aspp_dilations": "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS",
    "aspp_dropout": "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT",
    "common_stride": "MODEL.SEM_SEG_HEAD.COMMON_STRIDE",
    "norm": "MODEL.SEM_SEG_HEAD.NORM",
    "loss_weight": "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
    "loss_type": "MODEL.SEM_SEG_HEAD.LOSS_TYPE",
    "ignore_value": "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",
    "num_classes": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    "use_depthwise_separable_conv": "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV",
}

DEEPLAB_V3_HEAD = {**_HEAD, "aspp_channels": "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS"}

DEEPLAB_V3_PLUS_HEAD = {**_HEAD, "project_channels": "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS"}

POLY_LR = {
    "max_iters": "SOLVER.MAX_ITER",
    "warmup_factor": "SOLVER.WARMUP_FACTOR",
    "warmup_iters": "SOLVER.WARMUP_ITERS",
    "warmup_method": "SOLVER.WARMUP_METHOD",
    "power": "SOLVER.POLY_LR_POWER",
    "constant_ending": "SOLVER.POLY_LR_CONSTANT_ENDING",
}


def add_options(cfg: CfgNode, options: dict[str, Any]) -> None:
    """Set each dotted key of `options` in `cfg`, in place; groups that are missing are made."""
    for key, value in options.items():
        *groups, name = key.split(".")
        node = cfg
        for group in groups:
            if group not in node:
                node[group] = CfgNode()
            node = node[group]
        node[name] = list(value) if isinstance(value, list) else value


def add_deeplab_config(cfg: CfgNode) -> None:
    """Add DeepLab's keys with their defaults to `cfg`, in place."""
    add_options(cfg, _OPTIONS)
