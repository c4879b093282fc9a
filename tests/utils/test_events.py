import json
import logging

import pytest
import torch

from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_innermost_storage_is_the_current_one():
    assert not has_event_storage()
    with EventStorage() as outer:
        assert get_event_storage() is outer
        with EventStorage() as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is outer
    assert not has_event_storage()
    with pytest.raises(AssertionError, match="with EventStorage"):
        get_event_storage()


@pytest.mark.parametrize(
    ("every", "count", "medians"), [(1, 10, (4.5, 14.5)), (2, 5, (5, 15)), (5, 2, (6.5, 16.5))]
)
def test_smoothing_takes_a_window_of_iterations_not_of_samples(every, count, medians):
    found = []
    with EventStorage() as storage:
        for i in range(20):
            if (i + 1) % every == 0:
                storage.put_scalar("value", i)
            storage.step()
            if i in (9, 19):
                assert storage.count_samples("value", 10) == count
                found.append(storage.latest_with_smoothing_hint(10)["value"][0])
    assert found == list(medians)


def test_exact_scalars_are_not_smoothed():
    with EventStorage(3) as storage:
        for value in (1, 5, 9, 2):
            storage.put_scalars(lr=value, smoothing_hint=False)
            storage.put_scalar("loss", value)
    assert storage.latest_with_smoothing_hint() == {"lr": (2, 3), "loss": (3.5, 3)}
    assert storage.latest() == {"lr": (2, 3), "loss": (2, 3)}
    assert storage.smoothing_hints() == {"lr": False, "loss": True}


def test_a_scalar_keeps_its_hint():
    storage = EventStorage()
    storage.put_scalar("loss", 1.0)
    with pytest.raises(AssertionError, match="smoothing_hint=True, now with False"):
        storage.put_scalar("loss", 1.0, smoothing_hint=False)


def test_an_unknown_scalar_is_a_key_error_with_the_known_ones():
    storage = EventStorage()
    storage.put_scalar("loss", 1.0)
    with pytest.raises(KeyError, match=r"\['loss'\]"):
        storage.history("los")
    with pytest.raises(KeyError):
        storage.count_samples("los")


def test_an_inner_name_scope_replaces_the_outer_one():
    storage = EventStorage()
    with storage.name_scope("a/"):
        storage.put_scalar("x", 1)
        with storage.name_scope("b"):
            storage.put_scalar("x", 2)
        storage.put_scalar("y", 3)
    storage.put_scalar("x", 4)
    assert list(storage.latest()) == ["a/x", "b/x", "a/y", "x"]


def test_scalars_may_be_put_at_another_iteration():
    storage = EventStorage(10)
    storage.put_scalar("x", 1, cur_iter=4)
    storage.iter = 20
    storage.put_scalar("y", torch.tensor(2.5, requires_grad=True))
    assert storage.latest() == {"x": (1.0, 4), "y": (2.5, 20)}
    assert storage.iteration == 20


def test_histograms_count_every_element():
    storage = EventStorage(7)
    storage.put_histogram("h", torch.arange(10.0).reshape(2, 5), bins=5)
    (histogram,) = storage._histograms
    assert histogram["bucket_counts"] == [2, 2, 2, 2, 2]
    assert histogram["bucket_limits"] == pytest.approx([1.8, 3.6, 5.4, 7.2, 9.0])
    expected = {"tag": "h", "min": 0.0, "max": 9.0, "num": 10, "sum": 45.0, "sum_squares": 285.0}
    assert {key: histogram[key] for key in expected} == expected
    assert histogram["global_step"] == 7
    storage.clear_histograms()
    assert storage._histograms == []


def test_convention_writers_of_projects_find_what_they_read():
    with EventStorage(3) as storage:
        storage.put_scalar("loss", 2.0)
        storage.put_image("picture", picture := torch.zeros(3, 4, 4))
        storage.put_histogram("weights", torch.tensor([0.0, 1.0]), bins=2)
    assert storage._latest_scalars == {"loss": (2.0, 3)} and "loss" in storage._history
    assert storage._vis_data == [("picture", picture, 3)]
    assert storage._histograms[0]["bucket_counts"] == [1, 1]


def test_a_writer_must_say_how_to_write():
    with pytest.raises(NotImplementedError):
        EventWriter().write()
    assert EventWriter().close() is None


def test_json_lines_have_the_iterations_that_scalars_were_put_at(tmp_path):
    path = tmp_path / "metrics.json"
    with EventStorage() as storage:
        writer = JSONWriter(str(path))
        for i in range(60):
            storage.put_scalar("loss", i)
            if (i + 1) % 18 == 0 or i == 34:
                storage.put_scalar("rare", i, smoothing_hint=False)
            storage.step()
            if (i + 1) % 20 == 0:
                writer.write()
        writer.write()
        writer.close()
    lines = read_lines(path)
    assert [line["iteration"] for line in lines] == [17, 19, 35, 39, 53, 59]
    assert lines[0] == {"iteration": 17, "rare": 17.0}
    assert lines[1] == {"iteration": 19, "loss": 9.5}


