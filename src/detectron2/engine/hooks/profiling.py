"""Where time and memory go."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, tensorboard_trace_handler

from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

__all__ = ["AutogradProfiler", "TorchMemoryStats", "TorchProfiler"]

logger = logging.getLogger(__name__)


class TorchProfiler(HookBase):
    """Profiles chosen iterations: CPU and GPU time, shapes, memory, stacks, flops.

    Example: ``TorchProfiler(lambda trainer: 10 < trainer.iter < 20, cfg.OUTPUT_DIR)``.
    """

    def __init__(
        self,
        enable_predicate: Callable[[Any], bool],
        output_dir: str,
        *,
        activities: Sequence[ProfilerActivity] | None = None,
        save_tensorboard: bool = True,
    ) -> None:
        """
        Args:
            enable_predicate: gets the trainer before each iteration and says whether to
                profile it.
            output_dir: folder of the results.
            activities: what to record; None means the CPU, and the GPU if there is one.
            save_tensorboard: write for TensorBoard's profiler page below ``log/``; otherwise
                ``profiler-trace-iter<N>.json`` for chrome://tracing.
        """
        self._enable_predicate = enable_predicate
        self._output_dir = output_dir
        self._activities = activities
        self._save_tensorboard = save_tensorboard
        self._profiler: Any = None

    def _start(self) -> Any:
        activities = self._activities
        if activities is None:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
        folder = os.path.join(
            self._output_dir, "log", f"profiler-tensorboard-iter{self.trainer.iter}"
        )
        handler = None
        if self._save_tensorboard:
            handler = tensorboard_trace_handler(folder, worker_name=f"worker{comm.get_rank()}")
        profiler = profile(
            activities=activities,
            on_trace_ready=handler,
            record_shapes=True,
            profile_memory=True,
            with_stack=True,
            with_flops=True,
        )
        profiler.__enter__()
        return profiler

    def before_step(self) -> None:
        if self._enable_predicate(self.trainer):
            self._profiler = self._start()

    def after_step(self) -> None:
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.__exit__(None, None, None)
        if self._save_tensorboard:
            return
        PathManager.mkdirs(self._output_dir)
        name = f"profiler-trace-iter{self.trainer.iter}.json"
        path = PathManager.get_local_path(self._output_dir)
        profiler.export_chrome_trace(os.path.join(path, name))


class AutogradProfiler(TorchProfiler):
    """Deprecated name of `TorchProfiler`, which also shows what runs outside PyTorch."""

    def __init__(
        self,
        enable_predicate: Callable[[Any], bool],
        output_dir: str,
        *,
        use_cuda: bool = True,
    ) -> None:
        warnings.warn(
            "AutogradProfiler is deprecated; use TorchProfiler.", DeprecationWarning, stacklevel=2
        )
        activities = [ProfilerActivity.CPU]
        if use_cuda and torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        super().__init__(
            enable_predicate, output_dir, activities=activities, save_tensorboard=False
        )


class TorchMemoryStats(HookBase):
    """Logs the GPU memory that PyTorch has reserved and allocated."""

    def __init__(self, period: int = 20, max_runs: int = 10) -> None:
        """
        Args:
            period: iterations between two messages.
            max_runs: number of messages; the last one has the full table.
        """
        self._period = period
        self._max_runs = max_runs
        self._runs = 0

    def after_step(self) -> None:
        if self._runs >= self._max_runs or not torch.cuda.is_available():
            return
        done = self.trainer.iter + 1
        if done % self._period and done != self.trainer.max_iter:
            return
        self._runs += 1
        megabytes = {
            "reserved": torch.cuda.memory_reserved(),
            "peak reserved": torch.cuda.max_memory_reserved(),
            "allocated": torch.cuda.memory_allocated(),
            "peak allocated": torch.cuda.max_memory_allocated(),
        }
        text = ", ".join(f"{name} {size / 2**20:.0f} MB" for name, size in megabytes.items())
        logger.info("GPU memory at iteration %d: %s", self.trainer.iter, text)
        if self._runs == self._max_runs:
            logger.info("\n%s", torch.cuda.memory_summary())
        torch.cuda.reset_peak_memory_stats()
