"""The schedule of a config, DeepLab's among them."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from detectron2.config import CfgNode
from detectron2.config.mapping import read_arguments
from detectron2.projects.deeplab.config import POLY_LR
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from detectron2.solver import build_lr_scheduler as build_core_lr_scheduler

__all__ = ["build_lr_scheduler"]


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> Any:
    """`WarmupPolyLR` if SOLVER.LR_SCHEDULER_NAME says so, else a schedule of `detectron2.solver`.

    Raises:
        ValueError: no such schedule.
    """
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupPolyLR":
        return WarmupPolyLR(optimizer, **read_arguments(cfg, POLY_LR))
    return build_core_lr_scheduler(cfg, optimizer)
