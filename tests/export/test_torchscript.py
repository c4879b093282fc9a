import importlib
import io
import warnings
from typing import List  # noqa: UP035

import pytest
import torch
from small_models import picture, small_model
from torch import Tensor, nn

from detectron2.export import (
    STABLE_ONNX_OPSET_VERSION,
    TracingAdapter,
    add_export_config,
    dump_torchscript_IR,
    scripting_with_instances,
)
from detectron2.export._scripted_boxes import script_boxes
from detectron2.export.api import Caffe2Model, Caffe2Tracer
from detectron2.export.torchscript_patch import freeze_training_mode, patch_instances
from detectron2.structures import Boxes, Instances, RotatedBoxes
from detectron2.utils.testing import assert_instances_allclose, convert_scripted_instances

FIELDS = {"pred_boxes": Boxes, "scores": Tensor, "pred_classes": Tensor, "pred_masks": Tensor}


def inputs(*sizes):
    pictures = [picture(*size, seed=number) for number, size in enumerate(sizes)]
    return [{"image": torch.from_numpy(x.transpose(2, 0, 1)).float()} for x in pictures]


def reloaded(module):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(module, buffer)
        buffer.seek(0)
        return torch.jit.load(buffer)


@torch.no_grad()
def test_a_scripted_mask_rcnn_takes_any_batch_and_survives_a_file():
    model = small_model("Mask R-CNN FPN")
    scripted = reloaded(scripting_with_instances(model, FIELDS))
    for batch in (inputs((96, 128), (72, 96)), inputs((64, 64))):
        expected = model.inference(batch, do_postprocess=False)
        found = scripted.inference(batch, do_postprocess=False)
        assert len(expected[0]) > 0
        for mine, theirs in zip(found, expected):
            assert isinstance(mine.pred_boxes, Boxes)
            assert_instances_allclose(convert_scripted_instances(mine), theirs, rtol=1e-4)


@torch.no_grad()
def test_a_scripted_retinanet_returns_boxes_before_postprocessing():
    model = small_model("RetinaNet")
    scripted = scripting_with_instances(model, FIELDS)
    batch = inputs((96, 128), (72, 96))
    for mine, theirs in zip(scripted(batch), model(batch)):
        assert torch.allclose(mine.scores, theirs["instances"].scores, atol=1e-5)
        assert torch.equal(mine.pred_classes, theirs["instances"].pred_classes)


def test_scripting_says_what_is_missing():
    model = small_model("RetinaNet")
    with pytest.raises(ValueError, match="predicts 'pred_classes', but the fields"):
        scripting_with_instances(model, {"pred_boxes": Boxes, "scores": Tensor})
    with pytest.raises(AssertionError, match="evaluation mode"):
        scripting_with_instances(model.train(), FIELDS)


@torch.no_grad()
def test_backbones_can_be_scripted():
    backbone = small_model("Mask R-CNN FPN").backbone
    x = torch.randn(2, 3, 64, 96)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(backbone)
        with pytest.raises(RuntimeError, match="evaluation mode"):
            torch.jit.script(backbone.train())
    found, expected = scripted(x), backbone.eval()(x)
    assert list(found) == list(expected)
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in found)


class UsesInstances(nn.Module):
    def forward(self, boxes: Tensor, threshold: float) -> List[Instances]:  # noqa: UP006
        found = Instances((30, 40))
        found.pred_boxes = Boxes(boxes)
        found.scores = boxes[:, 0]
        assert found.has("scores") and not found.has("crops")
        found.pred_boxes.clip((30, 40))
        best = found[found.scores > threshold]
        return [found, best, found.cat([found, best]).to(boxes.device)]


def test_scripted_instances_do_what_instances_do():
    boxes = torch.tensor([[1.0, 2, 50, 60], [5, 6, 7, 8]])
    fields = {"pred_boxes": Boxes, "scores": Tensor, "crops": List[Tensor]}  # noqa: UP006
    with patch_instances(fields) as new_class, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found, best, both = torch.jit.script(UsesInstances())(boxes, 2.0)
        copied = new_class.from_instances(Instances((3, 4), scores=torch.ones(2)))
    assert found.pred_boxes.tensor.tolist() == [[1, 2, 40, 30], [5, 6, 7, 8]]
    assert best.get_fields()["pred_boxes"].tolist() == [[5, 6, 7, 8]]
    assert len(both) == 3 and both.image_size == (30, 40)
    assert len(copied) == 2 and copied.has("scores") and not copied.has("pred_boxes")
    with pytest.raises(AssertionError, match="no field 'crops'"):
        _ = found.crops
    with pytest.raises(NotImplementedError, match="have no length"):
        len(new_class((3, 4)))
    assert not hasattr(Instances, "_jit_override_qualname")


