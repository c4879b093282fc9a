"""Keys that Panoptic-DeepLab adds to a config, and the constructor arguments that they set."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.projects.deeplab.config import DEEPLAB_V3_PLUS_HEAD, add_deeplab_config, add_options

__all__ = [
    "INS_EMBED_HEAD",
    "PANOPTIC_DEEPLAB",
    "SEM_SEG_HEAD",
    "TARGET_GENERATOR",
    "add_panoptic_deeplab_config",
]

_OPTIONS: dict[str, Any] = {
    # Standard deviation, in pixels, of the Gaussian that marks the centre of a thing.
    "INPUT.GAUSSIAN_SIGMA": 10,
    # Offsets are learnt from things only; in stuff they are 0.
    "INPUT.IGNORE_STUFF_IN_OFFSET": True,
    # Weight, in the semantic loss, of the pixels of things below that area in pixels.
    "INPUT.SMALL_INSTANCE_AREA": 4096,
    "INPUT.SMALL_INSTANCE_WEIGHT": 3,
    "INPUT.IGNORE_CROWD_IN_SEMANTIC": False,
    # ADAM, ADAMW or SGD.
    "SOLVER.OPTIMIZER": "ADAM",
    "MODEL.SEM_SEG_HEAD.HEAD_CHANNELS": 256,
    # Share of the hardest pixels in the semantic loss; 1.0 takes all.
    "MODEL.SEM_SEG_HEAD.LOSS_TOP_K": 0.2,
    "MODEL.INS_EMBED_HEAD.NAME": "PanopticDeepLabInsEmbedHead",
    "MODEL.INS_EMBED_HEAD.IN_FEATURES": ["res2", "res3", "res5"],
    "MODEL.INS_EMBED_HEAD.PROJECT_FEATURES": ["res2", "res3"],
    "MODEL.INS_EMBED_HEAD.PROJECT_CHANNELS": [32, 64],
    "MODEL.INS_EMBED_HEAD.ASPP_CHANNELS": 256,
    "MODEL.INS_EMBED_HEAD.ASPP_DILATIONS": [6, 12, 18],
    "MODEL.INS_EMBED_HEAD.ASPP_DROPOUT": 0.1,
    "MODEL.INS_EMBED_HEAD.HEAD_CHANNELS": 32,
    "MODEL.INS_EMBED_HEAD.CONVS_DIM": 128,
    "MODEL.INS_EMBED_HEAD.COMMON_STRIDE": 4,
    "MODEL.INS_EMBED_HEAD.NORM": "SyncBN",
    "MODEL.INS_EMBED_HEAD.CENTER_LOSS_WEIGHT": 200.0,
    "MODEL.INS_EMBED_HEAD.OFFSET_LOSS_WEIGHT": 0.01,
    # Stuff of fewer pixels is void.
    "MODEL.PANOPTIC_DEEPLAB.STUFF_AREA": 2048,
    # Centres: least probability, side of the window that has one at most, and how many.
    "MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD": 0.1,
    "MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL": 7,
    "MODEL.PANOPTIC_DEEPLAB.TOP_K_INSTANCE": 200,
    # Results have instances, too.
    "MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES": True,
    # Must be that of SEM_SEG_HEAD.
    "MODEL.PANOPTIC_DEEPLAB.USE_DEPTHWISE_SEPARABLE_CONV": False,
    # Batches are padded to multiples of it; -1: what the backbone asks for.
    "MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY": -1,
    # Return nothing: measures the network without what follows it.
    "MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED": False,
}

SEM_SEG_HEAD = {
    **DEEPLAB_V3_PLUS_HEAD,
    "head_channels": "MODEL.SEM_SEG_HEAD.HEAD_CHANNELS",
    "loss_top_k": "MODEL.SEM_SEG_HEAD.LOSS_TOP_K",
}

INS_EMBED_HEAD = {
    "project_channels": "MODEL.INS_EMBED_HEAD.PROJECT_CHANNELS",
    "aspp_dilations": "MODEL.INS_EMBED_HEAD.ASPP_DILATIONS",
    "aspp_dropout": "MODEL.INS_EMBED_HEAD.ASPP_DROPOUT",
    "common_stride": "MODEL.INS_EMBED_HEAD.COMMON_STRIDE",
    "norm": "MODEL.INS_EMBED_HEAD.NORM",
    "head_channels": "MODEL.INS_EMBED_HEAD.HEAD_CHANNELS",
    "center_loss_weight": "MODEL.INS_EMBED_HEAD.CENTER_LOSS_WEIGHT",
    "offset_loss_weight": "MODEL.INS_EMBED_HEAD.OFFSET_LOSS_WEIGHT",
    "use_depthwise_separable_conv": "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV",
}

PANOPTIC_DEEPLAB = {
    "pixel_mean": "MODEL.PIXEL_MEAN",
    "pixel_std": "MODEL.PIXEL_STD",
    "size_divisibility": "MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY",
    "stuff_area": "MODEL.PANOPTIC_DEEPLAB.STUFF_AREA",
    "center_threshold": "MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD",
    "nms_kernel": "MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL",
    "top_k_instances": "MODEL.PANOPTIC_DEEPLAB.TOP_K_INSTANCE",
    "predict_instances": "MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES",
    "benchmark_network_speed": "MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED",
}

TARGET_GENERATOR = {
    "sigma": "INPUT.GAUSSIAN_SIGMA",
    "ignore_stuff_in_offset": "INPUT.IGNORE_STUFF_IN_OFFSET",
    "small_instance_area": "INPUT.SMALL_INSTANCE_AREA",
    "small_instance_weight": "INPUT.SMALL_INSTANCE_WEIGHT",
    "ignore_crowd_in_semantic": "INPUT.IGNORE_CROWD_IN_SEMANTIC",
}


def add_panoptic_deeplab_config(cfg: CfgNode) -> None:
    """Add the keys of DeepLab and Panoptic-DeepLab with their defaults to `cfg`, in place."""
    add_deeplab_config(cfg)
    add_options(cfg, _OPTIONS)
