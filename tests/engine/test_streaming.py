"""Work ahead of the model, and batches of one shape."""

import threading

import pytest

from detectron2.engine.streaming import map_in_batches, prefetched


def test_prefetched_items_come_in_order():
    assert list(prefetched(range(100), depth=3)) == list(range(100))


def test_items_are_made_ahead_of_their_use():
    made = []
    enough = threading.Event()

    def source():
        for i in range(5):
            made.append(i)
            if i == 3:
                enough.set()
            yield i

    items = prefetched(source(), depth=3)
    next(items)
    assert enough.wait(timeout=10), made


def test_an_error_comes_where_its_item_would_have_come():
    def source():
        yield 1
        raise OSError("the disk is gone")

    items = prefetched(source())
    assert next(items) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)


def test_stopping_early_ends_the_thread():
    def threads():
        return [t for t in threading.enumerate() if t.name == "detectron2-prefetch"]

    items = prefetched(iter(range(1000)), depth=2)
    next(items)
    (thread,) = threads()
    items.close()
    thread.join(timeout=10)
    assert not thread.is_alive()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 50])
@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_results_keep_the_order_whatever_the_batches(count, batch_size):
    batches = []

    def double(batch):
        batches.append(batch)
        return [2 * item for item in batch]

    result = list(map_in_batches(double, range(count), lambda item: item % 3, batch_size))
    assert result == [2 * item for item in range(count)]
    assert all(len(batch) <= batch_size for batch in batches)
    assert all(len({item % 3 for item in batch}) == 1 for batch in batches)


def test_batches_are_filled_over_a_window():
    batches = []

    def keep(batch):
        batches.append(batch)
        return batch

    list(map_in_batches(keep, [0, 1] * 8, lambda item: item, 4))
    assert [len(batch) for batch in batches] == [4, 4, 4, 4]


def test_results_come_before_the_source_is_exhausted():
    consumed = []

    def source():
        for i in range(100):
            consumed.append(i)
            yield i

    results = map_in_batches(lambda batch: batch, source(), lambda item: 0, 2)
    assert next(results) == 0
    assert len(consumed) <= 9


def test_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(map_in_batches(list, [1], lambda item: 0, 0))
