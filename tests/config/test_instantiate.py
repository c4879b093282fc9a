"""Objects from descriptions."""

from dataclasses import dataclass

import pytest
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.config.instantiate import InstantiateError, dump_dataclass


@dataclass
class Point:
    x: int = 0
    y: int | None = None


@dataclass
class Line:
    ends: list
    name: str = "line"


def test_call_is_made_with_its_arguments():
    layer = instantiate(L(nn.Linear)(in_features=3, out_features="${.in_features}", bias=False))
    assert (layer.in_features, layer.out_features, layer.bias) == (3, 3, None)


def test_arguments_and_items_of_lists_are_built_first():
    assert instantiate(L(pow)(base=L(pow)(base=2, exp=3), exp=2)) == 64
    assert instantiate([L(pow)(base=2, exp=3), 5]) == [8, 5]
    built = instantiate(OmegaConf.create([L(nn.ReLU)()], flags={"allow_objects": True}))
    assert isinstance(built, ListConfig) and isinstance(built[0], nn.ReLU)


def test_target_may_be_a_path_or_a_description():
    assert instantiate({"_target_": "torch.nn.ReLU"}).__class__ is nn.ReLU
    chosen = {
        "_target_": {"_target_": "detectron2.utils.registry.locate", "name": "torch.nn.Linear"}
    }
    assert instantiate({**chosen, "in_features": 1, "out_features": 2}).out_features == 2


@pytest.mark.parametrize("value", [5, "text", None, {"a": 1}, nn.ReLU(), (1, 2)])
def test_what_is_no_description_comes_back_as_it_is(value):
    assert instantiate(value) is value


def test_dataclass_may_be_a_target_or_a_value():
    described = L(Point)(x=1, y=2)
    assert isinstance(described._target_, str)
    assert instantiate(described) == Point(1, 2)
    config = L(keep)(point=Point(3))
    assert isinstance(config.point, DictConfig)
    assert instantiate(config) == Point(3)


def keep(point):
    return point


def test_dataclass_survives_being_described():
    line = Line(ends=[Point(1), Point(2, 3)])
    described = dump_dataclass(line)
    assert described["_target_"].endswith("Line")
    assert instantiate(described) == line
    for wrong in (Point, 3):
        with pytest.raises(AssertionError, match="instance of a dataclass"):
            dump_dataclass(wrong)


def test_wrong_argument_is_named_with_its_place_and_the_nearest_name():
    config = L(nn.Sequential)(layer=L(nn.Linear)(in_feature=3, out_features=2))
    with pytest.raises(
        TypeError,
        match=r"Linear \(at 'layer' of the config\).*'in_feature'; did you mean 'in_features'",
    ):
        instantiate(config)
    with pytest.raises(TypeError, match="missing a required argument: 'out_features'"):
        instantiate(L(nn.Linear)(in_features=3))


class Base:
    def __init__(self, *, width=1):
        self.width = width


class Heir(Base):
    def __init__(self, *, depth=1, **kwargs):
        super().__init__(**kwargs)


def test_wrong_argument_that_is_passed_on_is_named():
    with pytest.raises(InstantiateError, match=r"Heir has no argument 'widht', nor does its Base"):
        instantiate(L(Heir)(depth=2, widht=3))


def test_error_inside_the_target_keeps_its_type():
    def fail():
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        instantiate({"_target_": fail})


def test_target_that_cannot_be_called_or_found_is_explained():
    with pytest.raises(TypeError, match="'torch.float32' is a dtype, not callable"):
        instantiate({"_target_": "torch.float32"})
    with pytest.raises(ImportError, match="nothing"):
        instantiate({"_target_": "torch.nothing"})
    with pytest.raises(TypeError, match="LazyCall needs a callable"):
        L(3)


def test_object_that_is_built_already_may_stand_in_a_config():
    weight = torch.ones(2)
    assert instantiate(L(keep)(point=weight)) is weight
