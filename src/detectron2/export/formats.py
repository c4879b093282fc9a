"""The formats that a model can be exported to, and how each file is written."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from detectron2.export._batched_trace import TraceableBatch, example_inputs, trace_batched
from detectron2.export.batched import BatchedModel, UnsupportedModelError
from detectron2.export.info import ExportInfo
from detectron2.export.learnt_ranges import Ranges
from detectron2.export.tracing import quiet_tracer

__all__ = [
    "FORMATS",
    "OPSETS",
    "Format",
    "Settings",
    "check_name",
    "format_of_file",
    "require",
    "write",
]

# What `torch.onnx`'s tracing exporter can write and the ops need (RoiAlign of 16).
OPSETS = range(17, 21)


@dataclass(frozen=True)
class Settings:
    """Of single formats.

    Attributes:
        opset: version of ONNX's operators.
        compile: whether a .pt2 file is compiled, if that is possible.
        ranges: of inputs of layers, learnt in training, for 8-bit integers.
    """

    opset: int = 17
    compile: bool = True
    ranges: Ranges = field(default_factory=dict)


Quantize = Callable[
    [BatchedModel, ExportInfo, Path, str, Settings, Sequence[np.ndarray], Collection[str]], int
]


@dataclass(frozen=True)
class Format:
    """How a format is written and read.

    Attributes:
        suffixes: of files, the usual one first.
        runtime: module with the class `Runtime` that runs a file.
        packages: what has to be importable, by name.
        extra: of detectron2 that installs those.
        fixed: every tensor has a fixed shape: number and size of images have to be given.
        multiples: sides of a batch have to be multiples of what the network pads to.
        postprocess: the file may scale results and paste masks.
        keypoints: the file finds them in the heatmaps; otherwise the loader does.
        write: (model, description, folder, stem, settings) writes the files into a folder.
        quantize: (model, description, folder, stem, settings, images, parts that stay float)
            replaces those files by ones with 8-bit integers, and returns the number of layers.
    """

    suffixes: tuple[str, ...]
    runtime: str
    packages: tuple[str, ...]
    extra: str
    write: Callable[[BatchedModel, ExportInfo, Path, str, Settings], None]
    quantize: Quantize | None = None
    fixed: bool = False
    multiples: bool = False
    postprocess: bool = True
    keypoints: bool = True


def _write_torchscript(
    batched: BatchedModel, info: ExportInfo, folder: Path, name: str, settings: Settings
) -> None:
    from detectron2.export.runtimes.torchscript import INFO_NAME

    traced = trace_batched(batched, info.batch, info.image_size)
    with quiet_tracer():
        torch.jit.save(traced, str(folder / name), _extra_files={INFO_NAME: info.to_json()})


def _trace_to_onnx(batched: BatchedModel, info: ExportInfo, path: Path, opset: int) -> None:
    from detectron2.export._onnx_ops import ONNX_SUBSTITUTES

    axes: dict[str, dict[int, str]] = {
        output: {0: "batch" if output == "sem_seg" else "detections"} for output in info.outputs
    }
    example = example_inputs(batched, info.batch, info.image_size)
    names = ["images", "image_sizes", "output_sizes"][: len(example)]
    axes["images"] = {} if info.image_size else {2: "height", 3: "width"}
    if info.batch is None:
        for name in names:
            axes.setdefault(name, {})[0] = "batch"
    if info.postprocess == "in" and "pred_masks" in axes:
        axes["pred_masks"].update({1: "output_height", 2: "output_width"})
    with torch.no_grad(), warnings.catch_warnings():
        # PyTorch deprecates this exporter, but it takes numbers of boxes that every stage finds
        # out anew as they come. It also warns of what it cannot simplify.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                TraceableBatch(batched, ONNX_SUBSTITUTES).eval(),
                example,
                str(path),
                dynamo=False,
                opset_version=opset,
                input_names=names,
                output_names=info.outputs,
                dynamic_axes=axes,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            problem = str(error).strip().splitlines()[0]
            raise UnsupportedModelError(
                f"The model cannot be exported to ONNX opset {opset}: {problem}"
            ) from error


def _write_onnx(
    batched: BatchedModel, info: ExportInfo, folder: Path, name: str, settings: Settings
) -> None:
    import onnx

    if info.rotated:
        raise UnsupportedModelError(
            "The model cannot be exported to ONNX: its proposal_generator and roi_heads use "
            "rotated NMS and ROIAlignRotated, for which ONNX has no operators. Use torchscript or "
            "pt2."
        )
    from detectron2.export.runtimes.onnx import INFO_NAME

    _trace_to_onnx(batched, info, folder / name, settings.opset)
    written = onnx.load(str(folder / name))
    onnx.checker.check_model(written)
    foreign = sorted({node.domain for node in written.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise ValueError(f"The graph has nodes that are not standard ONNX: {', '.join(foreign)}.")
    entry = written.metadata_props.add()
    entry.key, entry.value = INFO_NAME, info.to_json()
    onnx.save(written, str(folder / name))


def _write_pt2(
    batched: BatchedModel, info: ExportInfo, folder: Path, name: str, settings: Settings
) -> None:
    from detectron2.export._pt2 import write_pt2

    write_pt2(batched, info, folder / name, settings.compile)


def _write_executorch(
    batched: BatchedModel, info: ExportInfo, folder: Path, name: str, settings: Settings
) -> None:
    from detectron2.export._executorch import write_executorch

    write_executorch(batched, info, folder / name)


def _write_openvino(
    batched: BatchedModel, info: ExportInfo, folder: Path, name: str, settings: Settings
) -> None:
    import openvino

    from detectron2.export.runtimes.openvino import INFO_NAME

    with tempfile.TemporaryDirectory(dir=folder) as onnx_folder:
        _write_onnx(batched, info, Path(onnx_folder), "model.onnx", settings)
        converted = openvino.convert_model(str(Path(onnx_folder) / "model.onnx"))
    converted.set_rt_info(info.to_json(), INFO_NAME)
    openvino.save_model(converted, str(folder / name), compress_to_fp16=False)


def _quantize_openvino(
    batched: BatchedModel,
    info: ExportInfo,
    folder: Path,
    name: str,
    settings: Settings,
    images: Sequence[np.ndarray],
    float_parts: Collection[str],
) -> int:
    from detectron2.export._int8_openvino import quantize_openvino

    return quantize_openvino(folder / name, info, images, float_parts, settings.ranges)


def _quantize_pt2(
    batched: BatchedModel,
    info: ExportInfo,
    folder: Path,
    name: str,
    settings: Settings,
    images: Sequence[np.ndarray],
    float_parts: Collection[str],
) -> int:
    from detectron2.export._pt2 import write_int8_pt2

    return write_int8_pt2(
        batched, info, folder / name, settings.compile, images, float_parts, settings.ranges
    )


def _quantize_executorch(
    batched: BatchedModel,
    info: ExportInfo,
    folder: Path,
    name: str,
    settings: Settings,
    images: Sequence[np.ndarray],
    float_parts: Collection[str],
) -> int:
    from detectron2.export._executorch import write_int8_executorch

    return write_int8_executorch(batched, info, folder / name, images, float_parts)


_HERE = "detectron2.export.runtimes"
FORMATS: dict[str, Format] = {
    "torchscript": Format(
        (".ts", ".torchscript"), f"{_HERE}.torchscript", (), "", _write_torchscript
    ),
    "onnx": Format(
        (".onnx",), f"{_HERE}.onnx", ("onnx", "onnxscript", "onnxruntime"), "export", _write_onnx
    ),
    "openvino": Format(
        (".xml",),
        f"{_HERE}.openvino",
        ("openvino", "onnx", "onnxscript"),
        "openvino",
        _write_openvino,
        _quantize_openvino,
    ),
    "pt2": Format(
        (".pt2",),
        f"{_HERE}.pt2",
        (),
        "",
        _write_pt2,
        _quantize_pt2,
        multiples=True,
        postprocess=False,
        keypoints=False,
    ),
    "executorch": Format(
        (".pte",),
        f"{_HERE}.executorch",
        ("executorch",),
        "mobile",
        _write_executorch,
        _quantize_executorch,
        fixed=True,
        postprocess=False,
        keypoints=False,
    ),
}


def format_of_file(path: str | os.PathLike[str]) -> str:
    """Format of a file by its suffix.

    Raises:
        ValueError: no format has such files.
    """
    suffix = Path(path).suffix.lower()
    for name, each in FORMATS.items():
        if suffix in each.suffixes:
            return name
    known = ", ".join(f"{each.suffixes[0]} ({name})" for name, each in FORMATS.items())
    raise ValueError(f"{str(path)!r} has the suffix {suffix!r}; exported files end in {known}.")


def check_name(name: str) -> None:
    """Check that there is a format of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in FORMATS:
        raise ValueError(f"There is no format {name!r}; choose from {', '.join(FORMATS)}.")


def require(name: str) -> None:
    """Check that the packages of a format are installed.

    Raises:
        ValueError: there is no such format.
        ImportError: a package is missing; the message says what to install.
    """
    check_name(name)
    for package in FORMATS[name].packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"Format {name!r} needs the package {package!r}: "
                f'pip install "detectron2[{FORMATS[name].extra}]".'
            ) from error


def write(
    name: str,
    batched: BatchedModel,
    info: ExportInfo,
    folder: Path,
    file_name: str,
    settings: Settings,
) -> None:
    """Write the files of a format into an empty folder."""
    FORMATS[name].write(batched, info, folder, file_name, settings)


def move_into_place(folder: Path, output: Path) -> None:
    """Move all files of a finished export beside each other; the one named `output` comes last."""
    for path in sorted(folder.iterdir(), key=lambda each: each.name == output.name):
        _replace(path, output.with_name(path.name))


def _replace(source: Path, target: Path) -> None:
    with open(source, "rb+") as stream:
        os.fsync(stream.fileno())
    try:
        os.replace(source, target)
    except OSError:  # another file system
        partial = target.with_name(f".{target.name}.{os.getpid()}.part")
        shutil.copyfile(source, partial)
        os.replace(partial, target)
