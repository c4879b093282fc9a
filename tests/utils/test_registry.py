import pytest
import torch
from torch import nn

from detectron2.utils.registry import Registry, _convert_target_to_string, locate


class Outer:
    class Inner:
        pass


def test_registered_objects_are_found_by_name():
    registry = Registry("TEST_PARTS")

    @registry.register()
    class Part:
        pass

    registry.register(int)
    assert registry.get("Part") is Part
    assert registry.get("int") is int
    assert "Part" in registry
    assert "Whole" not in registry
    assert [name for name, _ in registry] == ["Part", "int"]


def test_convention_registry_is_the_class_of_fvcore():
    from fvcore.common.registry import Registry as FvcoreRegistry

    assert Registry is FvcoreRegistry


def test_an_unknown_name_is_a_key_error_and_a_second_one_an_assertion():
    registry = Registry("TEST_PARTS")
    registry.register(int)
    with pytest.raises(KeyError, match="float"):
        registry.get("float")
    with pytest.raises(AssertionError, match="already registered"):
        registry.register(int)


@pytest.mark.parametrize(
    "target",
    [nn.Linear, torch.optim.SGD, len, dict, Outer.Inner, nn.Linear.forward],
    ids=lambda target: target.__qualname__,
)
def test_paths_lead_back_to_the_object(target):
    assert locate(_convert_target_to_string(target)) is target


def test_convention_the_shortest_path_is_written():
    from detectron2.data.transforms import RandomCrop

    assert _convert_target_to_string(nn.Linear) == "torch.nn.Linear"
    assert _convert_target_to_string(torch.optim.SGD) == "torch.optim.SGD"
    assert _convert_target_to_string(RandomCrop) == "detectron2.data.transforms.RandomCrop"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("nothing.here", "no module 'nothing'"),
        ("torch.nn.Nothing", "'torch.nn' has no attribute 'Nothing'"),
        ("torch..nn", "not a dotted path"),
        ("", "not a dotted path"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ends(path, sentence):
    with pytest.raises(ImportError, match=sentence):
        locate(path)


def test_a_module_that_fails_to_import_is_not_reported_as_absent(tmp_path, monkeypatch):
    (tmp_path / "needs_a_ghost.py").write_text("import ghost_library\n")
    (tmp_path / "divides_by_zero.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match="'ghost_library' is not installed"):
        locate("needs_a_ghost.Thing")
    with pytest.raises(ImportError, match="ZeroDivisionError"):
        locate("divides_by_zero.Thing")
