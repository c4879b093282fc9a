import itertools
import logging
import os
import pickle
import sys

import numpy as np
import pytest
from torch.utils.data import DataLoader, IterableDataset

from detectron2.data import DatasetFromList, MapDataset, ToIterableDataset
from detectron2.data.common import (
    AspectRatioGroupedDataset,
    set_default_dataset_from_list_serialize_method,
)
from detectron2.data.errors import SampleError, UnreadableImageError
from detectron2.data.quarantine import Quarantine, TooManyUnreadableSamples
from detectron2.data.samplers import TrainingSampler


class Numbers(IterableDataset):
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return iter(range(self.count))

    def __len__(self):
        return self.count


# -- lists


@pytest.mark.parametrize("serialize", [True, False])
def test_elements_may_be_changed_by_their_users(serialize):
    dataset = DatasetFromList([{"a": [1]}, {"a": [2]}], serialize=serialize)
    dataset[1]["a"].append(9)
    assert dataset[1] == {"a": [2]} and len(dataset) == 2


def test_without_copy_the_list_itself_is_handed_out():
    elements = [{"a": 1}]
    assert DatasetFromList(elements, copy=False, serialize=False)[0] is elements[0]


@pytest.mark.parametrize("serialize", [True, False])
def test_indices_are_those_of_a_list(serialize):
    dataset = DatasetFromList(list("abc"), serialize=serialize)
    assert dataset[-1] == "c" and list(dataset) == ["a", "b", "c"]
    with pytest.raises(IndexError):
        dataset[3]
    assert len(DatasetFromList([], serialize=serialize)) == 0


def test_a_serializer_may_be_given_or_made_the_default():
    class Reversed(list):
        def __init__(self, elements):
            super().__init__(elements[::-1])

    assert DatasetFromList([1, 2], serialize=Reversed)[0] == 2
    with set_default_dataset_from_list_serialize_method(Reversed):
        assert DatasetFromList([1, 2])[0] == 2
        assert DatasetFromList([1, 2], serialize=False)[0] == 1
    assert DatasetFromList([1, 2])[0] == 1
    with pytest.raises(TypeError, match="serialize must be"):
        DatasetFromList([], serialize="yes")


def find_path():
    return "there"


def test_lazy_paths_survive_serialization():
    from iopath.common.file_io import LazyPath

    assert os.fspath(DatasetFromList([LazyPath(find_path)])[0]) == "there"


def memory_of_reading(dataset):
    """Private memory, in MiB, that this process gains by reading the whole dataset."""

    def private():
        with open("/proc/self/smaps_rollup") as stream:
            return sum(int(line.split()[1]) for line in stream if line.startswith("Private")) / 1024

    before = private()
    for i in range(len(dataset)):
        dataset[i]
    return private() - before


class Probe(IterableDataset):
    """What a worker sees of a list and of a quarantine."""

    def __init__(self, dataset, mapped):
        self.dataset = dataset
        self.mapped = mapped

    def __iter__(self):
        for i in range(len(self.mapped)):
            self.mapped[i]
        yield memory_of_reading(self.dataset), self.dataset._lst._block.is_shared()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("start, workers", [("fork", 2), ("spawn", 1)])
def test_workers_share_the_list_and_the_quarantine(start, workers):
    element = np.zeros(2**18, dtype=np.uint8).tobytes()
    dataset = DatasetFromList([element] * 200)  # 50 MiB
    mapped = MapDataset(records(), read, quarantine=Quarantine(10, budget=2))
    loader = DataLoader(
        Probe(dataset, mapped),
        num_workers=workers,
        batch_size=None,
        multiprocessing_context=start,
        collate_fn=list,
    )
    for gained, shared in loader:
        assert gained < 10
        assert shared or start == "fork"
    assert mapped.quarantine.count == 2


# -- mapping


def test_a_mapped_dataset_replaces_none_by_another_element():
    dataset = MapDataset(list(range(10)), lambda v: None if v % 3 == 0 else v * 10)
    assert len(dataset) == 10
    assert [dataset[i] for i in (1, 2, 4)] == [10, 20, 40]
    assert all(dataset[i] % 30 for i in range(10))


def test_a_mapper_that_refuses_everything_ends_with_a_sentence():
    with pytest.raises(RuntimeError, match="None of the 3 elements"):
        MapDataset([1, 2, 3], lambda v: None)[0]


def test_only_one_usable_element_is_found():
    dataset = MapDataset(list(range(500)), lambda v: v if v == 499 else None)
    assert dataset[0] == 499


def test_errors_pass_without_a_quarantine():
    def broken(element):
        raise UnreadableImageError("broken")

    with pytest.raises(UnreadableImageError):
        MapDataset([1], broken)[0]


def test_a_mapped_iterable_dataset_is_iterable_and_skips_none():
    dataset = MapDataset(Numbers(6), lambda v: None if v % 2 else v)
    assert isinstance(dataset, IterableDataset)
    assert list(dataset) == [0, 2, 4] and len(dataset) == 6


