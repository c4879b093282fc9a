"""Detection in images that are too large for one pass: slice by slice."""

from detectron2.engine.slicing.merge import merge_slices
from detectron2.engine.slicing.predictor import SlicedPredictor
from detectron2.engine.slicing.windows import Window, windows_over

__all__ = ["SlicedPredictor", "Window", "merge_slices", "windows_over"]
