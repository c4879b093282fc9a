"""Names of the Caffe2 exporter. Caffe2 has left PyTorch; each says what to use instead."""

from __future__ import annotations

import warnings
from typing import Any

__all__ = ["Caffe2Model", "Caffe2Tracer", "add_export_config"]

REPLACEMENT = (
    "Caffe2 is not part of PyTorch any more; use detectron2.export.export(model, 'onnx', path) or "
    "`detectron2 export MODEL --format onnx --output FILE`."
)


def add_export_config(cfg: Any) -> Any:
    """Return the config as it is: no exporter has keys of its own any more."""
    warnings.warn(
        "add_export_config has no effect: exporting needs no keys in the config.",
        DeprecationWarning,
        stacklevel=2,
    )
    return cfg


class Caffe2Tracer:
    """Removed: what it wrote, `detectron2.export.export` writes as ONNX or TorchScript."""

    def __init__(self, cfg: Any, model: Any, inputs: Any) -> None:
        raise RuntimeError(f"Caffe2Tracer was removed. {REPLACEMENT}")


class Caffe2Model:
    """Removed: `detectron2.export.load` runs exported files."""

    def __init__(self, predict_net: Any, init_net: Any) -> None:
        raise RuntimeError(f"Caffe2Model was removed. {REPLACEMENT}")

    @staticmethod
    def load_protobuf(dir: str) -> Caffe2Model:
        raise RuntimeError(f"Caffe2Model.load_protobuf was removed. {REPLACEMENT}")
