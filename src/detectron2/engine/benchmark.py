"""How fast a model is on given images and this machine, stage by stage."""

from __future__ import annotations

import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detectron2.engine.process_memory import peak_memory, reset_peak_memory
from detectron2.version import __version__

__all__ = ["Benchmark", "benchmark_predictor", "describe_machine", "thresholds_of", "unlike"]

_LIMITS = ("test_topk_per_image", "max_detections_per_image")
_THRESHOLDS = {"score": "scores above", "limit": "detections up to"}
PARTS = ("backbone", "proposal_generator", "roi_heads", "head", "sem_seg_head")


@dataclass
class Benchmark:
    """What was measured of one model.

    Attributes:
        name: of the variant.
        seconds: of each run of one image, from the decoded image to the results.
        stages: seconds of each stage, per run.
        input_sizes: (H, W) of each image as the model gets it.
        detections: per image; None where the model reports no instances.
        thresholds: what limits detections: lowest score and largest number, as far as known.
        peak_bytes: of GPU memory; on a CPU by how much the process grew from before the model
            was loaded to its peak. None where the system does not tell.
        version: of what ran it, if that is another program.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    input_sizes: list[tuple[int, int]] = field(default_factory=list)
    detections: list[int | None] = field(default_factory=list)
    thresholds: dict[str, float | int | None] = field(default_factory=dict)
    peak_bytes: int | None = None
    version: str = ""

    def percentile(self, percent: int) -> float:
        """Seconds within which this percentage of the runs ended."""
        return float(np.percentile(self.seconds, percent))

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file; times in milliseconds."""
        return {
            "name": self.name,
            "p50_ms": 1e3 * self.percentile(50),
            "p95_ms": 1e3 * self.percentile(95),
            "images_per_second": len(self.seconds) / sum(self.seconds),
            "stages_ms": {k: 1e3 * statistics.median(v) for k, v in self.stages.items()},
            "input_sizes": self.input_sizes,
            "detections": self.detections,
            "thresholds": self.thresholds,
            "peak_bytes": self.peak_bytes,
            "version": self.version,
        }


def describe_machine(device: torch.device) -> dict[str, str]:
    """Hardware, versions and settings on which times depend."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else _cpu_name(),
        **(_gpu_settings() if on_gpu else {}),
        "threads": str(torch.get_num_threads()),
        "detectron2": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _gpu_settings() -> dict[str, str]:
    """What float32 means on a GPU: in TF32 numbers are read with 11 bits."""
    hip, cuda = torch.version.hip, torch.version.cuda
    return {
        "runtime": f"ROCm {hip}" if hip else f"CUDA {cuda}",
        "float32 convolutions": _float32_of(torch.backends.cudnn),
        "float32 products": _float32_of(torch.backends.cuda.matmul),
    }


def _float32_of(backend: Any) -> str:
    try:
        return "TF32" if backend.allow_tf32 else "float32"
    except RuntimeError:  # set by PyTorch's newer names, for single kinds of operations
        return "by fp32_precision"


def _cpu_name() -> str:
    """Model of the processor where the system tells it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def benchmark_predictor(
    name: str,
    load: Callable[[], Any],
    images: Sequence[np.ndarray],
    *,
    repeats: int,
    warm_up: int = 1,
    on_run: Callable[[], None] = lambda: None,
) -> Benchmark:
    """Time a predictor on each image, one at a time.

    Args:
        load: makes a `DefaultPredictor` or an `ExportedModel`.
        images: (H, W, 3) uint8 BGR, as the predictor takes them.
        repeats: timed runs of every image.
        warm_up: runs of every image before, which are not counted.
        on_run: called after each run, for a progress bar.
    """
    result = Benchmark(name)
    before = reset_peak_memory()
    predictor = load()
    device = _device_of(predictor)
    result.thresholds = thresholds_of(predictor)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for turn in range(warm_up + repeats):
        for image in images:
            outputs = _timed_run(result if turn >= warm_up else Benchmark(name), predictor, image)
            if turn == 0:
                _describe_work(result, predictor, image, outputs)
            on_run()
    if device.type == "cuda":
        result.peak_bytes = torch.cuda.max_memory_allocated(device)
    elif before is not None:
        result.peak_bytes = peak_memory() - before
    return result


