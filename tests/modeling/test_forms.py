"""The switch between counted and fixed forms; test_training_waits.py holds that they agree."""

import pytest
import torch
from tiny_models import ARCHITECTURES, MASK, from_yaml, images
from torch.testing import assert_close

from detectron2.layers import batched_nms, batched_nms_rotated
from detectron2.modeling._forms import fixed_form, in_two_forms
from detectron2.modeling.proposal_generator import proposal_utils
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import Boxes, RotatedBoxes
from detectron2.utils.events import EventStorage
from host_waits import FAR, host_waits


@in_two_forms(fixed=lambda tensors, count=1: ("fixed", count))
def which(tensors, count=1):
    return "counted", count


def test_the_device_of_the_first_tensor_decides():
    near = torch.zeros(1)
    with host_waits():
        far = near.to(FAR, non_blocking=True)
        assert which([far]) == ("fixed", 1) and which((near, far), count=2) == ("counted", 2)
    assert which([]) == ("counted", 1)


def test_the_form_can_be_asked_for_in_a_block():
    tensor = torch.zeros(1)
    with fixed_form(True):
        assert which(tensor)[0] == "fixed"
        with fixed_form(None):
            assert which(tensor)[0] == "counted"
        assert which(tensor)[0] == "fixed"
    with host_waits(), fixed_form(False):
        assert which(tensor.to(FAR, non_blocking=True))[0] == "counted"


class Sampler:
    def one(self, labels):
        return "ordinary step"

    def together(self, labels):
        return "fixed"

    @in_two_forms(fixed=together, skips=[one])
    def all(self, labels):
        return self.one(labels)


class OwnSampler(Sampler):
    def one(self, labels):
        return "step of the subclass"


def test_convention_a_step_that_somebody_replaced_is_called_on_every_device():
    labels, patched = torch.zeros(1), Sampler()
    patched.one = lambda labels: "step of the object"
    with fixed_form(True):
        assert Sampler().all(labels) == "fixed"
        assert OwnSampler().all(labels) == "step of the subclass"
        assert patched.all(labels) == "step of the object"


@pytest.mark.parametrize(
    ("owner", "step"), [(RPN, "_subsample_labels"), (ROIHeads, "_sample_proposals")]
)
def test_convention_own_sampling_of_a_subclass_runs_on_every_device(owner, step, monkeypatch):
    calls = []
    ordinary = getattr(owner, step)

    def own(self, *args):
        calls.append(step)
        return ordinary(self, *args)

    model = from_yaml(MASK)(0.05).train()
    part = model.proposal_generator if owner is RPN else model.roi_heads
    monkeypatch.setattr(part, "__class__", type("Own", (type(part),), {step: own}))
    samples = images(ARCHITECTURES["FPN"])
    with EventStorage(), fixed_form(True):
        model(samples)
    assert len(calls) == len(samples)


def test_suppression_by_a_function_of_somebody_else_keeps_its_form():
    calls = []

    def own(boxes, scores, groups, threshold):
        calls.append(len(boxes))
        return batched_nms(boxes, scores, groups, threshold)

    boxes = torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]]])
    candidates = proposal_utils.Candidates(
        boxes,
        logits=torch.tensor([[0.1, 0.5, 0.3]]),
        groups=torch.zeros(1, 3, dtype=torch.long),
        usable=torch.ones(1, 3, dtype=torch.bool),
    )
    with fixed_form(True):
        results = [
            proposal_utils.suppress(Boxes, nms, candidates, [(40, 40)], 0.5, 10)[0]
            for nms in (own, batched_nms)
        ]
    assert calls == [3]
    for result in results:
        assert_close(result.objectness_logits, torch.tensor([0.5, 0.3]))


@pytest.mark.parametrize("box_type", [Boxes, RotatedBoxes])
def test_both_forms_of_suppression_keep_the_same_proposals(box_type):
    random = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, 2, 40, 2, generator=random) * 30
    angle = torch.rand(2, 40, 1, generator=random) * 360
    is_rotated = box_type is RotatedBoxes
    boxes = torch.cat([corner, size, angle] if is_rotated else [corner, corner + size], dim=2)
    logits = (torch.rand(2, 40, generator=random) * 20).round()  # many are equal
    groups = torch.tensor([[0], [3]]) + torch.randint(3, (2, 40), generator=random)
    usable = torch.rand(2, 40, generator=random) > 0.2
    candidates = proposal_utils.Candidates(boxes, logits, groups, usable)
    nms = batched_nms_rotated if is_rotated else batched_nms
    sizes = [(60, 60), (50, 60)]
    counted, fixed = [], []
    for wanted, found in ((False, counted), (True, fixed)):
        with fixed_form(wanted):
            found += proposal_utils.suppress(box_type, nms, candidates, sizes, 0.3, 8)
    for first, second in zip(counted, fixed, strict=True):
        assert len(first) == 8 and first.image_size == second.image_size
        assert torch.equal(first.proposal_boxes.tensor, second.proposal_boxes.tensor)
        assert torch.equal(first.objectness_logits, second.objectness_logits)
