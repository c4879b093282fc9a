"""The old address of two functions, from which many projects still import them."""

from detectron2.data.datasets.coco import register_coco_instances
from detectron2.data.datasets.coco_panoptic import register_coco_panoptic_separated

__all__ = ["register_coco_instances", "register_coco_panoptic_separated"]
