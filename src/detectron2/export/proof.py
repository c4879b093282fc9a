"""Whether a file computes what the model computes, found out in a fresh process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detectron2.export._pt2 import COMPILED
from detectron2.export.batched import BatchedModel
from detectron2.export.compare import TOLERANCE, first_difference
from detectron2.export.formats import FORMATS
from detectron2.export.info import ExportInfo
from detectron2.export.inputs import inputs_of_file
from detectron2.export.results import as_tensors, results_of_batch
from detectron2.export.runtimes import answer

__all__ = ["ProofError", "prove", "run_in_fresh_process"]

# Sizes of the pictures that are made up when the user gives none: two sizes in one batch, a third
# one, and a blank image, on which a model finds little or nothing.
_BATCHES = (((320, 416), (256, 480)), ((224, 352),))
_BLANK = (256, 320)


class ProofError(RuntimeError):
    """The written file does not compute what the model computes; it was not kept."""


@dataclass
class _Case:
    name: str
    images: list[Tensor]


def prove(
    path: Path,
    model: nn.Module,
    batched: BatchedModel,
    info: ExportInfo,
    images: Sequence[Tensor] = (),
) -> list[str]:
    """Run a file on several batches in its own runtime and compare with the model.

    Args:
        path: the file.
        model: in evaluation mode.
        batched: its batched form.
        images: (C, H, W) images of the user's to compare on, resized as the model wants them.

    Returns:
        what was compared, a line for each batch.

    Raises:
        ProofError: an output differs by more than the tolerance; the message names the first one
            and where it diverged.
    """
    cases = _cases(info, images, channels=batched.model.pixel_mean.shape[0])
    lines = []
    for case, outputs in zip(cases, _run(path, info, cases)):
        sizes = [(image.shape[1], image.shape[2]) for image in case.images]
        expected = _eager(model, case.images, info)
        found = results_of_batch(info, outputs, sizes, _wanted(info, case.images))
        for index, (wanted, result) in enumerate(zip(expected, found)):
            difference = first_difference(info, wanted, result, TOLERANCE)
            if difference:
                where = _divergence(batched, info, case, expected)
                raise ProofError(
                    f"The {info.format} file does not compute what the model computes, so it was "
                    f"not kept. {case.name}, image {index}: {difference} {where}"
                )
        shapes = ", ".join(f"{height} x {width}" for height, width in sizes)
        lines.append(f"{case.name} ({shapes}): {_found(expected)}")
    return lines


def run_in_fresh_process(path: Path, info: ExportInfo) -> None:
    """Run a file on the pictures of `prove` without comparing what it finds.

    Raises:
        ProofError: it does not run, or has lost its description.
    """
    _run(path, info, _cases(info, (), channels=3))


def _wanted(info: ExportInfo, images: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Sizes to compare results at: of the images, or larger if the file does the scaling."""
    factor = 1.5 if info.postprocess == "in" else 1.0
    return [(int(image.shape[1] * factor), int(image.shape[2] * factor)) for image in images]


def _cases(info: ExportInfo, images: Sequence[Tensor], channels: int) -> list[_Case]:
    # A model for small images is compared on small ones.
    share = min(1.0, (info.shortest_edge or _BLANK[0]) / _BLANK[0])
    share = max(share, (info.side_above + 1) / _BLANK[1])
    made_up = [
        [_picture(_scaled(size, share), channels, seed) for seed, size in enumerate(batch)]
        for batch in _BATCHES
    ]
    blank = [torch.full((channels, *_scaled(_BLANK, share)), 127.0)]
    if images:
        batches = [[image] for image in images] + [[made_up[0][0], images[0]]]
        cases = [_Case(f"your image {k}", batch) for k, batch in enumerate(batches[:-1])]
        cases += [_Case("a batch", batches[-1])]
    else:
        cases = [_Case("a batch", made_up[0])]
    cases += [_Case("another size", made_up[1]), _Case("a blank image", blank)]
    return [_fitted(info, case) for case in cases]


def _fitted(info: ExportInfo, case: _Case) -> _Case:
    """The case with as many images as the file takes, none larger than it takes."""
    images = case.images
    if info.batch is not None:
        images = [images[index % len(images)] for index in range(info.batch)]
    limit = info.image_size or ([info.square_size] * 2 if info.square_size else None)
    if limit is not None:
        images = [image[:, : limit[0], : limit[1]] for image in images]
    return _Case(case.name, images)


def _scaled(size: tuple[int, int], share: float) -> tuple[int, int]:
    return max(32, round(size[0] * share)), max(32, round(size[1] * share))


