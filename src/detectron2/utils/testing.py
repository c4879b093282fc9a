"""What tests of detection code need again and again."""

from __future__ import annotations

import io
import os
import tempfile
import unittest
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from detectron2 import model_zoo
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, ROIMasks, RotatedBoxes
from detectron2.utils.file_io import PathManager
from detectron2.utils.torch_version_utils import min_torch_version

__all__ = [
    "Boxes",
    "CfgNode",
    "DatasetCatalog",
    "Instances",
    "LazyConfig",
    "ROIMasks",
    "assert_instances_allclose",
    "build_model",
    "convert_scripted_instances",
    "get_model_no_weights",
    "get_sample_coco_image",
    "has_dynamic_axes",
    "instantiate",
    "min_torch_version",
    "random_boxes",
    "read_image",
    "register_custom_op_onnx_export",
    "reload_lazy_config",
    "reload_script_model",
    "skipIfOnCPUCI",
    "skipIfUnsupportedMinOpsetVersion",
    "skipIfUnsupportedMinTorchVersion",
    "unregister_custom_op_onnx_export",
]

Test = TypeVar("Test", bound=Callable[..., Any])

_ONLINE_IMAGE = "http://images.cocodataset.org/val2017/000000439715.jpg"


def get_model_no_weights(config_path: str) -> nn.Module:
    """Model of a zoo config with random weights, on the GPU if there is one.

    Args:
        config_path: name in the zoo, such as ``"COCO-Detection/retinanet_R_50_FPN_1x.yaml"``.
    """
    cfg = model_zoo.get_config(config_path)
    if isinstance(cfg, CfgNode):
        if not torch.cuda.is_available():
            cfg.MODEL.DEVICE = "cpu"
        return build_model(cfg)
    return instantiate(cfg.model)


def random_boxes(
    num_boxes: int, max_coord: float = 100, device: str | torch.device = "cpu"
) -> Tensor:
    """(num_boxes, 4) XYXY boxes with corners in [0, max_coord) and sides of at least 1 pixel."""
    low_corners = torch.rand(num_boxes, 2, device=device) * (max_coord * 0.5)
    sides = (torch.rand(num_boxes, 2, device=device) * (max_coord * 0.5)).clamp(min=1.0)
    return torch.cat([low_corners, low_corners + sides], dim=1)


def get_sample_coco_image(tensor: bool = True) -> Tensor | np.ndarray:
    """One photograph of COCO: the first of ``coco_2017_val_100``, otherwise from the internet.

    Args:
        tensor: return (3, H, W) float32 instead of (H, W, 3) uint8. Both are BGR in 0..255.
    """
    try:
        path = DatasetCatalog.get("coco_2017_val_100")[0]["file_name"]
        if not PathManager.exists(path):
            raise FileNotFoundError(path)
    except FileNotFoundError:
        path = PathManager.get_local_path(_ONLINE_IMAGE)
    image = read_image(path, format="BGR")
    if not tensor:
        return image
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32))


def convert_scripted_instances(instances: Any) -> Instances:
    """Instances as the rest of the library knows them, from the output of a scripted model."""
    result = Instances(tuple(instances.image_size))
    for name, value in instances.get_fields().items():
        if isinstance(value, Tensor) and name.endswith("boxes"):
            value = RotatedBoxes(value) if value.shape[-1] == 5 else Boxes(value)
        result.set(name, value)
    return result


def assert_instances_allclose(
    input: Instances,
    other: Instances,
    *,
    rtol: float = 1e-5,
    msg: str = "",
    size_as_tensor: bool = False,
) -> None:
    """Check that two Instances have the same fields with nearly the same values.

    Boxes and ROI masks may differ by 100 * `rtol` absolutely, other floating-point fields by
    `rtol` relative to their largest value; everything else must be equal.

    Args:
        size_as_tensor: the image sizes are tensors, as in traced models.

    Raises:
        AssertionError: a size, a field name or a value differs.
    """
    msg = f"{msg}: " if msg else ""
    sizes = [tuple(int(side) for side in each.image_size) for each in (input, other)]
    if not size_as_tensor:
        assert input.image_size == other.image_size, f"{msg}image_size differs: {sizes}"
    assert sizes[0] == sizes[1], f"{msg}image_size differs: {sizes}"
    names = sorted(input.get_fields()), sorted(other.get_fields())
    assert names[0] == names[1], f"{msg}fields differ: {names[0]} and {names[1]}"
    for name in names[0]:
        _assert_field_allclose(name, input.get(name), other.get(name), rtol, msg)


