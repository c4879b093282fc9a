"""How large is each architecture of the zoo, and what does an image cost on a CPU?

One line per architecture: parameters, billion multiply-adds (convolutions, matrix products,
attention), milliseconds per image and the peak memory of the process. The random weights keep
activations in a sensible range, so there are as many proposals and detections as with trained
ones. "fast" and "bf16" are what `optimize_for_inference` makes of the model, with how many times as
fast that is. Each architecture runs in a process of its own, its forms in turns; a time is the best
of several runs, the memory that of the plain form.

    python benchmarks/zoo.py [--only PART_OF_A_NAME] [--height 800] [--width 1088] [--repeat 2]
        [--threads 2] [--clock wall|cpu]
"""

import argparse
import json
import resource
import subprocess
import sys

import torch
from inference import CLOCKS, spread_weights

from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.engine import optimize_for_inference
from detectron2.model_zoo import get_config
from detectron2.model_zoo.summary import build, example_inputs, summarize
from detectron2.modeling import MViT, SwinTransformer

FASTER, MASK = "COCO-Detection/faster_rcnn_R_50_", "COCO-InstanceSegmentation/mask_rcnn_"
LAZY_MASK = f"{MASK}R_50_FPN_1x.py"

ARCHITECTURES = {
    "Faster R-CNN R50-FPN": f"{FASTER}FPN_1x.yaml",
    "Fast R-CNN R50-FPN": "COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml",
    "RPN R50-FPN": "COCO-Detection/rpn_R_50_FPN_1x.yaml",
    "RetinaNet R50-FPN": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "FCOS R50-FPN": "COCO-Detection/fcos_R_50_FPN_1x.py",
    "Mask R-CNN R50-FPN": f"{MASK}R_50_FPN_1x.yaml",
    "Mask R-CNN X101-FPN": f"{MASK}X_101_32x8d_FPN_3x.yaml",
    "Mask R-CNN R50-FPN, deformable": "Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5.yaml",
    "Mask R-CNN R50-FPN, GN": "Misc/mask_rcnn_R_50_FPN_3x_gn.yaml",
    "Mask R-CNN RegNetX-4GF": f"{MASK}regnetx_4gf_dds_fpn_1x.py",
    "Mask R-CNN RegNetY-4GF": f"{MASK}regnety_4gf_dds_fpn_1x.py",
    "Mask R-CNN ViTDet-B, 1024 x 1024": "common/models/mask_rcnn_vitdet.py",
    "Mask R-CNN Swin-T": LAZY_MASK,
    "Mask R-CNN MViTv2-T": LAZY_MASK,
    "Cascade Mask R-CNN R50-FPN": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "Keypoint R-CNN R50-FPN": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "Panoptic FPN R50": "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
    "Semantic FPN R50": "Misc/semantic_R_50_FPN_1x.yaml",
    "Faster R-CNN R50-C4": f"{FASTER}C4_1x.yaml",
    "Faster R-CNN R50-DC5": f"{FASTER}DC5_1x.yaml",
}
# Backbones without a config of their own in the zoo, below the pyramid of LAZY_MASK.
BACKBONES = {
    "Mask R-CNN Swin-T": (L(SwinTransformer)(), ("p0", "p1", "p2", "p3")),
    "Mask R-CNN MViTv2-T": (
        L(MViT)(
            depth=10,
            last_block_indexes=(0, 2, 7, 9),
            out_features=("scale2", "scale3", "scale4", "scale5"),
        ),
        ("scale2", "scale3", "scale4", "scale5"),
    ),
}


def model_of(name: str) -> torch.nn.Module:
    """The architecture with random weights, in evaluation mode."""
    if name in BACKBONES:
        model = get_config(ARCHITECTURES[name]).model
        model.backbone.bottom_up, model.backbone.in_features = BACKBONES[name]
        built = instantiate(model)
    else:
        built = build(ARCHITECTURES[name])
    spread_weights(built)
    built.pixel_std.fill_(57.0)  # random weights want inputs near 1
    return built.eval()


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Numbers of one architecture; the peak memory is that of this whole process."""
    torch.set_num_threads(args.threads)
    clock, size = CLOCKS[args.clock], (args.height, args.width)
    model = model_of(name)
    inputs = example_inputs(model, size)
    forms = {"plain": model}
    times: dict[str, list[float]] = {"plain": [], "fast": [], "bf16": []}
    with torch.inference_mode():
        model(inputs)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        forms["fast"] = optimize_for_inference(model)
        forms["bf16"] = optimize_for_inference(model, precision="bf16")
        for _ in range(args.repeat + 1):
            for form, candidate in forms.items():
                start = clock()
                candidate(inputs)
                times[form].append(clock() - start)
    numbers = summarize(model, size)
    best = {form: 1000 * min(each[1:]) for form, each in times.items()}
    return {"parameters": numbers.parameters, "gflops": numbers.gflops, "peak": peak, **best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of the names to run")
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1088)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child, args)))
        return
    times = [f"{form}, ms ({args.clock})" for form in ("plain", "fast", "bf16")]
    headers = ["architecture", "parameters, M", "GFLOPs", *times, "peak MiB"]
    print(f"{args.height} x {args.width}, {args.threads} threads\n")
    print(f"| {' | '.join(headers)} |\n|---|{'---:|' * (len(headers) - 1)}", flush=True)
    for name in ARCHITECTURES:
        if args.only.lower() in name.lower():
            # Line by line: all of them take a while.
            print(f"| {' | '.join([name, *row_of(name)])} |", flush=True)


def row_of(name: str) -> list[str]:
    """The numbers of one architecture, from a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return [f"failed: {done.stderr.strip().splitlines()[-1]}", *[""] * 5]
    numbers = json.loads(done.stdout.splitlines()[-1])
    plain = numbers["plain"]
    fast = [f"{numbers[form]:.0f} ({plain / numbers[form]:.2f})" for form in ("fast", "bf16")]
    return [
        f"{numbers['parameters'] / 1e6:.1f}",
        f"{numbers['gflops']:.0f}",
        f"{plain:.0f}",
        *fast,
        f"{numbers['peak']:.0f}",
    ]


if __name__ == "__main__":
    main()
