import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import SequentialSampler

from detectron2.data.build import build_batch_data_loader, build_detection_train_loader
from detectron2.data.samplers import RandomSubsetTrainingSampler, TrainingSampler
from detectron2.data.stream import Place
from detectron2.engine.hooks import PreciseBN


def records(count=23):
    sizes = np.random.default_rng(0).integers(10, 50, (count, 2)).tolist()
    return [{"image_id": i, "width": w, "height": h} for i, (w, h) in enumerate(sizes)]


def change(record):
    """A mapper that draws from every generator, and drops one sample in seven."""
    if record["image_id"] % 7 == 3:
        return None
    drawn = (random.random(), float(np.random.rand()), float(torch.rand(1)))
    return {**record, "drawn": drawn}


def loader_of(workers, grouping, sampler=None):
    return build_detection_train_loader(
        records(),
        mapper=change,
        sampler=sampler or TrainingSampler(23, seed=4),
        total_batch_size=3,
        aspect_ratio_grouping=grouping,
        num_workers=workers,
        seed=5,
    )


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("workers", [(0, 0), (2, 0), (1, 2)])
def test_a_stream_is_entered_where_it_was_left(grouping, workers):
    whole = list(itertools.islice(loader_of(0, grouping), 20))
    first = loader_of(workers[0], grouping)
    before = list(itertools.islice(first, 9))
    state = first.state_dict()
    second = loader_of(workers[1], grouping, TrainingSampler(23, seed=99))
    second.load_state_dict(state)
    middle = list(itertools.islice(second, 4))
    # A stream that was entered may be left again.
    third = loader_of(0, grouping, TrainingSampler(23, seed=99))
    third.load_state_dict(second.state_dict())
    after = list(itertools.islice(third, 7))
    assert before + middle + after == whole


def test_random_numbers_differ_between_samples_and_epochs():
    batches = itertools.islice(loader_of(0, False), 16)
    drawn = [record["drawn"] for record in itertools.chain.from_iterable(batches)]
    assert len(set(drawn)) == len(drawn) == 48


def test_loading_in_this_process_does_not_touch_the_models_random_numbers():
    iterator = iter(loader_of(0, True))
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    next(iterator)
    after = (random.random(), np.random.rand(), float(torch.rand(1)))
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    assert after == (random.random(), np.random.rand(), float(torch.rand(1)))


def test_a_subset_is_kept():
    first = RandomSubsetTrainingSampler(23, 0.5)
    second = RandomSubsetTrainingSampler(23, 0.5)
    second.load_state_dict(first.state_dict())
    assert list(itertools.islice(first, 30)) == list(itertools.islice(second, 30))


def test_another_number_of_processes_goes_on_at_the_same_image(caplog):
    loader = loader_of(0, False)
    state = loader.state_dict()
    loader.load_state_dict({**state, "world_size": 4, "next": 6, "waiting": [5]})
    assert loader.dataset.place == Place((), 24)
    assert "of 4 processes, now there are 1" in caplog.text


def test_a_sampler_without_a_state_is_entered_by_counting():
    def make():
        return build_batch_data_loader(list(range(40)), SequentialSampler(range(40)), 4)

    first, second = make(), make()
    taken = list(itertools.islice(first, 3))
    second.load_state_dict(first.state_dict())
    assert taken + list(second) == list(make())


def test_precise_batch_norm_goes_on_in_its_data():
    def make():
        model = torch.nn.BatchNorm1d(1)
        seen = []
        model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].tolist()))
        loader = build_batch_data_loader(
            [torch.tensor([float(i)]) for i in range(40)],
            TrainingSampler(40, seed=1),
            4,
            collate_fn=torch.stack,
        )
        return PreciseBN(1, model, loader, 3), seen

    whole, seen = make()
    whole.update_stats()
    state = whole.state_dict()
    whole.update_stats()
    resumed, seen_later = make()
    resumed.load_state_dict(state)
    resumed.update_stats()
    assert seen_later == seen[3:] and seen_later != seen[:3]
