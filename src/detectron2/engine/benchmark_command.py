"""What `detectron2 benchmark` does: measure the variants of a model, refuse unlike work, print."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detectron2.data.detection_utils import read_image
from detectron2.data.image_inputs import find_images
from detectron2.engine.benchmark import (
    Benchmark,
    benchmark_predictor,
    describe_machine,
    unlike,
)
from detectron2.engine.config_edits import edits_of
from detectron2.engine.config_source import resolve_config
from detectron2.engine.defaults import DefaultPredictor
from detectron2.engine.inference import undo_speed_up
from detectron2.engine.train_command import best_device, published_weights
from detectron2.utils.file_io import PathManager
from detectron2.utils.files import atomic_write_text

__all__ = ["BenchmarkOptions", "run_benchmark"]

VARIANTS = ("plain", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of `detectron2 benchmark`; see its help."""

    config: str
    images: list[str]
    weights: str | None = None
    random_weights: bool = False
    variants: list[str] = field(default_factory=lambda: ["plain", "fp32"])
    repeats: int = 3
    max_images: int = 8
    threads: int | None = None
    device: str | None = None
    json_file: Path | None = None
    overrides: list[str] = field(default_factory=list)


def run_benchmark(options: BenchmarkOptions) -> list[Benchmark]:
    """Measure, print a table, and write the JSON file if one is wanted.

    Raises:
        FileNotFoundError: no images, or no weights.
        ValueError: an unknown variant, or variants that did not do the same work.
    """
    from rich.console import Console
    from rich.progress import Progress

    unknown = [name for name in options.variants if name not in VARIANTS]
    if unknown or not options.variants:
        raise ValueError(f"--variants has {unknown or 'no entry'}; use some of {list(VARIANTS)}.")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    images = _read(options)
    console = Console(highlight=False, soft_wrap=True)
    results = []
    with Progress(console=console) as progress:
        turns = len(options.variants) * len(images) * (options.repeats + 1)
        task = progress.add_task("Measuring", total=turns)
        for name in options.variants:
            results.append(
                benchmark_predictor(
                    name,
                    _predictor(options, name),
                    images,
                    repeats=options.repeats,
                    on_run=lambda: progress.advance(task),
                )
            )
    machine = describe_machine(torch.device(options.device or best_device()))
    if options.json_file is not None:
        content = {"machine": machine, "results": [result.as_dict() for result in results]}
        atomic_write_text(options.json_file, json.dumps(content, indent=2))
    problems = [unlike(results[0], other) for other in results[1:]]
    console.print(_table(results, comparable=not any(problems)))
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))
    for problem in filter(None, problems):
        raise ValueError(f"No ratio is printed, because the work was not the same: {problem}.")
    return results


def _read(options: BenchmarkOptions) -> list[np.ndarray]:
    found = find_images(options.images)[: options.max_images]
    return [read_image(PathManager.get_local_path(image.path), format="BGR") for image in found]


def _predictor(options: BenchmarkOptions, variant: str) -> DefaultPredictor:
    cfg = resolve_config(options.config, options.overrides)
    edits = edits_of(cfg)
    weights = options.weights or ("" if options.random_weights else None)
    edits.set_weights(published_weights(options.config) if weights is None else weights)
    edits.set_device(options.device or best_device())
    # Random weights are the same ones for every variant.
    torch.manual_seed(0)
    predictor = DefaultPredictor(cfg, precision="fp32" if variant == "plain" else variant)
    if variant == "plain":
        undo_speed_up(predictor.model)
    return predictor


def _table(results: list[Benchmark], comparable: bool) -> Any:
    from rich.table import Table

    table = Table()
    table.add_column("milliseconds")
    for result in results:
        table.add_column(result.name, justify="right")
    stages = list(dict.fromkeys(stage for result in results for stage in result.stages))
    summaries = [result.as_dict() for result in results]
    for stage in stages:
        table.add_row(stage, *(_number(s["stages_ms"].get(stage)) for s in summaries))
    table.add_section()
    table.add_row("median of all", *(_number(s["p50_ms"]) for s in summaries))
    table.add_row("95th percentile", *(_number(s["p95_ms"]) for s in summaries))
    table.add_row("images/s", *(f"{s['images_per_second']:.2f}" for s in summaries))
    if comparable:
        base = summaries[0]["p50_ms"]
        table.add_row("times as fast", *(f"{base / s['p50_ms']:.2f}" for s in summaries))
    return table


def _number(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.0f}"
