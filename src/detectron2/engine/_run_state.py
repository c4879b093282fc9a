"""What a resumed training needs beside weights and optimizer, of every process."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from detectron2.engine._copy_ahead import data_position
from detectron2.engine._random_state import random_state, set_random_state
from detectron2.utils import comm
from detectron2.utils._event_state import restore_storage, storage_state
from detectron2.utils._json_history import drop_superseded_lines

__all__ = ["RunState", "begin_history_anew"]

logger = logging.getLogger(__name__)


class RunState:
    """Random generators and position in the data of all processes, and the newest scalars."""

    def __init__(self) -> None:
        self._gathered: tuple[int, list[dict[str, Any]]] = (-1, [])
        self._resumed: Mapping[str, Any] | None = None

    def gather(self, trainer: Any) -> None:
        """Collect the state of all processes on the main one, which writes the checkpoint.

        Every process has to call it in an iteration that ends with a checkpoint.
        """
        if comm.get_world_size() > 1:
            self._gathered = (trainer.iter, comm.gather(_of_this_process(trainer)))

    def state_dict(self, trainer: Any) -> dict[str, Any]:
        """Plain data for the checkpoint."""
        state: dict[str, Any] = {"random_state": random_state()}
        if hasattr(trainer, "storage"):
            state["storage"] = storage_state(trainer.storage)
        iteration, ranks = self._gathered
        if iteration == trainer.iter and ranks:
            state["ranks"] = ranks
        return state

    def load_state_dict(self, state: Mapping[str, Any], inner: Any) -> None:
        """Take over what `state_dict` returned; the position in the data at once."""
        self._resumed = state
        own = self._own(state)
        loader = inner.data_loader
        if own and own["data_loader"] and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(own["data_loader"])

    def _own(self, state: Mapping[str, Any]) -> Mapping[str, Any] | None:
        ranks = state.get("ranks", [])
        if len(ranks) != comm.get_world_size():
            return None
        return ranks[comm.get_rank()]

    def before_train(self, trainer: Any) -> None:
        """Continue random numbers and scalars after a resume."""
        state, self._resumed = self._resumed, None
        if state is None:
            return
        restore_storage(trainer.storage, state.get("storage", {}))
        # Starting the loader's workers draws random numbers, which the first part of this
        # training did long before the checkpoint.
        _ = trainer._trainer._data_loader_iter
        own = self._own(state)
        if own is not None:
            set_random_state(own["random_state"])
        elif comm.is_main_process() and "random_state" in state:
            set_random_state(state["random_state"])


def _of_this_process(trainer: Any) -> dict[str, Any]:
    return {
        "random_state": random_state(),
        "data_loader": data_position(trainer._trainer),
    }


def begin_history_anew(output_dir: str) -> None:
    """Drop the metrics of a run that was killed before its first checkpoint.

    It is resumed from iteration 0 and writes them again.
    """
    path = os.path.join(output_dir, "metrics.json")
    if comm.is_main_process() and "://" not in path and os.path.isfile(path):
        drop_superseded_lines(path, start_iter=-1)
