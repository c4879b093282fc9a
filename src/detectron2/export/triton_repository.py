"""Models in the layout that Triton Inference Server loads.

A repository holds a folder for each model; in it are ``config.pbtxt`` and a folder for each
version.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detectron2.export.exporter import export
from detectron2.export.formats import FORMATS
from detectron2.export.loading import ExportedModel
from detectron2.utils.files import atomic_write_text

__all__ = ["BACKENDS", "export_triton_model"]

# Format of the file -> (Triton's backend, the name that it looks for).
BACKENDS = {"onnx": ("onnxruntime", "model.onnx"), "torchscript": ("pytorch", "model.pt")}
_TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64", "int32": "TYPE_INT32", "bool": "TYPE_BOOL"}
_ONNX_TYPES = {"float": "float32"}
# Two sizes of images; what differs between them is no fixed dimension.
_EXAMPLES = ((128, 160), (96, 224))


@dataclass(frozen=True)
class _Port:
    """An input or output: its name, NumPy's type, and sizes, -1 for any."""

    name: str
    type: str
    dims: tuple[int, ...]


def export_triton_model(
    model: Any, folder: str | os.PathLike[str], *, file_format: str = "onnx", **options: Any
) -> ExportedModel:
    """Export a model into a model repository of Triton Inference Server.

    Args:
        model: see `export`.
        folder: of the model in the repository; its name is that of the model. If it holds
            versions already, the next one is written beside them.
        file_format: "onnx" or "torchscript".
        options: of `export`.

    Returns:
        The proved file.

    Raises:
        ValueError: the name of the folder is no name of a model, there is no such format, or
            see `export`.
        ImportError, ProofError: see `export`.
    """
    folder = Path(folder)
    _check_arguments(folder, file_format)
    backend, name = BACKENDS[file_format]
    suffix = FORMATS[file_format].suffixes[0]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as made:
        exported = export(model, file_format, Path(made) / f"model{suffix}", **options)
        version = folder / str(_next_version(folder))
        version.mkdir()
        os.replace(exported.path, version / name)
    exported.path = version / name
    inputs, outputs = _ports(exported)
    text = _config(folder.name, backend, inputs, outputs, exported.info.to_json())
    atomic_write_text(folder / "config.pbtxt", text)
    return exported


def _check_arguments(folder: Path, file_format: str) -> None:
    if file_format not in BACKENDS:
        raise ValueError(
            f"A Triton repository holds {' or '.join(BACKENDS)} files, not {file_format!r}."
        )
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", folder.name):
        raise ValueError(
            f"The output {str(folder)!r} has to end in the name of the model, of letters, digits, "
            "'_', '-' and '.'."
        )


def _next_version(folder: Path) -> int:
    versions = [int(each.name) for each in folder.iterdir() if each.name.isdigit()]
    return max(versions, default=0) + 1


def _ports(exported: ExportedModel) -> tuple[list[_Port], list[_Port]]:
    session = getattr(exported.runtime, "session", None)
    if session is not None:
        return [_of_onnx(each) for each in session.get_inputs()], [
            _of_onnx(each) for each in session.get_outputs()
        ]
    return _of_torchscript(exported)


def _of_onnx(value: Any) -> _Port:
    kind = re.sub(r"^tensor\((.*)\)$", r"\1", value.type)
    dims = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return _Port(value.name, _ONNX_TYPES.get(kind, kind), dims)


def _of_torchscript(exported: ExportedModel) -> tuple[list[_Port], list[_Port]]:
    """Names with the position behind them, which is how Triton calls a `forward`."""
    info, runs = exported.info, []
    batch = info.batch or 1
    for height, width in [tuple(info.image_size)] if info.image_size else _EXAMPLES:
        images = np.zeros((batch, 3, height, width), dtype=np.float32)
        sizes = np.tile(np.array([[height, width]], dtype=np.int64), (batch, 1))
        runs.append(exported.runtime(images, sizes))
    size = tuple(info.image_size or (-1, -1))
    inputs = [
        _Port("images__0", "float32", (info.batch or -1, 3, *size)),
        _Port("image_sizes__1", "int64", (info.batch or -1, 2)),
    ]
    outputs = []
    for index, (name, *values) in enumerate(zip(info.outputs, *runs)):
        shapes = [value.shape[1:] for value in values]
        dims = [sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes)]
        outputs.append(_Port(f"{name}__{index}", str(values[0].dtype), (-1, *dims)))
    return inputs, outputs


def _config(
    name: str, backend: str, inputs: Sequence[_Port], outputs: Sequence[_Port], description: str
) -> str:
    """The configuration in protobuf's text format."""
    lines = [
        f"name: {_quoted(name)}",
        f"backend: {_quoted(backend)}",
        "# Detections of all images lie behind one another, with image_index beside them, so",
        "# Triton cannot merge requests: put several images into one.",
        "max_batch_size: 0",
    ]
    for kind, ports in (("input", inputs), ("output", outputs)):
        entries = ",\n".join(
            f"  {{ name: {_quoted(port.name)}, data_type: {_TYPES[port.type]}, "
            f"dims: [ {', '.join(map(str, port.dims))} ] }}"
            for port in ports
        )
        lines.append(f"{kind} [\n{entries}\n]")
    lines.append("# Preprocessing, classes and thresholds, see detectron2.export.info.ExportInfo.")
    lines.append(
        f'parameters {{ key: "detectron2", value: {{ string_value: {_quoted(description)} }} }}'
    )
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
