"""Stand-ins for names whose optional dependency is not installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

__all__ = ["create_dummy_class", "create_dummy_func"]


def _explanation(name: str, dependency: str | list[str] | tuple[str, ...], message: str) -> str:
    packages = dependency if isinstance(dependency, str) else ", ".join(dependency)
    text = f"{name!r} needs {packages}, which could not be imported; install it to use {name!r}."
    return f"{text} {message}" if message else text


def create_dummy_class(klass: str, dependency: str, message: str = "") -> type:
    """Class that may be imported and mentioned, but raises ImportError when it is used.

    Args:
        klass: name of the class it stands for.
        dependency: what has to be installed.
        message: added to the error.
    """
    text = _explanation(klass, dependency, message)

    class _Unavailable(type):
        def __getattr__(cls, name: str) -> NoReturn:
            raise ImportError(text)

    def refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise ImportError(text)

    return _Unavailable(klass, (), {"__init__": refuse})


def create_dummy_func(
    func: str, dependency: str | list[str] | tuple[str, ...], message: str = ""
) -> Callable[..., NoReturn]:
    """Function that raises ImportError when it is called.

    Args:
        func: name of the function it stands for.
        dependency: what has to be installed, one name or several.
        message: added to the error.
    """
    text = _explanation(func, dependency, message)

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise ImportError(text)

    refuse.__name__ = func
    return refuse
