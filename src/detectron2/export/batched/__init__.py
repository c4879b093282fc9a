"""Models as functions of one tensor of images: what is traced and written to files."""

from detectron2.export.batched.choose import UnsupportedModelError, batched_model, postprocessed
from detectron2.export.batched.model import BatchedModel

__all__ = ["BatchedModel", "UnsupportedModelError", "batched_model", "postprocessed"]
