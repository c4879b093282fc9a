"""Hooks for `TrainerBase.register_hooks`."""

from detectron2.engine.hooks.averaging import EMAHook
from detectron2.engine.hooks.background_evaluation import BackgroundEvalHook
from detectron2.engine.hooks.callback import CallbackHook
from detectron2.engine.hooks.checkpoint import BestCheckpointer, PeriodicCheckpointer
from detectron2.engine.hooks.evaluation import EvalHook, PreciseBN
from detectron2.engine.hooks.profiling import AutogradProfiler, TorchMemoryStats, TorchProfiler
from detectron2.engine.hooks.progress import IterationTimer, PeriodicWriter
from detectron2.engine.hooks.progress_bar import ProgressBar
from detectron2.engine.hooks.samples import SamplePredictions
from detectron2.engine.hooks.schedule import LRScheduler
from detectron2.engine.hooks.validation import EarlyStopping, ValidationLoss
from detectron2.engine.train_loop import HookBase

__all__ = [
    "AutogradProfiler",
    "BackgroundEvalHook",
    "BestCheckpointer",
    "CallbackHook",
    "EMAHook",
    "EarlyStopping",
    "EvalHook",
    "HookBase",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
    "PreciseBN",
    "ProgressBar",
    "SamplePredictions",
    "TorchMemoryStats",
    "TorchProfiler",
    "ValidationLoss",
]
