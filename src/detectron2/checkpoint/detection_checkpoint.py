"""Saving and loading the state of a training, and loading weights from elsewhere."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import torch
from fvcore.common.checkpoint import Checkpointer, _filter_reused_missing_keys
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import detectron2.utils.comm as comm
from detectron2.checkpoint._background import (
    BackgroundWriter,
    check_sums,
    remove_unfinished,
    snapshot,
    write_through,
)
from detectron2.checkpoint._files import (
    CorruptCheckpointError,
    load_torch_file,
    read_checkpoint,
    save_safetensors,
)
from detectron2.checkpoint._input_channels import adapt_input_channels, describe
from detectron2.checkpoint._report import LoadReport
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts, name_misfits
from detectron2.checkpoint.torchvision_names import (
    convert_torchvision_names,
    has_torchvision_names,
)
from detectron2.utils.file_io import PathManager
from detectron2.utils.files import atomic_write_bytes

__all__ = ["DetectionCheckpointer", "align_and_update_state_dicts"]


class DetectionCheckpointer(Checkpointer):
    """fvcore's Checkpointer for detection models.

    It reads the files of the model zoo (``.pkl``), of Caffe2, of pycls (``.pyth``), safetensors
    and what ``torch.save`` wrote, without running code in them; matches names that lack their
    leading part; writes files whole or not at all; and resumes from the checkpoint before if the
    last one is damaged.

    A path may end with ``?matching_heuristics=True`` to match names by their ends also in a
    ``.pth`` file.

    Attributes:
        in_background: `save` copies the state and returns, a thread writes the file. Errors are
            raised by the next `save`, or by `wait`.
        report: what the last `load` loaded and what not; None before.
    """

    suffix = ".pth"
    in_background: bool = False
    report: LoadReport | None = None

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        """
        Args:
            model: may be wrapped in DataParallel or DistributedDataParallel.
            save_dir: folder of the checkpoints of a training.
            save_to_disk: None saves in the main process only.
            **checkpointables: objects with ``state_dict`` and ``load_state_dict`` that are saved
                and loaded with the model, by name.
        """
        super().__init__(
            model,
            save_dir,
            save_to_disk=comm.is_main_process() if save_to_disk is None else save_to_disk,
            **checkpointables,
        )
        self.logger = logging.getLogger(__name__)
        self.path_manager = PathManager
        self._is_parallel = isinstance(model, DistributedDataParallel)
        self._match_by_suffix = False
        self._is_resuming = False
        self._writer = BackgroundWriter()

    # --- loading ----------------------------------------------------------------------------

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load weights, and the checkpointables if the file has them.

        With DistributedDataParallel all processes call this; those that cannot see the file get
        the weights from rank 0.

        Args:
            path: path or address that PathManager opens; empty loads nothing.
            *args, **kwargs: ``checkpointables``, the names of those to load (None takes all).

        Returns:
            What else the file holds, such as "iteration".

        Raises:
            AssertionError: there is no such file.
            OSError: it cannot be downloaded.
            CorruptCheckpointError, UnsafeCheckpointError, ValueError: it cannot be read.
        """
        path, self._match_by_suffix = _split_options(path) if path else (path, False)
        if path and self._is_parallel and comm.get_world_size() > 1:
            return self._load_in_parallel(path, *args, **kwargs)
        return super().load(self._local_file(path), *args, **kwargs)

    def _local_file(self, path: str) -> str:
        """Local path of an address; the file is downloaded if need be."""
        if not path:
            return path
        local = self.path_manager.get_local_path(path)
        if not os.path.isfile(local):
            # fvcore raises this type, and callers catch it.
            raise AssertionError(
                f"Checkpoint {path!r} not found"
                + (f" (looked for {local!r})" if local != path else "")
                + "; check the path, or leave it empty to go on with random weights."
            )
        return local

    def _load_in_parallel(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            local = self._local_file(path)
            problem = ""
        except (AssertionError, OSError) as error:
            local, problem = "", str(error)
        problems = comm.all_gather(problem)
        if problems[0]:
            raise OSError(problems[0])
        if problem:
            self.logger.warning("%s The weights come from rank 0.", problem)
        extra = super().load(local, *args, **kwargs)
        if any(problems):
            for tensor in self.model.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)
        return extra

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Content of a local file, with the weights under "model". Override for other formats."""
        checkpoint = read_checkpoint(filename, self._torch_load)
        if self._match_by_suffix:
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _torch_load(self, f: str) -> Any:
        """What ``torch.save`` wrote to a local file; plain data only."""
        return load_torch_file(f)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        """Copy ``checkpoint["model"]`` into the model and take it out of the dict.

        Returns:
            Missing keys, unexpected keys, and keys of another shape.
        """
        weights = checkpoint["model"]
        ours = self.model.state_dict()
        if has_torchvision_names(weights) and not has_torchvision_names(ours):
            self.logger.info("These are the names of a torchvision ResNet; they are converted.")
            checkpoint["model"] = convert_torchvision_names(weights)
            checkpoint["matching_heuristics"] = True
        if checkpoint.get("matching_heuristics", False):
            self._convert_ndarray_to_tensor(checkpoint["model"])
            aligned = align_and_update_state_dicts(
                ours,
                checkpoint["model"],
                c2_conversion=checkpoint.get("__author__") == "Caffe2",
            )
            checkpoint["model"] = name_misfits(aligned, ours)
        adapted = adapt_input_channels(checkpoint["model"], self.model)
        if adapted:
            self.logger.warning("%s", describe(adapted))
        incompatible = super()._load_model(checkpoint)
        if self._is_resuming and incompatible.incorrect_shapes:
            name, theirs, ours_shape = incompatible.incorrect_shapes[0]
            raise ValueError(
                f"The checkpoint in {self.save_dir!r} is of another model: {name} is "
                f"{tuple(theirs)} there and {tuple(ours_shape)} here, such as with another number "
                "of classes. Train in another folder, with the checkpoint as MODEL.WEIGHTS if you "
                "want its weights, or leave out --resume."
            )
        _forgive(incompatible.missing_keys, ("pixel_mean", "pixel_std"))
        _forgive(incompatible.unexpected_keys, ("anchor_generator.cell_anchors",))
        return incompatible

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """Log what was loaded and what was not, and why."""
        self.report = report = LoadReport(
            names=list(self.model.state_dict()),
            missing=_filter_reused_missing_keys(self.model, incompatible.missing_keys),
            other_shape=incompatible.incorrect_shapes,
            unused=incompatible.unexpected_keys,
        )
        log = self.logger.info if report.is_complete else self.logger.warning
        log("%s", report.text())

    # --- resuming ---------------------------------------------------------------------------

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Go on from the last checkpoint of `save_dir`, or load the weights at `path`.

        Args:
            path: weights for a new training; loaded without the checkpointables.
            resume: go on if there is a checkpoint. If the last one is damaged or gone, the newest
                good one before it is taken and the log says so.

        Raises:
            CorruptCheckpointError: there are checkpoints, and none can be read.
            ValueError: the checkpoint is of a model with other shapes.
        """
        if resume and self.save_to_disk and os.name != "nt":
            remove_unfinished(self.save_dir)
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        problems = []
        for candidate in self._newest_first():
            try:
                extra = self._resume_from(candidate)
            except CorruptCheckpointError as error:
                problems.append(str(error))
                self.logger.error("%s Trying the one before it.", error)
                continue
            if problems:
                self.logger.warning("Resumed from %s instead of the last checkpoint.", candidate)
            return extra
        raise CorruptCheckpointError(
            f"No checkpoint in {self.save_dir!r} can be read: {' '.join(problems)} Start again "
            "without --resume, or in another folder."
        )

    def _resume_from(self, path: str) -> dict[str, Any]:
        check_sums(self._local_file(path))
        self._is_resuming = True
        try:
            return self.load(path)
        finally:
            self._is_resuming = False

    def _newest_first(self) -> Iterator[str]:
        """The last checkpoint, then the others of the training by age."""
        last = self.get_checkpoint_file()
        if self.path_manager.exists(last):
            yield last
        else:
            self.logger.error("The last checkpoint %s is gone.", last)
        others = [
            file
            for file in self.get_all_checkpoint_files()
            if file != last and re.search(rf"(_\d{{7}}|_final){re.escape(self.suffix)}$", file)
        ]
        yield from sorted(others, key=_modification_time, reverse=True)

    def remove(self, path: str) -> None:
        """Delete a checkpoint."""
        self.path_manager.rm(path)

    # --- saving -----------------------------------------------------------------------------

    def save(self, name: str, **kwargs: Any) -> None:
        """Write the model, the checkpointables and `kwargs` to ``save_dir/name.pth``.

        The file appears only when it is complete, and ``last_checkpoint`` names it only then.
        With a name that ends in ``.safetensors`` only
        the weights and plain values are written, and training does not resume from it.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        if os.path.basename(name) != name:
            raise ValueError(f"{name!r} must be a file name; the folder is {self.save_dir!r}.")
        weights_only = name.endswith(".safetensors")
        basename = name if weights_only else f"{name}.pth"
        target = os.path.join(self.save_dir, basename)
        self.logger.info("Saving checkpoint to %s", target)
        if weights_only:
            content = save_safetensors(self.model.state_dict(), kwargs)
            self._write(target, lambda file: file.write(content))
            return
        states = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **kwargs}
        self.wait()
        if self.in_background:
            copy = snapshot(data)
            self._writer.start(lambda: self._write_state(target, copy))
        else:
            self._write_state(target, data)

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            OSError: it could not be written.
        """
        self._writer.wait()

    def _write_state(self, target: str, data: dict[str, Any]) -> None:
        self._write(target, lambda file: torch.save(data, file))
        self.tag_last_checkpoint(os.path.basename(target))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Remember in ``save_dir/last_checkpoint`` which file to resume from."""
        target = os.path.join(self.save_dir, "last_checkpoint")
        self._write(target, lambda file: file.write(last_filename_basename.encode()))

    def _write(self, path: str, write: Any) -> None:
        try:
            if "://" in path:  # another store; its handler decides how
                with self.path_manager.open(path, "wb") as file:
                    write(file)
            else:
                atomic_write_bytes(path, lambda file: write_through(file, write))
        except OSError as error:
            raise type(error)(
                error.errno,
                f"Checkpoint {path!r} cannot be written ({error.strerror or error}); the one "
                "before it is whole. Free some space or name another folder, and go on with "
                "--resume.",
            ) from error


def _split_options(path: str) -> tuple[str, bool]:
    """Path without ``?matching_heuristics=...``, and whether that was set."""
    base, _, query = path.partition("?")
    options = parse_qs(query)
    if set(options) != {"matching_heuristics"}:
        return path, False
    return base, options["matching_heuristics"][0] == "True"


def _modification_time(file: str) -> float:
    return os.path.getmtime(file) if os.path.exists(file) else 0.0


def _forgive(keys: list[str], names: tuple[str, ...]) -> None:
    """Drop keys from a list of problems, in place.

    Old checkpoints lack the pixel statistics, which come from the config, and have anchors, which
    are computed.
    """
    keys[:] = [key for key in keys if not any(key == n or n in key for n in names)]
