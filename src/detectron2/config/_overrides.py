"""Hydra's grammar for command-line overrides, the only part of Hydra that is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

__all__ = ["Override", "parse_overrides"]


class Override(NamedTuple):
    """One change of a config: set `key` to `value`, or delete it.

    A deletion may name the value that is expected there; otherwise its value is None.
    """

    key: str
    value: Any
    delete: bool


def parse_overrides(words: Sequence[str]) -> Iterator[Override]:
    """The changes that command-line words ask for.

    Raises:
        ValueError: a word does not follow the grammar or asks for several values at once.
    """
    # Imported here: Hydra compiles its grammar when it is loaded.
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for word in words:
        try:
            parsed = parser.parse_override(word)
        except HydraException as error:
            raise ValueError(
                f"Override {word!r} is not understood: {error}. Write 'some.key=value', with "
                "quotes around text that has special characters."
            ) from error
        if parsed.is_sweep_override():
            raise ValueError(
                f"Override {word!r} names several values; a list is written [a,b] and text with "
                "commas 'in quotes'."
            )
        if parsed.package is not None:
            raise ValueError(
                f"Override {word!r} has an '@', which chooses among config groups; these configs "
                "have none."
            )
        yield Override(parsed.key_or_group, parsed.value(), parsed.is_delete())
