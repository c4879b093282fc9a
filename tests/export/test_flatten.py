import json
import warnings

import pytest
import torch
from torch import nn

from detectron2.config.instantiate import dump_dataclass, instantiate
from detectron2.export import TracingAdapter
from detectron2.export.flatten import DictSchema, IdentitySchema, ListSchema, flatten_to_tuple
from detectron2.structures import Boxes, Instances, ROIMasks


def instances():
    return Instances((5, 8), scores=torch.ones(1), pred_boxes=Boxes(torch.ones(1, 4)))


def trace(adapter, *inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(adapter, inputs, check_trace=False)


def test_nested_objects_survive_a_round_trip():
    obj = [3, ([5, 6], {"name": [7, 9], "b": 3}), "text", b"bytes", None]
    leaves, schema = flatten_to_tuple(obj)
    assert leaves == (3, 5, 6, 3, 7, 9, "text", b"bytes", None)
    assert schema(leaves) == obj


def test_schemas_compare_by_value_and_survive_json():
    leaves, schema = flatten_to_tuple([1, {"a": (2, 3)}])
    again = instantiate(json.loads(json.dumps(dump_dataclass(schema))))
    assert again == schema == flatten_to_tuple(schema(leaves))[1]
    assert again(leaves) == [1, {"a": (2, 3)}]


def test_convention_instances_are_flattened_by_field_name_and_the_size_comes_last():
    leaves, schema = flatten_to_tuple(instances())
    boxes, scores, size = leaves
    assert boxes.shape == (1, 4) and scores.shape == (1,) and size.tolist() == [5, 8]
    rebuilt = schema(leaves)
    assert isinstance(rebuilt.pred_boxes, Boxes) and rebuilt.image_size is size


def test_leaves_are_the_same_tensors():
    size, masks, boxes = torch.tensor([3, 4]), torch.ones(2, 3), Boxes(torch.ones(2, 4))
    leaves, _ = flatten_to_tuple(Instances(size, pred_masks=masks, pred_boxes=boxes))
    assert leaves[0] is boxes.tensor and leaves[1] is masks and leaves[2] is size


def test_objects_around_one_tensor_come_back_as_their_class():
    leaves, schema = flatten_to_tuple((ROIMasks(torch.ones(2, 3, 3)),))
    assert isinstance(schema(leaves)[0], ROIMasks)


def test_wrong_numbers_of_leaves_are_refused():
    with pytest.raises(AssertionError, match="Values has length 1 but expect length 2"):
        ListSchema([IdentitySchema(), IdentitySchema()], [1, 1])((3,))
    with pytest.raises(ValueError, match="do not fit 1 schemas"):
        ListSchema([IdentitySchema()], [1, 1])((3, 4))
    with pytest.raises(KeyError, match="if keys are str"):
        DictSchema.flatten({1: 2})


class Model(nn.Module):
    def forward(self, inputs):
        found = Instances(inputs[0]["image"].shape[-2:])
        found.pred_boxes = Boxes(inputs[0]["image"][0, :, :4] * 2)
        return [{"instances": found}]


def test_a_traced_adapter_follows_the_size_of_its_input():
    adapter = TracingAdapter(nn.DataParallel(Model()), [{"image": torch.ones(3, 5, 6)}])
    traced = trace(adapter, *adapter.flattened_inputs)
    run = adapter._create_wrapper(traced)
    found = run([{"image": torch.full((3, 7, 9), 4.0)}])[0]["instances"]
    assert found.image_size.tolist() == [7, 9]
    assert found.pred_boxes.tensor.tolist() == [[8.0] * 4] * 7


def test_what_is_no_tensor_is_refused_unless_allowed():
    class AddSize(nn.Module):
        def forward(self, image, size):
            return {"sum": image + size, "size": size}

    inputs = (torch.ones(2), 3)
    with pytest.raises(ValueError, match=r"must only contain tensors. Got int instead"):
        TracingAdapter(AddSize(), inputs)
    adapter = TracingAdapter(AddSize(), inputs, allow_non_tensor=True)
    assert [x.tolist() for x in adapter(*adapter.flattened_inputs)] == [[4.0, 4.0]]
    assert adapter.inputs_schema is None and adapter.outputs_schema is None
    with pytest.raises(ValueError, match="cannot generalize to other inputs"):
        adapter(torch.ones(2))
    strict = TracingAdapter(AddSize(), (torch.ones(2),), lambda m, x: m(x, 3))
    with pytest.raises(ValueError, match="some model outputs cannot flatten to tensors"):
        strict(torch.ones(2))


def test_outputs_of_another_structure_are_refused():
    def sometimes(model, x):
        return [x] if x.sum() > 0 else [x, x]

    adapter = TracingAdapter(nn.Identity(), torch.ones(2), sometimes)
    adapter(torch.ones(2))
    with pytest.raises(AssertionError, match="outputs with the same structure"):
        adapter(-torch.ones(2))
