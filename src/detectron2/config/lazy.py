"""Configs written in Python: nested descriptions of calls that `instantiate` makes later."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from detectron2.config._lazy_modules import as_config, is_config, run_config_file
from detectron2.config._lazy_text import (
    parse_lazy_yaml,
    to_plain,
    to_python_text,
    to_yaml_text,
)
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import _convert_target_to_string

__all__ = ["LazyCall", "LazyConfig"]

logger = logging.getLogger(__name__)


class LazyCall:
    """Describe a call instead of making it: ``LazyCall(Conv2d)(in_channels=3, ...)``.

    The description is an omegaconf node with the arguments and a ``_target_``; arguments can be
    read, changed, and refer to each other (``"${.in_channels}"``) before
    `detectron2.config.instantiate` makes the call.
    """

    def __init__(self, target: Any) -> None:
        """
        Args:
            target: a callable, a dotted path to one, or a description of one.

        Raises:
            TypeError: `target` is none of these.
        """
        if not (callable(target) or isinstance(target, (str, Mapping))):
            raise TypeError(
                f"LazyCall needs a callable, a dotted path or a description, not {target!r}."
            )
        self._target = target

    def __call__(self, **kwargs: Any) -> DictConfig:
        """Description of the call with these keyword arguments."""
        target = self._target
        if dataclasses.is_dataclass(target) and isinstance(target, type):
            # omegaconf would turn the class itself into a node.
            target = _convert_target_to_string(target)
        content: dict[Any, Any] = {**kwargs, "_target_": target}
        return DictConfig(content, flags={"allow_objects": True})


class LazyConfig:
    """Loading, changing and saving configs written in Python.

    Such a file is ordinary Python: loading one runs it, so load only files you trust. Its
    relative imports name other config files, are run afresh each time, and turn imported dicts
    into omegaconf nodes. Saved ``.yaml`` files run nothing when they are loaded.
    """

    @staticmethod
    def load_rel(filename: str, keys: str | Sequence[str] | None = None) -> Any:
        """`load` with a path relative to the file that calls this function.

        Raises:
            RuntimeError: the caller is no file, for example an interactive session.
        """
        frame = inspect.currentframe()
        caller = frame.f_back if frame else None
        caller_file = caller.f_code.co_filename if caller else "<unknown>"
        if caller_file.startswith("<"):
            raise RuntimeError(
                f"LazyConfig.load_rel({filename!r}) was called from {caller_file}, which is in no "
                "folder; use LazyConfig.load with a full path."
            )
        return LazyConfig.load(os.path.join(os.path.dirname(caller_file), filename), keys)

    @staticmethod
    def load(filename: str, keys: str | Sequence[str] | None = None) -> Any:
        """Config in a ``.py`` file or in a ``.yaml`` file that `save` wrote.

        Args:
            filename: path or address that PathManager opens.
            keys: one top-level name, or several. None takes every dict and omegaconf node of a
                Python file whose name does not start with an underscore, imported ones included.

        Returns:
            An omegaconf node with all names; for one key its value; for several a tuple.

        Raises:
            KeyError: the file has no such name.
            SyntaxError, ImportError: the file is no valid Python or imports what is not there.
            ValueError: the file has another ending.
        """
        filename = os.path.expanduser(os.fspath(filename))
        extension = os.path.splitext(filename)[1]
        if extension == ".py":
            names = run_config_file(filename)
        elif extension in (".yaml", ".yml"):
            with PathManager.open(filename, "r") as file:
                tree = parse_lazy_yaml(file, filename)
            names = OmegaConf.create(tree, flags={"allow_objects": True})
        else:
            raise ValueError(f"Config file {filename!r} must end in .py, .yaml or .yml.")
        if keys is None:
            return _whole_config(names)
        if isinstance(keys, str):
            return as_config(_pick(names, keys, filename))
        return tuple(as_config(_pick(names, key, filename)) for key in keys)

    @staticmethod
    def save(cfg: Any, filename: str) -> None:
        """Write `cfg` as YAML that `load` reads; targets become dotted paths.

        Functions, classes and partials are written by their path as well. For an object without
        one (a lambda) the file says what it was, instantiating that entry raises, and the whole
        config is also pickled to ``filename + ".pkl"`` for a reader who trusts it; this library
        never reads that file.
        """
        tree, lost = to_plain(cfg)
        _write(filename, to_yaml_text(tree).encode())
        if lost:
            import cloudpickle

            pickled = f"{filename}.pkl"
            logger.warning(
                "Config %r holds objects that text cannot hold: %s. They are pickled in %r.",
                filename,
                ", ".join(lost),
                pickled,
            )
            _write(pickled, cloudpickle.dumps(cfg))

    @staticmethod
    def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """Change `cfg` in place by command-line words in Hydra's grammar.

        ``model.depth=50``, ``names=[a,b]``, ``new.key=1`` (created), ``+key=1``,
        ``~key`` (deleted), ``~key=1`` (deleted if it is 1).

        Returns:
            `cfg`.

        Raises:
            KeyError: the path goes through a value that is no group, or a deleted key is missing.
            ValueError: a word is no override, or is a sweep over several values.
        """
        from detectron2.config._overrides import parse_overrides

        for override in parse_overrides(overrides):
            if override.delete:
                _delete(cfg, override.key, override.value)
            else:
                _update(cfg, override.key, override.value)
        return cfg

    @staticmethod
    def to_py(cfg: Any, prefix: str = "cfg.") -> str:
        """Python-like text of `cfg` for reading and for searching; it is not meant to run.

        Args:
            prefix: written before every name.
        """
        tree, _ = to_plain(cfg, resolve=True)
        return to_python_text(tree, prefix)


def _whole_config(names: Any) -> Any:
    if isinstance(names, (DictConfig, ListConfig)):
        return names
    content = {
        name: as_config(value)
        for name, value in names.items()
        if is_config(value) and not name.startswith("_")
    }
    return DictConfig(content, flags={"allow_objects": True})


def _pick(names: Mapping[str, Any], key: str, filename: str) -> Any:
    if key not in names:
        known = [name for name in names if not str(name).startswith("_")]
        raise KeyError(f"Config file {filename!r} has no {key!r}; it has {', '.join(known)}.")
    return names[key]


def _write(filename: str, content: bytes) -> None:
    """Write a whole file or none; addresses of other stores go through their handler."""
    if "://" in filename:
        with PathManager.open(filename, "wb") as file:
            file.write(content)
    else:
        from detectron2.utils.files import atomic_write_bytes

        atomic_write_bytes(filename, content)


def _update(cfg: DictConfig, key: str, value: Any) -> None:
    parts = key.split(".")
    for end in range(1, len(parts)):
        group = OmegaConf.select(cfg, ".".join(parts[:end]), default=None)
        if group is not None and not OmegaConf.is_config(group):
            raise KeyError(
                f"Cannot set {key!r}: {'.'.join(parts[:end])!r} is {group!r}, not a group."
            )
    try:
        OmegaConf.update(cfg, key, value, merge=True, force_add=True)
    except OmegaConfBaseException as error:
        raise KeyError(f"Cannot set {key!r} to {value!r}: {error}") from error


def _delete(cfg: DictConfig, key: str, expected: Any) -> None:
    group_name, _, last = key.rpartition(".")
    group = OmegaConf.select(cfg, group_name) if group_name else cfg
    if expected is not None and group is not None and group.get(last) != expected:
        raise KeyError(f"Cannot delete {key!r}: it is {group.get(last)!r}, not {expected!r}.")
    try:
        del group[last]
    except (ConfigKeyError, KeyError, TypeError) as error:
        raise KeyError(f"Cannot delete {key!r}: the config has no such entry.") from error
