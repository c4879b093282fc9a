"""What do exported files cost beside the eager model: latency, memory, size of the file?

The model gets random weights that keep activations in a sensible range. Every format is exported,
proved, and timed in a process of its own, from the prepared image to results with pasted masks; the
processes take turns, so that a machine that is slow for a while is slow for all. Latency is the
best of all calls, memory the peak of the process after its first call. "eager" is the model as it
is built, "fast" and "bf16" are what `optimize_for_inference` makes of it. "pt2" is compiled by
AOTInductor, which takes many minutes for a large model, "pt2-graph" is not. Formats whose packages
are missing are left out and named.

    python benchmarks/deploy.py [--config COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml]
        [--height 800] [--width 1088] [--formats eager torchscript onnx openvino openvino-int8 ...]
        [--turns 2] [--repeat 2] [--threads 2] [--clock wall|cpu] [--folder FOLDER]

The clock "cpu" counts the seconds of all threads, which other programs on the machine disturb less;
take one thread then, because the runtimes' threads wait busily. With --folder, files that are there
already are not exported again.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from inference import spread_weights
from tabulate import tabulate

from detectron2 import model_zoo
from detectron2.engine.inference import speed_up
from detectron2.export import export, int8, load
from detectron2.export.formats import FORMATS
from detectron2.modeling import build_model

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
# Without a file: the precision of `optimize_for_inference`, if it is applied.
EAGER = {"eager": None, "fast": "fp32", "bf16": "bf16"}
CHOICES = [*EAGER, *FORMATS, "pt2-graph", "openvino-bf16", "openvino-int8"]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1088)
    parser.add_argument("--formats", nargs="+", choices=CHOICES, default=CHOICES)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker:
        print(json.dumps(measure(options, *options.worker)))
        return
    with tempfile.TemporaryDirectory() as folder:
        files = export_all(options, options.folder or Path(folder))
        rows: dict[str, dict[str, float]] = {}
        for _ in range(options.turns):
            for name, (path, _) in files.items():
                found = run_worker(options, name, path)
                best = rows.setdefault(name, found)
                rows[name] = {key: min(best[key], found[key]) for key in found}
        print_table(options, files, rows)


def build(options: argparse.Namespace) -> torch.nn.Module:
    """The model of the config with random weights, the same in every process."""
    cfg = model_zoo.get_config(options.config)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.PIXEL_STD = [57.375, 57.12, 58.395]  # random weights want inputs near 1
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    spread_weights(model)
    return model


def picture(options: argparse.Namespace) -> np.ndarray:
    """(H, W, 3) uint8 noise in blocks."""
    cells = np.random.default_rng(0).integers(
        0, 256, (options.height // 16 + 1, options.width // 16 + 1, 3), dtype=np.uint8
    )
    return cells.repeat(16, 0).repeat(16, 1)[: options.height, : options.width]


def export_all(options: argparse.Namespace, folder: Path) -> dict[str, tuple[str, float]]:
    """Path and seconds of the export by format; the eager ones have neither."""
    model, files = build(options), {}
    # Random weights find other boxes after rounding; here only the cost counts.
    int8.LEAST_AGREEMENT = 0.0
    for name in options.formats:
        format = name.partition("-")[0]
        start = time.perf_counter()
        if format in EAGER:
            files[name] = ("", 0.0)
            continue
        stem = name.removesuffix("-bf16")  # the same file, run in another precision
        path = folder / f"{stem}{FORMATS[format].suffixes[0]}"
        if path.exists():
            files[name] = (str(path), 0.0)
            continue
        size = (options.height, options.width) if FORMATS[format].fixed else None
        try:
            exported = export(
                model,
                format,
                path,
                images=[picture(options)],
                image_size=size,
                int8=[picture(options)] if name.endswith("int8") else None,
                compile=name != "pt2-graph",
            )
        except (ImportError, ValueError, RuntimeError) as error:
            print(f"{name} is left out: {error}")
            continue
        files[name] = (str(exported.path), time.perf_counter() - start)
    return files


def run_worker(options: argparse.Namespace, name: str, path: str) -> dict[str, float]:
    arguments = [f"--{key}={value}" for key, value in vars(options).items() if key in WORKER_KEYS]
    command = [sys.executable, __file__, *arguments, "--worker", name, path]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


WORKER_KEYS = ("config", "height", "width", "repeat", "threads", "clock")


@torch.no_grad()
def measure(options: argparse.Namespace, name: str, path: str) -> dict[str, float]:
    """Milliseconds of the best call, and megabytes at the peak, in this process."""
    if name not in EAGER:
        model: torch.nn.Module = load(
            path, threads=options.threads, precision="bf16" if name.endswith("-bf16") else "fp32"
        )
    else:
        model, precision = build(options), EAGER[name]
        model = model if precision is None else speed_up(model, precision)
    image = torch.from_numpy(picture(options).transpose(2, 0, 1).copy()).float()
    inputs = [{"image": image, "height": options.height, "width": options.width}]
    model(inputs)
    peak = peak_mebibytes()
    clock, times = CLOCKS[options.clock], []
    for _ in range(options.repeat):
        start = clock()
        model(inputs)
        times.append(clock() - start)
    return {"ms": min(times) * 1e3, "peak": peak}


def peak_mebibytes() -> float:
    """Most memory that this process has held. What getrusage says starts, on Linux, at what the
    process held that started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_table(
    options: argparse.Namespace,
    files: dict[str, tuple[str, float]],
    rows: dict[str, dict[str, float]],
) -> None:
    eager = rows.get("eager", {}).get("ms")
    table = []
    for name, row in rows.items():
        path, seconds = files[name]
        parts = [Path(path), Path(path).with_suffix(".bin")] if path else []
        size = sum(part.stat().st_size for part in parts if part.exists()) / 2**20
        ratio = f"{eager / row['ms']:.2f}" if eager else ""
        numbers = [f"{row['ms']:.0f}", ratio, f"{row['peak']:.0f}"]
        written = [f"{size:.0f}" if path else "", f"{seconds:.0f}" if seconds else ""]
        table.append([name, *numbers, *written])
    size = f"{options.height}x{options.width}"
    print(f"{options.config}, {size}, {options.threads} threads, clock {options.clock}")
    header = ["format", "ms/image", "eager / this", "peak MiB", "file MiB", "export and proof s"]
    print(tabulate(table, header, disable_numparse=True))


if __name__ == "__main__":
    main()
