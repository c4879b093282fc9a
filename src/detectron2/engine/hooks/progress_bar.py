"""A bar with the time that is left and images per second, on a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any

from detectron2.engine.train_loop import HookBase

__all__ = ["ProgressBar"]


class ProgressBar(HookBase):
    """Shows how far the training is; log lines go above the bar.

    Register it in the main process, and where there is a terminal.
    """

    def __init__(self, images_per_iteration: int = 0, console: Any = None) -> None:
        """
        Args:
            images_per_iteration: of all processes; 0 shows iterations per second.
            console: a ``rich.console.Console``; None means the terminal of stderr.
        """
        self._images = images_per_iteration
        self._console = console
        self._bar: Any = None
        self._task: Any = None
        self._moved: list[tuple[logging.StreamHandler[Any], Any]] = []

    def before_train(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("Training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[loss]}"),
            console=self._console or Console(stderr=True),
            refresh_per_second=4,
        )
        start, total = self.trainer.start_iter, self.trainer.max_iter
        self._task = self._bar.add_task("", total=total, completed=start, speed="", loss="")
        self._bar.start()
        self._move_log_lines()

    def _move_log_lines(self) -> None:
        """The bar replaces sys.stdout by one that prints above it, which handlers do not see."""
        for name in (None, "detectron2", "fvcore"):
            for handler in logging.getLogger(name).handlers:
                stream = getattr(handler, "stream", None)
                if stream in (sys.__stdout__, sys.__stderr__) and stream is not None:
                    assert isinstance(handler, logging.StreamHandler)
                    handler.setStream(sys.stdout)
                    self._moved.append((handler, stream))

    def after_step(self) -> None:
        if self._bar is None:
            return
        latest = self.trainer.storage.latest()
        fields = {}
        if "total_loss" in latest:
            fields["loss"] = f"loss {latest['total_loss'][0]:.3g}"
        task = next(task for task in self._bar.tasks if task.id == self._task)
        if task.speed:
            fields["speed"] = (
                f"{task.speed * self._images:.1f} images/s"
                if self._images
                else f"{task.speed:.1f} iterations/s"
            )
        self._bar.update(self._task, completed=self.trainer.iter + 1, **fields)

    def after_train(self) -> None:
        for handler, stream in self._moved:
            handler.setStream(stream)
        self._moved = []
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
