"""Signals that ask a training to end: it finishes the step, saves, and exits with its own code."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from detectron2.utils import comm

__all__ = ["EXIT_CODE", "Interruption", "TrainingInterrupted"]

EXIT_CODE = 85
"""Exit code of a training that was asked to end and can be resumed."""

# SLURM's --signal=USR1@60 is the usual way to announce the end of a job.
_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")

_AGREEMENT_PERIOD = 10

logger = logging.getLogger(__name__)


class TrainingInterrupted(SystemExit):
    """A signal ended the training after a checkpoint was written; exit code 85."""

    def __init__(self, signal_name: str, iteration: int) -> None:
        super().__init__(EXIT_CODE)
        self.signal_name = signal_name
        self.iteration = iteration

    def __str__(self) -> str:
        return f"{self.signal_name} ended the training after iteration {self.iteration}."


class Interruption:
    """Remembers which signal asked this process to end.

    Attributes:
        signal_name: such as ``"SIGTERM"``; empty while nobody asked.
    """

    def __init__(self) -> None:
        self.signal_name = ""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While the block runs, signals are remembered instead of ending the process.

        Each only once: a second one ends the process at once, as it would outside. Only the main
        thread may change what signals do; in another one the block changes nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {}
        for name in _NAMES:
            if (number := getattr(signal, name, None)) is not None:
                before[number] = signal.signal(number, self._remember)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def agreed(self, iteration: int) -> str:
        """Name of the signal if the training ends after this iteration, in every process.

        Several processes ask each other in every tenth iteration only.
        """
        if comm.get_world_size() == 1:
            return self.signal_name
        if iteration % _AGREEMENT_PERIOD != 0:
            return ""
        return next((name for name in comm.all_gather(self.signal_name) if name), "")

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)
        logger.warning(
            "%s: the training ends after this iteration and saves a checkpoint; "
            "a second one ends it at once.",
            self.signal_name,
        )
