"""Keys of the training engine that the original does not have, with their defaults.

A LazyConfig has them in lower case below ``train``: ``train.ema.enabled``.
"""

from __future__ import annotations

from typing import Any

__all__ = ["TRAINING"]

TRAINING: dict[str, Any] = {
    # Batches whose gradients are averaged for one step.
    "ACCUMULATION_STEPS": 1,
    # Regular checkpoints to keep besides the final one; 0 keeps all.
    "CHECKPOINTS_TO_KEEP": 0,
    # Write checkpoints in a thread while training goes on; takes the memory of a copy.
    "BACKGROUND_CHECKPOINTS": True,
    # Parameters whose names begin with one of these are not trained: ("backbone.",).
    "FREEZE": (),
    # Weights in channels-last memory everywhere, not only where FAST_CONVOLUTIONS wants them so.
    "CHANNELS_LAST": False,
    # Recompute the blocks of the backbone in the backward pass instead of keeping their results.
    "ACTIVATION_CHECKPOINTING": False,
    # On a CPU in float32: channels last, fused convolutions, Winograd for wide ones. On a GPU:
    # constants of frozen normalization are kept, and in mixed precision channels last.
    "FAST_CONVOLUTIONS": True,
    # torch.compile of the backbone.
    "COMPILE": {"ENABLED": False, "BACKEND": "inductor"},
    # Round weights and inputs of layers as `detectron2 export --int8` will, to fine-tune for it.
    "QUANTIZATION": {"ENABLED": False},
    # A bar with the time that is left and images per second, where there is a terminal.
    "PROGRESS_BAR": True,
    # float16 or bfloat16 for SOLVER.AMP; empty: float16 on a GPU, bfloat16 on a CPU.
    "AMP_DTYPE": "",
    # Skip steps whose loss or gradients are not finite; a second one within WINDOW iterations
    # stops the training with a diagnosis.
    "GUARD": {"ENABLED": True, "WINDOW": 1000},
    # Average of the weights over time, which is what is evaluated and saved as model_ema.
    "EMA": {"ENABLED": False, "DECAY": 0.9998},
    # Keep the KEEP best checkpoints by a metric such as bbox/AP; empty keeps none.
    "BEST": {"METRIC": "", "MODE": "max", "KEEP": 1},
    # Stop after so many evaluations without a better BEST.METRIC; 0 never does.
    "PATIENCE": 0,
    # Batches of the first test dataset, with its annotations, for a validation loss at every
    # evaluation; 0 computes none.
    "VALIDATION_BATCHES": 0,
    # Further records of the scalars: csv, wandb, mlflow, report (an HTML page).
    "WRITERS": (),
    # Spread parameters, gradients and optimizer state over the processes (FSDP2), for models that
    # are too large for one GPU.
    "FSDP": {"ENABLED": False},
    # DistributedDataParallel.
    "DDP": {"STATIC_GRAPH": False, "BUCKET_VIEW": True},
}