def write_history(path, start, stop, value):
    with EventStorage(start) as storage:
        writer = JSONWriter(str(path), window_size=1)
        for _ in range(start, stop):
            storage.put_scalar("loss", value)
            writer.write()
            storage.step()
        writer.close()


def test_a_resumed_run_replaces_the_lines_it_runs_again(tmp_path):
    path = tmp_path / "metrics.json"
    write_history(path, 0, 6, 1.0)
    with path.open("a") as stream:
        stream.write('{"iteration": 6, "lo')  # the process was killed here
    write_history(path, 4, 8, 2.0)
    lines = read_lines(path)
    assert [line["iteration"] for line in lines] == list(range(8))
    assert [line["loss"] for line in lines] == [1.0] * 4 + [2.0] * 4


def test_a_new_run_leaves_the_history_of_another_one(tmp_path):
    path = tmp_path / "metrics.json"
    write_history(path, 0, 3, 1.0)
    write_history(path, 0, 2, 2.0)
    assert [line["iteration"] for line in read_lines(path)] == [0, 1, 2, 0, 1]


def test_tensorboard_files_appear_at_the_first_write(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "board"
    with EventStorage(5) as storage:
        writer = TensorboardXWriter(str(folder))
        writer.close()
        assert not folder.exists()
        storage.put_scalar("loss", 2.0)
        storage.put_image("picture", torch.zeros(3, 4, 4, dtype=torch.uint8))
        storage.put_histogram("weights", torch.arange(4.0), bins=2)
        writer.write()
        writer.write()
        writer.close()
        assert storage._vis_data == []
        assert storage._histograms == []
    events = EventAccumulator(str(folder)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(5, 2.0)]
    assert [e.step for e in events.Images("picture")] == [5]
    assert [e.step for e in events.Histograms("weights")] == [5]


@pytest.fixture
def printed(caplog):
    """A caplog that sees what CommonMetricPrinter logs, also after setup_logger() has run."""
    logger = logging.getLogger("detectron2.utils.events")
    propagates, logging.getLogger("detectron2").propagate = (
        logging.getLogger("detectron2").propagate,
        True,
    )
    with caplog.at_level(logging.INFO, logger=logger.name):
        yield caplog
    logging.getLogger("detectron2").propagate = propagates


def test_the_log_line_has_losses_times_and_the_learning_rate(printed):
    with EventStorage(9) as storage:
        storage.put_scalars(total_loss=1.23456, loss_cls=1.0, other=7.0)
        storage.put_scalar("[metric]scale", 3.0)
        storage.put_scalars(time=0.5, data_time=0.25)
        storage.put_scalar("lr", 0.02, smoothing_hint=False)
        CommonMetricPrinter(20).write()
        assert storage.latest()["eta_seconds"] == (5.0, 9)
    (line,) = printed.messages
    assert line.startswith(
        " eta: 0:00:05  iter: 9  total_loss: 1.235  loss_cls: 1  [metric]scale: 3  "
        "time: 0.5000  last_time: 0.5000  data_time: 0.2500  last_data_time: 0.2500   lr: 0.02"
    )
    assert "other" not in line


def test_without_a_length_no_remaining_time_is_shown(printed):
    with EventStorage(9) as storage:
        storage.put_scalars(total_loss=1.0, time=0.5)
        CommonMetricPrinter().write()
    assert "eta" not in printed.messages[0]
    assert "lr: N/A" in printed.messages[0]


def test_the_log_is_silent_after_the_last_iteration(printed):
    with EventStorage(20):
        CommonMetricPrinter(20).write()
    assert printed.messages == []


def test_loops_without_times_get_an_estimate_from_the_clock(printed, monkeypatch):
    clock = iter([100.0, 104.0, 104.0])
    monkeypatch.setattr("detectron2.utils._remaining_time.time.perf_counter", lambda: next(clock))
    with EventStorage() as storage:
        printer = CommonMetricPrinter(10)
        printer.write()
        storage.iter = 2
        printer.write()
        printer.write()  # twice at one iteration: nothing to divide by
    assert "eta" not in printed.messages[0]
    assert " eta: 0:00:14  iter: 2" in printed.messages[1]
    assert "eta" not in printed.messages[2]


def write_total_losses(path, start_iter, losses):
    writer = JSONWriter(str(path), window_size=1)
    with EventStorage(start_iter) as storage:
        for iteration, loss in losses.items():
            storage.put_scalar("total_loss", loss, cur_iter=iteration)
            writer.write()
    writer.close()
    return [json.loads(line)["iteration"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("written", [(0, 1), (0,)])
def test_what_a_resumed_run_knows_of_the_last_iteration_is_written_once(tmp_path, written):
    path = tmp_path / "metrics.json"
    write_total_losses(path, 0, dict.fromkeys(written, 1.0))
    assert write_total_losses(path, 2, {1: 1.0, 2: 0.5}) == [0, 1, 2]
