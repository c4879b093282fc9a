"""Reading YAML config files: the safe loader, ``_BASE_`` files and merging of plain trees."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import IO, Any

import yaml

__all__ = ["BASE_KEY", "ConfigLoader", "load_yaml_tree", "not_yaml"]

BASE_KEY = "_BASE_"

Tree = dict[str, Any]
Opener = Callable[[str], IO[Any]]


class ConfigLoader(yaml.SafeLoader):
    """PyYAML's safe loader plus tuples. Every other Python tag is refused: it could run code."""


def _construct_tuple(loader: ConfigLoader, node: yaml.Node) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(
            None, None, "A !!python/tuple needs a sequence.", node.start_mark
        )
    return tuple(loader.construct_sequence(node, deep=True))


ConfigLoader.add_constructor("tag:yaml.org,2002:python/tuple", _construct_tuple)


def load_yaml_tree(filename: str, open_file: Opener) -> Tree:
    """Tree of one YAML file laid over the trees of its ``_BASE_`` files.

    A base path is absolute, an address with ``://``, starts with ``~``, or is relative to the
    file that names it. Of several bases a later one wins over an earlier one.

    Raises:
        FileNotFoundError: it or a base does not exist.
        ValueError: the file is no valid YAML, holds no mapping, asks for a Python object, or is
            its own base.
    """
    return _load(filename, open_file, opened=())


def _load(filename: str, open_file: Opener, opened: tuple[str, ...]) -> Tree:
    if filename in opened:
        chain = " -> ".join([*opened, filename])
        raise ValueError(f"The {BASE_KEY} of config files goes in a circle: {chain}.")
    tree = _parse(filename, open_file)
    bases = tree.pop(BASE_KEY, [])
    merged: Tree = {}
    for base in [bases] if isinstance(bases, str) else bases:
        _overlay(merged, _load_base(base, open_file, (*opened, filename)), filename)
    _overlay(merged, tree, filename)
    return merged


def _load_base(base: str, open_file: Opener, opened: tuple[str, ...]) -> Tree:
    path = _base_path(base, opened[-1])
    try:
        return _load(path, open_file, opened)
    except FileNotFoundError as error:
        if error.errno is None:  # a base of the base, which this function has named already
            raise
        raise FileNotFoundError(
            f"Config file {opened[-1]!r} names {base!r} as its {BASE_KEY}, but {path!r} does not "
            "exist."
        ) from error


def _parse(filename: str, open_file: Opener) -> Tree:
    with open_file(filename) as file:
        try:
            tree = yaml.load(file, Loader=ConfigLoader)  # a SafeLoader
        except yaml.constructor.ConstructorError as error:
            raise ValueError(
                f"Config file {filename!r} uses a YAML tag that would run Python code, which is "
                f"never done here: {error}. Write the value itself instead."
            ) from error
        except yaml.YAMLError as error:
            raise ValueError(not_yaml(filename, error)) from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ValueError(
            f"Config file {filename!r} holds a {type(tree).__name__}; write 'KEY: value' lines."
        )
    return tree


def not_yaml(filename: str, error: yaml.YAMLError) -> str:
    """The sentence for a file that the parser rejects, with the line and what it says."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"Config file {filename!r} is no valid YAML: {error}."
    return (
        f"Config file {filename!r} is no valid YAML, line {mark.line + 1}, column "
        f"{mark.column + 1}: {getattr(error, 'problem', error)}."
    )


def _base_path(base: str, filename: str) -> str:
    if "://" in base:
        return base
    # os.path.join keeps an absolute second part as it is.
    return os.path.join(os.path.dirname(filename), os.path.expanduser(base))


def _overlay(tree: Tree, top: Mapping[str, Any], filename: str) -> None:
    """Write the leaves of `top` into `tree`, in place; mappings are merged, the rest replaced."""
    for key, value in top.items():
        if not isinstance(value, dict) or key not in tree:
            tree[key] = value
        elif isinstance(tree[key], dict):
            _overlay(tree[key], value, filename)
        else:
            raise ValueError(
                f"Config file {filename!r} makes {key!r} a group of keys, but its {BASE_KEY} "
                f"sets it to {tree[key]!r}."
            )
