"""Time measurement, and the regular call of event writers."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Sequence

from detectron2.engine.train_loop import HookBase
from detectron2.utils.events import EventWriter, JSONWriter
from detectron2.utils.writers import CSVWriter

__all__ = ["IterationTimer", "PeriodicWriter"]

logger = logging.getLogger(__name__)


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class IterationTimer(HookBase):
    """Puts the scalars ``time``, the seconds of each iteration, and ``images_per_second``.

    It logs totals at the end.

    Register it first: it counts what later hooks do in `before_step` and the iteration itself,
    not what hooks do after it.
    """

    def __init__(self, warmup_iter: int = 3, images_per_iteration: int = 0) -> None:
        """
        Args:
            warmup_iter: the first `warmup_iter` - 1 iterations are slow for reasons of their
                own (memory pools, algorithm choice) and are left out.
            images_per_iteration: of all processes; 0 puts no ``images_per_second``.
        """
        self._warmup_iter = warmup_iter
        self._images = images_per_iteration
        self._train_start = self._step_start = time.perf_counter()
        self._step_seconds = 0.0
        self._timed_steps = 0

    def before_train(self) -> None:
        self._train_start = time.perf_counter()
        self._step_seconds = 0.0
        self._timed_steps = 0

    def before_step(self) -> None:
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        seconds = time.perf_counter() - self._step_start
        done = self.trainer.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=seconds)
            if self._images:
                self.trainer.storage.put_scalars(images_per_second=self._images / seconds)
            self._step_seconds += seconds
            self._timed_steps += 1
        else:
            # Hooks and iterations are told apart from the first counted iteration on.
            self._train_start = time.perf_counter()

    def after_train(self) -> None:
        if self._timed_steps == 0:
            return
        total = time.perf_counter() - self._train_start
        logger.info(
            "Overall training speed: %d iterations in %s (%.4f s / it)",
            self._timed_steps,
            _clock(self._step_seconds),
            self._step_seconds / self._timed_steps,
        )
        logger.info(
            "Total training time: %s (%s on hooks)",
            _clock(total),
            _clock(total - self._step_seconds),
        )


class PeriodicWriter(HookBase):
    """Calls ``write()`` of event writers regularly, and closes them at the end."""

    def __init__(self, writers: Sequence[EventWriter], period: int = 20) -> None:
        """
        Args:
            writers: what to call.
            period: iterations between two calls; the last iteration always counts.
        """
        for writer in writers:
            if not isinstance(writer, EventWriter):
                raise TypeError(f"{writer!r} is no EventWriter.")
        self._writers = writers
        self._period = period

    def _write(self) -> None:
        for writer in self._writers:
            writer.write()

    def before_step(self) -> None:
        at = self.trainer.iter
        if at == self.trainer.start_iter > 0 and at % self._period == 0:
            # A run that was killed between a checkpoint and this write has left a gap. These two
            # see in their files whether it did.
            for writer in self._writers:
                if isinstance(writer, (JSONWriter, CSVWriter)):
                    writer.write()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            self._write()

    def after_train(self) -> None:
        # Hooks before this one, such as an evaluation, may have put scalars.
        self._write()
        for writer in self._writers:
            writer.close()
