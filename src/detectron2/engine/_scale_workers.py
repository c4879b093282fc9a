"""The linear scaling rule."""

from __future__ import annotations

from detectron2.config import CfgNode


def scale_to_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
    """See `DefaultTrainer.auto_scale_workers`."""
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference in (0, num_workers):
        return cfg
    if cfg.SOLVER.IMS_PER_BATCH % reference != 0:
        raise AssertionError(
            f"SOLVER.IMS_PER_BATCH = {cfg.SOLVER.IMS_PER_BATCH} is no multiple of "
            f"SOLVER.REFERENCE_WORLD_SIZE = {reference}; change one of them."
        )
    factor = num_workers / reference
    scaled = cfg.clone()
    scaled.defrost()
    solver = scaled.SOLVER
    solver.REFERENCE_WORLD_SIZE = num_workers  # scaling it again changes nothing
    solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * factor)
    solver.BASE_LR *= factor
    solver.MAX_ITER = round(solver.MAX_ITER / factor)
    solver.WARMUP_ITERS = round(solver.WARMUP_ITERS / factor)
    solver.CHECKPOINT_PERIOD = round(solver.CHECKPOINT_PERIOD / factor)
    solver.STEPS = tuple(round(step / factor) for step in solver.STEPS)
    scaled.TEST.EVAL_PERIOD = round(scaled.TEST.EVAL_PERIOD / factor)
    if cfg.is_frozen():
        scaled.freeze()
    return scaled
