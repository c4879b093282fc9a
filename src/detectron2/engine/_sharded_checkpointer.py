"""Checkpoints of sharded models: a folder to which every process contributes its shards."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from typing import Any

import torch

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint._files import CorruptCheckpointError, load_torch_file
from detectron2.engine.sharding import full_weights, load_shards, write_shards
from detectron2.utils import comm
from detectron2.utils.files import atomic_write_bytes

__all__ = ["ShardedCheckpointer", "wants_shards"]

_SUMS = "sums.json"
_REST = "trainer.pth"


def wants_shards(training: Mapping[str, Any]) -> bool:
    """Whether TRAINING.FSDP is on.

    Raises:
        ValueError: together with what one process does with the whole model.
    """
    if not training["FSDP"]["ENABLED"]:
        return False
    others = {
        "EMA.ENABLED": training["EMA"]["ENABLED"],
        "BEST.METRIC": training["BEST"]["METRIC"],
        "VALIDATION_BATCHES": training["VALIDATION_BATCHES"],
        "WRITERS = ('report',)": "report" in training["WRITERS"],
    }
    if wrong := [name for name, value in others.items() if value]:
        raise ValueError(
            f"TRAINING.FSDP shards the model, and TRAINING.{', TRAINING.'.join(wrong)} needs all "
            "of it in one process; unset one of them."
        )
    return True


class ShardedCheckpointer(DetectionCheckpointer):
    """Saves and resumes a trainer whose model and optimizer are sharded.

    All processes call `save` and `resume_or_load`. A checkpoint is a folder ``name.sharded``;
    it can be read by another number of processes. The final one comes with ``model_final.pth``,
    the whole weights in one file, for prediction and evaluation.
    """

    suffix = ".sharded"

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``save_dir/name.sharded``; it appears when it is complete, with its sums.

        Raises:
            OSError: on every process, if the main one cannot write.
        """
        target = os.path.join(self.save_dir, name + self.suffix)
        part = f"{target}.part"
        self.logger.info("Saving checkpoint to %s", target)
        trainer = self.checkpointables["trainer"]
        state = trainer.state_dict()
        state["_trainer"] = {k: v for k, v in state["_trainer"].items() if k != "optimizer"}
        self._on_main(lambda: shutil.rmtree(part, ignore_errors=True))
        write_shards(part, self.model, trainer.optimizer)
        weights = full_weights(self.model) if name.endswith("_final") else None

        def complete() -> None:
            rest = {"trainer": state, **kwargs}
            atomic_write_bytes(os.path.join(part, _REST), lambda f: torch.save(rest, f))
            sums = {file: _sum(os.path.join(part, file)) for file in sorted(os.listdir(part))}
            content = json.dumps(sums).encode()
            atomic_write_bytes(os.path.join(part, _SUMS), lambda f: f.write(content))
            shutil.rmtree(target, ignore_errors=True)
            os.replace(part, target)
            if weights is not None:
                path = os.path.join(self.save_dir, f"{name}.pth")
                self._write(path, lambda f: torch.save({"model": weights, **kwargs}, f))
            self.tag_last_checkpoint(os.path.basename(target))

        self._on_main(complete)

    def _on_main(self, action: Any) -> None:
        """Run `action` on the main process; its error is raised on all of them."""
        problem = ""
        if comm.is_main_process():
            try:
                action()
            except (OSError, CorruptCheckpointError) as error:
                problem = str(error)
                if comm.get_world_size() == 1:
                    raise
        problem = comm.all_gather(problem)[0]
        if problem:
            raise OSError(problem)

    def get_all_checkpoint_files(self) -> list[str]:
        """The complete sharded checkpoints of `save_dir`."""
        names = os.listdir(self.save_dir) if os.path.isdir(self.save_dir) else []
        return [os.path.join(self.save_dir, n) for n in names if n.endswith(self.suffix)]

    def remove(self, path: str) -> None:
        """Delete a checkpoint."""
        if comm.is_main_process():
            shutil.rmtree(path, ignore_errors=True)

    def _resume_from(self, path: str) -> dict[str, Any]:
        problems = comm.all_gather(_problem(path) if comm.is_main_process() else "")
        if problems[0]:
            raise CorruptCheckpointError(problems[0])
        trainer = self.checkpointables["trainer"]
        rest = load_torch_file(os.path.join(path, _REST))
        self.logger.info("Resuming from %s.", path)
        self._refuse_other_shapes(path)
        load_shards(path, self.model, trainer.optimizer)
        state = rest.pop("trainer")
        state["_trainer"]["optimizer"] = trainer.optimizer.state_dict()
        trainer.load_state_dict(state)
        return rest

    def _refuse_other_shapes(self, path: str) -> None:
        from torch.distributed.checkpoint import FileSystemReader

        saved = FileSystemReader(path).read_metadata().state_dict_metadata
        for name, tensor in self.model.state_dict().items():
            entry: Any = saved.get(f"model.{name}")
            if entry is None or tuple(getattr(entry, "size", tensor.shape)) != tuple(tensor.shape):
                theirs = "missing" if entry is None else tuple(entry.size)
                raise ValueError(
                    f"The checkpoint {path!r} is of another model: {name} is {theirs} there and "
                    f"{tuple(tensor.shape)} here. Train in another folder, or without --resume."
                )


def _sum(path: str) -> int:
    total = 0
    with open(path, "rb") as stream:
        while block := stream.read(1 << 22):
            total = zlib.crc32(block, total)
    return total


def _problem(path: str) -> str:
    """What is wrong with a checkpoint; empty if nothing is."""
    try:
        with open(os.path.join(path, _SUMS), encoding="utf-8") as stream:
            sums = json.load(stream)
        wrong = [name for name, total in sums.items() if _sum(os.path.join(path, name)) != total]
    except (OSError, ValueError) as error:
        return f"Checkpoint {path!r} is damaged ({error})."
    return f"Checkpoint {path!r} is damaged: the sum of {wrong[0]!r} is wrong." if wrong else ""