def test_a_mapped_dataset_with_a_lambda_can_be_pickled():
    for dataset in (MapDataset([1, 2], lambda v: v + 1), MapDataset(Numbers(3), lambda v: v + 1)):
        copied = pickle.loads(pickle.dumps(dataset))
        assert next(iter(copied)) == next(iter(dataset))


def test_a_subclass_may_override_getitem():
    class Twice(MapDataset):
        def __getitem__(self, idx):
            return [super().__getitem__(idx)] * 2

    assert Twice([1, 2], lambda v: v)[1] == [2, 2]


# -- quarantine


def read(element):
    if element["file_name"] in ("3", "5"):
        raise UnreadableImageError(f"The image {element['file_name']!r} cannot be decoded")
    return element["file_name"]


def records(count=10):
    return [{"file_name": str(i)} for i in range(count)]


def test_unreadable_samples_are_replaced_logged_and_counted(caplog):
    dataset = MapDataset(records(), read, quarantine=Quarantine(10, budget=2))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert "3" not in [dataset[i] for i in range(10)]
    assert dataset.quarantine.count == 2
    messages = [r.getMessage() for r in caplog.records if r.name == "detectron2.data.quarantine"]
    assert len(messages) == 2  # once for each
    assert "'3'" in messages[0] and "cannot be decoded" in messages[0]


def test_a_spent_budget_ends_the_run():
    dataset = MapDataset(records(), read, quarantine=Quarantine(10, budget=1))
    dataset[3]
    with pytest.raises(TooManyUnreadableSamples, match=r"\('5'\).*unreadable_budget"):
        dataset[5]


def test_errors_of_the_program_are_not_swallowed():
    dataset = MapDataset(records(), lambda r: r["no such key"], quarantine=Quarantine(10))
    with pytest.raises(KeyError):
        dataset[0]


def test_contradicting_annotations_are_put_aside_too():
    def check(element):
        if element["file_name"] == "0":
            raise SampleError("a polygon has 7 numbers")
        return element

    dataset = MapDataset(records(), check, quarantine=Quarantine(10))
    assert dataset[0]["file_name"] != "0" and dataset.quarantine.count == 1


def test_iterable_datasets_are_quarantined_as_well():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(records())

    dataset = MapDataset(Stream(), read, quarantine=Quarantine(0, budget=2))
    assert list(dataset) == [str(i) for i in range(10) if i not in (3, 5)]
    with pytest.raises(TooManyUnreadableSamples):
        list(MapDataset(Stream(), read, quarantine=Quarantine(0, budget=1)))


def test_the_default_budget_is_ten_percent_and_at_least_ten():
    assert Quarantine(50).budget == 10 and Quarantine(5000).budget == 500
    with pytest.raises(ValueError, match="-1"):
        Quarantine(5, budget=-1)


# -- iterating, grouping


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("chunk", [1, 4])
def test_workers_share_the_sampler(workers, chunk):
    dataset = ToIterableDataset(list(range(13)), range(13), shard_chunk_size=chunk)
    loader = DataLoader(dataset, num_workers=workers, batch_size=None)
    assert sorted(int(v) for v in loader) == list(range(13))
    assert len(dataset) == 13


def test_the_order_does_not_depend_on_the_workers():
    def batches(workers):
        dataset = ToIterableDataset(
            list(range(20)), TrainingSampler(20, seed=3), shard_chunk_size=4
        )
        loader = DataLoader(dataset, num_workers=workers, batch_size=4, collate_fn=list)
        return list(itertools.islice(loader, 9))

    assert batches(0) == batches(2)


def test_a_sampler_that_shards_itself_is_not_sharded():
    dataset = ToIterableDataset(list(range(3)), range(3), shard_sampler=False)
    loader = DataLoader(dataset, num_workers=2, batch_size=None)
    assert sorted(int(v) for v in loader) == [0, 0, 1, 1, 2, 2]


def test_what_cannot_be_iterated_is_refused():
    with pytest.raises(TypeError, match="with indices"):
        ToIterableDataset(Numbers(3), range(3))
    with pytest.raises(TypeError, match="iterable"):
        ToIterableDataset([1], 3)


def test_batches_hold_landscapes_or_portraits():
    sizes = np.random.default_rng(0).integers(10, 50, (40, 2))
    elements = [{"width": w, "height": h} for w, h in sizes.tolist()]
    for batch in AspectRatioGroupedDataset(elements, 3):
        assert len(batch) == 3 and len({e["width"] > e["height"] for e in batch}) == 1


def test_a_grouped_dataset_can_be_left_and_entered_again():
    grouped = AspectRatioGroupedDataset([{"width": 1, "height": 2}] * 10, 2)
    for _ in range(5):
        assert len(next(iter(grouped))) == 2
