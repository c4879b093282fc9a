"""Signals that ask a training to end: it finishes the step, saves, and exits with its own code."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from detectron2.utils import comm

__all__ = ["EXIT_CODE", "Interruption", "TrainingInterrupted", "signals_go_on"]

EXIT_CODE = 85
"""Exit code of a training that was asked to end and can be resumed."""

# SLURM's --signal=USR1@60 is the usual way to announce the end of a job.
_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")

_AGREEMENT_PERIOD = 10

_SAME_SIGNAL = 1.0
"""Seconds in which several signals are one request."""

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
        self._first = 0.0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While the block runs, signals are remembered instead of ending the process.

        A second one, more than a second later, ends the process at once as it would outside. Only
        the main thread may change what signals do; in another one the block changes nothing.
        """
        with _handled(_NAMES, self._remember):
            yield

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
        now = time.monotonic()
        if self.signal_name:
            # SLURM signals every process of a job, and launch() passes on what it gets.
            if now - self._first > _SAME_SIGNAL:
                _act_by_default(number)
            return
        self._first = now
        self.signal_name = signal.Signals(number).name
        logger.warning(
            "%s: the training ends after this iteration and saves a checkpoint; "
            "another one ends it at once.",
            self.signal_name,
        )


@contextmanager
def signals_go_on(processes: Sequence[int]) -> Iterator[None]:
    """While the block runs, these processes get the signals that ask this one to end.

    SIGINT is not passed on: a terminal sends it to all of them.
    """

    def pass_on(number: int, _: FrameType | None) -> None:
        for process in processes if number != signal.SIGINT else ():
            with suppress(ProcessLookupError):  # it has ended already
                os.kill(process, number)

    with _handled(_NAMES, pass_on):
        yield


@contextmanager
def _handled(
    names: Sequence[str], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Signals go to `handler` while the block runs, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for name in names:
        if (number := getattr(signal, name, None)) is not None:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _act_by_default(number: int) -> None:
    default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    signal.signal(number, default)
    os.kill(os.getpid(), number)
