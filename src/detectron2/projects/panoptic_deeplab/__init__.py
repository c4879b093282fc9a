"""Panoptic-DeepLab: every thing is a centre and the pixels that point to it (arXiv:1911.10194)."""

from detectron2.projects.panoptic_deeplab.config import add_panoptic_deeplab_config
from detectron2.projects.panoptic_deeplab.dataset_mapper import PanopticDeeplabDatasetMapper
from detectron2.projects.panoptic_deeplab.heads import (
    INS_EMBED_BRANCHES_REGISTRY,
    PanopticDeepLabInsEmbedHead,
    PanopticDeepLabSemSegHead,
    build_ins_embed_branch,
)
from detectron2.projects.panoptic_deeplab.panoptic_seg import PanopticDeepLab

__all__ = [
    "INS_EMBED_BRANCHES_REGISTRY",
    "PanopticDeepLab",
    "PanopticDeepLabInsEmbedHead",
    "PanopticDeepLabSemSegHead",
    "PanopticDeeplabDatasetMapper",
    "add_panoptic_deeplab_config",
    "build_ins_embed_branch",
]
