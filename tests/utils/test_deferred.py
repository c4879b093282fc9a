import pytest
import torch

from detectron2.utils._deferred import check_later, collected_checks, put_scalars_later
from detectron2.utils.events import EventStorage
from host_waits import FAR, host_waits


def test_scalars_on_a_device_are_read_together_when_somebody_asks():
    with host_waits() as waits, EventStorage(5) as storage:
        x = torch.full((), 2.5, device=FAR)
        storage.put_scalar("a", x, smoothing_hint=False)
        x.fill_(9)  # what was put is what is read
        storage.step()
        with storage.name_scope("stage1"):
            put_scalars_later(storage, torch.stack([x, x * 2]), lambda n: {"b": n[1] / n[0]})
        storage.put_scalar("c", 1.0)
        assert waits == []
        assert storage.latest() == {"a": (2.5, 5), "stage1/b": (2.0, 6), "c": (1.0, 6)}
        assert storage.smoothing_hints() == {"a": False, "stage1/b": True, "c": True}
        assert storage.history("a").values() == [(2.5, 5)]
    assert len(waits) == 1


def test_scalars_on_the_cpu_are_put_at_once():
    with EventStorage() as storage:
        numbers = torch.tensor([3, 4])
        put_scalars_later(storage, numbers, lambda n: {"sum": sum(n)})
        numbers.zero_()
        assert storage.latest() == {"sum": (7.0, 0)}


def test_a_program_that_never_asks_keeps_a_bounded_number_of_tensors(monkeypatch):
    monkeypatch.setattr("detectron2.utils._deferred._MOST_DEFERRED", 10)
    with host_waits() as waits, EventStorage() as storage:
        value = torch.ones((), device=FAR)
        for _ in range(25):
            storage.put_scalar("a", value)
        assert len(waits) == 2 and len(storage._deferred) == 5
        assert len(storage.history("a").values()) == 25


def test_a_check_raises_at_once_unless_somebody_collects():
    def error(count):
        return FloatingPointError(f"{count} bad numbers")

    check_later(torch.tensor(0), error)
    with pytest.raises(FloatingPointError, match="3 bad numbers"):
        check_later(torch.tensor(3), error)
    checks = []
    with pytest.raises(FloatingPointError), collected_checks(checks):
        check_later(torch.tensor(1), error)  # a CPU knows
    with host_waits() as waits, collected_checks(checks):
        check_later(torch.full((), 2, device=FAR), error)
        assert waits == [] and len(checks) == 1
    with pytest.raises(FloatingPointError, match="2 bad numbers"):
        checks[0].answer(2.0)
    checks[0].answer(0.0)
