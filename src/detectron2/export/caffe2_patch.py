"""A module of the Caffe2 exporter, which is gone; importing it says what replaces it."""

from detectron2.export.api import REPLACEMENT

raise ImportError(f"detectron2.export.caffe2_patch was removed. {REPLACEMENT}")
