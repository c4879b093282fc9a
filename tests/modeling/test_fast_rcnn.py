import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import (
    FastRCNNOutputLayers,
    FastRCNNOutputs,
    _log_classification_stats,
    fast_rcnn_inference,
    fast_rcnn_inference_single_image,
)
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

K = 4  # foreground classes


def random_boxes(count, seed=0, size=60.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * size
    return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator) * size], 1)


def labelled_proposals(*counts):
    proposals = []
    for index, count in enumerate(counts):
        generator = torch.Generator().manual_seed(index)
        proposals.append(
            Instances(
                (120, 150),
                proposal_boxes=Boxes(random_boxes(count, index)),
                gt_boxes=Boxes(random_boxes(count, index + 50)),
                gt_classes=torch.randint(0, K + 1, (count,), generator=generator),
            )
        )
    return proposals


def output_layers(**kwargs):
    torch.manual_seed(0)
    transform = Box2BoxTransform((10.0, 10, 5, 5))
    layers = FastRCNNOutputLayers(
        ShapeSpec(channels=8), box2box_transform=transform, num_classes=K, **kwargs
    )
    for parameter in layers.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layers


# ---- inference


def test_detections_are_sorted_thresholded_and_suppressed_class_by_class():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10.5], [30, 30, 40, 40]])
    scores = torch.tensor([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1], [0.04, 0.9, 0.06]])
    found, rows = fast_rcnn_inference_single_image(boxes, scores, (50, 50), 0.05, 0.5, 100)
    assert_close(found.scores, torch.tensor([0.9, 0.7, 0.3]))
    assert found.pred_classes.tolist() == [1, 0, 1]
    assert rows.tolist() == [2, 1, 0]
    assert found.pred_boxes.tensor.tolist()[1] == [0, 0, 10, 10.5]


def test_a_class_specific_box_is_taken_and_clipped():
    boxes = torch.tensor([[0.0, 0, 1, 1, -5, 10, 90, 20]])
    scores = torch.tensor([[0.1, 0.8, 0.1]])
    found, _ = fast_rcnn_inference_single_image(boxes, scores, (15, 50), 0.5, 0.5, 100)
    assert found.pred_boxes.tensor.tolist() == [[0, 10, 50, 15]]


@pytest.mark.parametrize("topk, kept", [(3, 3), (0, 0), (-1, 20)])
def test_only_the_best_detections_are_kept(topk, kept):
    boxes = random_boxes(20)
    scores = torch.stack([torch.linspace(0.2, 0.9, 20), torch.zeros(20)], 1)
    found, _ = fast_rcnn_inference_single_image(boxes, scores, (200, 200), 0.1, 1.0, topk)
    assert len(found) == kept


def test_a_batch_gives_what_its_images_give_alone():
    boxes = [random_boxes(30 * K, seed).reshape(30, K * 4) for seed in range(3)]
    scores = [torch.rand(30, K + 1, generator=torch.Generator().manual_seed(s)) for s in range(3)]
    shapes = [(60, 70), (80, 50), (120, 130)]
    together, rows = fast_rcnn_inference(boxes, scores, shapes, 0.4, 0.5, 25)
    for image in range(3):
        alone, rows_alone = fast_rcnn_inference_single_image(
            boxes[image], scores[image], shapes[image], 0.4, 0.5, 25
        )
        assert together[image].image_size == shapes[image]
        assert_close(together[image].pred_boxes.tensor, alone.pred_boxes.tensor)
        assert_close(together[image].scores, alone.scores)
        assert together[image].pred_classes.tolist() == alone.pred_classes.tolist()
        assert rows[image].tolist() == rows_alone.tolist()


def test_images_do_not_suppress_one_another():
    box, score = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.9, 0.1]])
    results, _ = fast_rcnn_inference([box, box], [score, score], [(20, 20)] * 2, 0.5, 0.5, 10)
    assert [len(found) for found in results] == [1, 1]


