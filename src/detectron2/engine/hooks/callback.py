"""A hook made of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.engine.train_loop import HookBase

__all__ = ["CallbackHook"]

Callback = Callable[[Any], Any]


class CallbackHook(HookBase):
    """Calls functions with the trainer as their argument."""

    def __init__(
        self,
        *,
        before_train: Callback | None = None,
        after_train: Callback | None = None,
        before_step: Callback | None = None,
        after_step: Callback | None = None,
    ) -> None:
        self._before_train = before_train
        self._after_train = after_train
        self._before_step = before_step
        self._after_step = after_step

    def _call(self, callback: Callback | None) -> None:
        if callback is not None:
            callback(self.trainer)

    def before_train(self) -> None:
        self._call(self._before_train)

    def before_step(self) -> None:
        self._call(self._before_step)

    def after_step(self) -> None:
        self._call(self._after_step)

    def after_train(self) -> None:
        self._call(self._after_train)
        # Functions often refer to the trainer, which would then never be freed.
        self._before_train = self._after_train = self._before_step = self._after_step = None
