"""Trunks that run from recordings; a recorder in Python stands for the one of CUDA graphs."""

import copy
import logging
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectron2.data import transforms as T
from detectron2.engine import DefaultPredictor
from detectron2.engine.inference import graphs as graphs_module
from detectron2.engine.inference import optimize_for_inference, undo_speed_up
from detectron2.engine.inference.graphs import CudaRecorder, TrunkGraphs
from detectron2.engine.inference.optimize import record_trunk
from detectron2.structures import ImageList

sys.path.insert(0, str(Path(__file__).parents[1] / "modeling"))
from tiny_models import ARCHITECTURES, images

BUCKETS = [(96, 128), (128, 96)]


class Recorder:
    """Behaves as CUDA graphs do: one input, one output, both at fixed addresses."""

    def __init__(self, fails=False):
        self.fails, self.recorded, self.replayed = fails, [], 0

    def __call__(self, function, batch):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        recorder = self
        recorder.recorded.append(tuple(batch.shape))

        class Recording:
            output = function(batch)

            def replay(self):
                recorder.replayed += 1
                for place, value in zip(parts(self.output), parts(function(batch)), strict=True):
                    place.copy_(value)

        for place in parts(Recording.output):
            place.fill_(torch.nan)  # capturing computes nothing
        return Recording()


def parts(output):
    """The tensors of a trunk's output."""
    if isinstance(output, torch.Tensor):
        return [output]
    items = list(output.values()) if isinstance(output, dict) else list(output)
    items.extend(getattr(output, "head_output", None) or ())
    return [tensor for item in items for tensor in parts(item)]


def doubled(batch):
    return {"twice": batch * 2}


def pictures(height=50, width=90, number=1, value=1.0):
    return torch.full((number, 3, height, width), value)


def test_a_shape_is_recorded_when_it_comes_again_and_then_replayed():
    recorder = Recorder()
    graphs = TrunkGraphs(BUCKETS, recorder)
    for turn in range(5):
        value = float(turn + 1)
        found = graphs(doubled, pictures(50 - turn, 90, value=value), (96, 128), 0)["twice"]
        assert found.shape == (1, 3, 96, 128)
        assert (found[:, :, : 50 - turn, :90] == 2 * value).all()
        assert found.sum() == 2 * value * 3 * (50 - turn) * 90  # zeros behind the image
        assert recorder.replayed == max(turn, 0)
    assert recorder.recorded == [(1, 3, 96, 128)]


def test_every_batch_size_and_bucket_has_its_recording_and_the_oldest_goes():
    recorder = Recorder()
    graphs = TrunkGraphs(BUCKETS, recorder, capacity=2)
    for number in (1, 2, 3):
        for _ in range(2):
            graphs(doubled, pictures(number=number), (96, 128), 0)
    assert [shape[0] for shape in recorder.recorded] == [1, 2, 3]
    graphs(doubled, pictures(number=2), (96, 128), 0)
    assert len(recorder.recorded) == 3  # still there
    graphs(doubled, pictures(number=1), (96, 128), 0)
    assert len(recorder.recorded) == 4  # it was the oldest, and is recorded again


def test_of_the_recordings_the_one_used_longest_ago_goes():
    recorder = Recorder()
    graphs = TrunkGraphs(BUCKETS, recorder, capacity=2)
    for number in (1, 1, 2, 2, 1, 3, 3, 1):
        graphs(doubled, pictures(number=number), (96, 128), 0)
    assert [shape[0] for shape in recorder.recorded] == [1, 2, 3]


def test_a_change_of_state_throws_the_recordings_away():
    recorder = Recorder()
    graphs = TrunkGraphs(BUCKETS, recorder)
    for state in (0, 0, 0, 1, 1, 1):
        graphs(doubled, pictures(), (96, 128), state)
    assert len(recorder.recorded) == 2


def test_what_cannot_be_recorded_goes_on_running(caplog):
    graphs = TrunkGraphs(BUCKETS, Recorder(fails=True))
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            found = graphs(doubled, pictures(), (96, 128), 0)["twice"]
            assert found.sum() == 2 * 3 * 50 * 90
    (record,) = caplog.records
    assert record.getMessage().endswith("operation not permitted when stream is capturing")


def test_the_recorder_of_cuda_graphs_is_left_alone_where_there_is_no_gpu():
    graphs = TrunkGraphs(BUCKETS)
    assert isinstance(graphs._record, CudaRecorder) and not graphs.applies_to(pictures())


@pytest.mark.parametrize(
    "size, bucket",
    [((50, 90), (96, 128)), ((96, 96), (96, 128)), ((100, 96), (128, 96)), ((97, 97), None)],
)
def test_the_smallest_bucket_that_holds_a_batch_is_taken(size, bucket):
    assert TrunkGraphs(BUCKETS).bucket_of(*size, 32) == (bucket if size != (50, 90) else None)
    assert TrunkGraphs([*BUCKETS, (64, 96)]).bucket_of(50, 90, 32) == (64, 96)
    assert TrunkGraphs(BUCKETS).bucket_of(90, 90, 64) is None


@pytest.mark.parametrize("buckets", [[], [(0, 3)]])
def test_buckets_that_are_none_are_named(buckets):
    with pytest.raises(ValueError, match="cuda_graphs is"):
        TrunkGraphs(buckets)


