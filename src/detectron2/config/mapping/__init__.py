"""Constructor arguments and the yacs keys that set them, one table per module family.

No class reads a config. Its ``from_config`` looks its arguments up in a table of this
package, ``{"argument": "YACS.KEY"}``; a test compares every default of the yacs tree with
the default of the constructor argument that the table binds to it.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["lookup", "read_arguments"]


def lookup(cfg: Any, key: str) -> Any:
    """Value at a dotted `key` such as ``"MODEL.RPN.NMS_THRESH"``.

    Raises:
        KeyError: the config has no such key.
    """
    node = cfg
    for part in key.split("."):
        try:
            node = node[part]
        except KeyError:
            raise KeyError(
                f"The config has no key {key!r} (missing at {part!r}); start from get_cfg()."
            ) from None
    return node


def read_arguments(cfg: Any, table: Mapping[str, str]) -> dict[str, Any]:
    """Keyword arguments for a constructor: every argument of `table` with its value in `cfg`."""
    return {argument: lookup(cfg, key) for argument, key in table.items()}
