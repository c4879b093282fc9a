"""The yacs config tree, and the decorator that lets constructors be called with one."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from fvcore.common.config import CfgNode as _FvcoreCfgNode
from omegaconf import DictConfig

from detectron2.config._versions import convert_to_current_version
from detectron2.config._yaml import BASE_KEY, load_yaml_tree
from detectron2.utils.file_io import PathManager

__all__ = ["CfgNode", "configurable", "get_cfg", "global_cfg", "set_global_cfg"]


class CfgNode(_FvcoreCfgNode):
    """Tree of options with attribute access: ``cfg.MODEL.RPN.NMS_THRESH``.

    It is fvcore's class with three differences: YAML goes through the safe loader only,
    an unknown key is reported with its file and the nearest known keys before anything is
    merged, and files written for an older ``VERSION`` are converted.
    """

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[Any]:
        """Open a config file for reading. Override to read configs from another store."""
        return PathManager.open(filename, "r")

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Plain tree of a YAML file with its ``_BASE_`` files resolved.

        Args:
            filename: path or address that PathManager opens.
            allow_unsafe: accepted for old callers and ignored; no tag of a file runs code.
        """
        return load_yaml_tree(filename, cls._open_cfg)

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Set the options that a YAML file and its ``_BASE_`` files name.

        A file without ``VERSION`` is taken for an old one if it uses a key that only the old
        version had.

        Args:
            cfg_filename: path or address that PathManager opens.
            allow_unsafe: accepted for old callers and ignored; no tag of a file runs code.

        Raises:
            KeyError: the file has a key that this config does not have.
            ValueError: a value has another type than the option, or the file is newer than us.
        """
        loaded = type(self)(self.load_yaml_with_base(cfg_filename))
        if "VERSION" in self:
            loaded = convert_to_current_version(loaded, self, cfg_filename)
        self._merge(loaded, f" (in {cfg_filename})")

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> None:
        """Set every option that `cfg_other` has.

        Raises:
            KeyError: `cfg_other` has a key that this config does not have.
            ValueError: a value has another type than the option.
        """
        self._merge(cfg_other, "")

    def _merge(self, other: CfgNode, where: str) -> None:
        unknown = [
            key
            for key in _unknown_keys(other, self)
            if key != BASE_KEY and not self._is_retired(key)
        ]
        if unknown:
            raise KeyError(_unknown_keys_message(unknown, _all_keys(self), where))
        try:
            super().merge_from_other_cfg(other)
        except ValueError as error:
            raise ValueError(_type_sentence(str(error), where)) from error
        if self.is_new_allowed():
            self.set_new_allowed(True)  # new groups would otherwise refuse further new keys

    def _is_retired(self, key: str) -> bool:
        """Whether yacs itself warns about this key (deprecated) or explains it (renamed)."""
        state = self.__dict__
        return key in state[self.DEPRECATED_KEYS] or key in state[self.RENAMED_KEYS]

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Set options from a flat list ``[key, value, key, value, ...]``, as on a command line.

        Text values are read as Python literals where they are one.

        Raises:
            AssertionError: the list has an odd length or names an unknown key.
            ValueError: a value has another type than the option.
        """
        # yacs documents AssertionError for both and callers catch it.
        if len(cfg_list) % 2 != 0:
            raise AssertionError(
                f"Overrides come in pairs 'KEY value'; this list has {len(cfg_list)} items: "
                f"{list(cfg_list)}."
            )
        known = set(_all_keys(self))
        unknown = [
            key for key in cfg_list[0::2] if key not in known and not self._is_retired(str(key))
        ]
        if unknown:
            raise AssertionError(_unknown_keys_message(unknown, known, ""))
        pairs = zip(cfg_list[0::2], cfg_list[1::2], strict=True)
        try:
            super().merge_from_list([item for k, v in pairs for item in (k, self._as_float(k, v))])
        except ValueError as error:
            raise ValueError(_type_sentence(str(error), "")) from error

    def _as_float(self, key: str, value: Any) -> Any:
        """The value, a float where it is a whole number and the option is a float."""
        option: Any = self
        for name in str(key).split("."):
            option = option.get(name) if isinstance(option, Mapping) else None
        if not isinstance(option, float):
            return value
        number = self._decode_cfg_value(value)
        return float(number) if type(number) is int else value

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """YAML text of the whole tree; tuples become lists. Keywords go to ``yaml.safe_dump``."""
        return super().dump(*args, **kwargs)


