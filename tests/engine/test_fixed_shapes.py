"""Detection in fixed shapes finds what the plain form finds, and waits for a GPU once."""

import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from detectron2.engine.inference import fixed_shapes, optimize_for_inference, undo_speed_up
from detectron2.export.batched.choose import batched_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.ops import detect_boxes
from detectron2.ops.detect_boxes.reference import decode_boxes
from detectron2.structures import Boxes, ImageList, Instances

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "modeling"))
from tiny_models import ARCHITECTURES, images

from host_waits import FAR, host_waits

TWO_STAGES = ["FPN", "C4", "cascade", "class-agnostic", "LVIS", "keypoints", "Panoptic FPN"]


def build(name, threshold=0.0):
    torch.manual_seed(0)
    model = optimize_for_inference(ARCHITECTURES[name].build(threshold))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)  # scores that differ, and deltas that matter
    return model


def detect(model, batch, fixed):
    model.fixed_shapes = fixed
    with torch.no_grad():
        if not hasattr(model, "inference"):
            return [result["instances"] for result in model(batch)]
        found = model.inference(batch, do_postprocess=False)
    return found[0] if isinstance(found, tuple) else found


def assert_same(actual, expected):
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.image_size == theirs.image_size and len(mine) == len(theirs)
        assert list(mine.get_fields()) == list(theirs.get_fields())
        for name, value in theirs.get_fields().items():
            value, other = (getattr(x, "tensor", x) for x in (value, mine.get(name)))
            # The rows of a larger product may round otherwise; the choice is exact, see below.
            assert_close(other, value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name, threshold",
    [*((name, 0.0) for name in TWO_STAGES), ("FPN", 0.4), ("FPN", 1.1), ("cascade", 0.4)],
)
def test_every_two_stage_architecture_gives_the_same_output(name, threshold, monkeypatch):
    model, batch = build(name, threshold), images(ARCHITECTURES[name])
    expected = detect(model, batch, fixed=False)
    calls = []
    spy = lambda *args: calls.append(1) or find(*args)  # noqa: E731
    find = fixed_shapes.find_detections
    monkeypatch.setattr(fixed_shapes, "find_detections", spy)
    assert_same(detect(model, batch, fixed=True), expected)
    assert calls == [1]
    assert threshold != 0 or all(len(x) > 0 for x in expected)
    assert threshold != 1.1 or all(len(x) == 0 for x in expected)


@pytest.mark.parametrize("name", ["FPN", "cascade"])
def test_places_without_a_proposal_give_no_detection(name):
    model, batch = build(name), images(ARCHITECTURES[name])
    model.proposal_generator.nms_thresh = 0.02
    model.proposal_generator.min_box_size = 12
    inputs = model.preprocess_image(batch)
    with torch.no_grad():
        features = model.backbone(inputs.tensor)
        exist = fixed_shapes.find_proposals(model.proposal_generator, inputs, features).exist
    assert 0 < int(exist.sum()) < exist.numel()
    assert_same(detect(model, batch, fixed=True), detect(model, batch, fixed=False))


@pytest.mark.parametrize("wanted", ["all", "some", "none"])
@pytest.mark.parametrize("name", ["RetinaNet", "FCOS"])
def test_every_one_stage_architecture_gives_the_same_output(name, wanted, monkeypatch):
    model, batch = build(name), images(ARCHITECTURES[name])
    model.test_topk_candidates, model.max_detections_per_image = 150, 60
    scores = torch.cat([x.scores for x in detect(model, batch, fixed=False)])
    model.test_score_thresh = {"all": 0.0, "some": scores.median().item(), "none": 1.1}[wanted]
    expected = detect(model, batch, fixed=False)
    monkeypatch.setattr(model.__class__, "inference_single_image", None)  # would fail if called
    actual = detect(model, batch, fixed=True)
    for mine, theirs in zip(actual, expected, strict=True):
        assert torch.equal(mine.pred_boxes.tensor, theirs.pred_boxes.tensor)
        assert torch.equal(mine.scores, theirs.scores)
        assert torch.equal(mine.pred_classes, theirs.pred_classes)
        assert (len(mine) == 0) == (wanted == "none")


def test_dense_predictions_that_are_not_finite_are_left_out():
    model, batch = build("RetinaNet"), images(ARCHITECTURES["RetinaNet"])
    model.test_topk_candidates = 30
    with torch.no_grad():
        maps, (logits, deltas) = model._predict(model.preprocess_image(batch))
        logits[0][0, 1, 2, 3], logits[1][1, 0, 0, 0] = torch.nan, torch.inf
        deltas[0][0, :, 1] = torch.nan
        found = []
        for fixed in (False, True):
            model.fixed_shapes = fixed
            inputs = model.preprocess_image(batch)
            found.append(model.forward_inference(inputs, maps, (logits, deltas)))
    for plain, mine in zip(*found, strict=True):
        assert torch.equal(mine.pred_boxes.tensor, plain.pred_boxes.tensor) and len(mine) > 0
        assert torch.equal(mine.scores, plain.scores)


