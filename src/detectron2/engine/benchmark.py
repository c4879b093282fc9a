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

from detectron2.engine.defaults import DefaultPredictor
from detectron2.version import __version__

__all__ = ["Benchmark", "benchmark_predictor", "describe_machine", "unlike"]

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
        peak_bytes: of GPU memory; None on CPU.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    input_sizes: list[tuple[int, int]] = field(default_factory=list)
    detections: list[int | None] = field(default_factory=list)
    peak_bytes: int | None = None

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
            "peak_gpu_bytes": self.peak_bytes,
        }


def describe_machine(device: torch.device) -> dict[str, str]:
    """Hardware, versions and settings on which times depend."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "threads": str(torch.get_num_threads()),
        "detectron2": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


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
    predictor: DefaultPredictor,
    images: Sequence[np.ndarray],
    *,
    repeats: int,
    warm_up: int = 1,
    on_run: Callable[[], None] = lambda: None,
) -> Benchmark:
    """Time `predictor` on each image, one at a time.

    Args:
        images: (H, W, 3) uint8 BGR, as the predictor takes them.
        repeats: timed runs of every image.
        warm_up: runs of every image before, which are not counted.
        on_run: called after each run, for a progress bar.
    """
    result = Benchmark(name)
    device = next(predictor.model.parameters()).device
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
    return result


def unlike(first: Benchmark, second: Benchmark) -> str | None:
    """Why two measurements are not of the same work; None if they are.

    The number of detections may differ by a tenth: rounding moves a score over a threshold.
    """
    if first.input_sizes != second.input_sizes:
        return f"{first.name} got images of {first.input_sizes}, {second.name} {second.input_sizes}"
    for one, other in zip(first.detections, second.detections):
        if one is not None and other is not None and abs(one - other) > 0.1 * max(one, other, 10):
            return f"{first.name} found {one} objects where {second.name} found {other}"
    return None


def _timed_run(result: Benchmark, predictor: DefaultPredictor, image: np.ndarray) -> Any:
    device = next(predictor.model.parameters()).device
    stages: dict[str, float] = defaultdict(float)
    with torch.no_grad(), _parts_timed(predictor.model, device, stages):
        start = time.perf_counter()
        prepared = predictor.prepare(image)
        stages["resize"] = time.perf_counter() - start
        outputs = predictor.model([prepared])[0]
        _wait_for(device)
        total = time.perf_counter() - start
    stages["other"] = total - sum(stages.values())
    result.seconds.append(total)
    for stage, seconds in stages.items():
        result.stages[stage].append(seconds)
    return outputs


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


def _describe_work(
    result: Benchmark, predictor: DefaultPredictor, image: np.ndarray, outputs: Any
) -> None:
    height, width = predictor.prepare(image)["image"].shape[-2:]
    result.input_sizes.append((height, width))
    result.detections.append(len(outputs["instances"]) if "instances" in outputs else None)
