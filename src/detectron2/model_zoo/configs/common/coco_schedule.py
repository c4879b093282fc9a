"""Learning-rate schedules for COCO, named by their length: 1x is 90000 steps of 16 images."""

from fvcore.common.param_scheduler import MultiStepParamScheduler

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler

STEPS_OF_1X = 90000  # 1.44 million images, about 12 epochs


def default_X_scheduler(num_X):
    """Multi-step schedule of `num_X` times the 1x length, with 1000 steps of warm-up.

    The rate falls to 1/10 and 1/100. Long schedules do not stretch the tail: it falls 60000 and
    20000 steps before the end ("Rethinking ImageNet Pre-training", section 4).
    """
    total = num_X * STEPS_OF_1X
    # Only the proportions of the milestones count.
    milestones = [60000, 80000, 90000] if num_X <= 2 else [total - 60000, total - 20000, total]
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=milestones),
        warmup_length=1000 / total,
        warmup_method="linear",
        warmup_factor=0.001,
    )


lr_multiplier_1x, lr_multiplier_2x, lr_multiplier_3x, lr_multiplier_6x, lr_multiplier_9x = (
    default_X_scheduler(times) for times in (1, 2, 3, 6, 9)
)