def _assert_field_allclose(name: str, mine: Any, theirs: Any, rtol: float, msg: str) -> None:
    if isinstance(mine, (Boxes, ROIMasks)):
        mine, theirs, atol = mine.tensor, theirs.tensor, 100 * rtol
    elif isinstance(mine, Tensor) and mine.is_floating_point():
        atol = float(mine.abs().max()) * rtol if mine.numel() else 0.0
    elif isinstance(mine, Tensor):
        atol, rtol = 0.0, 0.0
    else:
        raise ValueError(f"{msg}field {name!r} has type {type(mine).__name__}, not comparable")
    torch.testing.assert_close(
        mine, theirs, rtol=rtol, atol=atol, msg=lambda text: f"{msg}field {name!r}: {text}"
    )


def reload_script_model(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The module after saving it to a file in memory and loading it from there."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def reload_lazy_config(cfg: Any) -> Any:
    """The lazy config after `LazyConfig.save` and `LazyConfig.load`."""
    with tempfile.TemporaryDirectory(prefix="detectron2") as folder:
        path = os.path.join(folder, "config.yaml")
        LazyConfig.save(cfg, path)
        return LazyConfig.load(path)


def has_dynamic_axes(onnx_model: Any) -> bool:
    """Whether every output of an ONNX model has an axis without a fixed length."""
    return all(
        any(axis.dim_param or axis.dim_value <= 0 for axis in output.type.tensor_type.shape.dim)
        for output in onnx_model.graph.output
    )


def register_custom_op_onnx_export(
    opname: str, symbolic_fn: Callable[..., Any], opset_version: int, min_version: str
) -> None:
    """Teach PyTorch's TorchScript-based ONNX exporter an op that old versions do not export.

    Args:
        opname: op with its namespace, ``"aten::op"``.
        symbolic_fn: builds the ONNX nodes.
        opset_version: first opset that it serves.
        min_version: PyTorch from this version on needs no help, and nothing is done.
    """
    if not min_torch_version(min_version):
        from torch.onnx import register_custom_op_symbolic

        register_custom_op_symbolic(opname, symbolic_fn, opset_version)


def unregister_custom_op_onnx_export(opname: str, opset_version: int, min_version: str) -> None:
    """Undo `register_custom_op_onnx_export`; does nothing where that did nothing."""
    if not min_torch_version(min_version):
        from torch.onnx import unregister_custom_op_symbolic

        unregister_custom_op_symbolic(opname, opset_version)


def skipIfOnCPUCI(test: Test) -> Test:
    """Skip a test that is too slow for continuous integration without a GPU."""
    on_ci = bool(os.environ.get("CI")) and not torch.cuda.is_available()
    return unittest.skipIf(on_ci, "Too slow without a GPU.")(test)


def skipIfUnsupportedMinTorchVersion(min_version: str) -> Callable[[Test], Test]:
    """Skip a test on PyTorch older than `min_version`."""
    reason = f"Needs PyTorch {min_version} or newer."
    return unittest.skipIf(not min_torch_version(min_version), reason)


def skipIfUnsupportedMinOpsetVersion(
    min_opset_version: int, current_opset_version: int | None = None
) -> Callable[[Test], Test]:
    """Skip a test if the ONNX opset is older than `min_opset_version`.

    Args:
        current_opset_version: the opset in use; None means the one this library exports to.
    """
    if current_opset_version is None:
        from detectron2.export import STABLE_ONNX_OPSET_VERSION

        current_opset_version = STABLE_ONNX_OPSET_VERSION
    reason = f"Needs ONNX opset {min_opset_version}; this is {current_opset_version}."
    return unittest.skipIf(current_opset_version < min_opset_version, reason)
