import logging
import os

# Before PyTorch is imported, here and in every process that a test starts: pytest's workers use all
# cores already, and threads that share a core wait for one another: tests were five times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from detectron2.utils import env


@pytest.fixture(autouse=True)
def loggers_as_before():
    """Undo setup_logger(), which stops messages on their way to caplog."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers = handlers


@pytest.fixture
def process_as_before(monkeypatch):
    """A program that is run in this process leaves its environment alone."""
    monkeypatch.setattr(env, "_environment_is_set_up", True)
    monkeypatch.setenv("PYTHONHASHSEED", "0")


WITHOUT_KERNELS = {"solver", "tracking", "utils"}
WITH_KERNELS = {"export", "layers", "model_zoo", "modeling", "ops", "structures"}


def pytest_collection_modifyitems(items):
    """Let a fresh machine compile the CPU kernels once, not once for each of two workers.

    A worker begins with a stretch of this list. The first one meets the quick start, which
    compiles them; where the second begins, tests that need none come first. Examples, which run
    in processes of their own, find them compiled at the end.
    """
    items.sort(key=_turn)


def _turn(item):
    folder = item.path.relative_to(os.path.dirname(__file__)).parts[0]
    return 3 * (folder == "examples") or 2 * (folder in WITH_KERNELS) or folder in WITHOUT_KERNELS
