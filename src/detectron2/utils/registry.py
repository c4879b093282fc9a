"""Names for objects: registries, and dotted paths in both directions."""

from __future__ import annotations

import builtins
import difflib
import importlib
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate", "registered"]


def registered(registry: Registry, name: str) -> Any:
    """What is registered under `name`.

    Raises:
        KeyError: nothing is; the sentence has similar names and how to register one.
    """
    if name in registry:
        return registry.get(name)
    known = [key for key, _ in registry]
    similar = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, similar))}?" if similar else ""
    raise KeyError(
        f"The registry {registry._name!r} has no {name!r}; "
        f"{hint or 'it has ' + ', '.join(sorted(known)) + '.'} A part of your own has to be "
        "imported before the config is used."
    )


def locate(name: str) -> Any:
    """Object that a dotted path such as ``"torch.nn.Linear"`` names.

    The longest prefix that is a module is imported, the rest is looked up as attributes, so
    nested classes work. A path without a module is looked up among the builtins.

    Raises:
        ImportError: no such object, or importing its module failed.
    """
    parts = name.split(".")
    if not all(parts):
        raise ImportError(f"{name!r} is not a dotted path such as 'torch.nn.Linear'.")
    for depth in range(len(parts), 0, -1):
        module = _import_if_present(".".join(parts[:depth]), name)
        if module is not None:
            return _walk(module, parts[depth:], name)
    if len(parts) == 1 and hasattr(builtins, name):
        return getattr(builtins, name)
    raise ImportError(f"Cannot locate {name!r}: there is no module {parts[0]!r}.")


def _import_if_present(module_name: str, wanted: str) -> Any:
    """The module, or None if it does not exist; an error inside it is reported as such."""
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            return None
        raise ImportError(
            f"Cannot locate {wanted!r}: importing {module_name!r} failed because "
            f"{missing!r} is not installed."
        ) from error
    except Exception as error:
        raise ImportError(
            f"Cannot locate {wanted!r}: importing {module_name!r} failed with "
            f"{type(error).__name__}: {error}"
        ) from error


def _walk(owner: Any, attributes: list[str], wanted: str) -> Any:
    for attribute in attributes:
        try:
            owner = getattr(owner, attribute)
        except AttributeError:
            place = getattr(owner, "__name__", repr(owner))
            raise ImportError(
                f"Cannot locate {wanted!r}: {place!r} has no attribute {attribute!r}."
            ) from None
    return owner


def _convert_target_to_string(target: Any) -> str:
    """Shortest dotted path from which `locate` gets exactly this class or function back.

    ``detectron2.data.transforms.RandomCrop`` rather than the private module that defines it.
    An object that no path reaches (a local class) keeps the path of its definition.
    """
    qualified = target.__qualname__
    packages = target.__module__.split(".")
    for depth in range(1, len(packages)):
        candidate = ".".join([*packages[:depth], qualified])
        try:
            found = locate(candidate)
        except ImportError:
            continue
        if found is target:
            return candidate
    return f"{target.__module__}.{qualified}"
