import pytest
import torch
from torch.testing import assert_close

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_proposal_generator, build_rpn_head
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, RRPN, StandardRPNHead
from detectron2.structures import Boxes, ImageList, Instances, RotatedBoxes
from detectron2.utils.events import EventStorage

SIZES = [(64, 96), (48, 64)]


def make(**kwargs):
    arguments = {
        "in_features": ["p3", "p4"],
        "head": StandardRPNHead(in_channels=4, num_anchors=3),
        "anchor_generator": DefaultAnchorGenerator(
            sizes=[[16.0], [32.0]], aspect_ratios=[[0.5, 1.0, 2.0]], strides=[8, 16]
        ),
        "anchor_matcher": Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        "box2box_transform": Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        "batch_size_per_image": 32,
        "positive_fraction": 0.5,
        "pre_nms_topk": (60, 30),
        "post_nms_topk": (20, 10),
    }
    return RPN(**{**arguments, **kwargs})


def images():
    return ImageList(torch.zeros(2, 3, 64, 96), SIZES)


def features(seed=0):
    torch.manual_seed(seed)
    return {"p3": torch.randn(2, 4, 8, 12), "p4": torch.randn(2, 4, 4, 6)}


def targets(empty=False):
    boxes = [[[10.0, 10, 30, 40], [50, 5, 90, 60]], [[5, 5, 40, 40]]]
    boxes = [torch.tensor(rows)[: 0 if empty else None] for rows in boxes]
    return [Instances(size, gt_boxes=Boxes(rows)) for size, rows in zip(SIZES, boxes)]


def test_inference_returns_proposals_and_no_losses():
    proposals, losses = make().eval()(images(), features())
    assert losses == {}
    assert [p.image_size for p in proposals] == SIZES
    for found, (height, width) in zip(proposals, SIZES):
        assert len(found) == 10
        assert (found.objectness_logits.diff() <= 0).all()
        corners = found.proposal_boxes.tensor
        assert (corners >= 0).all()
        assert (corners[:, [0, 2]] <= width).all() and (corners[:, [1, 3]] <= height).all()


def test_training_returns_losses_and_proposals_without_gradient():
    rpn = make().train()
    with EventStorage() as storage:
        proposals, losses = rpn(images(), features(), targets())
    assert sorted(losses) == ["loss_rpn_cls", "loss_rpn_loc"]
    sum(losses.values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in rpn.parameters())
    assert not proposals[0].proposal_boxes.tensor.requires_grad
    assert not proposals[0].objectness_logits.requires_grad
    latest = {name: value for name, (value, _) in storage.latest().items()}
    positive, negative = latest["rpn/num_pos_anchors"], latest["rpn/num_neg_anchors"]
    assert positive > 0
    assert positive + negative == 32


def test_training_needs_ground_truth():
    with pytest.raises(ValueError, match="pass gt_instances"):
        make().train()(images(), features())


def test_an_image_without_objects_has_only_negatives():
    rpn = make().train()
    anchors = rpn.anchor_generator(list(features().values()))
    labels, boxes = rpn.label_and_sample_anchors(anchors, targets(empty=True))
    assert {*labels[0].tolist()} == {-1, 0}
    assert (labels[0] == 0).sum() == 32
    assert (boxes[0] == 0).all()
    with EventStorage():
        _, losses = rpn(images(), features(), targets(empty=True))
    sum(losses.values()).backward()
    assert losses["loss_rpn_loc"] == 0


def all_sampled(**kwargs):
    return make(batch_size_per_image=10**6, positive_fraction=1.0, **kwargs)


def test_every_object_has_a_positive_anchor_matched_to_it():
    rpn = all_sampled()
    anchors = rpn.anchor_generator(list(features().values()))
    labels, boxes = rpn.label_and_sample_anchors(anchors, targets())
    for image, instances in enumerate(targets()):
        matched = boxes[image][labels[image] == 1]
        for row in instances.gt_boxes.tensor:
            assert (matched == row).all(dim=1).any()
    assert labels[0].dtype == torch.int8


@pytest.mark.parametrize("threshold", [0.0, 8.0])
def test_anchors_that_leave_the_image_take_no_part(threshold):
    rpn = all_sampled(anchor_boundary_thresh=threshold)
    anchors = rpn.anchor_generator(list(features().values()))
    labels, _ = rpn.label_and_sample_anchors(anchors, targets())
    for image, size in enumerate(SIZES):
        inside = Boxes.cat(anchors).inside_box(size, threshold)
        assert (labels[image][~inside] == -1).all()
        assert (labels[image][inside] != -1).any()


