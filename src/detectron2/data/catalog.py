"""Datasets and their metadata by name.

``DatasetCatalog`` maps a name to a function that loads the dataset, ``MetadataCatalog`` maps it to
what is constant for the dataset: class names, colours, where its files lie, how it is evaluated.
"""

from __future__ import annotations

import difflib
import logging
import types
from collections import UserDict
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["DatasetCatalog", "Metadata", "MetadataCatalog"]

logger = logging.getLogger(__name__)


def _nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names what the user may have meant, or "" if nothing is close."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


class _DatasetCatalog(UserDict):
    """Functions that load datasets, by name; use the global ``DatasetCatalog``.

    A function takes nothing and returns a list of dictionaries, one per image, in the format
    that the documentation calls "standard dataset dicts" (or any format that the user's own
    mapper understands). It must return the same list in the same order whenever it is called.
    """

    def __init__(self) -> None:
        super().__init__()
        self._offered: dict[str, Callable[[], Any]] = {}

    def register(self, name: str, func: Callable[[], Any]) -> None:
        """Make a dataset known.

        Args:
            name: such as "coco_2017_train".
            func: called with nothing when the dataset is asked for.

        Raises:
            TypeError: `func` is not callable.
            AssertionError: the name is taken.
        """
        if not callable(func):
            raise TypeError(
                f"DatasetCatalog.register({name!r}, ...) wants a function that returns the "
                f"dataset, got {type(func).__name__}; wrap it: lambda: dataset."
            )
        if name in self:
            raise AssertionError(
                f"A dataset called {name!r} is already registered; take another name, or call "
                f"DatasetCatalog.remove({name!r}) first."
            )
        self[name] = func

    def offer(self, name: str, func: Callable[[], Any]) -> None:
        """Have a dataset that `list` does not name until it is first asked for."""
        self._offered[name] = func

    def all_names(self) -> set[str]:
        """The names that `get` takes: those of `list`, and those that are offered."""
        return {*self.data, *self._offered}

    def __missing__(self, name: str) -> Callable[[], Any]:
        load = self.data[name] = self._offered[name]
        return load

    def get(self, name: str) -> Any:  # type: ignore[override]
        """Load a dataset: call its function and return what it returns.

        Raises:
            KeyError: no dataset has this name.
        """
        try:
            load = self[name]
        except KeyError:
            raise KeyError(
                f"No dataset is called {name!r}.{_nearest(name, self.all_names())} "
                "DatasetCatalog.all_names() shows all names; register your own with "
                "DatasetCatalog.register()."
            ) from None
        return load()

    def list(self) -> list[str]:
        """Names of all datasets."""
        return list(self.keys())

    def remove(self, name: str) -> None:
        """Forget a dataset.

        Raises:
            KeyError: no dataset has this name.
        """
        if name not in self:
            raise KeyError(f"No dataset is called {name!r}.{_nearest(name, self)}")
        self.pop(name)

    def __str__(self) -> str:
        return f"DatasetCatalog({', '.join(self)})"

    __repr__ = __str__


