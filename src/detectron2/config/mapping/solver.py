"""Optimizers and learning-rate schedules: argument -> yacs key."""

__all__ = [
    "ADAMW",
    "CLIP_GRADIENTS",
    "COSINE",
    "MULTI_STEP",
    "PARAM_GROUPS",
    "SGD",
    "STEP_WITH_FIXED_GAMMA",
    "WARMUP",
]

SGD = {
    "lr": "SOLVER.BASE_LR",
    "momentum": "SOLVER.MOMENTUM",
    "nesterov": "SOLVER.NESTEROV",
    "weight_decay": "SOLVER.WEIGHT_DECAY",
}

ADAMW = {
    "lr": "SOLVER.BASE_LR",
    "weight_decay": "SOLVER.WEIGHT_DECAY",
}

PARAM_GROUPS = {
    "base_lr": "SOLVER.BASE_LR",
    "weight_decay": "SOLVER.WEIGHT_DECAY",
    "weight_decay_norm": "SOLVER.WEIGHT_DECAY_NORM",
    "bias_lr_factor": "SOLVER.BIAS_LR_FACTOR",
    "weight_decay_bias": "SOLVER.WEIGHT_DECAY_BIAS",
}

CLIP_GRADIENTS = {
    "clip_type": "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
    "clip_value": "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
    "norm_type": "SOLVER.CLIP_GRADIENTS.NORM_TYPE",
}

WARMUP = {
    "warmup_iters": "SOLVER.WARMUP_ITERS",
    "warmup_factor": "SOLVER.WARMUP_FACTOR",
    "warmup_method": "SOLVER.WARMUP_METHOD",
    "rescale_interval": "SOLVER.RESCALE_INTERVAL",
    "max_iter": "SOLVER.MAX_ITER",
}

MULTI_STEP = {
    "steps": "SOLVER.STEPS",
    "gamma": "SOLVER.GAMMA",
    "max_iter": "SOLVER.MAX_ITER",
}

COSINE = {
    "base_lr": "SOLVER.BASE_LR",
    "base_lr_end": "SOLVER.BASE_LR_END",
}

STEP_WITH_FIXED_GAMMA = {
    "gamma": "SOLVER.GAMMA",
    "num_decays": "SOLVER.NUM_DECAYS",
    "max_iter": "SOLVER.MAX_ITER",
}