def _all_keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all options and groups below `node`."""
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _all_keys(value, f"{prefix}{key}.")


def _unknown_keys(other: Mapping[str, Any], node: CfgNode, prefix: str = "") -> Iterator[str]:
    """Dotted names that `other` has and `node` neither has nor may get."""
    for key, value in other.items():
        if key not in node:
            if not node.is_new_allowed():
                yield prefix + str(key)
        elif isinstance(value, dict) and isinstance(node[key], CfgNode):
            yield from _unknown_keys(value, node[key], f"{prefix}{key}.")


def _unknown_keys_message(unknown: Sequence[Any], known: Any, where: str) -> str:
    names = list(known)
    parts = []
    for key in map(str, unknown):
        nearest = difflib.get_close_matches(key, names, n=3, cutoff=0.6)
        last = key.rsplit(".", 1)[-1]
        nearest += [name for name in names if name.rsplit(".", 1)[-1] == last][:2]
        hint = " or ".join(repr(name) for name in dict.fromkeys(nearest))
        parts.append(f"{key!r}" + (f" (did you mean {hint}?)" if hint else ""))
    return f"Non-existent config key: {', '.join(parts)}{where}."


def _type_sentence(message: str, where: str) -> str:
    """The message of yacs about a value of another type, in words; other messages as they are."""
    found = _TYPE_MISMATCH.fullmatch(message)
    if found is None:
        return f"{message}{where}"
    wanted, given, default, value, key = found.groups()
    return (
        f"{key} is {value}, of type {given}; it must be of type {wanted}, such as the default, "
        f"{default or repr(default)}{where}."
    )


_TYPE_MISMATCH = re.compile(
    r"Type mismatch \(<class '([\w.]+)'> vs\. <class '([\w.]+)'>\) with values "
    r"\((.*) vs\. (.*)\) for config key: (\S+)",
    re.DOTALL,
)


global_cfg = CfgNode()


def get_cfg() -> CfgNode:
    """A fresh copy of the default config; see :mod:`detectron2.config.defaults`."""
    from detectron2.config.defaults import _C

    return _C.clone()


def set_global_cfg(cfg: CfgNode) -> None:
    """Make ``global_cfg`` hold what `cfg` holds.

    It exists for code that cannot be handed a config, such as small experiments. Nothing in
    this library reads it.
    """
    global_cfg.clear()
    global_cfg.update(cfg)


def configurable(
    init_func: Callable[..., Any] | None = None,
    *,
    from_config: Callable[..., dict[str, Any]] | None = None,
) -> Callable[..., Any]:
    """Let a constructor or function also be called with a config as its first argument.

    On a constructor, the class supplies ``from_config(cls, cfg, ...)``, a classmethod that
    returns keyword arguments of ``__init__``::

        class Head(nn.Module):
            @configurable
            def __init__(self, *, width: int, depth: int = 2): ...

            @classmethod
            def from_config(cls, cfg):
                return {"width": cfg.MODEL.HEAD.WIDTH}

        Head(width=3)         # plain
        Head(cfg)             # from the config
        Head(cfg, depth=4)    # from the config, one argument replaced

    On a function, ``@configurable(from_config=...)`` names the translator. Arguments beside the
    config go to ``from_config`` where it has a parameter of that name, otherwise they replace
    what it returned.

    Raises:
        AssertionError: used on something that is no ``__init__`` and without ``from_config``,
            or ``from_config`` is no function.
    """
    if init_func is not None:
        if (
            not inspect.isfunction(init_func)
            or from_config is not None
            or init_func.__name__ != "__init__"
        ):
            raise AssertionError(
                f"@configurable without arguments belongs on a class's __init__, not on "
                f"{init_func!r}; on a function write @configurable(from_config=...)."
            )
        return _configurable_init(init_func)
    if not inspect.isfunction(from_config):
        raise AssertionError(
            f"@configurable(from_config=...) needs a function, not {from_config!r}."
        )
    return functools.partial(_configurable_function, from_config=from_config)


def _configurable_init(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        if _has_config(args, kwargs):
            init(self, **_arguments_from_config(_class_translator(type(self)), args, kwargs))
        else:
            init(self, *args, **kwargs)

    return wrapped


def _configurable_function(
    func: Callable[..., Any], from_config: Callable[..., dict[str, Any]]
) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if _has_config(args, kwargs):
            return func(**_arguments_from_config(from_config, args, kwargs))
        return func(*args, **kwargs)

    wrapped.from_config = from_config  # type: ignore[attr-defined]
    return wrapped


def _class_translator(cls: type) -> Callable[..., dict[str, Any]]:
    translator = getattr(cls, "from_config", None)
    if translator is None:
        raise AttributeError(
            f"{cls.__name__} was called with a config but has no classmethod 'from_config' that "
            "translates it; write one or pass plain arguments."
        )
    if not inspect.ismethod(translator):
        raise TypeError(
            f"{cls.__name__}.from_config must be a classmethod: def from_config(cls, cfg)."
        )
    return translator


def _has_config(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    return any(
        isinstance(argument, (_FvcoreCfgNode, DictConfig))
        for argument in (*args[:1], kwargs.get("cfg"))
    )


def _arguments_from_config(
    translator: Callable[..., dict[str, Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """What `translator` returns for the config, with the explicit arguments on top."""
    parameters = list(inspect.signature(translator).parameters.values())
    if not parameters or parameters[0].name != "cfg":
        name = getattr(translator, "__self__", translator).__name__
        raise TypeError(f"The first argument of from_config of {name} must be called 'cfg'.")
    takes_everything = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
    names = {p.name for p in parameters}
    accepted = {k: v for k, v in kwargs.items() if takes_everything or k in names}
    replaced = {k: v for k, v in kwargs.items() if k not in accepted}
    return {**translator(*args, **accepted), **replaced}
