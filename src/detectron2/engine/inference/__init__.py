"""Fast inference: layers that keep what can be computed from the weights alone."""

from detectron2.engine.inference.optimize import (
    optimize_for_inference,
    speed_up,
    undo_speed_up,
)

__all__ = ["optimize_for_inference", "speed_up", "undo_speed_up"]
