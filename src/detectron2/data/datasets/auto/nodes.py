"""Values of a parsed annotation file that know where they stand, so that errors can say it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.data._read_once import parsed

__all__ = ["Node", "finite", "read_json", "read_text"]

# No image has as many pixels on a side; products of such numbers stay finite.
LARGEST_NUMBER = 1e9


def read_text(path: Path) -> str:
    """UTF-8 text of a file.

    Raises:
        ValueError: it is no text, or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise ValueError(f"{str(path)!r} is no UTF-8 text: {e}.") from e
    except OSError as e:
        raise ValueError(f"{str(path)!r} cannot be read: {e.strerror}.") from e


def read_json(path: Path) -> Node:
    """Content of a JSON file.

    Raises:
        ValueError: it is none, or cannot be read.
    """
    try:
        return Node(parsed(path, lambda: json.loads(read_text(path))), str(path))
    except RecursionError:
        raise ValueError(f"{str(path)!r} is nested too deeply to be an annotation file.") from None
    except json.JSONDecodeError as e:
        raise ValueError(f"{str(path)!r} is no JSON file: {e}.") from e


def finite(value: Any, where: str) -> float:
    """A number, also one that is written as text.

    Raises:
        ValueError: it is none, not finite, or larger than any image.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LARGEST_NUMBER:  # also false for NaN
        raise ValueError(f"{where} is {_short(value)}, which is no coordinate.")
    return number


class Node:
    """A value of a JSON file and a description of its place."""

    def __init__(self, value: Any, where: str) -> None:
        self.value = value
        self.where = where

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and key in self.value

    def __getitem__(self, key: str) -> Node:
        mapping = self.mapping()
        if key not in mapping:
            raise ValueError(f"{self.where} has no {key!r}.")
        return Node(mapping[key], f"{key!r} of {self.where}")

    def get(self, key: str) -> Node | None:
        """The entry, or None if it is absent or null."""
        value = self.mapping().get(key)
        return None if value is None else Node(value, f"{key!r} of {self.where}")

    def mapping(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise ValueError(f"{self.where} is {_short(self.value)} where a {{...}} is due.")
        return self.value

    def elements(self) -> Iterator[Node]:
        """Elements of a list, or values of a mapping."""
        values = self.value
        if isinstance(values, dict):
            values = list(values.values())
        if not isinstance(values, list):
            raise ValueError(f"{self.where} is {_short(self.value)} where a list is due.")
        for number, value in enumerate(values, 1):
            yield Node(value, f"element {number} of {self.where}")

    def number(self) -> float:
        return finite(self.value, self.where)

    def numbers(self) -> list[float]:
        values = self.value
        # Files have millions of them, nearly all sound; the slow way finds out which is not.
        if type(values) is list and all(
            type(value) in (float, int) and -LARGEST_NUMBER <= value <= LARGEST_NUMBER
            for value in values
        ):
            return values
        return [element.number() for element in self.elements()]

    def integer(self) -> int:
        number = self.number()
        if number != int(number):
            raise ValueError(f"{self.where} is {_short(self.value)} where a whole number is due.")
        return int(number)

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise ValueError(f"{self.where} is {_short(self.value)} where a text is due.")
        return self.value

    def identity(self) -> str | int:
        """What an entry is referred to by."""
        if not isinstance(self.value, (str, int)):
            raise self.fail("is neither a number nor a text.")
        return self.value

    def label(self) -> str:
        """A text, or a number as one."""
        if isinstance(self.value, (int, float)) and not isinstance(self.value, bool):
            return str(self.value)
        return self.text()

    def fail(self, what: str) -> ValueError:
        """An error to raise: `what` is wrong here."""
        return ValueError(f"{self.where} {what}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
