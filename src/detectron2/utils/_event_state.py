"""The newest part of an `EventStorage` as plain data, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.utils.events import EventStorage

# As many as the writers take the median of: their lines after a resume are those of a training
# that was not interrupted.
_KEPT_VALUES = 20


def storage_state(storage: EventStorage) -> dict[str, Any]:
    """The last values of every scalar, with their iterations and smoothing hints."""
    hints = storage.smoothing_hints()
    return {
        name: {
            "smoothing_hint": hints[name],
            "values": [[float(value), int(at)] for value, at in history.values()[-_KEPT_VALUES:]],
        }
        for name, history in storage.histories().items()
    }


def restore_storage(storage: EventStorage, state: Mapping[str, Any]) -> None:
    """Put the values that `storage_state` returned."""
    for name, scalar in state.items():
        for value, at in scalar["values"]:
            storage.put_scalar(name, value, scalar["smoothing_hint"], cur_iter=at)
