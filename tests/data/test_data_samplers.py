import itertools
from collections import Counter

import pytest
import torch
from torch.utils.data import SequentialSampler

from detectron2.data.samplers import (
    GroupedBatchSampler,
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm


def take(sampler, count):
    return list(itertools.islice(iter(sampler), count))


@pytest.fixture
def as_rank(monkeypatch):
    def use(rank, world_size):
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: world_size)

    return use


def test_each_epoch_is_a_new_order_of_everything():
    indices = take(TrainingSampler(10, seed=1), 30)
    epochs = [indices[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_convention_the_order_is_torch_randperm_of_the_seed():
    generator = torch.Generator().manual_seed(5)
    expected = torch.cat([torch.randperm(7, generator=generator) for _ in range(2)]).tolist()
    sampler = TrainingSampler(7, seed=5)
    assert take(sampler, 14) == expected
    assert take(sampler, 14) == expected  # every iterator begins anew


def test_without_shuffling_the_order_is_the_dataset_s():
    assert take(TrainingSampler(3, shuffle=False), 7) == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainingSampler(11, seed=2),
        lambda: RandomSubsetTrainingSampler(30, 0.4, seed_shuffle=1, seed_subset=2),
        lambda: RepeatFactorTrainingSampler(torch.full((11,), 1.5), seed=3),
    ],
)
def test_processes_take_turns(make, as_rank):
    whole = take(make(), 40)
    shares = []
    for rank in range(4):
        as_rank(rank, 4)
        shares.append(take(make(), 10))
    assert [i for group in zip(*shares) for i in group] == whole


def test_a_random_subset_stays_the_same():
    indices = take(RandomSubsetTrainingSampler(20, 0.4, seed_shuffle=3, seed_subset=4), 80)
    assert len(set(indices)) == 8 and set(Counter(indices).values()) == {10}
    fixed = RandomSubsetTrainingSampler(20, 0.4, shuffle=False, seed_subset=4)
    assert set(take(fixed, 8)) == set(indices) and take(fixed, 8) == take(fixed, 16)[8:]


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: TrainingSampler(0), ValueError),
        (lambda: TrainingSampler(-3), ValueError),
        (lambda: TrainingSampler(1.5), TypeError),
        (lambda: InferenceSampler(0), AssertionError),
        (lambda: RandomSubsetTrainingSampler(10, 0.0), ValueError),
        (lambda: RandomSubsetTrainingSampler(10, 1.5), ValueError),
        (lambda: RandomSubsetTrainingSampler(10, 0.05), ValueError),
        (lambda: GroupedBatchSampler([1, 2], [0, 0], 2), ValueError),
        (lambda: GroupedBatchSampler(SequentialSampler([1]), [[0]], 2), ValueError),
    ],
)
def test_wrong_arguments_are_named(make, error):
    with pytest.raises(error, match=r"\w+ \w+"):
        make()


def test_repeat_factors_of_rare_categories():
    # Of three images, 0 is shown by two and 1 by one: sqrt(0.5 / (1/3)) for the second.
    images = [
        {"annotations": [{"category_id": 0}, {"category_id": 1}]},
        {"annotations": [{"category_id": 0}]},
        {"annotations": []},
    ]
    count = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    assert count(images, 0.5).tolist() == pytest.approx([1.5**0.5, 1, 1])
    assert count(images, 0.5, sqrt=False).tolist() == pytest.approx([1.5, 1, 1])


def test_elements_appear_as_often_as_their_factor_says():
    sampler = RepeatFactorTrainingSampler(torch.tensor([1.0, 2.0, 1.5]), seed=0)
    counts = Counter(take(sampler, 4500))
    assert counts[1] / counts[0] == pytest.approx(2, rel=0.01)
    assert counts[2] / counts[0] == pytest.approx(1.5, rel=0.05)
    in_order = take(RepeatFactorTrainingSampler(torch.tensor([2.0, 1.0]), shuffle=False), 6)
    assert in_order == [0, 0, 1, 0, 0, 1]


def test_inference_splits_into_blocks_of_which_the_first_get_one_more(as_rank):
    blocks = []
    for rank in range(4):
        as_rank(rank, 4)
        sampler = InferenceSampler(42)
        blocks.append(list(sampler))
        assert len(sampler) == len(blocks[-1])
    assert [len(block) for block in blocks] == [11, 11, 10, 10]
    assert sum(blocks, []) == list(range(42))


def test_batches_of_one_group():
    groups = [i % 3 for i in range(20)]
    sampler = GroupedBatchSampler(SequentialSampler(groups), groups, 4)
    assert list(sampler)[:3] == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    with pytest.raises(TypeError, match="depends on the order"):
        len(sampler)
