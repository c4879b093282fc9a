"""The quick start: draw a dataset, train a small Mask R-CNN on it, evaluate it, report."""

from detectron2.engine.quickstart.pipeline import QuickstartResult, run_quickstart

__all__ = ["QuickstartResult", "run_quickstart"]