def test_rows_that_are_not_finite_are_left_out():
    boxes, scores = random_boxes(4), torch.full((4, 2), 0.5)
    boxes[0, 2] = float("inf")
    scores[2, 1] = float("nan")
    found, _ = fast_rcnn_inference_single_image(boxes, scores, (200, 200), 0.1, 1.0, 100)
    assert len(found) == 2
    assert torch.isfinite(found.pred_boxes.tensor).all()


def test_quirk_kept_rows_are_counted_without_those_that_are_not_finite():
    # In the peer the rows are dropped first, and its indices refer to what is left.
    boxes, scores = random_boxes(3), torch.tensor([[0.5, 0], [0.6, 0], [0.7, 0]])
    boxes[1] = float("nan")
    _, rows = fast_rcnn_inference([boxes], [scores], [(200, 200)], 0.1, 1.0, 100)
    assert rows[0].tolist() == [1, 0]


def test_no_proposals_give_no_detections():
    found, rows = fast_rcnn_inference_single_image(
        torch.zeros(0, K * 4), torch.zeros(0, K + 1), (10, 10), 0.1, 0.5, 100
    )
    assert len(found) == len(rows) == 0
    assert found.pred_boxes.tensor.shape == (0, 4)


# ---- output layers


def test_features_are_flattened():
    layers = FastRCNNOutputLayers(
        ShapeSpec(channels=2, height=2, width=2),
        box2box_transform=Box2BoxTransform((1.0, 1, 1, 1)),
        num_classes=K,
    )
    scores, deltas = layers(torch.randn(5, 2, 2, 2))
    assert scores.shape == (5, K + 1)
    assert deltas.shape == (5, K * 4)


def test_box_loss_counts_objects_only_and_is_divided_by_all_boxes():
    layers = output_layers()
    proposals = labelled_proposals(9)
    deltas = torch.randn(9, K * 4)
    p = proposals[0]
    loss = layers.box_reg_loss(p.proposal_boxes.tensor, p.gt_boxes.tensor, deltas, p.gt_classes)
    expected = 0.0
    for row in range(9):
        label = int(p.gt_classes[row])
        if label < K:
            target = layers.box2box_transform.get_deltas(
                p.proposal_boxes.tensor[row : row + 1], p.gt_boxes.tensor[row : row + 1]
            )
            expected += (deltas[row].view(K, 4)[label] - target[0]).abs().sum()
    assert 0 < (p.gt_classes < K).sum() < 9
    assert_close(loss, expected / 9)


def test_an_empty_background_box_does_not_disturb_the_box_loss():
    p = labelled_proposals(9)[0]
    p.gt_classes[0] = K
    p.proposal_boxes.tensor[0] = 7.0
    loss = output_layers().losses((torch.randn(9, K + 1), torch.randn(9, K * 4)), [p])
    assert torch.isfinite(loss["loss_box_reg"])


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
def test_perfect_boxes_cost_nothing(kind):
    layers = output_layers(box_reg_loss_type=kind)
    p = labelled_proposals(9)[0]
    target = layers.box2box_transform.get_deltas(p.proposal_boxes.tensor, p.gt_boxes.tensor)
    loss = layers.box_reg_loss(
        p.proposal_boxes.tensor, p.gt_boxes.tensor, target.repeat(1, K), p.gt_classes
    )
    assert_close(loss, torch.tensor(0.0), atol=1e-4, rtol=0)


def test_loss_weights_are_a_number_or_by_name():
    predictions, proposals = (
        (torch.randn(9, K + 1), torch.randn(9, K * 4)),
        labelled_proposals(4, 5),
    )
    plain = output_layers().losses(predictions, proposals)
    doubled = output_layers(loss_weight=2.0).losses(predictions, proposals)
    boxes_only = output_layers(loss_weight={"loss_box_reg": 3.0}).losses(predictions, proposals)
    assert_close(doubled["loss_cls"], 2 * plain["loss_cls"])
    assert_close(doubled["loss_box_reg"], 2 * plain["loss_box_reg"])
    assert_close(boxes_only["loss_cls"], plain["loss_cls"])
    assert_close(boxes_only["loss_box_reg"], 3 * plain["loss_box_reg"])


