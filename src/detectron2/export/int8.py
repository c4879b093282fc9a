"""Eight-bit integers for OpenVINO files, calibrated on images by NNCF."""

from __future__ import annotations

import importlib
import logging
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from detectron2.export.info import ExportInfo
from detectron2.export.loading import ExportedModel, inputs_of_file, load
from detectron2.export.proof import ProofError, run_in_fresh_process
from detectron2.export.runtimes.openvino import INFO_NAME, INPUTS
from detectron2.structures import Boxes, Instances, pairwise_iou

__all__ = [
    "LEAST_AGREEMENT",
    "Int8Report",
    "agreement",
    "check_int8",
    "make_int8",
    "quantize_openvino",
    "report_on",
    "stays_float",
]

# Parts of a model whose layers become integers; what lies outside is arithmetic on boxes.
_QUANTIZED = frozenset(
    ("backbone", "rpn_head", "box_head", "mask_head", "keypoint_head", "head", "res5")
    + ("sem_seg_head",)
)
# Layers of those parts whose outputs are scores and coordinates.
_LAST_LAYERS = frozenset(
    ("objectness_logits", "anchor_deltas", "cls_score", "bbox_pred", "ctrness", "cls_logits")
    + ("predictor", "score_lowres")
)
# Below this the file is not kept.
LEAST_AGREEMENT = 0.5
# Images on which file and float file are compared and timed.
_COMPARED = 8


@dataclass(frozen=True)
class Int8Report:
    """What eight bits changed.

    Attributes:
        images: that the file was calibrated on.
        layers: whose weights are integers.
        agreement: see `agreement`, the mean over the compared images.
        bytes_before, bytes_after: of the files.
        ms_before, ms_after: fastest call on the first image, in milliseconds.
    """

    images: int
    layers: int
    agreement: float
    bytes_before: int
    bytes_after: int
    ms_before: float
    ms_after: float

    def lines(self) -> list[str]:
        megabytes = [each / 1e6 for each in (self.bytes_before, self.bytes_after)]
        return [
            f"int8: {self.layers} layers, calibrated on {self.images} images",
            f"agreement with the float file: {self.agreement:.1%} of the detections",
            f"size: {megabytes[0]:.1f} -> {megabytes[1]:.1f} MB",
            f"latency: {self.ms_before:.0f} -> {self.ms_after:.0f} ms "
            f"({self.ms_before / self.ms_after:.2f} times as fast)",
        ]


def check_int8(format: str) -> None:
    """Check that a format can have 8-bit integers, and that what makes them is installed.

    Raises:
        ValueError: it cannot.
        ImportError: NNCF is missing.
    """
    if format != "openvino":
        raise ValueError(f"INT8 is for the format openvino, not for {format}.")
    _nncf()


def make_int8(path: Path, kept: Path, info: ExportInfo, images: Sequence[np.ndarray]) -> Int8Report:
    """Replace a float file that has been proved, run the new one in a fresh process, compare both.

    Args:
        kept: empty folder for the float file.

    Raises:
        ProofError: the new file does not run, or has little in common with the float file.
    """
    for part in (path, path.with_suffix(".bin")):
        shutil.copyfile(part, kept / part.name)
    info.int8_images = len(images)
    layers = quantize_openvino(path, info, images)
    run_in_fresh_process(path, info)
    report = report_on(load(kept / path.name), load(path), images, layers)
    if report.agreement < LEAST_AGREEMENT:
        raise ProofError(
            f"With 8-bit integers the model finds something else ({report.agreement:.1%} of the "
            f"detections agree, less than {LEAST_AGREEMENT:.0%}), so the file was not kept. "
            "Calibrate on more images, of the kind that the model is for."
        )
    return report


def stays_float(name: str) -> bool:
    """Whether a node of the graph, called by the path of its module, must not become integers."""
    # A module that is called once for each level has the number of the call behind its name.
    parts = [re.sub(r"_\d+$", "", part) for part in name.split("/")]
    return _QUANTIZED.isdisjoint(parts) or not _LAST_LAYERS.isdisjoint(parts)


def quantize_openvino(path: Path, info: ExportInfo, images: Sequence[np.ndarray]) -> int:
    """Replace an OpenVINO file by one whose convolutions and products are of 8-bit integers.

    Args:
        images: (H, W, 3) uint8 BGR images to calibrate on; those of the training set are best.

    Returns:
        the number of layers that became integers.

    Raises:
        ImportError: NNCF is not installed.
        ValueError: there is no image.
    """
    nncf = _nncf()
    import openvino

    if not images:
        raise ValueError("INT8 needs images to calibrate on, and there is none.")
    model = openvino.Core().read_model(str(path))
    names = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_input_size() > 0]
    data = _Batches(info, images)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(data),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(data),
        ignored_scope=nncf.IgnoredScope(
            names=[name for name in names if stays_float(name)], validate=False
        ),
    )
    quantized.set_rt_info(info.to_json(), INFO_NAME)
    # The old files are mapped into memory while the model lives.
    files = [path, path.with_suffix(".bin")]
    partial = path.with_name(f"int8_{path.name}")
    openvino.save_model(quantized, str(partial), compress_to_fp16=False)
    del model
    for old in files:
        partial.with_suffix(old.suffix).replace(old)
    return _integer_layers(openvino.Core().read_model(str(path)))


