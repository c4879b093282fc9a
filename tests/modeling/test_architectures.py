"""What every architecture promises, on narrow models: training, batching, images with nothing."""

import pytest
import torch
from tiny_models import ARCHITECTURES, SIZES, images
from torch.testing import assert_close

from detectron2.config import get_cfg
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.structures import Boxes, Instances, RotatedBoxes
from detectron2.utils.events import EventStorage

STEPS = 20
NEVER = 1.1  # no score is above
# One knob apart from an architecture whose training is always tested.
VARIANTS = {
    "DC5",
    "ResNeXt",
    "GN",
    "LN",
    "deformable v1",
    "torch SyncBN",
    "BN",
    "class-agnostic",
    "diou",
    "ciou",
    "Fast R-CNN",
    "RetinaNet, GIoU",
    "RetinaNet, cycled BN",
    "RegNetX",
    "RegNetY",
    "SyncBN",
    "deformable v2",
    "giou",
    "LVIS",
    "MViT",
    "implicit PointRend",
    "semantic PointRend",
}
every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def build(name, threshold=0.0):
    torch.manual_seed(0)
    return ARCHITECTURES[name].build(threshold)


def total_loss(model, batch):
    torch.manual_seed(1)  # the same anchors and proposals are sampled every time
    if hasattr(model, "loss_normalizer"):  # a running mean, with which the loss drifts
        del model.loss_normalizer
    with EventStorage(0):
        return sum(model(batch).values())


def without_gradient(model):
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and (parameter.grad is None or not parameter.grad.isfinite().all())
    ]


@every_architecture
def test_every_parameter_gets_a_finite_gradient_with_and_without_objects(name):
    model = build(name).train()
    annotated, empty = images(ARCHITECTURES[name]), images(ARCHITECTURES[name], objects=0)
    for batch in (annotated, empty, [annotated[0], empty[1]]):
        model.zero_grad()
        loss = total_loss(model, batch)
        loss.backward()
        assert loss.isfinite()
        assert without_gradient(model) == []


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in VARIANTS)) for n in ARCHITECTURES],
)
def test_loss_of_a_fixed_batch_falls(name):
    model = build(name).train()
    batch = images(ARCHITECTURES[name])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(STEPS):
        loss = total_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) / 3 < 0.8 * losses[0], losses


# --- inference ------------------------------------------------------------------------------


@every_architecture
def test_a_batch_of_two_sizes_gives_what_each_image_gives_alone(name):
    model = build(name).eval()
    first, second = images(ARCHITECTURES[name])
    together = infer(model, [first, second])
    if model.backbone.size_divisibility > 1:
        alone = infer(model, [first]) + infer(model, [second])
    else:
        # Padding up to the larger image reaches the convolutions at the border, so the canvas
        # has to be the same; what else is on it does not matter.
        alone = [
            infer(model, [first, blank(second)])[0],
            infer(model, [blank(first), second])[1],
        ]
    assert set(together[0]) == ARCHITECTURES[name].output
    for one, other, (height, width) in zip(together, alone, SIZES):
        assert sizes_of(one) == {(2 * height, 2 * width)}
        assert_close(tensors(one), tensors(other), rtol=1e-3, atol=1e-3)


@every_architecture
def test_results_without_detections_are_whole(name):
    architecture = ARCHITECTURES[name]
    model = build(name, NEVER).eval()
    some = {k for r in infer(build(name).eval(), images(architecture)) for k in fields(r)}
    for result in infer(model, images(architecture, objects=0)):
        assert set(result) == architecture.output
        assert fields(result) == some
        if "instances" in result:
            assert len(result["instances"]) == 0
        if "panoptic_seg" in result:
            assert not any(segment["isthing"] for segment in result["panoptic_seg"][1])


@pytest.mark.parametrize("threshold", [0.0, NEVER])
@pytest.mark.parametrize("name", ["FPN", "cascade", "C4"])
def test_results_are_merged_over_augmentations(name, threshold):
    cfg = get_cfg()
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = (48, 64), 96
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = threshold
    model = GeneralizedRCNNWithTTA(cfg, build(name, threshold).eval())
    for result, (height, width) in zip(infer(model, images(ARCHITECTURES[name])), SIZES):
        found = result["instances"]
        assert (len(found) > 0) == (threshold == 0.0)
        assert found.pred_masks.shape == (len(found), 2 * height, 2 * width)


def infer(model, batch):
    with torch.no_grad():
        return model(batch)


def blank(sample):
    return {**sample, "image": torch.zeros_like(sample["image"])}


def instances_of(result):
    return [value for value in result.values() if isinstance(value, Instances)]


def sizes_of(result):
    sizes = {found.image_size for found in instances_of(result)}
    sizes |= {tuple(result["sem_seg"].shape[-2:])} if "sem_seg" in result else set()
    return sizes


def fields(result):
    return {name for found in instances_of(result) for name in found.get_fields()}


def tensors(result):
    """All numbers of a result, in a fixed order."""
    values = [v for found in instances_of(result) for v in found.get_fields().values()]
    values = [v.tensor if isinstance(v, (Boxes, RotatedBoxes)) else v for v in values]
    # Rounding turns single pixels of a mask over, so areas are compared.
    values = [v.float().mean((1, 2)) if v.dtype == torch.bool else v for v in values]
    return values + [result[name] for name in ("sem_seg",) if name in result]