def test_an_image_without_ground_truth_is_all_background():
    with_objects, without = labelled_proposals(4, 5)
    without.remove("gt_boxes")
    without.gt_classes[:] = K
    predictions = (torch.randn(9, K + 1), torch.randn(9, K * 4))
    losses = output_layers().losses(predictions, [with_objects, without])
    assert torch.isfinite(losses["loss_box_reg"])


def test_no_proposals_give_zero_losses_with_gradients():
    layers = output_layers()
    for proposals in ([], [labelled_proposals(3)[0][:0]]):
        losses = layers.losses(layers(torch.zeros(0, 8)), proposals)
        total = sum(losses.values())
        total.backward()
        assert total.item() == 0.0
        assert layers.bbox_pred.weight.grad is not None
        assert layers.cls_score.weight.grad is not None


def test_boxes_for_true_classes_are_columns_of_all_boxes():
    layers = output_layers()
    proposals = labelled_proposals(4, 5)
    predictions = layers(torch.randn(9, 8))
    chosen = layers.predict_boxes_for_gt_classes(predictions, proposals)
    every = layers.predict_boxes(predictions, proposals)
    for of_image, boxes, p in zip(chosen, every, proposals):
        columns = p.gt_classes.clamp(max=K - 1)
        assert_close(of_image, boxes.view(-1, K, 4)[torch.arange(len(p)), columns])


def test_probabilities_are_softmax_or_sigmoid():
    proposals = labelled_proposals(4, 5)
    scores = torch.randn(9, K + 1)
    probs = torch.cat(output_layers().predict_probs((scores, None), proposals))
    assert_close(probs, scores.softmax(1))
    probs = torch.cat(output_layers(use_sigmoid_ce=True).predict_probs((scores, None), proposals))
    assert_close(probs, scores.sigmoid())


def test_sigmoid_loss_sums_classes_and_averages_boxes():
    logits, labels = torch.randn(6, K + 1), torch.tensor([0, 1, K, 3, K, 2])
    loss = output_layers(use_sigmoid_ce=True).sigmoid_cross_entropy_loss(logits, labels)
    target = torch.zeros(6, K)
    for row, label in enumerate(labels.tolist()):
        if label < K:
            target[row, label] = 1
    expected = F.binary_cross_entropy_with_logits(logits[:, :K], target, reduction="sum") / 6
    assert_close(loss, expected)


def test_federated_loss_ignores_classes_that_are_not_sampled():
    layers = output_layers(
        use_sigmoid_ce=True,
        use_fed_loss=True,
        fed_loss_num_classes=3,
        # only class 3 can be sampled beside those present
        get_fed_loss_cls_weights=lambda: torch.tensor([1.0, 1, 0, 1]),
    )
    labels = torch.tensor([0, K])
    chosen = layers.get_fed_loss_classes(labels, 4, K, torch.tensor([0.0, 1, 0, 1]))
    assert sorted(chosen.tolist()) == [0, 1, 3, K]
    logits = torch.zeros(2, K + 1, requires_grad=True)
    layers.get_fed_loss_classes = lambda *args: torch.tensor([0, K, 3])
    layers.sigmoid_cross_entropy_loss(logits, labels).backward()
    assert (logits.grad[:, [0, 3]] != 0).all()
    assert (logits.grad[:, [1, 2, K]] == 0).all()


def test_federated_classes_are_at_most_all_classes():
    labels = torch.tensor([2, 2, K])
    chosen = output_layers().get_fed_loss_classes(labels, 50, K, None)
    assert sorted(set(chosen.tolist()) - {K}) == list(range(K))