def thresholds_of(predictor: Any) -> dict[str, float | int | None]:
    """Lowest score and largest number of the detections of a predictor or file."""
    info = getattr(predictor, "info", None)
    if info is not None:
        return {"score": info.score_threshold, "limit": info.max_detections}
    model = predictor.model
    last = getattr(getattr(model, "roi_heads", None), "box_predictor", model)
    if isinstance(last, nn.ModuleList):
        last = last[-1]
    limits = [getattr(last, name, None) for name in _LIMITS]
    limit = next((each for each in limits if each is not None), None)
    return {"score": getattr(last, "test_score_thresh", None), "limit": limit}


def _device_of(predictor: Any) -> torch.device:
    parameter = next(iter(predictor.model.parameters()), None) if _is_eager(predictor) else None
    return torch.device("cpu") if parameter is None else parameter.device


def _is_eager(predictor: Any) -> bool:
    return isinstance(getattr(predictor, "model", None), nn.Module)


def unlike(first: Benchmark, second: Benchmark) -> str | None:
    """Why two measurements are not of the same work; None if they are.

    The number of detections may differ by a tenth: rounding moves a score over a threshold.
    """
    if first.input_sizes != second.input_sizes:
        return f"{first.name} got images of {first.input_sizes}, {second.name} {second.input_sizes}"
    for name, says in _THRESHOLDS.items():
        one, other = first.thresholds.get(name), second.thresholds.get(name)
        if one is not None and other is not None and abs(one - other) > 1e-6:
            return f"{first.name} keeps {says} {one}, {second.name} {says} {other}"
    for one, other in zip(first.detections, second.detections):
        if one is not None and other is not None and abs(one - other) > 0.1 * max(one, other, 10):
            return f"{first.name} found {one} objects where {second.name} found {other}"
    return None


def _timed_run(result: Benchmark, predictor: Any, image: np.ndarray) -> Any:
    device = _device_of(predictor)
    model = predictor.model if _is_eager(predictor) else predictor
    stages: dict[str, float] = defaultdict(float)
    with torch.no_grad(), _parts_timed(model, device, stages):
        outputs, resize, total = _run(predictor, model, image, device)
    stages["resize"] = resize
    stages["other"] = total - sum(stages.values())
    if device.type == "cuda":
        # The hooks wait for the GPU between the parts, and a model with hooks runs in its plain
        # form: stages come from one run, the whole time from another.
        with torch.no_grad():
            outputs, _, total = _run(predictor, model, image, device)
    result.seconds.append(total)
    for stage, seconds in stages.items():
        result.stages[stage].append(seconds)
    return outputs


def _run(
    predictor: Any, model: Any, image: np.ndarray, device: torch.device
) -> tuple[Any, float, float]:
    """Output for an image, and the seconds of its preparation and of all."""
    start = time.perf_counter()
    prepared = predictor.prepare(image)
    resize = time.perf_counter() - start
    outputs = model([prepared])[0]
    _wait_for(device)
    return outputs, resize, time.perf_counter() - start


@contextmanager
def _parts_timed(
    model: nn.Module, device: torch.device, seconds: dict[str, float]
) -> Iterator[None]:
    """Add up the time of each part of `model` that runs within the block."""
    started: dict[str, float] = {}
    handles = []
    for part in PARTS:
        module = getattr(model, part, None)
        if not isinstance(module, nn.Module):
            continue

        def before(*_: Any, part: str = part) -> None:
            _wait_for(device)
            started[part] = time.perf_counter()

        def after(*_: Any, part: str = part) -> None:
            _wait_for(device)
            seconds[part] += time.perf_counter() - started[part]

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _describe_work(result: Benchmark, predictor: Any, image: np.ndarray, outputs: Any) -> None:
    height, width = predictor.prepare(image)["image"].shape[-2:]
    result.input_sizes.append((height, width))
    result.detections.append(len(outputs["instances"]) if "instances" in outputs else None)
