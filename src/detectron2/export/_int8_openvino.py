"""Eight-bit integers for OpenVINO files, calibrated on images by NNCF."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectron2.export.calibration import Batches, stays_float
from detectron2.export.info import ExportInfo
from detectron2.export.learnt_ranges import LEVELS, Ranges, layer_called, scale_and_zero_point
from detectron2.export.runtimes.openvino import INFO_NAME, INPUTS

__all__ = ["quantize_openvino", "require_nncf"]


_LAYERS = ("Convolution", "GroupConvolution", "MatMul")


def quantize_openvino(
    path: Path,
    info: ExportInfo,
    images: Sequence[np.ndarray],
    float_parts: Collection[str] = (),
    ranges: Ranges | None = None,
) -> int:
    """Replace an OpenVINO file by one whose convolutions and products are of 8-bit integers.

    Args:
        images: (H, W, 3) uint8 BGR images to calibrate on; those of the training set are best.
        float_parts: see `stays_float`.
        ranges: of inputs of layers, learnt in training; the images decide about others.

    Returns:
        the number of layers that became integers.

    Raises:
        ImportError: NNCF is not installed.
    """
    nncf = require_nncf()
    import openvino

    info.int8_images = len(images)
    model = openvino.Core().read_model(str(path))
    names = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_input_size() > 0]
    data = _Named(Batches(info, images))
    quantized = nncf.quantize(
        model,
        nncf.Dataset(data),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(data),
        ignored_scope=nncf.IgnoredScope(
            names=[name for name in names if stays_float(name, float_parts)], validate=False
        ),
    )
    _take_ranges(quantized, ranges or {})
    quantized.set_rt_info(info.to_json(), INFO_NAME)
    # The old files are mapped into memory while the model lives.
    files = [path, path.with_suffix(".bin")]
    partial = path.with_name(f"int8_{path.name}")
    openvino.save_model(quantized, str(partial), compress_to_fp16=False)
    del model
    for old in files:
        partial.with_suffix(old.suffix).replace(old)
    return _integer_layers(openvino.Core().read_model(str(path)))


# What leaves the range of numbers between their rounding and a layer as it is.
_PASSED = ("MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def _take_ranges(model: Any, ranges: Ranges) -> int:
    """Round inputs of layers in the ranges that were learnt, and return how many do.

    Inputs that several layers share are rounded in a range that holds those of all.
    """
    wanted: dict[str, tuple[Any, list[tuple[float, float]]]] = {}
    for op in model.get_ordered_ops():
        if op.get_type_name() in _LAYERS:
            layer = layer_called(op.get_friendly_name(), ranges)
            source = op.input_value(0).get_node()
            while source.get_type_name() in _PASSED:
                source = source.input_value(0).get_node()
            if layer is not None and source.get_type_name() == "FakeQuantize":
                _, found = wanted.setdefault(source.get_friendly_name(), (source, []))
                found.append(ranges[layer])
    for source, found in wanted.values():
        lowest, highest = min(low for low, _ in found), max(high for _, high in found)
        _set_range(source, lowest, highest)
    return len(wanted)


def _set_range(rounding: Any, lowest: float, highest: float) -> None:
    import openvino

    scale, zero_point = scale_and_zero_point(lowest, highest)
    ends = (-zero_point * scale, (LEVELS - 1 - zero_point) * scale)
    for place, value in enumerate(ends * 2, start=1):
        shape = rounding.input_value(place).get_node().data.shape
        constant = openvino.op.Constant(np.full(shape, value, dtype=np.float32))
        rounding.input(place).replace_source_output(constant.output(0))


def _integer_layers(model: Any) -> int:
    """Number of convolutions and products whose weights are stored as integers."""
    layers = 0
    for op in model.get_ordered_ops():
        if op.get_type_name() in _LAYERS:
            weights = op.input_value(1).get_node()
            while weights.get_type_name() in ("Multiply", "Subtract", "Convert", "Reshape"):
                weights = weights.input_value(0).get_node()
            layers += weights.get_output_element_type(0).get_type_name() in ("i8", "u8")
    return layers


class _Named:
    """Batches by the names of the inputs."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for inputs in self.batches:
            yield dict(zip(INPUTS, (each.numpy() for each in inputs)))


def require_nncf() -> Any:
    """NNCF, or an ImportError that says what to install."""
    try:
        nncf = importlib.import_module("nncf")
    except ImportError as error:
        raise ImportError(
            'INT8 for OpenVINO needs the package "nncf": pip install "detectron2[openvino]".'
        ) from error
    nncf.set_log_level(logging.ERROR)
    return nncf
