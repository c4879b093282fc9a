"""Batches that are fetched and copied while the device computes; streams are make-believe."""

import contextlib

import pytest
import torch
from torch import nn

from detectron2.engine import SimpleTrainer
from detectron2.engine._copy_ahead import BatchesAhead, CopyAhead, InputsAhead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from host_waits import FAR, host_waits


class Side:
    """The stream that is not the main one."""

    def __str__(self):
        return "side"

    def record_event(self):
        return "event of side"


class Streams:
    """Stands for `torch.cuda`, and writes down what happens."""

    def __init__(self, events):
        self.events = events

    def Stream(self, device):
        return Side()

    @contextlib.contextmanager
    def stream(self, stream):
        self.events.append(f"copy on {stream}")
        yield

    def current_stream(self, device):
        return self

    def wait_event(self, event):
        self.events.append(f"main waits for {event}")

    def wait_stream(self, stream):
        self.events.append(f"main waits for {stream}")


class Loader:
    """Numbered batches of one image, and how many were handed out."""

    def __init__(self, events, end=100):
        self.events, self.end, self.count = events, end, 0

    def __iter__(self):
        while self.count < self.end:
            self.count += 1
            self.events.append(f"fetch {self.count}")
            boxes = Boxes(torch.full((1, 4), float(self.count)))
            yield [{"instances": Instances((4, 4), gt_boxes=boxes), "height": 4}]

    def state_dict(self):
        return {"count": self.count}


class Model(nn.Module):
    def __init__(self, events):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.events, self.seen = events, []

    def forward(self, batch):
        self.events.append("forward")
        boxes = batch[0]["instances"].gt_boxes.tensor
        self.seen.append(boxes)
        return {"loss": (self.weight * boxes.to(self.weight.device)).sum()}


def train(prefetch, steps=3, end=100, device=FAR):
    """The trainer after `steps` iterations, with `events` of all of them."""
    events = []
    model = Model(events).to(device)
    trainer = SimpleTrainer(
        model, Loader(events, end), torch.optim.SGD(model.parameters(), lr=0.01)
    )
    trainer.optimizer_step = lambda: (events.append("step"), trainer.optimizer.step())
    trainer.prefetch = prefetch
    trainer._ahead = BatchesAhead(lambda device: CopyAhead(device, Streams(events)))
    trainer.events, trainer.max_iter = events, 3
    with EventStorage() as trainer.storage:
        for trainer.iter in range(steps):
            trainer.run_step()
    return trainer


def test_the_next_batch_is_copied_between_gradients_and_step():
    with host_waits():
        trainer = train(True, steps=2)
    assert trainer.events == [
        "fetch 1", "forward", "fetch 2", "copy on side", "step",
        "main waits for side", "forward", "fetch 3", "copy on side", "step",
    ]  # fmt: skip
    first, second = trainer.model.seen
    assert first.device.type == "cpu" and second.device == FAR
    assert isinstance(second.used_by, Streams)


def test_the_last_step_fetches_nothing_and_weights_are_the_same():
    with host_waits():
        with_prefetch, without = train(True), train(False)
        weights = [trainer.model.weight.detach().cpu() for trainer in (with_prefetch, without)]
    assert torch.equal(*weights)
    assert with_prefetch.data_loader.count == without.data_loader.count == 3


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_position_in_the_data_does_not_count_what_was_fetched_ahead(steps):
    with host_waits():
        assert train(True, steps).state_dict()["data_loader"] == {"count": steps}


def test_the_end_of_the_data_is_an_error_of_the_step_that_wants_them():
    with host_waits():
        assert train(True, steps=2, end=2).iter == 1
        with pytest.raises(RuntimeError, match="The data loader ended at iteration 1"):
            train(True, steps=3, end=2)


def test_a_new_loader_replaces_what_was_fetched():
    with host_waits():
        trainer = train(True, steps=1)
        trainer.reset_data_loader(lambda: Loader(trainer.events))
        trainer.iter = 1
        with EventStorage():
            trainer.run_step()
        assert trainer.model.seen[-1].tolist() == [[1.0] * 4]


def test_accumulated_batches_are_fetched_together():
    with host_waits():
        trainer = train(True, steps=1)
        trainer.accumulation_steps, trainer.iter = 2, 1
        with EventStorage():
            trainer.run_step()
        # one was there, and the second is fetched when it is missed
        assert [boxes[0, 0].item() for boxes in trainer.model.seen] == [1, 2, 3]
        assert len(trainer._ahead._batches) == 2


def test_a_model_on_the_cpu_gets_its_batches_as_they_are():
    trainer = train(None, device="cpu")
    assert "copy on side" not in trainer.events
    assert trainer.events[:4] == ["fetch 1", "forward", "step", "fetch 2"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_the_same_with_batches_copied_ahead():
    def weight(prefetch):
        events = []
        model = Model(events).cuda()
        trainer = SimpleTrainer(model, Loader(events), torch.optim.SGD(model.parameters(), lr=0.01))
        trainer.prefetch = prefetch
        trainer.train(0, 20)
        assert (model.seen[-1].device.type == "cuda") == (prefetch is None)
        return model.weight.detach().cpu()

    assert torch.equal(weight(None), weight(False))


def test_inputs_of_a_predictor_are_made_on_the_side_stream_and_waited_for_by_the_main_one():
    events = []
    streams = Streams(events)
    with host_waits() as waits:
        ahead = InputsAhead(FAR, streams)
        made = ahead.make(lambda size: {"image": torch.ones(3, size, size), "height": size}, 4)
        assert events == ["copy on side"]
        taken = ahead.take(made)
        assert events == ["copy on side", "main waits for event of side"]
        assert taken["image"].device == FAR and taken["image"].used_by is streams
        assert taken["height"] == 4 and waits == []


def test_inputs_for_a_cpu_stay_as_they_are():
    image = torch.ones(3, 4, 4)
    for device in (None, torch.device("cpu")):
        ahead = InputsAhead(device)
        assert ahead.take(ahead.make(lambda: {"image": image}))["image"] is image