def _integer_layers(model: Any) -> int:
    """Number of convolutions and products whose weights are stored as integers."""
    layers = 0
    for op in model.get_ordered_ops():
        if op.get_type_name() in ("Convolution", "GroupConvolution", "MatMul"):
            weights = op.input_value(1).get_node()
            while weights.get_type_name() in ("Multiply", "Subtract", "Convert", "Reshape"):
                weights = weights.input_value(0).get_node()
            layers += weights.get_output_element_type(0).get_type_name() in ("i8", "u8")
    return layers


class _Batches:
    """Inputs of a file, each made of one image (or as many as the file takes), when asked for."""

    def __init__(self, info: ExportInfo, images: Sequence[np.ndarray]) -> None:
        self.info, self.images = info, images
        self.prepare = ExportedModel(Path(), info, None).prepare

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for image in self.images:
            prepared = [self.prepare(image)["image"]] * (self.info.batch or 1)
            wanted = [(int(each.shape[1]), int(each.shape[2])) for each in prepared]
            inputs = inputs_of_file(self.info, prepared, wanted)
            yield dict(zip(INPUTS, (each.numpy() for each in inputs)))


def _nncf() -> Any:
    try:
        nncf = importlib.import_module("nncf")
    except ImportError as error:
        raise ImportError(
            'INT8 for OpenVINO needs the package "nncf": pip install "detectron2[openvino]".'
        ) from error
    nncf.set_log_level(logging.ERROR)
    return nncf


def report_on(
    before: ExportedModel, after: ExportedModel, images: Sequence[np.ndarray], layers: int
) -> Int8Report:
    """Compare a file with the float file that it was made from.

    Args:
        images: that it was calibrated on; the first few are used.
        layers: that became integers.
    """
    shares = []
    for index in range(min(_COMPARED, len(images))):
        batch = [images[index]] * (before.info.batch or 1)
        shares.append(agreement(before.predict(batch)[0], after.predict(batch)[0]))
    return Int8Report(
        images=len(images),
        layers=layers,
        agreement=float(np.mean(shares)),
        bytes_before=_bytes(before.path),
        bytes_after=_bytes(after.path),
        ms_before=_milliseconds(before, images[0]),
        ms_after=_milliseconds(after, images[0]),
    )


def _bytes(path: Path) -> int:
    return path.stat().st_size + path.with_suffix(".bin").stat().st_size


def _milliseconds(exported: ExportedModel, image: np.ndarray) -> float:
    (inputs,) = _Batches(exported.info, [image])
    times = []
    for _ in range(4):  # the first one is slower
        start = time.perf_counter()
        exported.runtime(*inputs.values())
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def agreement(first: dict[str, Any], second: dict[str, Any]) -> float:
    """How much two results of one image have in common, from 0 to 1.

    Of detections the share that has a partner in the other result, of the same class and with
    an IoU of at least 0.5; of semantic scores the share of pixels of the same class.
    """
    for name in ("instances", "proposals"):
        if name in first:
            return _shared_detections(first[name], second[name])
    same = first["sem_seg"].argmax(dim=0) == second["sem_seg"].argmax(dim=0)
    return float(same.float().mean())


def _shared_detections(first: Instances, second: Instances) -> float:
    total = len(first) + len(second)
    if total == 0:
        return 1.0
    field = "pred_boxes" if first.has("pred_boxes") else "proposal_boxes"
    overlap = pairwise_iou(_boxes(first, field), _boxes(second, field))
    if first.has("pred_classes"):
        overlap *= first.pred_classes[:, None] == second.pred_classes[None]
    return 2 * _pairs(overlap) / total


def _boxes(instances: Instances, field: str) -> Boxes:
    return instances.get(field)


def _pairs(overlap: Tensor) -> int:
    """Number of pairs, best first, no row or column twice."""
    pairs = 0
    overlap = overlap.clone()
    while overlap.numel() and float(overlap.max()) >= 0.5:
        row, column = divmod(int(overlap.argmax()), overlap.shape[1])
        overlap[row], overlap[:, column] = -1, -1
        pairs += 1
    return pairs