def test_losses_are_the_formula():
    rpn = all_sampled(loss_weight={"loss_rpn_cls": 2.0, "loss_rpn_loc": 3.0})
    anchors = [Boxes(torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 20], [5, 5, 15, 15]]))]
    logits = [torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.0, 4.0]])]
    deltas = [torch.zeros(2, 3, 4)]
    labels = list(torch.tensor([[1, 0, -1], [-1, -1, 0]], dtype=torch.int8))
    gt = [torch.tensor([[1.0, 0, 11, 10], [0, 0, 0, 0], [0, 0, 0, 0]]), torch.zeros(3, 4)]
    with EventStorage():
        losses = rpn.losses(anchors, logits, labels, deltas, gt)
    objectness = torch.nn.functional.softplus(torch.tensor([-1.0, -2.0, 4.0])).sum()
    samples = 2 * 10**6  # two images
    assert_close(losses["loss_rpn_cls"] * samples, 2 * objectness)
    assert_close(losses["loss_rpn_loc"] * samples, torch.tensor(3 * 0.1))


def test_predictions_belong_to_the_anchor_of_their_cell():
    class Head(torch.nn.Module):
        def forward(self, maps):
            logits = [torch.zeros(2, 3, *x.shape[2:]) for x in maps]
            deltas = [torch.zeros(2, 12, *x.shape[2:]) for x in maps]
            logits[1][1, 2, 1, 4] = 5.0  # third anchor of a cell in row 1, column 4
            deltas[1][1, 2 * 4 + 0, 1, 4] = 0.5  # half a width to the right
            return logits, deltas

    rpn = make(head=Head()).eval()
    proposals, _ = rpn(ImageList(torch.zeros(2, 3, 64, 96), [(64, 96)] * 2), features())
    anchor = rpn.anchor_generator.cell_anchors[1][2] + torch.tensor([4.5, 1.5, 4.5, 1.5]) * 16
    half_width = (anchor[2] - anchor[0]) / 2
    expected = anchor + half_width * torch.tensor([1.0, 0, 1, 0])
    border = torch.tensor([96.0, 64, 96, 64])
    assert proposals[1].objectness_logits[0] == 5
    assert_close(proposals[1].proposal_boxes.tensor[0], expected.clamp(min=0).minimum(border))


def test_proposals_are_the_decoded_anchors_of_the_highest_logits():
    rpn = make(nms_thresh=1.0, pre_nms_topk=(9, 9), post_nms_topk=(18, 18)).eval()
    maps = list(features().values())
    anchors = rpn.anchor_generator(maps)
    torch.manual_seed(0)
    logits = [torch.randn(2, len(level)) for level in anchors]
    deltas = [torch.randn(2, len(level), 4) * 0.1 for level in anchors]
    found = rpn.predict_proposals(anchors, logits, deltas, [(64, 96)] * 2)
    for image in range(2):
        rows = []
        for level in range(2):
            best = logits[level][image].topk(9).indices
            boxes = rpn.box2box_transform.apply_deltas(
                deltas[level][image][best], anchors[level].tensor[best]
            )
            rows.append(torch.cat([logits[level][image][best, None], boxes], dim=1))
        expected = torch.cat(rows)
        expected = expected[expected[:, 0].argsort(descending=True)]
        boxes = Boxes(expected[:, 1:])
        boxes.clip((64, 96))
        wanted = boxes.nonempty()
        assert_close(found[image].objectness_logits, expected[wanted, 0])
        assert_close(found[image].proposal_boxes.tensor, boxes.tensor[wanted])


def test_decoding_takes_anchors_of_all_images_or_of_each():
    rpn = make()
    anchors = rpn.anchor_generator(list(features().values()))
    deltas = [torch.randn(2, len(level), 4) for level in anchors]
    shared = rpn._decode_proposals(anchors, deltas)
    own = rpn._decode_proposals([Boxes.cat([level, level]) for level in anchors], deltas)
    assert [tuple(x.shape) for x in shared] == [(2, len(level), 4) for level in anchors]
    for one, other in zip(shared, own):
        assert_close(one, other)


