"""Where does Mask R-CNN R50-FPN spend its time on a CPU, optimized and not, beside torchvision's?

All models get random weights that keep every activation in a sensible range, so that there
are as many proposals and detections as with trained ones. The models take turns, so that a machine
that is slow for a while is slow for all. Each number is the best of several runs over one image;
the parts are timed inside of whole runs.

    python benchmarks/inference.py [--height 800] [--width 1088] [--repeat 5] [--threads 2]
        [--clock wall|cpu] [--config Quickstart/mask_rcnn_R_50_narrow_FPN.yaml]

With another model torchvision takes no part.
"""

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from detectron2 import model_zoo
from detectron2.engine.inference import speed_up
from detectron2.modeling import build_model

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
PARTS = ("preprocessing", "backbone + FPN", "RPN", "box head", "mask head", "postprocessing")

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

# Standard deviation of a layer's output for an input of deviation 1, by a piece of its name.
# The scores have to differ between boxes, the box deltas have to be small.
GAINS = {
    "cls_score": 3.0,
    "objectness_logits": 1.5,
    "cls_logits": 1.5,
    "anchor_deltas": 0.3,
    "bbox_pred": 0.5,
    "fpn": 0.7,
}


class Stopwatch:
    """Seconds spent in functions that are wrapped by it, by part.

    Args:
        clock: `time.perf_counter`, or `time.process_time` to count the seconds of all threads,
            which other programs on the machine disturb less.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Time every call of the attribute `name` of `owner`."""
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self.clock()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += self.clock() - start

        setattr(owner, name, timed)

    def read(self) -> dict[str, float]:
        """Seconds since the last reading."""
        seconds, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return seconds


@torch.no_grad()
def spread_weights(model: nn.Module) -> None:
    """Random weights under which activations neither vanish nor grow from layer to layer."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            continue
        gain = next((gain for piece, gain in GAINS.items() if piece in name), 2**0.5)
        fan_in = parameter[0].numel()
        values = torch.randn(parameter.shape, generator=generator)
        # Without the mean of each filter a positive input does not dominate its output.
        values -= values.flatten(1).mean(1).view(-1, *[1] * (parameter.dim() - 1))
        parameter.copy_(values * gain / fan_in**0.5)
    for name, module in model.named_modules():
        if name.endswith(("conv3.norm", "bn3")):
            module.weight.fill_(0.5)  # sixteen residual branches add up


def our_model(watch: Stopwatch, config: str = CONFIG) -> nn.Module:
    cfg = model_zoo.get_config(config)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.PIXEL_STD = [57.375, 57.12, 58.395]  # random weights want inputs near 1
    model = build_model(cfg).eval()
    watch.wrap(model, "preprocess_image", "preprocessing")
    watch.wrap(model.backbone, "forward", "backbone + FPN")
    watch.wrap(model.proposal_generator, "forward", "RPN")
    watch.wrap(model.roi_heads, "_forward_box", "box head")
    watch.wrap(model.roi_heads, "_forward_mask", "mask head")
    watch.wrap(model, "_postprocess", "postprocessing")
    return model


def torchvision_model(watch: Stopwatch, height: int, width: int) -> nn.Module:
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=81,
        min_size=min(height, width),
        max_size=max(height, width),
        rpn_post_nms_top_n_test=1000,
        box_detections_per_img=100,
    ).eval()
    heads = model.roi_heads
    watch.wrap(model.transform, "forward", "preprocessing")
    watch.wrap(model.backbone, "forward", "backbone + FPN")
    watch.wrap(model.rpn, "forward", "RPN")
    for module in (heads.box_roi_pool, heads.box_head, heads.box_predictor):
        watch.wrap(module, "forward", "box head")
    watch.wrap(heads, "postprocess_detections", "box head")
    for module in (heads.mask_roi_pool, heads.mask_head, heads.mask_predictor):
        watch.wrap(module, "forward", "mask head")
    watch.wrap(model.transform, "postprocess", "postprocessing")
    return model


@dataclass
class Entrant:
    """A model that takes part: its name, how to run it, what it measures and has measured."""

    name: str
    run: Callable[[], Any]
    watch: Stopwatch
    count: Callable[[Any], int]
    runs: list[dict[str, float]] = field(default_factory=list)
    detections: int = 0

    def take_turn(self, *, counts: bool = True) -> None:
        self.watch.read()
        start = self.watch.clock()
        self.detections = self.count(self.run())
        if counts:
            self.runs.append({**self.watch.read(), "total": self.watch.clock() - start})

    def best(self) -> dict[str, float]:
        return {part: min(seconds[part] for seconds in self.runs) for part in self.runs[0]}

    def spread(self) -> str:
        totals = sorted(seconds["total"] for seconds in self.runs)
        return f"{1000 * totals[len(totals) // 2]:.1f} ({1000 * totals[-1]:.0f})"


def entrants(image: torch.Tensor, clock: Callable[[], float], config: str) -> list[Entrant]:
    """The plain model, the optimized one in both precisions, and torchvision's if installed."""
    result = []
    inputs = [{"image": image * 255}]
    for name in ("plain", "fp32", "bf16"):
        watch = Stopwatch(clock)
        model = our_model(watch, config)
        spread_weights(model)
        if name != "plain":
            speed_up(model, name)
        run = functools.partial(model, inputs)
        result.append(Entrant(name, run, watch, lambda output: len(output[0]["instances"])))
    if config == CONFIG and find_spec("torchvision") is not None:
        watch = Stopwatch(clock)
        peer = torchvision_model(watch, *image.shape[1:])
        spread_weights(peer)
        run = functools.partial(peer, [image])
        result.append(Entrant("torchvision", run, watch, lambda output: len(output[0]["boxes"])))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1088)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    image = torch.rand(3, args.height, args.width, generator=torch.Generator().manual_seed(1))

    models = entrants(image, CLOCKS[args.clock], args.config)
    with torch.inference_mode():
        for turn in range(args.repeat + 1):
            for model in models:
                model.take_turn(counts=turn > 0)  # the first one warms up

    best = [model.best() for model in models]
    rows: list[list[Any]] = [
        [part, *(f"{1000 * times[part]:.1f}" for times in best)] for part in (*PARTS, "total")
    ]
    rows.append(["median (worst)", *(model.spread() for model in models)])
    rows.append(["plain / this", *(f"{best[0]['total'] / times['total']:.2f}" for times in best)])
    if models[-1].name == "torchvision":
        peer = best[-1]["total"]
        rows.append(["torchvision / this", *(f"{peer / times['total']:.2f}" for times in best)])
    rows.append(["detections", *(model.detections for model in models)])
    columns = [model.name for model in models]
    print(f"{args.config}, {args.height} x {args.width}, {args.threads} threads, {args.clock} ms")
    print(tabulate(rows, headers=["part", *columns], colalign=["left", *["right"] * len(columns)]))


if __name__ == "__main__":
    main()
