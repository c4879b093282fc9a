"""How long does Mask R-CNN R50-FPN take in its plain form, in fixed shapes and from CUDA graphs?

One model with random weights (see `inference.py`); the forms take turns over the same batch. On a
GPU the host's time is what counts at small batches: `waits` are those that PyTorch reports for one
batch. The second table is of one image of 640 x 480 on its way to the model.

    python benchmarks/inference_forms.py [--device cuda] [--batches 1,8] [--precision bf16]
        [--height 800] [--width 1088] [--repeat 20] [--threads 2]
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from inference import CONFIG, spread_weights
from tabulate import tabulate
from torch import nn

from detectron2 import model_zoo
from detectron2.data import transforms as T
from detectron2.engine import _device_images
from detectron2.engine.inference import speed_up
from detectron2.engine.inference.graphs import TrunkGraphs
from detectron2.modeling import build_model


def plain_model(options: argparse.Namespace) -> nn.Module:
    cfg = model_zoo.get_config(CONFIG)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = options.device, ""
    cfg.MODEL.PIXEL_STD = [57.375, 57.12, 58.395]  # random weights want inputs near 1
    model = build_model(cfg).eval()
    spread_weights(model)
    return model


def milliseconds(run: Callable[[], Any], device: str) -> float:
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def waits(run: Callable[[], Any], device: str) -> int | str:
    """How often PyTorch says that the host waited for the GPU."""
    if device != "cuda":
        return "-"
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in said)


def forms(model: Any, inputs: list[Any], options: argparse.Namespace) -> dict[str, Any]:
    """Functions that run the model in each of its forms."""

    def run(fixed: bool, graphs: TrunkGraphs | None) -> Any:
        model.fixed_shapes, model.graphs = fixed, graphs
        return model.inference(inputs, do_postprocess=False)

    result = {"plain": lambda: run(False, None), "fixed shapes": lambda: run(True, None)}
    if options.device == "cuda":
        graphs = TrunkGraphs([(options.height, options.width)])
        result["fixed shapes, CUDA graph"] = lambda: run(True, graphs)
    return result


def table_of_forms(options: argparse.Namespace) -> None:
    model, rows = speed_up(plain_model(options), options.precision), []
    random = torch.Generator().manual_seed(1)
    for batch in map(int, options.batches.split(",")):
        shape = (3, options.height, options.width)
        pictures = [torch.rand(shape, generator=random) * 255 for _ in range(batch)]
        runs = forms(model, [{"image": x.to(options.device)} for x in pictures], options)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(options.repeat + 3):
            for name, run in runs.items():
                taken = milliseconds(run, options.device)
                if turn >= 3:  # compiled, recorded, and warm
                    times[name].append(taken)
        plain = min(times["plain"])
        for name, run in runs.items():
            best, middle = min(times[name]), statistics.median(times[name])
            detections = sum(map(len, run()))
            speed = f"{1000 * batch / best:.1f}"
            ratio = f"{plain / best:.2f}"
            waited = waits(run, options.device)
            rows.append(
                [batch, name, f"{best:.1f}", f"{middle:.1f}", speed, ratio, waited, detections]
            )
    headers = ["batch", "form", "ms", "median", "images/s", "plain / this", "waits", "detections"]
    print(f"{options.precision}, {options.height} x {options.width}, {options.device}")
    print(tabulate(rows, headers=headers))


def table_of_resizing(options: argparse.Namespace) -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    resize = T.ResizeShortestEdge(800, 1333)
    device = torch.device(options.device)
    _device_images.DEVICE_TYPES = (device.type,)

    def on_host() -> torch.Tensor:
        resized = resize.get_transform(image).apply_image(image)
        return torch.as_tensor(resized.astype("float32").transpose(2, 0, 1)).to(device)

    def on_device() -> Any:
        return _device_images.resized_on_device(image, resize, device, False)

    rows = []
    for name, run in (("on the host", on_host), ("on the device", on_device)):
        times = [milliseconds(run, options.device) for _ in range(options.repeat + 3)][3:]
        rows.append([name, f"{min(times):.2f}", f"{statistics.median(times):.2f}"])
    print(tabulate(rows, headers=["resized", "ms", "median"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1088)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        table_of_forms(options)
        table_of_resizing(options)


if __name__ == "__main__":
    main()
