import logging
import os

import numpy as np
import pytest
import torch
from torch import nn

from detectron2.engine import HookBase, SimpleTrainer
from detectron2.engine._diagnosis import bad_gradients, box_statistics, diagnosis, first_bad_tensor
from detectron2.engine._step_guard import StepGuard
from detectron2.engine._trainer_base import DiagnosedError, NotFiniteError
from detectron2.engine.bad_batch import load_batch, save_batch
from detectron2.structures import (
    BitMasks,
    Boxes,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
)


class Model(nn.Module):
    """Batch normalization of the inputs, so that a bad input spoils its averages."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.layer = nn.Linear(2, 1)
        self.root = False

    def forward(self, batch):
        result = self.layer(self.norm(torch.stack([x["values"] for x in batch])))
        # The gradient of a root at zero is infinite, its value is not.
        loss = (result * 0).sqrt().mean() if self.root else result.square().mean()
        return {"loss": loss}


def batches(bad=()):
    generator = torch.Generator().manual_seed(0)
    for i in range(1000):
        values = torch.rand(4, 2, generator=generator)
        if i in bad:
            values[1, 1] = float("nan")
        yield [{"values": v, "file_name": f"{i}_{k}.png"} for k, v in enumerate(values)]


def trainer_of(tmp_path, bad=(), window=50, **options):
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    trainer = SimpleTrainer(model, batches(bad), optimizer, **options)
    trainer.guard = StepGuard(str(tmp_path), window)
    return trainer


def test_a_bad_step_is_skipped_and_changes_nothing(tmp_path, caplog):
    trainer = trainer_of(tmp_path, bad=[3])
    states = []

    class Look(HookBase):
        def after_step(self):
            states.append({k: v.clone() for k, v in trainer.model.state_dict().items()})

    trainer.register_hooks([Look()])
    with caplog.at_level(logging.WARNING):
        trainer.train(0, 6)
    for name, value in states[2].items():
        if "num_batches" not in name:
            assert torch.equal(value, states[3][name]), name
    assert not torch.equal(states[5]["layer.weight"], states[3]["layer.weight"])
    assert torch.isfinite(trainer.model.norm.running_mean).all()
    assert trainer.storage.latest()["skipped_steps"] == (1.0, 3)
    assert [at for _, at in trainer.storage.history("total_loss").values()] == [0, 1, 2, 4, 5]
    assert "The step is skipped" in caplog.text
    saved = load_batch(str(tmp_path / "bad_batches" / "iteration_0000003_rank0.pth"))
    assert [record["file_name"] for record in saved["batches"][0]][0] == "3_0.png"
    assert torch.isnan(saved["batches"][0][1]["values"][1])


def test_gradients_that_are_not_finite_count_too(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.model.root = True
    with pytest.raises(NotFiniteError) as error:
        trainer.train(0, 5)
    assert trainer.iter == 1
    assert "norm of the gradients is nan at iteration 1" in str(error.value)
    assert "nearest to the loss: layer.bias" in str(error.value)


def test_an_error_of_the_model_about_its_numbers_is_a_bad_step(tmp_path):
    trainer = trainer_of(tmp_path)
    forward = trainer.model.forward

    def fail(batch):
        if trainer.iter in (1, 4):
            raise FloatingPointError("All proposals are NaN.")
        return forward(batch)

    trainer.model.forward = fail
    with pytest.raises(NotFiniteError, match="All proposals are NaN. Iterations 1, 4 were bad"):
        trainer.train(0, 9)


def test_the_budget_is_one_step_of_a_window(tmp_path):
    trainer_of(tmp_path, bad=[3, 60]).train(0, 70)
    with pytest.raises(NotFiniteError, match="Iterations 3, 20 were bad, and one in 50") as error:
        trainer_of(tmp_path, bad=[3, 20]).train(0, 70)
    text = str(error.value)
    for part in ("result of norm (BatchNorm1d)", "20_0.png, 20_1.png", "Gradient norms so far: "):
        assert part in text
    assert "debug-batch" in text and "iteration_0000003_rank0.pth" in text


def test_convention_without_a_guard_the_first_bad_loss_is_an_error(tmp_path):
    trainer = trainer_of(tmp_path, bad=[3])
    trainer.guard = None
    with pytest.raises(FloatingPointError, match="not finite at iteration 3") as error:
        trainer.train(0, 6)
    assert not isinstance(error.value, DiagnosedError)


def test_a_diagnosis_is_logged_without_a_traceback(tmp_path, caplog):
    with pytest.raises(NotFiniteError):
        trainer_of(tmp_path, bad=[1, 2]).train(0, 6)
    assert "Traceback" not in caplog.text and not any(r.exc_info for r in caplog.records)


@pytest.mark.parametrize(
    ("rate", "part"), [(0.004, "not the likely reason"), (1e6, "2e+08 times too high")]
)
def test_the_learning_rate_is_compared_with_the_batch_size(tmp_path, rate, part):
    trainer = trainer_of(tmp_path, bad=[0])
    trainer.optimizer.param_groups[0]["lr"] = rate
    trainer.train(0, 1)
    assert part in diagnosis(trainer, [next(batches())], trainer.storage, [])


def test_a_spoiled_parameter_is_named_first():
    model = Model()
    nn.init.constant_(model.layer.bias, float("inf"))
    assert first_bad_tensor(model, next(batches())).startswith("parameter layer.bias")


def test_a_loss_that_is_not_finite_by_itself_is_named():
    class Overflow(nn.Linear):
        def forward(self, batch):
            return {"loss_a": self.weight.sum(), "loss_b": (self.weight + 1e30).square().sum()}

    assert first_bad_tensor(Overflow(2, 2), []).startswith("loss_b, although every layer's")


def test_the_largest_gradient_is_named():
    model = nn.Linear(2, 1)
    assert bad_gradients(model) == "there are none yet."
    model.weight.grad, model.bias.grad = torch.ones(1, 2), torch.tensor([3e38])
    assert bad_gradients(model) == "all 2 are finite; the largest, 3e+38, is of bias."


def test_boxes_are_described():
    boxes = torch.tensor([[0.0, 0, 10, 5], [3, 3, 3, 9], [0, 0, float("nan"), 1]])
    records = [{"instances": Instances((9, 9), gt_boxes=Boxes(boxes))}, {}]
    text = "3, 1 not finite, 1 without area; 0.0 to 10.0 wide and 5.0 to 6.0 high (pixels)."
    assert box_statistics(records) == text
    assert box_statistics([{}]) == "none in the batch."


def test_structures_survive_in_a_file(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.iter = 7
    instances = Instances((6, 8))
    instances.gt_boxes = Boxes(torch.rand(2, 4))
    instances.gt_rotated = RotatedBoxes(torch.rand(2, 5))
    instances.gt_masks = PolygonMasks([[np.array([0.0, 0, 1, 0, 1, 1])], [np.arange(8.0)]])
    instances.gt_bits = BitMasks(torch.rand(2, 6, 8) > 0.5)
    instances.gt_keypoints = Keypoints(torch.rand(2, 3, 3))
    instances.gt_classes = torch.tensor([1, 2])
    record = {"image": torch.rand(3, 6, 8), "instances": instances, "width": 8, "other": object()}
    path = str(tmp_path / "batch.pth")
    save_batch(path, trainer, [[record]], {}, "")
    ((read,),) = load_batch(path)["batches"]
    assert torch.equal(read["image"], record["image"]) and read["other"] is None
    fields = read["instances"].get_fields()
    assert list(fields) == list(instances.get_fields())
    for name in ("gt_boxes", "gt_rotated", "gt_bits", "gt_keypoints"):
        assert torch.equal(fields[name].tensor, instances.get(name).tensor)
        assert type(fields[name]) is type(instances.get(name))
    assert (fields["gt_masks"].polygons[1][0] == np.arange(8.0)).all()


def test_a_folder_that_cannot_be_written_to_does_not_hide_the_diagnosis(tmp_path, caplog):
    (tmp_path / "bad_batches").write_text("a file")
    trainer_of(tmp_path, bad=[2]).train(0, 4)
    assert "could not be saved" in caplog.text
    assert os.listdir(tmp_path) == ["bad_batches"]


def test_a_loop_that_records_late_has_no_guard(tmp_path):
    trainer = trainer_of(tmp_path, bad=[2], async_write_metrics=True)
    with pytest.raises(FloatingPointError, match="not finite at iteration 2"):
        trainer.train(0, 9)
    assert os.listdir(tmp_path) == []
