"""Models behind a server: answers are those of the predictor, whatever is in the batch."""

import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hotcoco import mask as rle_codec
from serving_support import wait_until

from detectron2.data.catalog import Metadata
from detectron2.engine import DefaultPredictor
from detectron2.engine.load_predictor import LoadedPredictor
from detectron2.engine.serving import served_model
from detectron2.engine.serving.answers import answer_as_json, answer_as_picture
from detectron2.engine.serving.batching import BatchRunner, QueueFullError

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from small_models import picture, small_config, vary

NAMES = {"thing_classes": list("abcde"), "stuff_classes": ["things", *"uvwxy"]}
THINGS = {"thing_dataset_id_to_contiguous_id": {k: k for k in range(5)}}


def served(architecture):
    torch.manual_seed(0)
    predictor = DefaultPredictor(small_config(architecture))
    vary(predictor.model)
    metadata = Metadata(name="test", **NAMES, **THINGS)
    loaded = LoadedPredictor(predictor, metadata, NAMES["thing_classes"])
    return predictor, served_model(loaded, architecture, 10**6)


def test_masks_are_those_of_the_predictor_in_a_batch_too():
    predictor, model = served("Mask R-CNN FPN")
    images = [picture(72, 96, seed=1), picture(72, 96, seed=2)]
    outputs = model.run([model.prepare(image) for image in images])
    for image, output in zip(images, outputs):
        expected = predictor(image)["instances"]
        answer = json.loads(json.dumps(answer_as_json(output, model, (72, 96), 0.0)))
        assert len(answer["instances"]) == len(expected) > 0
        order = expected.scores.argsort(descending=True, stable=True).tolist()
        for row, index in zip(answer["instances"], order):
            mask = expected.pred_masks[index].numpy()
            different = rle_codec.decode(row["segmentation"]) != mask
            assert different.sum() <= 0.01 * mask.sum()
            assert row["score"] == pytest.approx(float(expected.scores[index]), abs=1e-3)
        drawn = answer_as_picture(output, model, image, 0.0, "image/png")
        assert drawn.startswith(b"\x89PNG")


def test_segmentations_and_proposals_are_answered_too():
    image = picture(72, 96)
    for architecture, key in (("Panoptic FPN", "panoptic"), ("Semantic FPN", "semantic")):
        _, model = served(architecture)
        (output,) = model.run([model.prepare(image)])
        segments = answer_as_json(output, model, (72, 96), 0.0)[key]
        masks = sum(rle_codec.decode(each["segmentation"]).astype(int) for each in segments)
        assert segments and masks.max() == 1  # no two segments share a pixel
        assert all(each["category"] in [*NAMES["stuff_classes"], *"abcde"] for each in segments)
        assert answer_as_picture(output, model, image, 0.0, "image/jpeg").startswith(b"\xff\xd8")
    _, model = served("RPN")
    (output,) = model.run([model.prepare(image)])
    proposals = answer_as_json(output, model, (72, 96), 0.0)["proposals"]
    assert proposals and all(0 <= each["score"] <= 1 for each in proposals)
    x, y, width, height = output["proposals"].proposal_boxes.tensor[0].tolist()
    assert proposals[0]["bbox"] == pytest.approx([x, y, width - x, height - y])


def test_large_images_are_run_in_parts():
    sizes = []
    module = SimpleNamespace(
        model=lambda inputs: (sizes.append(len(inputs)), [{} for _ in inputs])[1],
        padded_size=None,
        image_format="BGR",
        prepare=None,
    )
    model = served_model(LoadedPredictor(module, Metadata(), []), "model", 1000)
    model.run([{"height": 20, "width": 20} for _ in range(3)] + [{"height": 90, "width": 90}])
    assert sizes == [2, 1, 1]


# ---- batches


def runner(function, **options):
    options = {"max_batch": 4, "max_wait": 0.0, "max_queue": 100, **options}
    return BatchRunner(function, lambda item: item % 2, **options)


def test_batches_hold_items_of_one_key_oldest_first():
    gate, batches = threading.Event(), []

    def run(items):
        gate.wait(10)
        batches.append(items)
        return [10 * item for item in items]

    queue = runner(run)
    first = queue.submit(1)
    wait_until(lambda: len(queue) == 0)
    others = [queue.submit(item) for item in (2, 3, 4, 6, 8, 10, 5)]
    gate.set()
    assert [f.result(10) for f in [first, *others]] == [10, 20, 30, 40, 60, 80, 100, 50]
    assert batches == [[1], [2, 4, 6, 8], [3, 5], [10]]
    queue.close()
    with pytest.raises(RuntimeError, match="takes no more images"):
        queue.submit(1)


def test_an_item_waits_for_others_but_not_for_ever():
    batches = []
    queue = runner(lambda items: batches.append(items) or items, max_wait=0.2, max_batch=2)
    pair = [queue.submit(2), queue.submit(4)]
    alone = queue.submit(1)
    assert [each.result(5) for each in [*pair, alone]] == [2, 4, 1]
    assert batches == [[2, 4], [1]]
    queue.close()


def test_a_full_queue_refuses_and_those_that_gave_up_make_room():
    gate = threading.Event()
    queue = runner(lambda items: gate.wait(10) and items, max_queue=2)
    running = queue.submit(1)
    wait_until(lambda: len(queue) == 0)
    waiting = [queue.submit(3), queue.submit(5)]
    with pytest.raises(QueueFullError, match="2 images are waiting"):
        queue.submit(7)
    assert waiting[0].cancel()
    last = queue.submit(7)
    gate.set()
    assert [each.result(10) for each in (running, waiting[1], last)] == [1, 5, 7]
    queue.close()


def test_an_error_belongs_to_the_item_that_caused_it():
    def run(items):
        if 6 in items:
            raise ValueError("not six")
        return items

    queue = runner(run, max_wait=0.2, max_batch=3)
    futures = [queue.submit(item) for item in (4, 6, 8)]
    assert (futures[0].result(5), futures[2].result(5)) == (4, 8)
    with pytest.raises(ValueError, match="not six"):
        futures[1].result(5)
    assert queue.is_alive
    queue.close()
    assert not queue.is_alive
