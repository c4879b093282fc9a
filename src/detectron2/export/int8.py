"""Eight-bit integers: a proved float file is replaced by one that is compared with it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectron2.export.batched import BatchedModel
from detectron2.export.calibration import LAST_LAYERS, QUANTIZED_PARTS, stays_float
from detectron2.export.evaluation import Evaluation, Metrics, beside
from detectron2.export.formats import FORMATS, Settings
from detectron2.export.info import ExportInfo
from detectron2.export.int8_report import MOST_LOST, Int8Report, agreement, report_on
from detectron2.export.loading import load
from detectron2.export.proof import ProofError, run_in_fresh_process

__all__ = [
    "FLOAT_PARTS",
    "LAST_LAYERS",
    "LEAST_AGREEMENT",
    "QUANTIZED_PARTS",
    "Int8Report",
    "agreement",
    "check_int8",
    "make_int8",
    "stays_float",
]

# Below this the file is not kept.
LEAST_AGREEMENT = 0.5
# What is left in float, one step after the other, while too many points of AP are lost.
FLOAT_PARTS: tuple[tuple[str, ...], ...] = (
    (),
    ("stem", "mask_head", "keypoint_head"),
    ("stem", "mask_head", "keypoint_head", "box_head", "rpn_head", "head", "sem_seg_head"),
)


def check_int8(format: str, images: Sequence[np.ndarray]) -> None:
    """Check that a format can have 8-bit integers, and that what makes them is there.

    Raises:
        ValueError: it cannot, or there is no image.
        ImportError: a package is missing.
    """
    able = [name for name, spec in FORMATS.items() if spec.quantize is not None]
    if format not in able:
        raise ValueError(f"INT8 is for {', '.join(able)}, not for {format}.")
    if not images:
        raise ValueError("INT8 needs images to calibrate on, and there is none.")
    if format == "openvino":
        from detectron2.export._int8_openvino import require_nncf

        require_nncf()
    else:
        from detectron2.export._int8_pt2e import require_torchao

        require_torchao()


def make_int8(
    batched: BatchedModel,
    info: ExportInfo,
    path: Path,
    kept: Path,
    images: Sequence[np.ndarray],
    settings: Settings,
    evaluation: Evaluation | None = None,
) -> Int8Report:
    """Replace a float file that has been proved, run the new one in a fresh process, compare both.

    If the dataset says that more than `MOST_LOST` points are lost, it is tried again with more
    parts in float; the attempt that loses least is what stays.

    Args:
        kept: empty folder for the float file.
        evaluation: of the model that the file was made from.

    Raises:
        ProofError: the new file does not run, or has little in common with the float file.
    """
    _copy(path, kept)
    best: tuple[Int8Report, Path] | None = None
    for step, float_parts in enumerate(FLOAT_PARTS):
        report = _attempt(batched, info, path, kept, images, settings, float_parts, evaluation)
        if best is None or report.most_lost < best[0].most_lost:
            best = (report, kept / str(step))
            best[1].mkdir()
            _copy(path, best[1])
        if report.most_lost <= MOST_LOST:
            break
        _copy(kept / path.name, path.parent)
    assert best is not None, "there is at least one attempt"
    _copy(best[1] / path.name, path.parent)
    return best[0]


def _attempt(
    batched: BatchedModel,
    info: ExportInfo,
    path: Path,
    kept: Path,
    images: Sequence[np.ndarray],
    settings: Settings,
    float_parts: Collection[str],
    evaluation: Evaluation | None,
) -> Int8Report:
    """Write the file with integers, and compare it with the float file in `kept`."""
    quantize = FORMATS[info.format].quantize
    assert quantize is not None, "checked by check_int8"
    layers = quantize(batched, info, path.parent, path.name, settings, images, float_parts)
    run_in_fresh_process(path, info)
    exported = load(path)
    report = report_on(load(kept / path.name), exported, images, layers)
    if report.agreement < LEAST_AGREEMENT:
        raise ProofError(
            f"With 8-bit integers the model finds something else ({report.agreement:.1%} of the "
            f"detections agree, less than {LEAST_AGREEMENT:.0%}), so the file was not kept. "
            "Calibrate on more images, of the kind that the model is for."
        )
    metrics: Metrics | None = None
    if evaluation is not None:
        metrics = beside(evaluation.of_model, evaluation.of(exported))
    return dataclasses.replace(report, float_parts=tuple(float_parts), metrics=metrics)


def _copy(path: Path, folder: Path) -> None:
    """Copy a file, and the weights beside it, into a folder."""
    for part in {path, path.with_suffix(".bin")}:
        if part.is_file() and part.parent != folder:
            # Loaded files are mapped into memory, so they are replaced, never written into.
            partial: Any = folder / f"{part.name}.part"
            shutil.copyfile(part, partial)
            partial.replace(folder / part.name)