def test_copies_record_anew():
    recorder = Recorder()
    graphs = TrunkGraphs(BUCKETS, capacity=3)
    again = pickle.loads(pickle.dumps(graphs))
    assert (again.buckets, again.capacity) == (graphs.buckets, 3)
    graphs = TrunkGraphs(BUCKETS, recorder)
    for _ in range(2):
        graphs(doubled, pictures(), (96, 128), 0)
    assert not copy.deepcopy(graphs)._recorded


# ---- whole models


def build(name):
    torch.manual_seed(0)
    return optimize_for_inference(ARCHITECTURES[name].build(0.0))


def detect(model, batch, again=1):
    with torch.no_grad():
        for _ in range(again):
            found = model(batch)
    return [result["instances"] for result in found]


def assert_same(actual, expected, rtol=0):
    for mine, theirs in zip(actual, expected, strict=True):
        assert len(mine) == len(theirs) > 0
        for name, value in theirs.get_fields().items():
            value, other = (getattr(x, "tensor", x) for x in (value, mine.get(name)))
            assert_close(other, value, rtol=rtol, atol=10 * rtol)


@pytest.mark.parametrize(
    "name, fixed",
    [("FPN", False), ("FPN", True), ("RetinaNet", True), ("FCOS", False), ("Panoptic FPN", True)],
)
def test_convention_a_bucket_is_what_a_larger_image_in_the_batch_would_be(name, fixed, monkeypatch):
    model, batch = build(name), images(ARCHITECTURES[name])
    model.fixed_shapes = fixed
    with monkeypatch.context() as patch:
        # As if there were a third image of the bucket's size.
        pad = ImageList.from_tensors

        def larger(tensors, *args, **kwargs):
            batch = pad([*tensors, torch.zeros(3, 96, 128)], *args, **kwargs)
            return ImageList(batch.tensor[:-1], batch.image_sizes[:-1])

        patch.setattr(ImageList, "from_tensors", staticmethod(larger))
        expected = detect(model, batch)
    recorder = Recorder()
    record_trunk(model, TrunkGraphs([(96, 128)], recorder))
    monkeypatch.setattr(graphs_module, "_MOST_WASTE", 3.0)
    for _ in range(3):
        assert_same(detect(model, batch), expected)
    assert recorder.replayed == 2 and len(recorder.recorded) == 1


def test_convention_new_weights_take_effect():
    model, batch = build("FPN"), images(ARCHITECTURES["FPN"])
    model.fixed_shapes = True
    recorder = Recorder()
    record_trunk(model, TrunkGraphs([(64, 96)], recorder))
    before = detect(model, batch, again=3)
    with torch.no_grad():
        model.backbone.fpn_output2.weight.mul_(3)
    after = detect(model, batch, again=3)
    assert recorder.recorded == [(2, 3, 64, 96)] * 2
    assert not torch.equal(before[0].scores, after[0].scores)


def test_hooks_and_gradients_take_the_plain_way():
    model, batch = build("FPN"), images(ARCHITECTURES["FPN"])
    recorder, seen = Recorder(), []
    record_trunk(model, TrunkGraphs([(64, 96)], recorder))
    handle = model.backbone.bottom_up.stem.register_forward_hook(lambda *args: seen.append(1))
    detect(model, batch, again=3)
    assert len(seen) == 3 and not recorder.recorded
    handle.remove()
    model(batch), model(batch)  # with gradients
    assert not recorder.recorded
    detect(model, batch, again=2)
    assert len(recorder.recorded) == 1


def test_a_stream_is_batched_by_bucket_and_does_not_depend_on_the_batch():
    model, recorder = build("FPN"), Recorder()
    record_trunk(model, TrunkGraphs([(96, 128)], recorder))
    predictor = object.__new__(DefaultPredictor)
    predictor.model, predictor.input_format = model, "BGR"
    predictor.aug = T.ResizeShortestEdge(0, 100)
    random = np.random.default_rng(0)
    sizes = [(64, 96), (70, 100), (90, 70), (96, 128)]
    pictures = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    alone = [predictor(picture)["instances"] for picture in pictures]
    model.roi_heads.register_forward_hook(lambda m, args, output: batches.append(len(args[2])))
    batches = []
    together = [found["instances"] for found in predictor.stream(pictures, batch_size=4)]
    assert_same(together, alone, rtol=1e-5)
    assert batches == [4] and recorder.recorded == [(1, 3, 96, 128)]


def test_undo_and_other_modules():
    model = build("FPN")
    record_trunk(model, TrunkGraphs(BUCKETS))
    assert not hasattr(undo_speed_up(model), "graphs")
    with pytest.raises(ValueError, match="A Linear has no CUDA graphs"):
        optimize_for_inference(nn.Linear(2, 2), cuda_graphs=BUCKETS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["FPN", "RetinaNet"])
def test_on_a_gpu_recordings_give_the_same_detections(name):
    batch = images(ARCHITECTURES[name])
    model = build(name).cuda()
    expected = detect(model, batch)
    record_trunk(model, TrunkGraphs([(64, 96)]))
    for _ in range(4):
        assert_same(detect(model, batch), expected)
    assert len(model.graphs._recorded) == 1 and not model.graphs._failed
