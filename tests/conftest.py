import logging

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