def test_federated_loss_needs_sigmoid_and_fitting_weights():
    with pytest.raises(ValueError, match="use_sigmoid_ce=True"):
        output_layers(use_fed_loss=True)
    with pytest.raises(ValueError, match="3 class weights for 4 classes"):
        output_layers(
            use_fed_loss=True,
            use_sigmoid_ce=True,
            get_fed_loss_cls_weights=lambda: torch.ones(3),
        )


def test_convention_subclasses_override_single_steps():
    calls = []

    class Custom(FastRCNNOutputLayers):
        def predict_probs(self, predictions, proposals):
            calls.append("probs")
            return super().predict_probs(predictions, proposals)

        def predict_boxes(self, predictions, proposals):
            calls.append("boxes")
            return super().predict_boxes(predictions, proposals)

        def box_reg_loss(self, proposal_boxes, gt_boxes, pred_deltas, gt_classes):
            calls.append("box_loss")
            return pred_deltas.sum() * 0

        def sigmoid_cross_entropy_loss(self, pred_class_logits, gt_classes):
            calls.append("class_loss")
            return pred_class_logits.sum() * 0

    layers = Custom(
        8, box2box_transform=Box2BoxTransform((1.0,) * 4), num_classes=K, use_sigmoid_ce=True
    )
    proposals = labelled_proposals(4)
    layers.inference(layers(torch.randn(4, 8)), proposals)
    layers.losses(layers(torch.randn(4, 8)), proposals)
    assert sorted(calls) == ["box_loss", "boxes", "class_loss", "probs"]


# ---- metrics and what was removed


def test_classification_metrics_have_the_names_dashboards_know():
    logits = torch.full((4, K + 1), -5.0)
    for row, predicted in enumerate([0, K, 2, K]):
        logits[row, predicted] = 5.0
    with EventStorage() as storage:
        _log_classification_stats(logits, torch.tensor([0, 1, 3, K]))
        latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest == {
        "fast_rcnn/cls_accuracy": 0.5,
        "fast_rcnn/fg_cls_accuracy": pytest.approx(1 / 3),
        "fast_rcnn/false_negative": pytest.approx(1 / 3),
    }


def test_without_objects_only_the_overall_accuracy_is_logged():
    with EventStorage() as storage:
        _log_classification_stats(torch.eye(K + 1)[[K, 0]], torch.tensor([K, K]), "stage1")
        assert {name: value for name, (value, _) in storage.latest().items()} == {
            "stage1/cls_accuracy": 0.5
        }


def test_losses_need_no_event_storage():
    losses = output_layers().losses(
        (torch.randn(4, K + 1), torch.randn(4, K * 4)), labelled_proposals(4)
    )
    assert set(losses) == {"loss_cls", "loss_box_reg"}


def test_the_removed_class_can_be_imported_and_says_what_to_use():
    with pytest.raises(RuntimeError, match="FastRCNNOutputLayers"):
        FastRCNNOutputs(Box2BoxTransform((1.0,) * 4), None, None, [])


def test_federated_weights_come_from_the_training_datasets(monkeypatch):
    asked = {}

    def weights(dataset_names, freq_weight_power):
        asked.update(names=dataset_names, power=freq_weight_power)
        return torch.arange(1.0, K + 1)

    monkeypatch.setattr("detectron2.data.detection_utils.get_fed_loss_cls_weights", weights)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("rare_things",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = K
    assert not hasattr(FastRCNNOutputLayers(cfg, ShapeSpec(channels=8)), "fed_loss_cls_weights")
    assert asked == {}
    cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = True
    layers = FastRCNNOutputLayers(cfg, ShapeSpec(channels=8))
    assert asked == {"names": ("rare_things",), "power": 0.5}
    assert layers.state_dict()["fed_loss_cls_weights"].tolist() == [1, 2, 3, 4]


def test_scores_of_a_half_precision_head_are_float32():
    proposals = labelled_proposals(4)
    scores = torch.randn(4, K + 1).bfloat16()
    for layers in (output_layers(), output_layers(use_sigmoid_ce=True)):
        (probs,) = layers.predict_probs((scores, None), proposals)
        assert probs.dtype == torch.float32
