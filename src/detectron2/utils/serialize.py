"""Sending functions that plain pickle refuses (lambdas, closures) to other processes."""

from __future__ import annotations

from typing import Any

import cloudpickle

__all__ = ["PicklableWrapper"]


class PicklableWrapper:
    """An object that can be pickled because cloudpickle does the work.

    Calls and attributes go to the wrapped object. Wrapping twice is the same as once.
    """

    def __init__(self, obj: Any) -> None:
        while isinstance(obj, PicklableWrapper):
            obj = obj._obj
        self._obj = obj

    def __reduce__(self) -> Any:
        return _restore, (cloudpickle.dumps(self._obj),)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._obj(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # "_obj" is missing only while an instance is being made without __init__.
        if name == "_obj":
            raise AttributeError(name)
        return getattr(self._obj, name)


def _restore(pickled: bytes) -> PicklableWrapper:
    return PicklableWrapper(cloudpickle.loads(pickled))
