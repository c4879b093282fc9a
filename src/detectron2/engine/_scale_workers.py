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


_LENGTHS = (
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
)


def scale_to_batch(cfg: CfgNode, reference: CfgNode) -> list[str]:
    """Apply the linear rule to a config whose batch size was changed, in place.

    Keys that differ from `reference` already were set by hand and stay.

    Args:
        cfg: with the new SOLVER.IMS_PER_BATCH.
        reference: the same config with the batch size that its schedule was made for.

    Returns:
        A sentence for each change.
    """
    factor = cfg.SOLVER.IMS_PER_BATCH / reference.SOLVER.IMS_PER_BATCH
    if factor == 1:
        return []
    said = [
        f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH} instead of "
        f"{reference.SOLVER.IMS_PER_BATCH}, so by the linear rule:"
    ]
    for key in ("SOLVER.BASE_LR", *_LENGTHS):
        section, name = key.split(".")
        before = reference[section][name]
        if cfg[section][name] != before:
            said.append(f"{key} stays {cfg[section][name]}, as given")
            continue
        after = before * factor if key == "SOLVER.BASE_LR" else _shorter(before, factor)
        if after != before:
            cfg[section][name] = after
            said.append(f"{key}: {before} -> {after}")
    return said


def _shorter(length: int | tuple[int, ...], factor: float) -> int | tuple[int, ...]:
    if isinstance(length, (tuple, list)):
        return type(length)(round(step / factor) for step in length)
    return max(round(length / factor), 1) if length > 0 else length
