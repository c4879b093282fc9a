"""One call that writes a model to a file, proves the file, and only then keeps it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

from detectron2.config import CfgNode
from detectron2.export.batched import BatchedModel, batched_model, postprocessed
from detectron2.export.compare import TOLERANCE
from detectron2.export.evaluation import Evaluation, beside
from detectron2.export.formats import (
    FORMATS,
    OPSETS,
    Settings,
    check_name,
    move_into_place,
    require,
    write,
)
from detectron2.export.info import ExportInfo, weights_hash
from detectron2.export.int8 import Int8Report, check_int8, make_int8
from detectron2.export.int8_report import report_path
from detectron2.export.learnt_ranges import Ranges, ranges_in
from detectron2.export.loading import ExportedModel, load
from detectron2.export.proof import prove
from detectron2.version import __version__

__all__ = ["export"]


def export(
    model: nn.Module | CfgNode | DictConfig | str,
    format: str,
    output: str | os.PathLike[str],
    *,
    images: Sequence[np.ndarray] = (),
    batch: int | str = "dynamic",
    image_size: tuple[int, int] | None = None,
    opset: int = 17,
    shortest_edge: int | None = None,
    longest_edge: int | None = None,
    input_format: str | None = None,
    classes: Mapping[str, Any] | None = None,
    int8: Sequence[np.ndarray] | None = None,
    dataset: str | None = None,
    preprocess: str = "in",
    postprocess: str = "out",
    compile: bool = True,
) -> ExportedModel:
    """Write a model to a file that runs without this library, and prove that it computes the same.

    The file is run in its own runtime in a fresh process on several batches; it appears under
    its name only if everything agrees with the model.

    Args:
        model: a model, or a config that `DefaultPredictor` takes, whose weights are loaded.
        format: a name in `detectron2.export.formats.FORMATS`.
        output: name of the file; of OpenVINO the .xml, beside which a .bin is written.
        images: (H, W, 3) uint8 BGR images of yours to compare on; by default made up.
        batch: number of images in a call, or "dynamic" for any; for ExecuTorch that is one.
        image_size: (H, W) that images are padded to; by default any.
        opset: version of ONNX's operators.
        shortest_edge, longest_edge: how images are to be resized; by default what the config
            says, or not at all for a model.
        input_format: "BGR" or "RGB"; by default what the config or the model says.
        classes: names and colours, see `detectron2.data.metadata_file`; by default those of the
            config's dataset.
        int8: (H, W, 3) uint8 BGR images to calibrate 8-bit integers on, for openvino, pt2 and
            executorch; a report is written beside the file, see `detectron2.export.int8_report`.
        dataset: name in the catalog to evaluate the model and the file on; see the attribute
            `metrics` of the result.
        preprocess: "in" if the file takes pixels in 0..255, "out" if its caller, such as
            `load`, subtracts the mean and divides by the deviation.
        postprocess: "out" if the file's boxes are in the frame of its input and masks on grids
            over boxes, "in" if it scales them to sizes that it takes as a third input and
            pastes the masks.
        compile: whether a .pt2 file is compiled by AOTInductor, if a C++ compiler is there.

    Raises:
        ValueError: an argument does not fit, or the architecture is not supported; the message
            names the module.
        ImportError: a package of the format is missing.
        ProofError: the file computes something else.
    """
    output = Path(output)
    _check_arguments(format, output, batch, image_size, opset)
    _check_processing(format, preprocess, postprocess)
    _check_packages(format, int8)
    model, described, ranges = _loaded(model)
    batched, info = _form_of(model, format, preprocess, postprocess)
    _fix_sizes(info, batched, batch, image_size)
    given = {
        "shortest_edge": shortest_edge,
        "longest_edge": longest_edge,
        "input_format": input_format,
        "classes": None if classes is None else dict(classes),
    }
    info = _described(info, described, given, output)
    described_file = ExportedModel(output, info, None)
    evaluation = None if dataset is None else Evaluation(model, described_file, dataset)
    settings = Settings(opset, compile, ranges)
    return _write_and_prove(model, batched, described_file, images, settings, int8, evaluation)


def _described(
    info: ExportInfo, by_config: Mapping[str, Any], given: Mapping[str, Any], path: Path
) -> ExportInfo:
    """With what the config says and, before it, what the caller does."""
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in {**by_config, **chosen}.items():
        setattr(info, name, value)
    # As the file will say it: colours that are tuples here are lists there.
    return ExportInfo.from_json(info.to_json(), str(path))


def _form_of(
    model: Any, format: str, preprocess: str, postprocess: str
) -> tuple[BatchedModel, ExportInfo]:
    """The form of the model that is written, and its description."""
    spec = FORMATS[format]
    batched = batched_model(model, padded=spec.fixed)
    if not spec.keypoints:
        names = batched.output_names
        batched.output_names = tuple(name for name in names if name != "pred_keypoints")
    batched.normalizes = preprocess == "in"
    if postprocess == "in":
        batched = postprocessed(batched)
    info = _describe(batched, format)
    info.postprocess = postprocess
    if preprocess == "out":
        pixels = (model.pixel_mean, model.pixel_std)
        info.pixel_mean, info.pixel_std = (each.flatten().tolist() for each in pixels)
    return batched, info


def _fix_sizes(
    info: ExportInfo, batched: BatchedModel, batch: int | str, image_size: Sequence[int] | None
) -> None:
    """Say in `info` which numbers and sizes of images the file takes."""
    spec = FORMATS[info.format]
    info.batch = int(spec.fixed) or None if batch == "dynamic" else int(batch)
    info.image_size = None if image_size is None else list(image_size)
    if spec.multiples and info.image_size is None:
        info.side_multiple = max(1, info.size_divisibility)
        # Graphs of dense detectors do not hold for a coarsest map of a single cell.
        strides = getattr(getattr(batched.model, "anchor_generator", None), "strides", ())
        info.side_above = max(strides, default=0)


def _check_arguments(
    format: str, output: Path, batch: int | str, image_size: Sequence[int] | None, opset: int
) -> None:
    check_name(format)
    suffixes = FORMATS[format].suffixes
    if output.suffix.lower() not in suffixes:
        raise ValueError(
            f"The output {str(output)!r} has to end in {' or '.join(suffixes)} for {format}."
        )
    if batch != "dynamic" and not (isinstance(batch, int) and batch > 0):
        raise ValueError(f"batch is {batch!r}; give a positive number or 'dynamic'.")
    if FORMATS[format].fixed and image_size is None:
        raise ValueError(
            f"Files for {format} take images of one size: give image_size (--image-size HEIGHT "
            "WIDTH), large enough for every image after resizing."
        )
    if opset not in OPSETS:
        raise ValueError(f"opset is {opset}; use {OPSETS[0]} to {OPSETS[-1]}.")


def _check_processing(format: str, preprocess: str, postprocess: str) -> None:
    for name, value in (("preprocess", preprocess), ("postprocess", postprocess)):
        if value not in ("in", "out"):
            raise ValueError(f"{name} is {value!r}; use 'in' or 'out'.")
    if postprocess == "in" and not FORMATS[format].postprocess:
        able = ", ".join(name for name, spec in FORMATS.items() if spec.postprocess)
        raise ValueError(f"postprocess='in' is for {able}, not for {format}; use 'out'.")


def _check_packages(format: str, int8: Sequence[np.ndarray] | None) -> None:
    require(format)
    if int8 is not None:
        check_int8(format, int8)


def _loaded(
    model: nn.Module | CfgNode | DictConfig | str,
) -> tuple[nn.Module, dict[str, Any], Ranges]:
    """A model as it is, or that of a config; see `_from_config`."""
    return (model, {}, {}) if isinstance(model, nn.Module) else _from_config(model)


def _from_config(config: Any) -> tuple[nn.Module, dict[str, Any], Ranges]:
    """The model of a config with its weights, what a file has to say of it, learnt ranges."""
    from detectron2.data import transforms as T
    from detectron2.data.metadata_file import described_classes
    from detectron2.engine.defaults import DefaultPredictor

    predictor = DefaultPredictor(config)
    resize = predictor.aug
    parts = getattr(resize, "augs", [resize])
    if len(parts) != 1 or not isinstance(parts[0], T.ResizeShortestEdge):
        raise ValueError(
            f"Test images are prepared by {resize}; an exported file can only resize by "
            "ResizeShortestEdge. Export the model itself and prepare images yourself."
        )
    lengths = parts[0].short_edge_length
    metadata = getattr(predictor, "metadata", None)
    described = {
        "shortest_edge": int(lengths if isinstance(lengths, int) else lengths[0]),
        "longest_edge": int(parts[0].max_size),
        "input_format": predictor.input_format,
        "classes": {} if metadata is None else described_classes(metadata),
    }
    return predictor.model, described, ranges_in(predictor.saved)


def _describe(batched: BatchedModel, format: str) -> ExportInfo:
    model: Any = batched.model
    backbone = model.backbone
    constraints = backbone.padding_constraints
    heads = getattr(model, "roi_heads", None)
    predictor = getattr(heads, "box_predictor", model)
    if isinstance(predictor, nn.ModuleList):
        predictor = predictor[-1]
    limits = [
        getattr(predictor, n, None) for n in ("test_topk_per_image", "max_detections_per_image")
    ]
    panoptic = None
    if hasattr(model, "combine_overlap_thresh"):
        panoptic = {
            "overlap_threshold": model.combine_overlap_thresh,
            "stuff_area_thresh": model.combine_stuff_area_thresh,
            "instances_score_thresh": model.combine_instances_score_thresh,
        }
    return ExportInfo(
        format=format,
        # Not the class of its form for fast inference.
        architecture=getattr(model, "_class_before", type(model)).__name__,
        outputs=list(batched.output_names),
        input_format=getattr(model, "input_format", None) or "BGR",
        size_divisibility=constraints.get("size_divisibility", backbone.size_divisibility),
        square_size=constraints.get("square_size", 0),
        num_classes=int(getattr(predictor, "num_classes", 0)),
        rotated=len(getattr(getattr(predictor, "box2box_transform", None), "weights", ())) == 5,
        score_threshold=getattr(predictor, "test_score_thresh", None),
        max_detections=next((each for each in limits if each is not None), None),
        panoptic=panoptic,
        weights_sha256=weights_hash(model),
        detectron2=__version__,
        torch=torch.__version__,
        tolerance=dict(TOLERANCE),
    )


def _write_and_prove(
    model: nn.Module,
    batched: BatchedModel,
    described: ExportedModel,
    images: Sequence[np.ndarray],
    settings: Settings,
    int8: Sequence[np.ndarray] | None,
    evaluation: Evaluation | None,
) -> ExportedModel:
    """Write the file that is described to a folder of its own; move it away if it is right."""
    output, info = described.path, described.info
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=output.parent) as name:
        folder = Path(name)
        prepared = [described.prepare(image)["image"] for image in images]
        write(info.format, batched, info, folder, output.name, settings)
        lines = prove(folder / output.name, model, batched, info, prepared)
        report: Int8Report | None = None
        if int8 is not None:
            with tempfile.TemporaryDirectory(prefix=".float-", dir=output.parent) as kept:
                file = folder / output.name
                report = make_int8(batched, info, file, Path(kept), int8, settings, evaluation)
            lines = [*lines, *report.lines()]
            report_path(folder / output.name).write_text(report.to_json(), encoding="utf-8")
        else:  # a report about an earlier file would be wrong about this one
            report_path(output).unlink(missing_ok=True)
        move_into_place(folder, output)
    exported = load(output)
    exported.proof, exported.int8_report = lines, report
    if report is not None:
        exported.metrics = report.metrics
    elif evaluation is not None:
        exported.metrics = beside(evaluation.of_model, evaluation.of(exported))
    return exported