def test_the_host_waits_once_for_a_batch_of_a_one_stage_detector():
    batch, counted = images(ARCHITECTURES["RetinaNet"]), {}
    with host_waits() as waits:
        model = build("RetinaNet").to(FAR)
        for fixed in (False, True):
            model.fixed_shapes = fixed
            with torch.no_grad():
                inputs = model.preprocess_image(batch)
                maps, predictions = model._predict(inputs)
                model.forward_inference(inputs, maps, predictions)  # anchors are made once
                waits.clear()
                model.forward_inference(inputs, maps, predictions)
            counted[fixed] = [str(wait) for wait in waits]
    assert len(counted[True]) == 1 and "tolist" in counted[True][0], counted[True]
    assert len(counted[False]) > 10


@pytest.mark.parametrize("name", ["FPN", "cascade"])
def test_the_host_waits_once_between_backbone_and_results(name):
    batch = images(ARCHITECTURES[name])
    expected = detect(build(name, 0.4), batch, fixed=True)
    counted = {}
    with host_waits() as waits:
        model = build(name, 0.4).to(FAR)
        for fixed in (False, True):
            model.fixed_shapes = fixed
            with torch.no_grad():
                inputs = model.preprocess_image(batch)
                features = model.backbone(inputs.tensor)
                model._detect(batch, inputs, features)  # anchors are made once
                waits.clear()
                found = model._detect(batch, inputs, features)
            counted[fixed] = [str(wait) for wait in waits]
        found = [x.to("cpu") for x in found]
    assert_same(found, expected)
    assert len(counted[True]) == 1 and "tolist" in counted[True][0], counted[True]
    assert len(counted[False]) >= 5


def random_output(rows, classes, shared, seed):
    """Predictions of a box head with equal scores, wild deltas and rows that are not finite."""
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(rows, 2, generator=random) * 80
    boxes = torch.cat([corner, corner + torch.rand(rows, 2, generator=random) * 40], dim=1)
    deltas = torch.randn(rows, 4 if shared else classes * 4, generator=random) * 2
    logits = (torch.randn(rows, classes + 1, generator=random) * 4).round()
    for table, number in ((deltas, torch.nan), (deltas, torch.inf), (logits, torch.nan)):
        if rows > 10:
            table[int(torch.randint(rows, (), generator=random)), 0] = number
    return boxes, deltas, logits


@pytest.mark.parametrize("shared", [False, True], ids=["box_per_class", "one_box"])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.99999])
@pytest.mark.parametrize("seed", range(4))
def test_final_detections_are_exactly_those_of_fast_rcnn_inference(seed, threshold, shared):
    sizes = [(100, 90), (70, 110), (60, 60)]
    counts, classes = [(40, 40, 40), (40, 0, 13), (1, 40, 7), (0, 0, 0)][seed], 6
    transform = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    predictor = FastRCNNOutputLayers(
        4, box2box_transform=transform, num_classes=classes, cls_agnostic_bbox_reg=shared
    )
    parts = [random_output(count, classes, shared, 10 * seed + i) for i, count in enumerate(counts)]
    plain = [Instances(s, proposal_boxes=Boxes(p[0])) for s, p in zip(sizes, parts)]
    predictions = [torch.cat([part[i] for part in parts]) for i in (2, 1)]
    expected, _ = fast_rcnn_inference(
        predictor.predict_boxes(predictions, plain), predictor.predict_probs(predictions, plain),
        sizes, threshold, 0.5, 25,
    )  # fmt: skip

    padded = [torch.stack([filled(part[i], 40) for part in parts]) for i in range(3)]
    exist = torch.stack([torch.arange(40) < count for count in counts])
    probabilities = padded[2].softmax(dim=-1)
    boxes, scores, labels, _, found = detect_boxes(
        padded[1], padded[0], probabilities[..., :-1],
        exist & probabilities.isfinite().all(dim=2), torch.tensor(sizes),
        weights=transform.weights, scale_clamp=transform.scale_clamp, score_threshold=threshold,
        iou_threshold=0.5, topk=25,
    )  # fmt: skip
    for image, theirs in enumerate(expected):
        assert int(found[image]) == len(theirs)
        mine = slice(0, len(theirs))
        assert torch.equal(boxes[image, mine], theirs.pred_boxes.tensor)
        assert torch.equal(scores[image, mine], theirs.scores)
        assert torch.equal(labels[image, mine], theirs.pred_classes)