class Metadata(types.SimpleNamespace):
    """What is known of a dataset besides its records, as attributes.

    An attribute is set once. Setting it again to an equal value does nothing, to another value it
    is an error: two parts of a program that disagree about class names should not go on.

    .. code-block:: python

        MetadataCatalog.get("my_dataset").thing_classes = ["person", "dog"]
    """

    name: str = "N/A"
    """Name of the dataset."""

    __slots__ = ("_fill",)
    _fill: Callable[[], dict[str, Any]]

    _RENAMED = types.MappingProxyType(
        {
            "class_names": "thing_classes",
            "dataset_id_to_contiguous_id": "thing_dataset_id_to_contiguous_id",
            "stuff_class_names": "stuff_classes",
        }
    )

    def _defer(self, fill: Callable[[], dict[str, Any]]) -> None:
        """Have `fill` supply attributes when the first of them is asked for."""
        object.__setattr__(self, "_fill", fill)

    def _resolve(self) -> None:
        try:
            fill = object.__getattribute__(self, "_fill")
        except AttributeError:
            return
        object.__delattr__(self, "_fill")
        self.set(**fill())

    def __getattr__(self, key: str) -> Any:
        # Called when an attribute is not there (yet).
        if key.startswith("_"):
            raise AttributeError(key)
        if key in self._RENAMED:
            logger.warning(
                "Metadata.%s of %r is called %s now.", key, self.name, self._RENAMED[key]
            )
            return getattr(self, self._RENAMED[key])
        self._resolve()
        if key in self.__dict__:
            return self.__dict__[key]
        raise AttributeError(
            f"The metadata of the dataset {self.name!r} has no {key!r}."
            f"{_nearest(key, self.__dict__)} It has: {', '.join(sorted(self.__dict__))}. Set it "
            f"with MetadataCatalog.get({self.name!r}).set({key}=...)."
        )

    def __setattr__(self, key: str, value: Any) -> None:
        if key in self._RENAMED:
            logger.warning(
                "Metadata.%s of %r is called %s now.", key, self.name, self._RENAMED[key]
            )
            key = self._RENAMED[key]
        self._resolve()
        if key in self.__dict__ and not _same(self.__dict__[key], value):
            raise AssertionError(
                f"{key!r} of the dataset {self.name!r} is already set to another value: "
                f"{_shorten(self.__dict__[key])} against {_shorten(value)}. Use another dataset "
                f"name, or MetadataCatalog.remove({self.name!r}) first."
            )
        super().__setattr__(key, value)

    def __delattr__(self, key: str) -> None:
        self._resolve()
        super().__delattr__(key)

    def as_dict(self) -> dict[str, Any]:
        """All attributes. Changing the dictionary does not change the metadata."""
        self._resolve()
        return dict(self.__dict__)

    def set(self, **kwargs: Any) -> Metadata:
        """Set several attributes and return the metadata itself.

        Raises:
            AssertionError: one is set to another value already.
        """
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute, or `default` if it is not set."""
        try:
            return getattr(self, key)
        except AttributeError:
            return default

    def __repr__(self) -> str:
        self._resolve()
        return super().__repr__()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Metadata):
            return NotImplemented
        return self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        # A pending `fill` need not be picklable; what it supplies is.
        return _restore_metadata, (self.as_dict(),)


def _restore_metadata(attributes: dict[str, Any]) -> Metadata:
    return Metadata(**attributes)


def _same(a: Any, b: Any) -> bool:
    equal = a == b
    return bool(equal.all()) if hasattr(equal, "all") else bool(equal)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


class _MetadataCatalog(UserDict):
    """Metadata by dataset name; use the global ``MetadataCatalog``."""

    def __init__(self) -> None:
        super().__init__()
        self._offered: dict[str, Callable[[], dict[str, Any]]] = {}

    def get(self, name: str) -> Metadata:  # type: ignore[override]
        """Metadata of a dataset, new and empty (but for its name) when first asked for.

        Raises:
            ValueError: the name is empty.
        """
        if not name:
            raise ValueError("A dataset's name must not be empty.")
        if name not in self:
            self[name] = Metadata(name=name)
            if name in self._offered:
                self[name]._defer(self._offered[name])
        return self[name]

    def offer(self, name: str, fill: Callable[[], dict[str, Any]]) -> None:
        """`defer` for a name that `list` does not have until it is first asked for."""
        self._offered[name] = fill

    def defer(self, name: str, fill: Callable[[], dict[str, Any]]) -> None:
        """Register metadata that `fill` supplies when the first attribute is asked for."""
        self.get(name)._defer(fill)

    def list(self) -> list[str]:
        """Names of all datasets that have metadata."""
        return list(self.keys())

    def remove(self, name: str) -> None:
        """Forget the metadata of a dataset.

        Raises:
            KeyError: no metadata has this name.
        """
        if name not in self:
            raise KeyError(f"No metadata is called {name!r}.{_nearest(name, self)}")
        self.pop(name)

    def __str__(self) -> str:
        return f"MetadataCatalog({', '.join(self)})"

    __repr__ = __str__


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
