"""Iterations with hooks around them."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.utils.events import EventStorage
from detectron2.utils.logger import _log_api_usage

# The public address of these classes, by which projects configure their messages.
_LOGGER_NAME = "detectron2.engine.train_loop"


class DiagnosedError(Exception):
    """Training cannot go on; the message says why to a person who wants to train.

    A base class beside a usual one: it is logged without a traceback, which would hide that.
    """


class NotFiniteError(DiagnosedError, FloatingPointError):
    """Losses or gradients were not finite too often."""


class WorkerKilledError(DiagnosedError, RuntimeError):
    """The system killed a data loading process."""


class HookBase:
    """Something that happens around the iterations of a `TrainerBase`.

    The methods run in this order::

        before_train()
        for trainer.iter in range(start_iter, max_iter):
            before_step()
            trainer.run_step()   # calls after_backward() between backward and optimizer step
            after_step()
        after_train()

    In `before_step` and `after_step` ``trainer.iter`` is the number of the iteration, from 0.
    In `after_train` it is ``max_iter`` after a complete training, and less after an error.
    A hook that takes long belongs in `after_step`, so that `before_step` and what it measures
    stay short.
    """

    trainer: TrainerBase = None  # type: ignore[assignment]
    """The trainer, a weak reference; set when the hook is registered."""

    def before_train(self) -> None:
        """Called once before the first iteration."""

    def after_train(self) -> None:
        """Called once after the last iteration, also when an iteration raised an error."""

    def before_step(self) -> None:
        """Called before each iteration."""

    def after_backward(self) -> None:
        """Called when the gradients of an iteration are there, before they are used."""

    def after_step(self) -> None:
        """Called after each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint should hold of this hook; with it comes a ``load_state_dict``."""
        return {}


class TrainerBase:
    """Iterations with hooks. A subclass says in `run_step` what an iteration does.

    Attributes:
        iter: the current iteration.
        start_iter: the first iteration, above 0 after a resume.
        max_iter: one past the last iteration.
        storage: the `EventStorage` of the running training.
    """

    iter: int
    start_iter: int
    max_iter: int
    storage: EventStorage

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0
        self.max_iter = 0
        _log_api_usage("trainer." + type(self).__name__)

    def register_hooks(self, hooks: Sequence[HookBase | None]) -> None:
        """Append hooks; they run in the order of registration. None is left out."""
        for hook in hooks:
            if hook is None:
                continue
            if not isinstance(hook, HookBase):
                raise TypeError(f"{hook!r} is no hook: {type(hook).__name__} is not a HookBase.")
            # The trainer owns its hooks. A strong reference back would keep model and loader
            # workers alive until the garbage collector runs.
            hook.trainer = weakref.proxy(self)
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations `start_iter` to `max_iter` - 1."""
        logger = logging.getLogger(_LOGGER_NAME)
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < self.max_iter:  # a hook may lower it
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            except (DiagnosedError, OSError) as error:
                logger.error("Training ends at iteration %d: %s", self.iter, error)
                raise
            except Exception:
                logger.exception("Exception during training at iteration %d:", self.iter)
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        """Run every hook's `before_train`."""
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        """Run every hook's `after_train`."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        """Run every hook's `before_step`."""
        # Hooks and the model put their scalars at the trainer's iteration.
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        """Run every hook's `after_backward`; a `run_step` calls this."""
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        """Run every hook's `after_step`."""
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        """One iteration; to be defined by a subclass."""
        raise NotImplementedError(f"{type(self).__name__} does not define run_step().")

    def state_dict(self) -> dict[str, Any]:
        """The iteration, and the state of the hooks that have one, by the name of their class."""
        state: dict[str, Any] = {"iteration": self.iter}
        hooks: dict[str, Any] = {}
        for hook in self._hooks:
            # Of several hooks of one class only the first is kept: nothing tells them apart.
            if (hook_state := hook.state_dict()) and type(hook).__qualname__ not in hooks:
                hooks[type(hook).__qualname__] = hook_state
        if hooks:
            state["hooks"] = hooks
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, for the hooks that are registered now."""
        logger = logging.getLogger(_LOGGER_NAME)
        self.iter = state_dict["iteration"]
        for name, hook_state in state_dict.get("hooks", {}).items():
            hook: Any = next((h for h in self._hooks if type(h).__qualname__ == name), None)
            if hook is None:
                logger.warning("The checkpoint has a state of hook %s, which is not in use.", name)
            else:
                hook.load_state_dict(hook_state)


class PassOnAfterBackward(HookBase):
    """Lets the hooks of an outer trainer see the gradients that an inner one computes."""

    def __init__(self, outer: TrainerBase) -> None:
        self._outer = weakref.proxy(outer)

    def after_backward(self) -> None:
        self._outer.after_backward()
