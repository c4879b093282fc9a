"""Saving and loading models and the state of a training."""

from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

# Importing the catalog lets PathManager open catalog:// addresses.
from detectron2.checkpoint import catalog as catalog
from detectron2.checkpoint._files import CorruptCheckpointError
from detectron2.checkpoint._safe_pickle import UnsafeCheckpointError, allow_in_checkpoints
from detectron2.checkpoint.detection_checkpoint import DetectionCheckpointer

__all__ = [
    "Checkpointer",
    "CorruptCheckpointError",
    "DetectionCheckpointer",
    "PeriodicCheckpointer",
    "UnsafeCheckpointError",
    "allow_in_checkpoints",
]
