"""How often a training step makes the host wait for the device, counted by a make-believe one."""

import pytest
import torch
from tiny_models import ARCHITECTURES, MASK, from_yaml, images

from detectron2.engine import SimpleTrainer
from detectron2.engine._step_guard import StepGuard
from detectron2.structures import PolygonMasks
from detectron2.utils.events import EventStorage
from host_waits import FAR, host_waits


def batch(name, polygons=False):
    samples = images(ARCHITECTURES[name])
    for sample in samples if polygons else ():
        corners = sample["instances"].gt_boxes.tensor[:, [0, 1, 2, 1, 2, 3, 0, 3]]
        sample["instances"].gt_masks = PolygonMasks([[x.double().numpy()] for x in corners])
    return samples


def trainer_of(model, samples, output_dir):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    trainer = SimpleTrainer(model, iter(lambda: samples, None), optimizer)
    trainer.guard = StepGuard(str(output_dir))
    return trainer


def waits_of_a_step(model, samples, output_dir):
    """The waits of the second step, and those of reading the scalars of both."""
    with host_waits() as waits:
        trainer = trainer_of(model.to(FAR), samples, output_dir)
        with EventStorage() as trainer.storage:
            for trainer.iter in (0, 1):
                waits.clear()
                trainer.storage.iter = trainer.iter
                trainer.run_step()
            of_step = list(waits)
            waits.clear()
            scalars = trainer.storage.latest()
        assert trainer.iter == 1 and all(at == 1 for _, at in scalars.values())
        return of_step, list(waits)


@pytest.mark.parametrize(
    ("name", "polygons", "most"),
    # Before samples, losses and statistics stayed on the device: 32, 9 and 24 without polygons.
    [("FPN", False, 4), ("FPN", True, 5), ("RetinaNet", False, 1), ("FCOS", False, 1)],
)
def test_a_step_waits_once_for_the_losses_and_once_for_each_length(name, polygons, most, tmp_path):
    model = ARCHITECTURES[name].build(0.05)
    of_step, of_scalars = waits_of_a_step(model, batch(name, polygons), tmp_path)
    assert len(of_step) == most, "\n".join(map(str, of_step))
    assert len(of_scalars) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "most"),
    [("cascade", 6), ("keypoints", 6), ("C4", 5), ("Panoptic FPN", 4), ("rotated", 4)],
)
def test_other_models_wait_once_for_each_length(name, most, tmp_path):
    test_a_step_waits_once_for_the_losses_and_once_for_each_length(name, False, most, tmp_path)


# Everything is sampled, so that chance has no part.
ALL = {
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 100000,
    "MODEL.RPN.POSITIVE_FRACTION": 1.0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 1000,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
}
MODELS = {
    "FPN": from_yaml(MASK, ALL),
    "RetinaNet": ARCHITECTURES["RetinaNet"].build,
    "FCOS": ARCHITECTURES["FCOS"].build,
}


@pytest.mark.parametrize("name", MODELS)
def test_losses_gradients_and_statistics_are_those_of_the_cpu(name):
    samples = batch(name, polygons=name == "FPN")

    def results(device):
        torch.manual_seed(0)
        model = MODELS[name](0.05).train().to(device)
        with EventStorage() as storage:
            losses = model(samples)
            sum(losses.values()).backward()
            parameters = [(n, p) for n, p in model.named_parameters() if p.grad is not None]
            gradients = {n: p.grad.cpu() for n, p in parameters}
            scalars = {n: torch.tensor(value) for n, (value, _) in storage.latest().items()}
        return {n: loss.detach().cpu() for n, loss in losses.items()}, gradients, scalars

    expected = results("cpu")
    with host_waits():
        actual = results(FAR)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_the_guard_learns_of_bad_proposals_together_with_the_losses(tmp_path):
    model = ARCHITECTURES["FPN"].build(0.05)
    torch.nn.init.constant_(model.proposal_generator.rpn_head.anchor_deltas.bias, torch.nan)
    with host_waits() as waits:
        trainer = trainer_of(model.to(FAR), batch("FPN"), tmp_path)
        skipped = []
        trainer.guard.skip = lambda trainer, batches, error: skipped.append(str(error))
        trainer.optimizer.step = lambda: pytest.fail("the step was not skipped")
        with EventStorage() as trainer.storage:
            trainer.run_step()
    assert len(skipped) == 1 and "predicted proposals are infinite or NaN" in skipped[0]
    assert sum("_loss_record" in str(wait) for wait in waits) == 1
