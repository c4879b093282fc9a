"""What `detectron2 benchmark` does: measure the variants of a model, refuse unlike work, print."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from detectron2.data.detection_utils import read_image
from detectron2.data.image_inputs import find_images
from detectron2.engine.benchmark import Benchmark, describe_machine, unlike
from detectron2.engine.benchmark_accuracy import accuracy_of, accuracy_table
from detectron2.engine.benchmark_options import BenchmarkOptions
from detectron2.engine.benchmark_peers import PEERS, VARIANTS, entrants
from detectron2.engine.exported_files import is_exported
from detectron2.engine.train_command import best_device
from detectron2.utils.file_io import PathManager
from detectron2.utils.files import atomic_write_text

__all__ = ["BenchmarkOptions", "run_benchmark"]


def run_benchmark(options: BenchmarkOptions) -> list[Benchmark]:
    """Measure, print a table, and write the JSON file if one is wanted.

    Raises:
        FileNotFoundError: no images, or no weights.
        ValueError: an unknown variant or peer, or entrants that did not do the same work.
    """
    from rich.console import Console

    _check(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    console = Console(highlight=False, soft_wrap=True)
    results = _measure(options, _read(options), console)
    metrics = accuracy_of(options) if options.accuracy else {}
    device = "cpu" if is_exported(options.config) else best_device()
    machine = describe_machine(torch.device(options.device or device))
    problems = [text for other in results[1:] if (text := unlike(results[0], other))]
    if options.json_file is not None:
        content: dict[str, Any] = {
            "machine": machine,
            "results": [result.as_dict() for result in results],
            "unlike": problems,
        }
        if metrics:
            content["accuracy"] = metrics
        atomic_write_text(options.json_file, json.dumps(content, indent=2))
    console.print(_table(results, comparable=not problems))
    if metrics:
        console.print(accuracy_table(metrics))
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))
    for version in filter(None, (result.version for result in results)):
        console.print(version)
    if problems:
        raise ValueError(
            f"No ratio is printed, because the work was not the same: {'; '.join(problems)}."
        )
    return results


def _check(options: BenchmarkOptions) -> None:
    unknown = [name for name in options.variants if name not in VARIANTS]
    if unknown or not options.variants:
        raise ValueError(f"--variants has {unknown or 'no entry'}; use some of {list(VARIANTS)}.")
    if options.accuracy and is_exported(options.config):
        raise ValueError(
            f"{options.config!r} is an exported model, of which there are no variants; "
            "`detectron2 eval` prints its metrics."
        )
    for name in options.compare:
        if name not in PEERS and not is_exported(name):
            raise ValueError(
                f"--compare has {name!r}; use {', '.join(PEERS)} or files of `detectron2 export`."
            )


def _measure(options: BenchmarkOptions, images: list[np.ndarray], console: Any) -> list[Benchmark]:
    from rich.progress import Progress

    with entrants(options, images) as found, Progress(console=console) as progress:
        runs = len(found) * len(images) * (options.repeats + 1)
        task = progress.add_task("Measuring", total=runs)
        return [measure(lambda: progress.advance(task)) for _, measure in found]


def _read(options: BenchmarkOptions) -> list[np.ndarray]:
    found = find_images(options.images)[: options.max_images]
    return [read_image(PathManager.get_local_path(image.path), format="BGR") for image in found]


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
    peaks = [result.peak_bytes for result in results]
    if any(peaks):
        table.add_row("MiB at the peak", *("-" if p is None else f"{p / 2**20:.0f}" for p in peaks))
    if comparable:
        base = summaries[0]["p50_ms"]
        table.add_row("times as fast", *(f"{base / s['p50_ms']:.2f}" for s in summaries))
    return table


def _number(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.0f}"
