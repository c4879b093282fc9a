"""Weights of the classes in the federated loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from detectron2.config.mapping import lookup


def checked_class_weights(get_weights: Callable[[], Tensor] | None, num_classes: int) -> Tensor:
    """(num_classes,) what `get_weights` returns."""
    if get_weights is None:
        raise ValueError("use_fed_loss=True needs get_fed_loss_cls_weights, a function.")
    weights = get_weights()
    if len(weights) != num_classes:
        raise ValueError(
            f"The federated loss got {len(weights)} class weights for {num_classes} classes; "
            "the training datasets and MODEL.ROI_HEADS.NUM_CLASSES disagree."
        )
    return weights


def dataset_class_weights(cfg: Any) -> Tensor:
    """(K,) chances of being sampled, from how often each class is in the training datasets."""
    from detectron2.data.detection_utils import get_fed_loss_cls_weights

    return get_fed_loss_cls_weights(
        dataset_names=cfg.DATASETS.TRAIN,
        freq_weight_power=lookup(cfg, "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER"),
    )