def upright(rows: Tensor) -> List[Tensor]:  # noqa: UP006
    boxes = Boxes(rows).clone().to(rows.device)
    boxes.clip((40, 50))
    boxes.scale(2.0, 3.0)
    large = boxes[boxes.area() > 300.0]
    inside = boxes.inside_box((100, 90), 2)
    return [boxes.tensor, large.tensor, boxes.nonempty(5.0), inside, boxes.get_centers()]


def rotated(rows: Tensor) -> List[Tensor]:  # noqa: UP006
    boxes = RotatedBoxes(rows).clone().to(rows.device)
    boxes.clip((40, 50))
    boxes.scale(2.0, 3.0)
    large = boxes[boxes.area() > 300.0]
    return [boxes.tensor, large.tensor, boxes.nonempty(5.0), boxes.get_centers()]


@pytest.mark.parametrize("function", [upright, rotated], ids=lambda each: each.__name__)
def test_scripted_boxes_do_what_boxes_do(function):
    rows = torch.rand(
        9, 4 if function is upright else 5, generator=torch.Generator().manual_seed(0)
    )
    rows = rows * 40
    if function is upright:
        rows[:, 2:] += rows[:, :2]
    script_boxes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = torch.jit.script(function)(rows)
    for mine, theirs in zip(found, function(rows), strict=True):
        assert torch.equal(mine, theirs) and len(mine) > 0


def test_two_kinds_of_scripted_instances_do_not_disturb_each_other():
    def scores(x: Instances) -> Tensor:
        return x.scores

    for fields in ({"scores": Tensor}, {"scores": Tensor, "pred_boxes": Boxes}):
        with patch_instances(fields) as new_class, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            read = torch.jit.script(scores)
            found = new_class.from_instances(Instances((3, 4), scores=torch.arange(2.0)))
            assert read(found).tolist() == [0.0, 1.0]


def test_the_training_mode_is_frozen_only_within_the_block():
    model = nn.Sequential(nn.ReLU())
    with freeze_training_mode(model):
        assert "training" in nn.Sequential.__dict__["__annotations__"]
    assert "training" not in nn.Sequential.__dict__.get("__annotations__", {})


def test_code_and_graphs_are_written_as_text(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(
            nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), torch.ones(1, 1, 2, 2)
        )
        function = torch.jit.trace(lambda x: x + 1, torch.ones(2))
    dump_torchscript_IR(traced, str(tmp_path / "module"))
    dump_torchscript_IR(function, str(tmp_path / "function"))
    texts = ["model_ts_IR.txt", "model_ts_IR_inlined.txt", "model_ts_code.txt"]
    assert sorted(p.name for p in (tmp_path / "function").iterdir()) == texts
    assert sorted(p.name for p in (tmp_path / "module").iterdir()) == ["model.txt", *texts]
    assert all(p.stat().st_size > 0 for p in tmp_path.glob("*/*"))
    assert "aten::_convolution" in (tmp_path / "module" / "model_ts_IR_inlined.txt").read_text()


@torch.no_grad()
def test_a_traced_detector_holds_for_another_size_with_and_without_pasted_masks():
    model = small_model("Mask R-CNN FPN")

    def run(model, image):
        return model.inference([{"image": image}], do_postprocess=False)[0]

    def run_and_paste(model, image):
        height, width = image.shape[1:]
        batch = [{"image": image, "height": height * 2, "width": width * 2}]
        return model.inference(batch)[0]["instances"]

    # Not divisible by the stride: the network's input is padded, the results are not.
    first, second = (x["image"] for x in inputs((64, 80), (90, 128)))
    for function in (run, run_and_paste):
        adapter = TracingAdapter(model, first, function)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            traced = torch.jit.trace(adapter, (first,), check_trace=False)
        found = adapter.outputs_schema(traced(second))
        assert_instances_allclose(found, function(model, second), rtol=1e-4, size_as_tensor=True)


@pytest.mark.parametrize("module", ["c10", "shared", "caffe2_export", "caffe2_patch"])
def test_modules_of_caffe2_say_what_replaces_them(module):
    with pytest.raises(ImportError, match=f"{module} was removed. Caffe2 is not part of PyTorch"):
        importlib.import_module(f"detectron2.export.{module}")


def test_names_of_caffe2_say_what_replaces_them():
    assert STABLE_ONNX_OPSET_VERSION >= 17
    for use in (
        lambda: Caffe2Tracer(None, None, None),
        lambda: Caffe2Model(None, None),
        lambda: Caffe2Model.load_protobuf("folder"),
    ):
        with pytest.raises(RuntimeError, match=r"use detectron2.export.export\(model, 'onnx'"):
            use()
    with pytest.warns(DeprecationWarning, match="no effect"):
        assert add_export_config("cfg") == "cfg"
