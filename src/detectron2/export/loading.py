"""Exported files as predictors."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detectron2.data.catalog import Metadata
from detectron2.export.formats import FORMATS, format_of_file, require
from detectron2.export.info import ExportInfo
from detectron2.export.inputs import batch_of_images, inputs_of_file, prepare_image
from detectron2.export.results import as_tensors, results_of_batch

__all__ = ["ExportedModel", "load"]


_OWN_THREADS = ("onnx", "openvino")


class ExportedModel(nn.Module):
    """A model in a file, run by the runtime of its format.

    It takes the place of a `DefaultPredictor` (called with one image) and of a model (called
    with a list of input dictionaries).

    Attributes:
        path: the file.
        info: what the file says about itself.
        metadata: names of the classes.
        proof: of a file that has just been exported, what it was compared on.
        metrics: of a file that has just been exported, beside the model's, if asked for.
        int8_report: of a file that has just been exported with 8-bit integers.
    """

    metadata: Metadata

    def __init__(self, path: Path, info: ExportInfo, runtime: Any) -> None:
        super().__init__()
        self.path = path
        self.info = info
        self.metadata = info.metadata()
        self.runtime = runtime
        self.proof: list[str] = []
        self.metrics: Any = None
        self.int8_report: Any = None
        self.input_format = info.input_format
        self.image_format = "BGR"  # of the images that a call takes
        self.eval()

    def predict(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Detect in images.

        Args:
            images: (H, W, 3) uint8 each, in BGR order whatever the model takes; of any size.

        Returns:
            For each image what `DefaultPredictor` returns, in the frame of that image.

        Raises:
            ValueError: an image has another shape, or the file takes no images of its size.
        """
        return self.forward([self.prepare(image) for image in images])

    def forward(self, inputs: Any) -> Any:
        """Results of one (H, W, 3) BGR image, or of each of a list of input dictionaries.

        A file for batches of one number of images is run as often as need be, and gets the last
        image again in places that are free.
        """
        if isinstance(inputs, np.ndarray):
            return self.predict([inputs])[0]
        size = self.info.batch or len(inputs)
        if inputs and len(inputs) != size:
            parts = [inputs[start : start + size] for start in range(0, len(inputs), size)]
            full = [[*part, *[part[-1]] * (size - len(part))] for part in parts]
            return [result for part in full for result in self.forward(part)][: len(inputs)]
        images = [each["image"] for each in inputs]
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        wanted = [
            (int(each.get("height", size[0])), int(each.get("width", size[1])))
            for each, size in zip(inputs, sizes)
        ]
        arrays = [each.numpy() for each in inputs_of_file(self.info, images, wanted)]
        outputs = as_tensors(self.info, self.runtime(*arrays))
        return results_of_batch(self.info, outputs, sizes, wanted)

    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        """See `prepare_image`."""
        return prepare_image(self.info, image)

    def batch(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See `batch_of_images`."""
        return batch_of_images(self.info, images)


def load(
    path: str | os.PathLike[str],
    device: str = "cpu",
    threads: int | None = None,
    precision: str = "fp32",
) -> ExportedModel:
    """A file that `export` wrote, ready to predict.

    Args:
        path: the file.
        device: as the runtime names it.
        threads: of onnxruntime and OpenVINO, which take all processors by default; other
            runtimes use PyTorch's.
        precision: "fp32", in which files are proved, or "bf16" for OpenVINO, which is faster on
            processors that have it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no exported file, is incomplete, or of another version, or its runtime
            has no such precision or device.
        ImportError: its runtime is not installed.
    """
    path = Path(path)
    name = format_of_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    require(name)
    _check_device(path, name, device)
    settings = _settings(path, name, threads, precision)
    module = importlib.import_module(FORMATS[name].runtime)
    try:
        runtime = module.Runtime(str(path), device, **settings)
    except Exception as error:  # every runtime has its own, and none of them names the file
        raise ValueError(
            f"{str(path)!r} is no complete {name} file ({_reason(error)}). Export the model again."
        ) from error
    return ExportedModel(path, ExportInfo.from_json(runtime.info, str(path)), runtime)


def _check_device(path: Path, name: str, device: str) -> None:
    """Refuse a device that a runtime does not have; some would take another one."""
    kind = device.lower().replace(".", ":").partition(":")[0]
    if kind == "cpu":
        return
    devices = ["cpu"]
    if name == "openvino":
        import openvino

        devices = ["auto", *(each.lower() for each in openvino.Core().available_devices)]
        kind = device.lower()
    elif name == "onnx":
        import onnxruntime

        providers = {"CUDAExecutionProvider": "cuda"}
        devices += [
            providers[each] for each in onnxruntime.get_available_providers() if each in providers
        ]
    elif name != "executorch":
        devices += ["cuda"] * torch.cuda.is_available()
    if kind not in devices:
        raise ValueError(
            f"{str(path)!r} cannot run on {device!r}: its runtime has {' and '.join(devices)} here."
        )


def _settings(path: Path, name: str, threads: int | None, precision: str) -> dict[str, Any]:
    """Arguments of a runtime that only some of them take."""
    settings: dict[str, Any] = {}
    if threads is not None and name in _OWN_THREADS:
        settings["threads"] = threads
    if precision != "fp32":
        if (name, precision) != ("openvino", "bf16"):
            raise ValueError(
                f"{str(path)!r} cannot run in {precision!r}: files run in 'fp32', those of "
                "OpenVINO also in 'bf16'."
            )
        settings["precision"] = "bf16"
    return settings


def _reason(error: Exception) -> str:
    """The first sentence in an error of a runtime that says something."""
    for line in str(error).strip().splitlines():
        if not line.startswith(("Exception from ", "Check '")):  # of OpenVINO, about its source
            return line.partition(". ")[0].rstrip(".!")
    return type(error).__name__
