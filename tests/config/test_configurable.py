"""Constructors and functions that also take a config."""

import pytest
from omegaconf import OmegaConf

from detectron2.config import CfgNode, configurable

CFG = CfgNode({"X": 5, "Y": 6})


class Part:
    @configurable
    def __init__(self, a, b=2, *, c=3):
        """Docstring of the constructor."""
        self.values = (a, b, c)

    @classmethod
    def from_config(cls, cfg, extra=0):
        return {"a": cfg.X, "b": cfg.Y + extra}


@configurable(from_config=lambda cfg, b=9: {"a": cfg.X, "b": b})
def function(a, b=2, c=3):
    return (a, b, c)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Part(1, c=4), (1, 2, 4)),
        (lambda: Part(CFG), (5, 6, 3)),
        (lambda: Part(cfg=CFG), (5, 6, 3)),
        (lambda: Part(CFG, c=4), (5, 6, 4)),
        (lambda: Part(CFG, b=7), (5, 7, 3)),
        (lambda: Part(CFG, extra=1), (5, 7, 3)),
        (lambda: Part(CFG, 1), (5, 7, 3)),
        (lambda: Part(OmegaConf.create({"X": 1, "Y": 2})), (1, 2, 3)),
    ],
)
def test_class_takes_plain_arguments_a_config_or_both(make, expected):
    assert make().values == expected


def test_function_takes_plain_arguments_a_config_or_both():
    assert function(1) == (1, 2, 3)
    assert function(CFG) == (5, 9, 3)
    assert function(CFG, b=1, c=8) == (5, 1, 8)
    assert function.from_config(CFG) == {"a": 5, "b": 9}


def test_signature_and_docstring_are_kept():
    assert Part.__init__.__doc__ == "Docstring of the constructor."
    assert function.__name__ == "function"


def test_subclass_translates_for_its_base():
    class Wider(Part):
        @configurable
        def __init__(self, a, b, d=1):
            super().__init__(a, b)
            self.d = d

        @classmethod
        def from_config(cls, cfg):
            return {**super().from_config(cfg), "d": 42}

    assert Wider(CFG).values == (5, 6, 3) and Wider(CFG).d == 42


def test_old_style_subclass_hands_the_config_on_under_any_name():
    class Old(Part):
        def __init__(self, config, note):
            super().__init__(config)
            self.note = note

    assert Old(CFG, "n").values == (5, 6, 3)


def test_from_config_may_take_everything():
    class Greedy:
        @configurable
        def __init__(self, a):
            self.a = a

        @classmethod
        def from_config(cls, cfg, *args, **kwargs):
            return {"a": (cfg.X, args, kwargs)}

    assert Greedy(CFG, 1, a=2).a == (5, (1,), {"a": 2})


def test_class_without_from_config_is_explained():
    class Bare:
        @configurable
        def __init__(self, a):
            pass

    with pytest.raises(AttributeError, match="Bare.*no classmethod 'from_config'"):
        Bare(CFG)


def test_from_config_must_be_a_classmethod_whose_first_argument_is_cfg():
    class NoClassmethod:
        @configurable
        def __init__(self, a):
            pass

        def from_config(self, cfg):
            return {}

    class OtherName:
        @configurable
        def __init__(self, a):
            pass

        @classmethod
        def from_config(cls, config):
            return {}

    with pytest.raises(TypeError, match="must be a classmethod"):
        NoClassmethod(CFG)
    with pytest.raises(TypeError, match="OtherName must be called 'cfg'"):
        OtherName(CFG)


@pytest.mark.parametrize(
    "call", [lambda: Part(), lambda: Part(CFG, nope=1), lambda: Part(CFG, 1, 2)]
)
def test_wrong_arguments_are_a_type_error(call):
    with pytest.raises(TypeError):
        call()


def test_misuse_of_the_decorator_is_explained():
    with pytest.raises(AssertionError, match="needs a function"):
        configurable(from_config=3)
    with pytest.raises(AssertionError, match="__init__"):
        configurable(lambda a: a)
