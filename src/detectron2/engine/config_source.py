"""From what a user names (a file, a zoo name, a config object) to a config."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from detectron2.config import CfgNode, LazyConfig, get_cfg
from detectron2.config._lazy_modules import line_of_error
from detectron2.projects.shipped import add_keys_of_file

__all__ = ["find_config_file", "resolve_config"]


def resolve_config(
    source: str | os.PathLike[str] | CfgNode | DictConfig, overrides: Sequence[str] = ()
) -> Any:
    """Config that `source` stands for, as a new object that the caller may change.

    Args:
        source: path of a YAML file, path of a LazyConfig ``.py`` file (which is run: do not
            load one from somebody you do not trust), a name of the model zoo such as
            ``"COCO-Detection/retinanet_R_50_FPN_1x.yaml"``, or a config.
        overrides: changes to it. For a YAML config ``KEY VALUE`` pairs or ``KEY=VALUE``, for a
            LazyConfig ``key=value`` in Hydra's grammar.

    Returns:
        A `CfgNode`, or the ``DictConfig`` of a LazyConfig.

    Raises:
        FileNotFoundError: no such file and no such name; the sentence has similar names.
        KeyError: an override names a key that does not exist.
        ValueError: an override has no value, or one of another type than the default; or the
            file cannot be read as YAML or run as Python, with file and line.
        TypeError: `source` is something else.
    """
    cfg = _load(source)
    if not overrides:
        return cfg
    if isinstance(cfg, CfgNode):
        try:
            cfg.merge_from_list(_pairs(overrides))
        except AssertionError as error:
            # What yacs calls a failed assertion is a misspelt key on a command line.
            raise KeyError(str(error)) from None
        return cfg
    _refuse_misspelt(cfg, overrides)
    return LazyConfig.apply_overrides(cfg, list(overrides))


def _refuse_misspelt(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """A LazyConfig takes new keys, so a misspelt one would be added and never read.

    Raises:
        KeyError: a key is new and nearly one of its neighbours.
    """
    for override in overrides:
        key = override.partition("=")[0]
        near = None if key.startswith(("+", "~")) else _nearest_key(cfg, key.split("."))
        if near is not None:
            raise KeyError(
                f"The config has no {key!r}; did you mean {near!r}? '+{override}' adds it anyway."
            )


def _nearest_key(cfg: DictConfig, parts: Sequence[str]) -> str | None:
    """What looks like the first of `parts` that is new; None if none is, or nothing does."""
    group: Any = cfg
    for depth, name in enumerate(parts):
        # Names of arguments are looked at when the target is called.
        if not isinstance(group, DictConfig) or "_target_" in group:
            return None
        if name not in group:
            near = difflib.get_close_matches(name, map(str, group), n=1, cutoff=0.8)
            return ".".join([*parts[:depth], near[0], *parts[depth + 1 :]]) if near else None
        group = None if OmegaConf.is_interpolation(group, name) else group.get(name)
    return None


def _load(source: Any) -> Any:
    if isinstance(source, CfgNode):
        cfg = source.clone()
        cfg.defrost()
        return cfg
    if isinstance(source, DictConfig):
        return source.copy()
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"A {type(source).__name__} is no config; give a path, a name of the model zoo, "
            "a CfgNode or a DictConfig."
        )
    return _from_name(os.fspath(source))


def _from_name(name: str) -> Any:
    path = find_config_file(name)
    if path.endswith(".py"):
        return _run_python_config(path)
    cfg = get_cfg()
    add_keys_of_file(cfg, path)
    cfg.merge_from_file(path)
    return cfg


def _run_python_config(path: str) -> Any:
    try:
        return LazyConfig.load(path)
    except SyntaxError as error:
        # The sentence has file and line; what remains to show is the text there.
        place = f"\n    {error.text.strip()}" if error.text else ""
        raise ValueError(f"{error.msg}{place}") from error
    except Exception as error:
        line = line_of_error(error)
        if line is None:
            raise
        raise ValueError(
            f"Config file {line[0]!r}, line {line[1]}: {type(error).__name__}: {error}"
        ) from error


def find_config_file(name: str) -> str:
    """Path of the file that `name` stands for: itself, or that of a config of the zoo.

    Raises:
        FileNotFoundError: neither; the sentence has similar names.
    """
    from detectron2 import model_zoo
    from detectron2.utils.file_io import PathManager

    if PathManager.isfile(name):
        return name
    try:
        return model_zoo.get_config_file(name)
    except RuntimeError:
        raise FileNotFoundError(_unknown(name)) from None


def _unknown(name: str) -> str:
    from detectron2.model_zoo.model_zoo import config_names, similar_names

    text = f"{name!r} is neither a file nor a config of the model zoo."
    close = similar_names(name, config_names())
    if close:
        return f"{text} Similar names: {', '.join(close)}."
    return f"{text} 'detectron2 zoo list' shows the names of the zoo."


def _pairs(overrides: Sequence[str]) -> list[str]:
    """``["A=1", "B", "2"]`` as the flat list ``["A", "1", "B", "2"]`` that yacs takes."""
    pairs: list[str] = []
    waiting_for_value = False
    for item in overrides:
        if waiting_for_value or "=" not in item:
            pairs.append(item)
            waiting_for_value = not waiting_for_value
        else:
            key, _, value = item.partition("=")
            pairs += [key, value]
    if waiting_for_value:
        raise ValueError(f"The override {pairs[-1]!r} has no value; write KEY VALUE or KEY=VALUE.")
    return pairs