def test_diverged_predictions_stop_training_and_are_dropped_at_test_time():
    rpn = make()
    broken = features()
    broken["p3"][0, :, 2, 3] = float("nan")
    with EventStorage(), pytest.raises(FloatingPointError, match="infinite or NaN"):
        rpn.train()(images(), broken, targets())
    proposals, _ = rpn.eval()(images(), broken)
    assert all(p.proposal_boxes.tensor.isfinite().all() for p in proposals)
    assert len(proposals[0]) > 0


@pytest.mark.parametrize(
    "conv_dims, names, channels",
    [
        ([-1], ["conv"], 4),
        ([6], ["conv"], 6),
        ([6, -1], ["conv.conv0", "conv.conv1"], 6),
        ([-1, 5], ["conv.conv0", "conv.conv1"], 5),
    ],
)
def test_head_convolutions(conv_dims, names, channels):
    head = StandardRPNHead(in_channels=4, num_anchors=2, box_dim=5, conv_dims=conv_dims)
    state = head.state_dict()
    assert [f"{name}.weight" in state for name in names] == [True] * len(names)
    assert len(state) == 2 * len(names) + 4
    assert head.anchor_deltas.weight.shape == (10, channels, 1, 1)
    logits, deltas = head([torch.rand(2, 4, 5, 6), torch.rand(2, 4, 3, 3)])
    assert [tuple(x.shape) for x in (*logits, *deltas)] == [
        (2, 2, 5, 6), (2, 2, 3, 3), (2, 10, 5, 6), (2, 10, 3, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("conv_dims", [[], [0], [-2]])
def test_head_refuses_bad_dimensions(conv_dims):
    with pytest.raises(ValueError, match="conv_dims is"):
        StandardRPNHead(in_channels=4, num_anchors=2, conv_dims=conv_dims)


def test_head_of_a_config_needs_levels_that_are_alike():
    cfg = get_cfg()
    with pytest.raises(ValueError, match=r"not \[4, 8\]"):
        build_rpn_head(cfg, [ShapeSpec(channels=4, stride=4), ShapeSpec(channels=8, stride=8)])


def test_rpn_is_built_from_a_config():
    cfg = get_cfg()
    cfg.MODEL.RPN.LOSS_WEIGHT = 2.0
    cfg.MODEL.RPN.BBOX_REG_LOSS_WEIGHT = 3.0
    rpn = build_proposal_generator(cfg, {"res4": ShapeSpec(channels=8, stride=16)})
    assert type(rpn) is RPN
    assert rpn.pre_nms_topk == {True: 12000, False: 6000}
    assert rpn.post_nms_topk == {True: 2000, False: 1000}
    assert rpn.loss_weight == {"loss_rpn_cls": 2.0, "loss_rpn_loc": 6.0}
    assert rpn.anchor_matcher.allow_low_quality_matches
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    assert build_proposal_generator(cfg, {}) is None


def rotated():
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"),
            *("MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[16, 32]]),
            *("MODEL.ANCHOR_GENERATOR.ANGLES", [[0, 60]]),
            *("MODEL.RPN.BBOX_REG_WEIGHTS", (1, 1, 1, 1, 1)),
            *("MODEL.RPN.PRE_NMS_TOPK_TEST", 40),
            *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 40),
        ]
    )
    return cfg, {"res4": ShapeSpec(channels=4, stride=16)}


def test_rotated_boxes_are_proposed_and_trained():
    cfg, shapes = rotated()
    rrpn = build_proposal_generator(cfg, shapes)
    maps = {"res4": features()["p4"]}
    gt = [
        Instances(size, gt_boxes=RotatedBoxes(torch.tensor([[30.0, 30, 30, 20, 50]])))
        for size in SIZES
    ]
    with EventStorage():
        proposals, losses = rrpn.train()(images(), maps, gt)
    sum(losses.values()).backward()
    assert losses["loss_rpn_loc"] > 0
    assert isinstance(proposals[0].proposal_boxes, RotatedBoxes)
    proposals, losses = rrpn.eval()(images(), maps)
    assert losses == {} and len(proposals) == 2


def test_rotated_anchors_cannot_be_left_out_at_the_border():
    cfg, shapes = rotated()
    cfg.MODEL.RPN.BOUNDARY_THRESH = 0
    with pytest.raises(NotImplementedError, match="anchor_boundary_thresh is 0"):
        RRPN(cfg, shapes)
