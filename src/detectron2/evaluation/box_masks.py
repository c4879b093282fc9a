"""Masks stay on their boxes between our detector and evaluators that encode them there.

Drawn into full images, 100 masks of 800 x 1333 are 107 MB that are written, moved and read only to
become run lengths again.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

__all__ = ["box_masks_for"]


def box_masks_for(model: Any, evaluator: Any) -> AbstractContextManager[Any]:
    """Context in which `model` leaves masks on their boxes, if nobody would miss the images.

    That is the case if `evaluator` takes them, and nothing of the user's stands between it and
    the output of `GeneralizedRCNN`: no subclass with its own inference, no hook.
    """
    from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN
    from detectron2.modeling.postprocessing import masks_stay_on_boxes

    module = getattr(model, "module", model)  # of DistributedDataParallel
    takes = getattr(evaluator, "takes_box_masks", lambda: False)
    if isinstance(module, GeneralizedRCNN) and takes():
        # The fast form of a model has another class, and the same steps.
        kind = vars(module).get("_class_before", type(module))
        own = all(
            getattr(kind, name) is getattr(GeneralizedRCNN, name) and name not in vars(module)
            for name in ("forward", "inference", "_postprocess")
        )
        if own and not _has_hooks(module) and not _has_hooks(model):
            return masks_stay_on_boxes()
    return nullcontext()


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks)
