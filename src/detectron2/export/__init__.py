"""Models as files for other runtimes, and what tracing and scripting need."""

from detectron2.export.api import Caffe2Model, Caffe2Tracer, add_export_config
from detectron2.export.batched import UnsupportedModelError
from detectron2.export.exporter import export
from detectron2.export.flatten import TracingAdapter
from detectron2.export.loading import ExportedModel, load
from detectron2.export.proof import ProofError
from detectron2.export.torchscript import dump_torchscript_IR, scripting_with_instances

__all__ = [
    "Caffe2Model",
    "Caffe2Tracer",
    "STABLE_ONNX_OPSET_VERSION",
    "ExportedModel",
    "ProofError",
    "TracingAdapter",
    "UnsupportedModelError",
    "add_export_config",
    "dump_torchscript_IR",
    "export",
    "load",
    "scripting_with_instances",
]

STABLE_ONNX_OPSET_VERSION = 17
