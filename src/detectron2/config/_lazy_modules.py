"""Running Python config files, and their relative imports, without touching the import system.

A config file is compiled with its true name, so tracebacks show its lines, and runs in a module
of its own. Its ``import`` statements go through an ``__import__`` that only this module sees:
relative ones run the named config file afresh, so no two configs ever share a value; the others
are ordinary imports.
"""

from __future__ import annotations

import builtins
import itertools
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig

from detectron2.utils.file_io import PathManager

__all__ = ["as_config", "is_config", "line_of_error", "run_config_file"]

_PACKAGE = "detectron2._lazy_config_"

_counter = itertools.count()


def is_config(value: Any) -> bool:
    """Whether a top-level name of a config file is part of the config when no keys are asked."""
    return isinstance(value, (dict, DictConfig, ListConfig))


def as_config(value: Any) -> Any:
    """A plain dict as an omegaconf node that may hold any object; everything else unchanged."""
    if isinstance(value, dict):
        return DictConfig(value, flags={"allow_objects": True})
    return value


def run_config_file(filename: str) -> dict[str, Any]:
    """Global names of a Python config file after running it.

    Raises:
        SyntaxError: with file and line.
        ImportError: a relative import names a file or a value that does not exist.
    """
    return vars(_run(filename, importers=()))


def _run(filename: str, importers: tuple[str, ...]) -> types.ModuleType:
    with PathManager.open(filename, "r") as file:
        source = file.read()
    code = _compile(source, filename)
    module = types.ModuleType(_module_name(filename))
    module.__file__ = filename
    module.__package__ = module.__name__.rpartition(".")[0]
    scope = vars(builtins).copy()
    scope["__import__"] = _importer(filename, (*importers, filename))
    module.__dict__["__builtins__"] = scope
    # Dataclasses and typing look their own module up while the file runs. Afterwards the name is
    # gone, so pickling by reference fails loudly instead of finding another file's objects.
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return module


def _compile(source: str, filename: str) -> types.CodeType:
    try:
        return compile(source, filename, "exec", dont_inherit=True)
    except SyntaxError as error:
        # Same class with the same place, so that Python still prints the line and the caret.
        place = (error.filename, error.lineno, error.offset, error.text)
        raise SyntaxError(
            f"Config file {filename!r} is no valid Python, line {error.lineno}: {error.msg}", place
        ) from None


def _module_name(filename: str) -> str:
    stem = os.path.splitext(os.path.basename(filename))[0]
    return f"{_PACKAGE}{next(_counter)}.{stem}"


def line_of_error(error: BaseException) -> tuple[str, int] | None:
    """File and line of the config file that was running when `error` was raised.

    Of config files that import each other it is the innermost; None if none was running.
    """
    places = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(_PACKAGE)
    ]
    return places[-1] if places else None


def _importer(filename: str, importers: tuple[str, ...]) -> Callable[..., Any]:
    """The ``__import__`` of one config file."""

    def import_config(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        if level == 0:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        target = _resolve(filename, name, level)
        if target in importers:
            chain = " -> ".join([*importers, target])
            raise ImportError(f"Config files import each other in a circle: {chain}.")
        return _offer(_run(target, importers), fromlist or (), target, filename)

    return import_config


def _resolve(filename: str, name: str, level: int) -> str:
    """File that ``from ..name import`` in `filename` means."""
    if not name:
        raise ImportError(
            f"Config file {filename!r} has the relative import 'from {'.' * level} import ...', "
            "which names no file; write 'from .file import name'."
        )
    folder = os.path.dirname(filename)
    for _ in range(level - 1):
        folder = os.path.dirname(folder) if os.path.basename(folder) else os.path.join(folder, "..")
    target = os.path.join(folder, *name.split(".")) + ".py"
    if not PathManager.isfile(target):
        advice = "check the name and the number of dots"
        if os.path.isdir(target[: -len(".py")]):
            advice = "it is a folder; name the file in it, 'from .folder.file import ...'"
        raise ImportError(
            f"Config file {filename!r} imports {'.' * level + name!r}, but {target!r} does not "
            f"exist; {advice}."
        )
    return target


def _offer(
    module: types.ModuleType, names: Iterable[str], target: str, filename: str
) -> types.ModuleType:
    """`module` with the imported dicts turned into omegaconf nodes."""
    public = [key for key in vars(module) if not key.startswith("_")]
    for name in public if "*" in names else names:
        if not hasattr(module, name):
            raise ImportError(
                f"Config file {filename!r} imports {name!r} from {target!r}, which has no such "
                f"name; it has {', '.join(public) or 'none'}."
            )
        setattr(module, name, as_config(getattr(module, name)))
    return module