def _picture(size: tuple[int, int], channels: int, seed: int) -> Tensor:
    """(C, H, W) of flat rectangles: edges, corners and areas of every size."""
    random = np.random.default_rng(seed)
    height, width = size
    canvas = np.full((channels, height, width), 110, dtype=np.float32)
    for _ in range(40):
        y, x = random.integers(0, height - 8), random.integers(0, width - 8)
        h, w = random.integers(8, height // 2), random.integers(8, width // 2)
        color = random.integers(0, 256, (channels, 1, 1))
        canvas[:, y : y + h, x : x + w] = color
    return torch.from_numpy(canvas)


@torch.no_grad()
def _eager(model: nn.Module, images: Sequence[Tensor], info: ExportInfo) -> list[dict[str, Any]]:
    wanted = _wanted(info, images)
    if info.image_size is not None:
        # One more image makes the model pad the others as the file does.
        images = [*images, torch.zeros(images[0].shape[0], *info.image_size)]
        wanted.append((info.image_size[0], info.image_size[1]))
    inputs = [
        {"image": image, "height": size[0], "width": size[1]} for image, size in zip(images, wanted)
    ]
    results = model(inputs)
    if info.image_size is not None:
        results = results[:-1]
    return [
        {name: value.to("cpu") if hasattr(value, "to") else value for name, value in result.items()}
        for result in results
    ]


def _run(path: Path, info: ExportInfo, cases: Sequence[_Case]) -> list[Mapping[str, Tensor]]:
    """Outputs of the file for each case, computed by a process of its own."""
    with tempfile.TemporaryDirectory(prefix="detectron2") as name:
        folder = Path(name)
        for number, case in enumerate(cases):
            inputs = inputs_of_file(info, case.images, _wanted(info, case.images))
            arrays = {f"input_{index}": each.numpy() for index, each in enumerate(inputs)}
            np.savez(folder / f"request_{number}.npz", **arrays)
        _answer(path, info, folder)
        answers = []
        for number in range(len(cases)):
            with np.load(folder / f"answer_{number}.npz") as file:
                answers.append(as_tensors(info, [file[key] for key in file.files]))
        return answers


def _answer(path: Path, info: ExportInfo, folder: Path) -> None:
    spec = FORMATS[info.format].runtime
    runtime = Path(answer.__file__).with_name(f"{spec.rpartition('.')[2]}.py")
    # -P would not be known to Python 3.10, and the folder of a script comes first on its path:
    # it holds onnx.py and openvino.py, which must not hide the packages of these names.
    code = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, answer.__file__, str(runtime), str(path), str(folder)],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise ProofError(
            f"The {info.format} file does not run in a fresh process, so it was not kept: {reason}"
        )
    told = ExportInfo.from_json((folder / "info.json").read_text(encoding="utf-8"), str(path))
    lost = [name for name, value in vars(info).items() if getattr(told, name) != value]
    if lost:
        raise ProofError(
            f"The file says something else than the model about its {', '.join(lost)}, so it was "
            "not kept."
        )


@torch.no_grad()
def _divergence(
    batched: BatchedModel, info: ExportInfo, case: _Case, expected: Sequence[dict[str, Any]]
) -> str:
    """Where between the model and the file the outputs part."""
    sizes = [(image.shape[1], image.shape[2]) for image in case.images]
    device = batched.model.pixel_mean.device
    wanted_sizes = _wanted(info, case.images)
    inputs = [each.to(device) for each in inputs_of_file(info, case.images, wanted_sizes)]
    outputs = [each.cpu() for each in batched(*inputs)]
    found = results_of_batch(info, as_tensors(info, outputs), sizes, wanted_sizes)
    for wanted, result in zip(expected, found):
        difference = first_difference(info, wanted, result, TOLERANCE)
        if difference:
            return (
                f"It diverged before anything was written: {type(batched).__name__}, the form of "
                f"the model that is traced, differs as well ({difference})"
            )
    return (
        f"{type(batched).__name__} agrees with the model: the graph or its runtime diverged."
        + _way_out(info)
    )


def _way_out(info: ExportInfo) -> str:
    if info.contents != COMPILED:
        return ""
    return " The compiler may be at fault: --no-compile (compile=False) writes the graph as it is."


def _found(results: Sequence[Mapping[str, Any]]) -> str:
    """What there was to compare, for people."""
    by_image = [result.get("instances", result.get("proposals")) for result in results]
    counts = [str(len(found)) for found in by_image if found is not None]
    kinds = [f"{' + '.join(counts)} detections"] if counts else []
    if "sem_seg" in results[0]:
        kinds.append(f"scores of {len(results[0]['sem_seg'])} classes")
    return ", ".join(kinds)
