import pytest
import torch
from torch import fx, nn

from detectron2.utils.develop import create_dummy_class, create_dummy_func
from detectron2.utils.torch_version_utils import min_torch_version
from detectron2.utils.tracing import assert_fx_safe, is_fx_tracing, is_fx_tracing_legacy


class Checks(nn.Module):
    def forward(self, x):
        self.seen = is_fx_tracing(), is_fx_tracing_legacy()
        assert_fx_safe("x.sum() > 0", "no positive value")
        return x + 1


def test_tracing_is_noticed_and_the_check_is_left_out():
    model = Checks()
    graph = fx.symbolic_trace(model)
    assert model.seen == (True, True)
    assert graph(torch.tensor([-1.0])).item() == 0.0
    model(torch.ones(1))
    assert model.seen == (False, False)


def test_conditions_are_checked_when_nothing_is_traced():
    bound = 3
    assert assert_fx_safe(bound > 2, "unused").tolist() == [1.0]
    assert assert_fx_safe("bound > 2", "unused").tolist() == [1.0]
    with pytest.raises(AssertionError, match="bound is too small"):
        assert_fx_safe("bound > 4", "bound is too small")
    with pytest.raises(AssertionError, match="no positive value"):
        Checks()(torch.zeros(1))


def test_a_dummy_class_can_be_mentioned_but_not_used():
    dummy = create_dummy_class("Deformable", "a_library", "It is optional.")
    assert dummy.__name__ == "Deformable"
    assert isinstance(dummy, type)
    sentence = "'Deformable' needs a_library.*It is optional."
    with pytest.raises(ImportError, match=sentence):
        dummy(3, x=4)
    with pytest.raises(ImportError, match=sentence):
        dummy.build  # noqa: B018


def test_a_dummy_function_raises_when_called():
    dummy = create_dummy_func("forward", ["one", "two"])
    with pytest.raises(ImportError, match="'forward' needs one, two"):
        dummy()


def test_versions_are_compared_as_numbers(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.10.0a0+git123")
    assert min_torch_version("2.9")
    assert min_torch_version("2.10")
    assert not min_torch_version("2.11")
