"""torchvision's model with the weights of ours, timed. A program: it imports nothing of detectron2.

    python _torchvision_peer.py FOLDER

FOLDER holds `request.json`, `weights.pt` (by torchvision's names) and `image0.npy` ... as
`detectron2.engine.torchvision_peer` writes them. The answer is JSON in the last line that is
printed.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Parts of torchvision's models, and what ours call them.
STAGES = {
    "transform": "resize",
    "backbone": "backbone",
    "rpn": "proposal_generator",
    "roi_heads": "roi_heads",
}


def build(request: dict[str, Any], weights: dict[str, Tensor]) -> Any:
    """Faster or Mask R-CNN with a pyramid, of the sizes that the weights have."""
    from torchvision.models.detection import FasterRCNN, MaskRCNN
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.resnet import Bottleneck, ResNet
    from torchvision.ops import MultiScaleRoIAlign, misc, poolers

    # Half a pixel of difference between the two versions of ROIAlign would change every box.
    poolers.roi_align = functools.partial(poolers.roi_align, aligned=request["aligned"])
    blocks = [
        len({name.split(".")[3] for name in weights if name.startswith(f"backbone.body.layer{n}.")})
        for n in range(1, 5)
    ]
    trunk = ResNet(
        Bottleneck,
        blocks,
        groups=request["groups"],
        width_per_group=request["width_per_group"],
        norm_layer=misc.FrozenBatchNorm2d,
    )
    if request["stride_in_1x1"]:
        for stage in (trunk.layer2, trunk.layer3, trunk.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    layers = {f"layer{n + 1}": str(n) for n in range(4)}
    backbone = BackboneWithFPN(trunk, layers, [256, 512, 1024, 2048], out_channels=256)
    pool = functools.partial(
        MultiScaleRoIAlign, ["0", "1", "2", "3"], sampling_ratio=request["sampling_ratio"]
    )
    options = dict(request["options"], box_roi_pool=pool(7), rpn_anchor_generator=anchors(request))
    if request["masks"]:
        model: nn.Module = MaskRCNN(backbone, mask_roi_pool=pool(14), **options)
    else:
        model = FasterRCNN(backbone, **options)
    model.load_state_dict(weights)
    model.transform = transform_of(model.transform)
    return model.eval()


def transform_of(before: Any) -> Any:
    """torchvision's preparation of images, but to the size that is asked for, and antialiased.

    It would round sizes otherwise than ours, and reduced photographs would look different.
    """
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    class Transform(GeneralizedRCNNTransform):
        size = (0, 0)

        def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
            if image.shape[1:] == self.size:
                return image, target
            resized = nn.functional.interpolate(
                image[None], self.size, mode="bilinear", antialias=True
            )
            return resized[0], target

    return Transform(before.min_size, before.max_size, before.image_mean, before.image_std)


def anchors(request: dict[str, Any]) -> nn.Module:
    from torchvision.models.detection.rpn import AnchorGenerator

    cells = [torch.tensor(level) for level in request["cell_anchors"]]
    # Only the number of anchors is taken from these; the anchors themselves are those of ours.
    ratios = tuple(range(1, len(cells[0]) + 1))
    generator = AnchorGenerator(((1,),) * len(cells), (ratios,) * len(cells))
    generator.cell_anchors = cells
    return generator


def watched(model: nn.Module, seconds: dict[str, float]) -> None:
    """Add up the time of each stage."""
    started: dict[str, float] = {}
    for part, stage in STAGES.items():

        def before(*_: Any, stage: str = stage) -> None:
            started[stage] = time.perf_counter()

        def after(*_: Any, stage: str = stage) -> None:
            seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - started[stage]

        module = getattr(model, part)
        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)


def resident_bytes(field: str) -> int | None:
    """VmRSS (now) or VmHWM (peak) of this process, where Linux tells it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return None
    return next((int(each.split()[1]) * 1024 for each in lines if each.startswith(field)), None)


@torch.no_grad()
def run(model: Any, image: np.ndarray, size: tuple[int, int]) -> int:
    """Detect in an (H, W, 3) image that the network gets at `size`; the number of detections."""
    model.transform.size = tuple(size)
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
    (found,) = model([tensor])
    if "masks" in found:
        found["masks"] = found["masks"][:, 0] >= 0.5
    return len(found["scores"])


def main(folder: Path) -> None:
    import torchvision

    request = json.loads((folder / "request.json").read_text())
    torch.set_num_threads(request["threads"])
    before = resident_bytes("VmRSS")
    model = build(request, torch.load(folder / "weights.pt", weights_only=True))
    images = [np.load(folder / f"image{k}.npy") for k in range(len(request["sizes"]))]
    answer: dict[str, Any] = {"seconds": [], "stages": [], "detections": [], "input_sizes": []}
    seconds: dict[str, float] = {}
    watched(model, seconds)
    for turn in range(request["warm_up"] + request["repeats"]):
        for image, size in zip(images, request["sizes"]):
            seconds.clear()
            start = time.perf_counter()
            count = run(model, image, size)
            total = time.perf_counter() - start
            if turn == 0:
                answer["detections"].append(count)
            if turn >= request["warm_up"]:
                answer["seconds"].append(total)
                answer["stages"].append({**seconds, "other": total - sum(seconds.values())})
    peak = resident_bytes("VmHWM")
    answer["peak_bytes"] = None if peak is None or before is None else peak - before
    answer["version"] = f"{torchvision.__version__} on torch {torch.__version__}"
    heads = model.roi_heads
    answer["score"], answer["limit"] = heads.score_thresh, heads.detections_per_img
    print(json.dumps(answer))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main(Path(sys.argv[1]))
