"""PointRend (Kirillov et al., 2020) and implicit PointRend (Cheng et al., 2021).

Masks and maps of classes are refined at few points, where they are uncertain. Importing this
package registers its heads; `add_pointrend_config` adds their keys to a config.
"""

from detectron2.projects.point_rend.color_augmentation import ColorAugSSDTransform
from detectron2.projects.point_rend.config import add_pointrend_config
from detectron2.projects.point_rend.mask_head import (
    ImplicitPointRendMaskHead,
    PointRendMaskHead,
)
from detectron2.projects.point_rend.roi_heads import PointRendROIHeads
from detectron2.projects.point_rend.semantic_seg import PointRendSemSegHead

__all__ = [
    "ColorAugSSDTransform",
    "ImplicitPointRendMaskHead",
    "PointRendMaskHead",
    "PointRendROIHeads",
    "PointRendSemSegHead",
    "add_pointrend_config",
]
