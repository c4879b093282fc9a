"""Building objects from descriptions: mappings with a ``_target_`` and its arguments."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from detectron2.utils.registry import _convert_target_to_string, locate

__all__ = ["InstantiateError", "dump_dataclass", "instantiate"]

TARGET = "_target_"


class InstantiateError(TypeError, ValueError):
    """A description names arguments that its target does not take, or no callable at all.

    A TypeError as the wrong call would raise it, and a ValueError because the value that is wrong
    stands in a config.
    """


def dump_dataclass(obj: Any) -> dict[str, Any]:
    """Description of a dataclass instance from which `instantiate` builds an equal one.

    Fields that are dataclasses, also inside lists and tuples, are described in the same way.

    Raises:
        AssertionError: `obj` is no instance of a dataclass.
    """
    if not dataclasses.is_dataclass(obj) or isinstance(obj, type):
        raise AssertionError(f"dump_dataclass needs an instance of a dataclass, not {obj!r}.")
    described: dict[str, Any] = {TARGET: _convert_target_to_string(type(obj))}
    for field in dataclasses.fields(obj):
        described[field.name] = _describe(getattr(obj, field.name))
    return described


def _describe(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dump_dataclass(value)
    if isinstance(value, (list, tuple)):
        return [_describe(item) for item in value]
    return value


def instantiate(cfg: Any) -> Any:
    """Call the ``_target_`` of a description with its other entries as keyword arguments.

    Arguments that are descriptions themselves, and the items of lists, are built first.
    ``_target_`` is a callable, a dotted path to one, or a description of one. Everything that is
    no description is returned as it is; a plain mapping is passed on without looking into it.

    Raises:
        InstantiateError: the target cannot be called, or not with these arguments.
        ImportError: the dotted path of the target leads nowhere.
    """
    return _instantiate(cfg, "")


def _instantiate(cfg: Any, path: str) -> Any:
    if isinstance(cfg, ListConfig):
        items = [_instantiate(item, f"{path}[{i}]") for i, item in enumerate(cfg)]
        return ListConfig(items, flags={"allow_objects": True})
    if isinstance(cfg, list):
        # Objects of the caller's own list classes stay; a list is what OmegaConf would make.
        return [_instantiate(item, f"{path}[{i}]") for i, item in enumerate(cfg)]
    if isinstance(cfg, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(cfg)):
        return OmegaConf.to_object(cfg)
    if isinstance(cfg, Mapping) and TARGET in cfg:
        return _call_target(cfg, path)
    return cfg


def _call_target(cfg: Mapping[str, Any], path: str) -> Any:
    built = {key: _instantiate(value, f"{path}.{key}".lstrip(".")) for key, value in cfg.items()}
    target = built.pop(TARGET)
    name = target if isinstance(target, str) else _name(target)
    if isinstance(target, str):
        target = locate(target)
    where = f" (at {path!r} of the config)" if path else ""
    if not callable(target):
        raise InstantiateError(
            f"The {TARGET} {name!r}{where} is a {type(target).__name__}, not callable."
        )
    try:
        return target(**built)
    except Exception as error:
        if isinstance(error, TypeError):
            problem = _argument_problem(target, built) or _passed_on_in_vain(error, built)
            if problem:
                raise InstantiateError(f"{name}{where} {problem}") from error
        if path and hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"While building {name}{where}.")
        raise


def _argument_problem(target: Any, arguments: Mapping[str, Any]) -> str:
    """What is wrong with the names of `arguments`; empty if `target` takes them."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # some builtins have none
        return ""
    parameters = signature.parameters.values()
    names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if all(p.kind != p.VAR_KEYWORD for p in parameters):
        for argument in arguments:
            if argument not in names:
                nearest = difflib.get_close_matches(argument, names, n=1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else f"it has {signature}."
                return f"has no argument {argument!r}; {hint}"
    try:
        signature.bind(**arguments)
    except TypeError as error:
        return f"cannot be called: {error}; its arguments are {signature}."
    return ""


def _passed_on_in_vain(error: TypeError, arguments: Mapping[str, Any]) -> str:
    """What is wrong where `target` takes any argument and passes it on to what does not."""
    found = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if found is None or found[2] not in arguments:
        return ""
    return f"has no argument {found[2]!r}, nor does its {found[1]}."


def _name(target: Any) -> str:
    qualified = getattr(target, "__qualname__", None)
    return f"{target.__module__}.{qualified}" if qualified else repr(target)
