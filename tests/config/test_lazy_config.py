"""Python configs: loading, overriding, saving."""

import functools
import sys
import textwrap

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate


@pytest.fixture
def configs(tmp_path):
    """Writes config files; returns the path of the one named in the call."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / (name.replace("__", "/") + ".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return str(tmp_path / "top.py")

    return write


def test_top_level_dicts_are_the_config(configs):
    top = configs(top="import math\na = dict(x=1)\nb = 3\n_hidden = dict(x=2)\nlist_ = [1]\n")
    cfg = LazyConfig.load(top)
    assert isinstance(cfg, DictConfig) and list(cfg) == ["a"]
    assert LazyConfig.load(top, "b") == 3
    a, values = LazyConfig.load(top, ("a", "list_"))
    assert a.x == 1 and values == [1]


def test_relative_imports_give_nodes_that_are_not_shared(configs):
    top = configs(
        base__data="data = dict(k=dict(a=1))\nnumber = 7\n",
        base__model="from .data import data\ndata.k.a = 2\nmodel = dict(d=data)\n",
        top="from .base.data import data, number\nfrom .base.model import model\n"
        "data.k.a += 10\nout = dict(n=number)\n",
    )
    cfg = LazyConfig.load(top)
    assert (cfg.data.k.a, cfg.model.d.k.a, cfg.out.n) == (11, 2, 7)


def test_two_loads_share_nothing(configs):
    top = configs(top="a = dict(x=[1])\n")
    LazyConfig.load(top).a.x.append(2)
    assert LazyConfig.load(top).a.x == [1]


def test_dots_climb_folders_and_star_takes_all_names(configs):
    top = configs(
        shared="x = dict(v=1)\n",
        sub__inner="from ..shared import *\nx.v += 1\n",
        top="from .sub.inner import x as y\n",
    )
    assert LazyConfig.load(top).y.v == 2


def test_import_inside_a_function_of_a_config_still_works(configs):
    top = configs(
        other="v = 5\n",
        top="def f():\n    from .other import v\n    return v\nout = dict(v=f())\n",
    )
    assert LazyConfig.load(top).out.v == 5


def test_convention_the_import_system_is_left_alone(configs):
    import builtins

    original, modules = builtins.__import__, set(sys.modules)
    LazyConfig.load(configs(other="a = dict(x=1)\n", top="from .other import a\n"))
    assert builtins.__import__ is original
    assert not {name for name in set(sys.modules) - modules if "_lazy_config" in name}


def test_dataclass_can_be_defined_in_a_config(configs):
    top = configs(
        top="""
        from __future__ import annotations
        from dataclasses import dataclass

        @dataclass
        class Point:
            x: int = 1

        point = dict(x=Point().x)
        """
    )
    assert LazyConfig.load(top).point.x == 1


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("from .nofile import x\n", ImportError, "top.py' imports '.nofile'.*does not exist"),
        ("from . import x\n", ImportError, "relative import"),
        ("from .sub import x\n", ImportError, "it is a folder"),
        ("from .sub.inner import nope\n", ImportError, "no such name; it has v"),
        ("from .top import x\n", ImportError, "circle"),
        ("x = (\n", SyntaxError, "top.py' is no valid Python, line 1"),
        ("from nopackage import x\n", ModuleNotFoundError, "nopackage"),
    ],
)
def test_mistakes_name_the_file(configs, text, error, message):
    top = configs(sub__inner="v = 1\n", top=text)
    with pytest.raises(error, match=message):
        LazyConfig.load(top)


def test_error_in_a_config_shows_its_line(configs):
    top = configs(top="x = 1\ny = x.nothing\n")
    with pytest.raises(AttributeError) as error:
        LazyConfig.load(top)
    last = error.traceback[-1]
    assert str(last.path).endswith("top.py") and last.lineno + 1 == 2


def test_missing_name_and_wrong_ending_are_explained(configs, tmp_path):
    top = configs(top="a = dict(x=1)\n")
    with pytest.raises(KeyError, match="no 'b'; it has"):
        LazyConfig.load(top, "b")
    with pytest.raises(ValueError, match="must end in .py"):
        LazyConfig.load(str(tmp_path / "x.json"))


def test_load_rel_starts_at_the_calling_file(configs):
    # This file is not beside the config, so the path leads from here to there.
    import os

    top = configs(top="a = dict(x=1)\n")
    relative = os.path.relpath(top, os.path.dirname(__file__))
    assert LazyConfig.load_rel(relative).a.x == 1
    assert LazyConfig.load_rel(relative, "a").x == 1
    with pytest.raises(RuntimeError, match="in no folder"):
        eval("LazyConfig.load_rel('x.py')")


# --- overrides ------------------------------------------------------------------------------


def small_config():
    return OmegaConf.create(
        {"a": {"b": 1, "c": [1, 2]}, "fc": L(torch.nn.Linear)(in_features=3, out_features=4)},
        flags={"allow_objects": True},
    )


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("a.b=7", "a.b", 7),
        ("a.b=0.5", "a.b", 0.5),
        ("a.b='7'", "a.b", "7"),
        ("a.b=text", "a.b", "text"),
        ("a.b=true", "a.b", True),
        ("a.b=null", "a.b", None),
        ("a.c=[5,6]", "a.c", [5, 6]),
        ("a.c='(1, 2)'", "a.c", "(1, 2)"),
        ("+a.d=1", "a.d", 1),
        ("++a.b=7", "a.b", 7),
        ("a.c.0=9", "a.c", [9, 2]),
        ("a.b=int(3.0)", "a.b", 3),
        ("a.b=", "a.b", ""),
        ("a.d=${a.b}", "a.d", 1),
        ("new.x.y=1", "new.x.y", 1),
        ("a={e: 2}", "a.e", 2),
        ("fc.in_features=9", "fc.in_features", 9),
    ],
)
def test_override_sets_a_value(word, key, value):
    cfg = small_config()
    assert LazyConfig.apply_overrides(cfg, [word]) is cfg
    assert OmegaConf.select(cfg, key) == value


def test_override_deletes_an_entry():
    for word in ("~a.b", "~a.b=1"):
        cfg = LazyConfig.apply_overrides(small_config(), [word])
        assert "b" not in cfg.a
    with pytest.raises(KeyError, match="no such entry"):
        LazyConfig.apply_overrides(cfg, ["~a.nothing"])


@pytest.mark.parametrize(
    ("word", "error", "message"),
    [
        ("a.b.c=1", KeyError, "'a.b' is 1, not a group"),
        ("a.b", ValueError, "not understood"),
        ("a.b=1,2", ValueError, "several values"),
        ("a@x=1", ValueError, "'@'"),
        ("~a.b=2", KeyError, "it is 1, not 2"),
        ("~nothing.b=2", KeyError, "no such entry"),
    ],
)
def test_bad_override_is_explained(word, error, message):
    with pytest.raises(error, match=message):
        LazyConfig.apply_overrides(small_config(), [word])


# --- saving ---------------------------------------------------------------------------------


def test_saved_config_builds_the_same_objects(tmp_path):
    cfg = OmegaConf.create(
        {
            "fc": L(torch.nn.Linear)(in_features=3, out_features="${.in_features}"),
            "activation": L(hold)(value=torch.nn.ReLU),
            "norm": L(hold)(value=functools.partial(torch.nn.LayerNorm, eps=1e-6)),
            "dtype": L(hold)(value=torch.float16),
            "plain": {"text": "ä", "numbers": (1, 2.5, None)},
        },
        flags={"allow_objects": True},
    )
    path = str(tmp_path / "saved.yaml")
    LazyConfig.save(cfg, path)
    back = LazyConfig.load(path)
    assert back.fc._target_ == "torch.nn.Linear"
    assert LazyConfig.load(path, "plain") == {"text": "ä", "numbers": [1, 2.5, None]}
    back.fc.in_features = 5
    assert instantiate(back.fc).out_features == 5
    assert instantiate(back.activation) is torch.nn.ReLU
    assert instantiate(back.dtype) is torch.float16
    assert instantiate(back.norm)(2).eps == 1e-6
    assert not (tmp_path / "saved.yaml.pkl").exists()


def hold(value):
    return value


def test_lambda_cannot_be_saved_and_says_so_when_it_is_built(tmp_path, caplog):
    cfg = OmegaConf.create({"f": L(hold)(value=lambda x: x), "n": 1}, flags={"allow_objects": True})
    path = str(tmp_path / "saved.yaml")
    LazyConfig.save(cfg, path)
    assert "test_lazy_config.py" in caplog.text
    assert (tmp_path / "saved.yaml.pkl").exists()
    back = LazyConfig.load(path)
    assert back.n == 1
    with pytest.raises(ValueError, match="which text cannot hold"):
        instantiate(back.f)


def test_tags_of_older_saved_configs_are_read_without_running_them(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(
        "act: {_target_: tests.hold, value: !!python/name:torch.nn.ReLU ''}\n"
        "norm: !!python/object/apply:functools.partial\n"
        "  args: [&f !!python/name:torch.nn.LayerNorm '']\n"
        "  state: !!python/tuple [*f, !!python/tuple [], {eps: 1.0e-06}, null]\n"
    )
    cfg = LazyConfig.load(str(path))
    assert instantiate(cfg.act.value) is torch.nn.ReLU
    assert instantiate(cfg.norm)(2).eps == 1e-6


def test_convention_a_saved_config_never_runs_code_when_it_is_read(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"a: !!python/object/apply:os.mkdir ['{tmp_path}/ran']\n")
    with pytest.raises(ValueError, match="would run code"):
        LazyConfig.load(str(path))
    assert not (tmp_path / "ran").exists()


def test_python_text_reads_like_assignments():
    cfg = OmegaConf.create(
        {
            "model": L(torch.nn.Linear)(in_features=3, out_features=4, act=torch.nn.ReLU),
            "train": {"name": 'a"b', "steps": [1, 2], "empty": {}},
            "long": L(hold)(value=["x" * 60, {"y": "z" * 60}]),
        },
        flags={"allow_objects": True},
    )
    assert LazyConfig.to_py(cfg) == textwrap.dedent(
        """\
        cfg.model = torch.nn.Linear(in_features=3, out_features=4, act=torch.nn.ReLU)
        cfg.train.name = "a\\"b"
        cfg.train.steps = [1, 2]
        cfg.train.empty = {}
        cfg.long = HOLD(
            value=[
                "XXX",
                {"y": "ZZZ"},
            ],
        )
        """
    ).replace("HOLD", f"{hold.__module__}.hold").replace("XXX", "x" * 60).replace("ZZZ", "z" * 60)


def test_saved_config_that_is_no_yaml_is_named_with_its_line(tmp_path):
    path = tmp_path / "cut.yaml"
    path.write_text("a: 1\nb: [2,\n")
    with pytest.raises(ValueError, match="cut.yaml' is no valid YAML, line 3"):
        LazyConfig.load(str(path))
