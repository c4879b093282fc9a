"""A model behind HTTP: batches, limits and a page to try it (`detectron2 serve`)."""

from detectron2.engine.serving.limits import Refused, ServeLimits
from detectron2.engine.serving.model import ServedModel, served_model

__all__ = ["Refused", "ServeLimits", "ServedModel", "served_model"]
