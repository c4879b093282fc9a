import logging
import uuid

import pytest

from detectron2.utils import logger as module
from detectron2.utils.logger import (
    create_small_table,
    log_every_n,
    log_every_n_seconds,
    log_first_n,
    setup_logger,
)


@pytest.fixture
def name():
    """A logger of its own, without handlers before and after."""
    name = f"detectron2_test_{uuid.uuid4().hex[:8]}"
    yield name
    logger = logging.getLogger(name)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)


def test_messages_go_to_the_terminal_and_to_the_file(name, tmp_path, capsys):
    setup_logger(str(tmp_path), name=name, color=False)
    logging.getLogger(f"{name}.child").info("hello")
    logging.getLogger(name).warning("careful")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines[0].endswith(f"{name}.child INFO: hello")
    assert lines[1].endswith(f"{name} WARNING: careful")
    assert capsys.readouterr().out.splitlines() == lines


def test_the_terminal_abbreviates_the_name_and_the_file_does_not(name, tmp_path, capsys):
    setup_logger(str(tmp_path / "run.log"), name=name, abbrev_name="ab")
    logging.getLogger(f"{name}.child").error("broken")
    terminal = capsys.readouterr().out
    assert "ERROR" in terminal
    assert "ab.child]" in terminal
    assert name not in terminal
    assert f"{name}.child ERROR: broken" in (tmp_path / "run.log").read_text()


def test_colours_inside_a_message_stay_out_of_the_file(name, tmp_path, capsys):
    setup_logger(str(tmp_path), name=name)
    logging.getLogger(name).info("\x1b[38;5;204mred\x1b[39m rose")
    assert "\x1b[38;5;204mred" in capsys.readouterr().out
    assert "INFO: red rose\n" in (tmp_path / "log.txt").read_text()


def test_a_second_set_up_does_not_repeat_messages(name, tmp_path, capsys):
    for _ in range(3):
        setup_logger(str(tmp_path), name=name)
    setup_logger(name=name)
    logging.getLogger(name).info("once")
    assert capsys.readouterr().out.count("once") == 1
    assert (tmp_path / "log.txt").read_text().count("once") == 1


def test_other_ranks_write_files_of_their_own_and_no_terminal(name, tmp_path, capsys):
    setup_logger(str(tmp_path), 3, name=name)
    logging.getLogger(name).info("from rank three")
    assert capsys.readouterr().out == ""
    assert "from rank three" in (tmp_path / "log.txt.rank3").read_text()


def test_convention_levels_and_propagation(name):
    logger = setup_logger(name=name)
    assert logger is logging.getLogger(name)
    assert logger.level == logging.DEBUG
    assert not logger.propagate
    assert setup_logger(name=name, enable_propagation=True).propagate


def test_log_first_n_counts_lines_of_code(caplog):
    with caplog.at_level(logging.INFO):
        for i in range(5):
            log_first_n(logging.INFO, f"message {i}", n=2)
            log_first_n(logging.INFO, "another line", n=1)
    assert caplog.messages == ["message 0", "another line", "message 1"]


def test_log_first_n_can_count_texts(caplog):
    first, second = uuid.uuid4().hex, uuid.uuid4().hex
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            log_first_n(logging.INFO, first, key="message")
            log_first_n(logging.INFO, second, key="message")
            log_first_n(logging.INFO, first, key=("caller", "message"))
    assert caplog.messages == [first, second, first]


def test_log_first_n_refuses_an_unknown_key():
    with pytest.raises(ValueError, match="'caller', 'message' or both"):
        log_first_n(logging.INFO, "text", key="colour")


def test_repeating_messages_use_the_logger_of_the_caller(caplog):
    with caplog.at_level(logging.INFO):
        log_first_n(logging.WARNING, uuid.uuid4().hex)
        log_first_n(logging.WARNING, uuid.uuid4().hex, name="somebody")
    assert [record.name for record in caplog.records] == [__name__, "somebody"]


def test_log_every_n_logs_the_first_and_each_nth_after_it(caplog):
    with caplog.at_level(logging.INFO):
        for i in range(7):
            log_every_n(logging.INFO, str(i), n=3)
        for i in range(7, 9):
            log_every_n(logging.INFO, str(i), n=1)
    assert caplog.messages == ["0", "3", "6", "7", "8"]


def test_log_every_n_seconds_is_silent_in_between(caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO):
        for i in range(6):
            log_every_n_seconds(logging.INFO, str(i), n=10)
            now[0] += 4
    assert caplog.messages == ["0", "3"]


def test_convention_small_tables_are_markdown_with_three_decimals():
    assert create_small_table({"a": 1.23456, "b": 2.0}).splitlines() == [
        "|   a   |   b   |",
        "|:-----:|:-----:|",
        "| 1.235 | 2.000 |",
    ]
