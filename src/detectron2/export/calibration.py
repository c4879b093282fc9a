"""Images that 8-bit integers are calibrated on, and the rule of which layers become integers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from torch import Tensor

from detectron2.export.info import ExportInfo
from detectron2.export.inputs import inputs_of_file, prepare_image

__all__ = ["LAST_LAYERS", "QUANTIZED_PARTS", "Batches", "evenly_chosen", "stays_float"]

# Parts of a model whose layers become integers; what lies outside is arithmetic on boxes.
QUANTIZED_PARTS = frozenset(
    ("backbone", "rpn_head", "box_head", "mask_head", "keypoint_head", "head", "res5")
    + ("sem_seg_head",)
)
# Layers of those parts whose outputs are scores and coordinates.
LAST_LAYERS = frozenset(
    ("objectness_logits", "anchor_deltas", "cls_score", "bbox_pred", "ctrness", "cls_logits")
    + ("predictor", "score_lowres")
)


def stays_float(name: str, more: Collection[str] = ()) -> bool:
    """Whether a layer, called by the path of its module, must not become integers.

    Args:
        name: path with slashes.
        more: parts that stay floats besides.
    """
    # A module that is called once for each level has the number of the call behind its name.
    parts = [re.sub(r"(_|@)\d+$", "", part) for part in name.split("/")]
    return QUANTIZED_PARTS.isdisjoint(parts) or not LAST_LAYERS.union(more).isdisjoint(parts)


class Batches:
    """Inputs of a file, each made of one image (or as many as the file takes), when asked for."""

    def __init__(self, info: ExportInfo, images: Sequence[np.ndarray]) -> None:
        self.info, self.images = info, images

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for image in self.images:
            prepared = [prepare_image(self.info, image)["image"]] * (self.info.batch or 1)
            wanted = [(int(each.shape[1]), int(each.shape[2])) for each in prepared]
            yield inputs_of_file(self.info, prepared, wanted)


def evenly_chosen(images: Sequence[np.ndarray], most: int) -> list[np.ndarray]:
    """At most so many of the images, from the first to the last."""
    step = max(1.0, len(images) / most)
    return [images[int(k * step)] for k in range(min(len(images), most))]