def filled(rows, count):
    """(count, B): `rows`, and numbers that must not matter behind them."""
    return torch.cat([rows, rows.new_full((count - len(rows), rows.shape[1]), 7.0)])


def test_decoding_is_the_one_of_the_box_transform():
    boxes, deltas, _ = random_output(50, 3, False, 0)
    transform = Box2BoxTransform(weights=(10.0, 9.0, 5.0, 4.0))
    actual = decode_boxes(deltas, boxes, transform.weights, transform.scale_clamp)
    assert torch.equal(actual.nan_to_num(), transform.apply_deltas(deltas, boxes).nan_to_num())


@pytest.mark.parametrize("post_nms_topk", [3, 500])
def test_proposals_are_exactly_those_of_the_proposal_generator(post_nms_topk):
    rpn = build("FPN").proposal_generator
    rpn.post_nms_topk[False] = post_nms_topk
    random = torch.Generator().manual_seed(0)
    maps = {
        name: torch.randn(2, 16, 16 // 2**i, 24 // 2**i, generator=random) * 3
        for i, name in enumerate(rpn.in_features)
    }
    maps["p3"][1, 0, 2, 3] = torch.nan
    batch = ImageList(torch.zeros(2, 3, 64, 96), [(60, 90), (33, 50)])
    with torch.no_grad():
        expected, _ = rpn(batch, maps)
        padded = fixed_shapes.find_proposals(rpn, batch, maps)
    for image, theirs in enumerate(expected):
        assert int(padded.exist[image].sum()) == len(theirs) > 2
        boxes = padded.instances[image].proposal_boxes.tensor
        assert torch.equal(boxes[: len(theirs)], theirs.proposal_boxes.tensor)
        assert not boxes[len(theirs) :].any()


def test_convention_subclasses_and_what_was_put_in_place_of_methods_is_not_passed_by(monkeypatch):
    batch = images(ARCHITECTURES["FPN"])
    monkeypatch.setattr(fixed_shapes, "find_detections", None)  # would fail if called

    class Mine(StandardROIHeads):
        pass

    model = build("FPN")
    model.roi_heads.__class__ = Mine
    assert len(detect(model, batch, fixed=True)) == 2

    class MyLayers(FastRCNNOutputLayers):
        pass

    model = build("FPN")
    model.roi_heads.box_predictor.__class__ = MyLayers
    assert len(detect(model, batch, fixed=True)) == 2

    model = build("FPN")
    model.roi_heads.box_predictor.inference = model.roi_heads.box_predictor.inference
    assert len(detect(model, batch, fixed=True)) == 2

    model, seen = build("FPN"), []
    model.proposal_generator.register_forward_hook(lambda *args: seen.append(1))
    assert len(detect(model, batch, fixed=True)) == 2 and seen == [1]


def test_models_without_a_place_for_it_are_plain():
    for name in ("Fast R-CNN", "rotated"):
        model, batch = build(name), images(ARCHITECTURES[name])
        assert_same(detect(model, batch, fixed=True), detect(model, batch, fixed=False))


@pytest.mark.parametrize("name", ["FPN", "RetinaNet", "FCOS", "Panoptic FPN"])
def test_exporters_know_the_model_that_it_was(name):
    plain, fast = ARCHITECTURES[name].build(0.0).eval(), build(name)
    assert type(batched_model(fast)) is type(batched_model(plain))


def test_undo_gives_the_plain_form_back():
    model = build("FPN")
    model.fixed_shapes = True
    assert not hasattr(undo_speed_up(model), "fixed_shapes")


def test_public_functions_keep_their_signature_and_behaviour():
    boxes = torch.tensor([[[0.0, 0, 30, 30], [1, 0, 30, 30], [40, 40, 50, 90]]])
    (found,) = find_top_rpn_proposals(
        [boxes], [torch.tensor([[0.1, 0.9, 0.5]])], [(60, 45)], 0.5, 10, 10, 0.0, False
    )
    assert found.proposal_boxes.tensor.tolist() == [[1, 0, 30, 30], [40, 40, 45, 60]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", TWO_STAGES)
def test_on_a_gpu_the_host_waits_once_and_finds_what_the_plain_form_finds(name):
    batch = images(ARCHITECTURES[name])
    model = build(name, 0.4).cuda()
    expected = detect(model, batch, fixed=False)
    assert_same(detect(model, batch, fixed=True), expected)
    inputs = model.preprocess_image(batch)
    with torch.no_grad():
        features = model.backbone(inputs.tensor)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with pytest.warns(UserWarning, match="synchronizing") as waits:
                model._detect(batch, inputs, features)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1
