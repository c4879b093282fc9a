"""DeepLab: semantic segmentation with dilated ResNets (arXiv:1706.05587, arXiv:1802.02611)."""

from detectron2.projects.deeplab.build_solver import build_lr_scheduler
from detectron2.projects.deeplab.config import add_deeplab_config
from detectron2.projects.deeplab.loss import DeepLabCE
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from detectron2.projects.deeplab.resnet import DeepLabStem, build_resnet_deeplab_backbone
from detectron2.projects.deeplab.semantic_seg import DeepLabV3Head, DeepLabV3PlusHead

__all__ = [
    "DeepLabCE",
    "DeepLabStem",
    "DeepLabV3Head",
    "DeepLabV3PlusHead",
    "WarmupPolyLR",
    "add_deeplab_config",
    "build_lr_scheduler",
    "build_resnet_deeplab_backbone",
]
