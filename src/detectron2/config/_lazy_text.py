"""Lazy configs as text: YAML that loads again without running code, and Python for reading."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
from collections.abc import Mapping, Sequence
from typing import IO, Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode

from detectron2.config._yaml import ConfigLoader, not_yaml
from detectron2.config.instantiate import TARGET, dump_dataclass
from detectron2.utils.registry import _convert_target_to_string, locate

__all__ = ["parse_lazy_yaml", "to_plain", "to_python_text", "to_yaml_text"]

_NAMED = "detectron2.config.saved_objects.named_object"
_PARTIAL = "detectron2.config.saved_objects.partial_call"
_UNSAVED = "detectron2.config.saved_objects.unsaved_object"

# --- to plain values ------------------------------------------------------------------------


def to_plain(cfg: Any, *, resolve: bool = False) -> tuple[Any, list[str]]:
    """Dicts, lists and scalars that say the same as `cfg`, and what could not be said.

    Args:
        resolve: replace interpolations by their values.

    Returns:
        The tree, and one description per object that has no dotted path (a lambda, an instance).
    """
    if isinstance(cfg, (DictConfig, ListConfig)):
        cfg = OmegaConf.to_container(
            cfg, resolve=resolve, structured_config_mode=SCMode.DICT_CONFIG
        )
    lost: list[str] = []
    return _plain(cfg, lost), lost


def _plain(value: Any, lost: list[str]) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)) and not _is_enum(value):
        return value
    if isinstance(value, DictConfig):  # to_container leaves only dataclasses as nodes
        value = OmegaConf.to_object(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dump_dataclass(value), lost)
    if isinstance(value, Mapping):
        return {
            key: _target_text(item, lost) if key == TARGET else _plain(item, lost)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item, lost) for item in value]
    return _describe_object(value, lost)


def _is_enum(value: Any) -> bool:
    return isinstance(value, enum.Enum)


def _target_text(target: Any, lost: list[str]) -> Any:
    if callable(target) and hasattr(target, "__qualname__"):
        return _convert_target_to_string(target)
    return _plain(target, lost)


def _describe_object(value: Any, lost: list[str]) -> dict[str, Any]:
    if isinstance(value, functools.partial):
        return {
            TARGET: _PARTIAL,
            "function": _plain(value.func, lost),
            "arguments": _plain(value.args, lost),
            "keywords": _plain(value.keywords, lost),
        }
    name = _dotted_path(value)
    if name is not None:
        return {TARGET: _NAMED, "name": name}
    description = _describe_in_words(value)
    lost.append(description)
    return {TARGET: _UNSAVED, "description": description}


def _describe_in_words(value: Any) -> str:
    code = getattr(value, "__code__", None)
    if code is None:
        return f"an object of {type(value).__module__}.{type(value).__qualname__}"
    return f"the function {value.__qualname__} of {code.co_filename}, line {code.co_firstlineno}"


def _dotted_path(value: Any) -> str | None:
    """Path from which `locate` gets exactly `value`, or None."""
    if isinstance(value, enum.Enum):
        name = f"{_convert_target_to_string(type(value))}.{value.name}"
    elif hasattr(value, "__qualname__"):
        name = _convert_target_to_string(value)
    else:
        name = str(value)  # torch.float16 and its like print as their path
    try:
        return name if locate(name) is value else None
    except ImportError:
        return None


# --- YAML -----------------------------------------------------------------------------------


def to_yaml_text(tree: Any) -> str:
    """YAML of a plain tree: short lists on one line, keys in their order."""
    return yaml.safe_dump(
        tree, default_flow_style=None, sort_keys=False, allow_unicode=True, width=9999
    )


class _LazyLoader(ConfigLoader):
    """Safe loader that reads PyYAML's tags for Python objects as descriptions."""


def _describe_name(loader: _LazyLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    return {TARGET: _NAMED, "name": name}


def _describe_partial(loader: _LazyLoader, node: yaml.Node) -> dict[str, Any]:
    # PyYAML writes what functools.partial.__reduce__ returns: args [function] and the state
    # (function, args, keywords, attributes).
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(
            None, None, "A functools.partial without its state.", node.start_mark
        )
    function, arguments, keywords = loader.construct_mapping(node, deep=True)["state"][:3]
    return {
        TARGET: _PARTIAL,
        "function": function,
        "arguments": list(arguments),
        "keywords": keywords,
    }


_LazyLoader.add_multi_constructor("tag:yaml.org,2002:python/name:", _describe_name)
_LazyLoader.add_constructor(
    "tag:yaml.org,2002:python/object/apply:functools.partial", _describe_partial
)


def parse_lazy_yaml(file: IO[Any], filename: str) -> Any:
    """Tree of a saved lazy config.

    Raises:
        ValueError: the file is no valid YAML or holds a tag that would run code.
    """
    try:
        return yaml.load(file, Loader=_LazyLoader)  # a SafeLoader
    except yaml.constructor.ConstructorError as error:
        raise ValueError(
            f"Config file {filename!r} holds a Python object that is not restored because that "
            f"would run code: {error}. Load the original .py config instead."
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(not_yaml(filename, error)) from error


# --- Python ---------------------------------------------------------------------------------

_LINE_WIDTH = 100


def to_python_text(tree: Any, prefix: str) -> str:
    """Assignments such as ``cfg.model.head = module.Head(width=3)``, one per entry."""
    return "".join(f"{line}\n" for line in _assignments(tree, prefix))


def _assignments(tree: Mapping[str, Any], prefix: str) -> list[str]:
    lines: list[str] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        is_group = isinstance(value, Mapping) and TARGET not in value
        if is_group and value and all(_is_name(k) for k in value):
            lines += _assignments(value, f"{name}.")
        else:
            text = f"{name} = "
            lines.append(text + _expression(value, used=len(text)))
    return lines


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isidentifier()


def _expression(value: Any, used: int = 0, indent: int = 0) -> str:
    """Python text of `value`, on one line if it fits behind the `used` columns."""
    if isinstance(value, Mapping) and TARGET in value:
        return _call_expression(value, used, indent)
    if isinstance(value, Mapping):
        entries = [(f"{_expression(k)}: ", v) for k, v in value.items()]
        return _sequence("{", "}", entries, used, indent)
    if isinstance(value, list):
        return _sequence("[", "]", [("", item) for item in value], used, indent)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def _call_expression(call: Mapping[str, Any], used: int, indent: int) -> str:
    target = call[TARGET]
    if target == _NAMED:
        return str(call["name"])
    if target == _UNSAVED:
        return f"<{call['description']}>"
    head = target if isinstance(target, str) else _expression(target)
    arguments = [(f"{k}=", v) for k, v in call.items() if k != TARGET]
    if target == _PARTIAL:
        head = "functools.partial"
        arguments = [("", call["function"]), *(("", v) for v in call["arguments"])]
        arguments += [(f"{k}=", v) for k, v in call["keywords"].items()]
    return _sequence(f"{head}(", ")", arguments, used, indent)


def _sequence(
    start: str, end: str, parts: Sequence[tuple[str, Any]], used: int, indent: int
) -> str:
    flat = start + ", ".join(label + _expression(value) for label, value in parts) + end
    is_table = not any(label or isinstance(value, (Mapping, list)) for label, value in parts)
    if is_table or "\n" not in flat and used + len(flat) <= _LINE_WIDTH:
        return flat
    inner = indent + 4
    lines = [start]
    for label, value in parts:
        lead = " " * inner + label
        lines.append(lead + _expression(value, used=len(lead) + 1, indent=inner) + ",")
    return "\n".join([*lines, " " * indent + end])
