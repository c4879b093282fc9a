import unittest

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detectron2.config import LazyCall
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances, ROIMasks, RotatedBoxes
from detectron2.utils import testing
from detectron2.utils.testing import (
    assert_instances_allclose,
    convert_scripted_instances,
    get_sample_coco_image,
    has_dynamic_axes,
    random_boxes,
    register_custom_op_onnx_export,
    reload_lazy_config,
    reload_script_model,
    skipIfUnsupportedMinOpsetVersion,
    skipIfUnsupportedMinTorchVersion,
    unregister_custom_op_onnx_export,
)


def instances(**changes):
    fields = {
        "pred_boxes": Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 50.0, 50.0]])),
        "scores": torch.tensor([0.9, 0.5]),
        "pred_classes": torch.tensor([3, 7]),
        "pred_masks": ROIMasks(torch.zeros(2, 4, 4)),
    }
    return Instances((60, 60), **{**fields, **changes})


def test_equal_instances_are_close():
    assert_instances_allclose(instances(), instances())
    nearly = Boxes(instances().pred_boxes.tensor + 5e-4)
    assert_instances_allclose(instances(), instances(pred_boxes=nearly))
    assert_instances_allclose(instances(), instances(scores=torch.tensor([0.9, 0.5]) + 1e-6))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pred_boxes": Boxes(torch.ones(2, 4))}, "pred_boxes"),
        ({"scores": torch.tensor([0.9, 0.51])}, "scores"),
        ({"pred_classes": torch.tensor([3, 8])}, "pred_classes"),
        ({"pred_masks": ROIMasks(torch.ones(2, 4, 4))}, "pred_masks"),
        ({"extra": torch.zeros(2)}, "fields differ"),
    ],
)
def test_a_difference_is_named(changes, named):
    with pytest.raises(AssertionError, match=f"after export: .*{named}"):
        assert_instances_allclose(instances(), instances(**changes), msg="after export")


def test_sizes_are_compared_as_they_are_or_as_numbers():
    other = instances()
    other._image_size = tuple(torch.tensor(side) for side in other.image_size)
    assert_instances_allclose(instances(), other, size_as_tensor=True)
    with pytest.raises(AssertionError, match="image_size"):
        assert_instances_allclose(instances(), Instances((60, 61)))


def test_fields_without_a_tolerance_are_refused():
    with pytest.raises(ValueError, match="'names' has type list"):
        assert_instances_allclose(instances(names=["a", "b"]), instances(names=["a", "b"]))


def test_random_boxes_have_an_area():
    boxes = random_boxes(50, max_coord=3)
    assert boxes.shape == (50, 4)
    assert (boxes[:, 2:] - boxes[:, :2] >= 1 - 1e-6).all()
    assert (boxes >= 0).all()
    assert random_boxes(0).shape == (0, 4)


def test_a_model_of_the_zoo_without_weights():
    model = testing.get_model_no_weights("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    assert isinstance(model, nn.Module)
    if not torch.cuda.is_available():
        assert next(model.parameters()).device.type == "cpu"


@pytest.mark.parametrize("online", [False, True])
def test_the_sample_image_is_a_dataset_s_first_or_comes_from_the_network(
    online, tmp_path, monkeypatch
):
    path = tmp_path / "first.png"
    Image.fromarray(np.full((5, 6, 3), (10, 20, 30), dtype=np.uint8)).save(path)
    listed = tmp_path / "absent.png" if online else path
    monkeypatch.setattr(
        DatasetCatalog, "get", lambda name: [{"file_name": str(listed)}], raising=False
    )
    monkeypatch.setattr(testing.PathManager, "get_local_path", lambda uri: str(path))
    image = get_sample_coco_image()
    assert image.shape == (3, 5, 6)
    assert image[:, 0, 0].tolist() == [30.0, 20.0, 10.0]
    assert get_sample_coco_image(tensor=False).shape == (5, 6, 3)


def test_scripted_instances_become_ordinary_ones():
    class Scripted:
        image_size = (60, 60)

        def get_fields(self):
            return {"pred_boxes": torch.ones(1, 4), "proposal_boxes": torch.ones(1, 5)}

    found = convert_scripted_instances(Scripted())
    assert isinstance(found, Instances)
    assert isinstance(found.pred_boxes, Boxes)
    assert isinstance(found.proposal_boxes, RotatedBoxes)
    assert found.image_size == (60, 60)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_scripted_modules_survive_being_saved():
    scripted = torch.jit.trace(nn.Linear(2, 3), torch.ones(1, 2))
    x = torch.rand(4, 2)
    assert torch.equal(reload_script_model(scripted)(x), scripted(x))


def test_lazy_configs_survive_being_saved():
    from omegaconf import OmegaConf

    cfg = OmegaConf.create({"model": LazyCall(nn.Linear)(in_features=2, out_features=3), "x": [1]})
    again = reload_lazy_config(cfg)
    assert again.x == [1]
    assert testing.instantiate(again.model).out_features == 3


class Axis:
    def __init__(self, value=0, name=""):
        self.dim_value = value
        self.dim_param = name


def onnx_like(*outputs):
    """An object with the fields of an ONNX model that hold the shapes of its outputs."""

    def wrap(value, *names):
        for name in reversed(names):
            value = type(name, (), {name: value})()
        return value

    each = [wrap(axes, "type", "tensor_type", "shape", "dim") for axes in outputs]
    return wrap(each, "graph", "output")


def test_dynamic_axes_are_wanted_in_every_output():
    fixed, named = [Axis(3), Axis(4)], [Axis(name="boxes"), Axis(4)]
    assert has_dynamic_axes(onnx_like(named))
    assert has_dynamic_axes(onnx_like(named, [Axis(0), Axis(4)]))
    assert not has_dynamic_axes(onnx_like(named, fixed))


def test_onnx_ops_are_registered_for_old_versions_only(monkeypatch):
    calls = []
    for name in ("register_custom_op_symbolic", "unregister_custom_op_symbolic"):
        monkeypatch.setattr(torch.onnx, name, lambda *args, name=name: calls.append((name, *args)))
    register_custom_op_onnx_export("aten::x", len, 14, "1.0")
    unregister_custom_op_onnx_export("aten::x", 14, "1.0")
    assert calls == []
    register_custom_op_onnx_export("aten::x", len, 14, "999.0")
    unregister_custom_op_onnx_export("aten::x", 14, "999.0")
    assert calls == [
        ("register_custom_op_symbolic", "aten::x", len, 14),
        ("unregister_custom_op_symbolic", "aten::x", 14),
    ]


@pytest.mark.parametrize(
    ("decorator", "runs"),
    [
        (skipIfUnsupportedMinTorchVersion("1.0"), True),
        (skipIfUnsupportedMinTorchVersion("999.0"), False),
        (skipIfUnsupportedMinOpsetVersion(11, 12), True),
        (skipIfUnsupportedMinOpsetVersion(13, 12), False),
    ],
)
def test_tests_are_skipped_where_they_cannot_run(decorator, runs):
    @decorator
    def test():
        return "ran"

    if runs:
        assert test() == "ran"
    else:
        with pytest.raises(unittest.SkipTest):
            test()


def test_slow_tests_are_skipped_on_ci_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CI", raising=False)
    assert testing.skipIfOnCPUCI(lambda: "ran")() == "ran"
    monkeypatch.setenv("CI", "1")
    with pytest.raises(unittest.SkipTest):
        testing.skipIfOnCPUCI(lambda: "ran")()
