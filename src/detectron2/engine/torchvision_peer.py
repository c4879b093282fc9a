"""torchvision's model beside ours, with the same weights, anchors and thresholds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detectron2.engine.benchmark import Benchmark

__all__ = ["benchmark_torchvision", "check_torchvision", "torchvision_weights"]

_BLOCK = r"backbone\.bottom_up\.res(\d)\.(\d+)\."
_PROGRAM = Path(__file__).with_name("_torchvision_peer.py")

# Names of parameters here; how much earlier torchvision begins to count what the first group
# counts; its names.
_RULES = [
    (r"backbone\.bottom_up\.stem\.conv1\.(weight)", 0, "backbone.body.conv1.{}"),
    (r"backbone\.bottom_up\.stem\.conv1\.norm\.(\w+)", 0, "backbone.body.bn1.{}"),
    (_BLOCK + r"conv(\d)\.(weight)", 1, "backbone.body.layer{}.{}.conv{}.{}"),
    (_BLOCK + r"conv(\d)\.norm\.(\w+)", 1, "backbone.body.layer{}.{}.bn{}.{}"),
    (_BLOCK + r"shortcut\.(weight)", 1, "backbone.body.layer{}.{}.downsample.0.{}"),
    (_BLOCK + r"shortcut\.norm\.(\w+)", 1, "backbone.body.layer{}.{}.downsample.1.{}"),
    (r"backbone\.fpn_lateral(\d)\.(\w+)", 2, "backbone.fpn.inner_blocks.{}.0.{}"),
    (r"backbone\.fpn_output(\d)\.(\w+)", 2, "backbone.fpn.layer_blocks.{}.0.{}"),
    (r"proposal_generator\.rpn_head\.conv\.(\w+)", 0, "rpn.head.conv.0.0.{}"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(\w+)", 0, "rpn.head.cls_logits.{}"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(\w+)", 0, "rpn.head.bbox_pred.{}"),
    (r"roi_heads\.box_head\.fc(\d)\.(\w+)", -5, "roi_heads.box_head.fc{}.{}"),
    (r"roi_heads\.box_predictor\.(\w+\.\w+)", 0, "roi_heads.box_predictor.{}"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.(\w+)", 1, "roi_heads.mask_head.{}.0.{}"),
    (r"roi_heads\.mask_head\.deconv\.(\w+)", 0, "roi_heads.mask_predictor.conv5_mask.{}"),
    (r"roi_heads\.mask_head\.predictor\.(\w+)", 0, "roi_heads.mask_predictor.mask_fcn_logits.{}"),
]


def torchvision_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a Faster or Mask R-CNN with a pyramid, as torchvision's model has it.

    Raises:
        ValueError: torchvision's model has no such layer; the message names it.
    """
    weights = {}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        other = _torchvision_name(name)
        if other is None:
            raise ValueError(
                f"torchvision's Faster and Mask R-CNN with a feature pyramid have no layer "
                f"{name!r}, so there is nothing to compare this model with."
            )
        weights[other] = _with_background(name, value)
    return weights


def _torchvision_name(name: str) -> str | None:
    for pattern, shift, template in _RULES:
        found = re.fullmatch(pattern, name)
        if found is not None:
            first, *others = found.groups()
            return template.format(int(first) - shift if shift else first, *others)
    return None


def _with_background(name: str, value: Tensor) -> Tensor:
    """The background is the first class of torchvision's predictors, and has boxes and masks."""
    if ".cls_score." in name:
        return torch.cat([value[-1:], value[:-1]])
    if "box_predictor.bbox_pred." in name:
        return torch.cat([torch.zeros_like(value[:4]), value])
    if "mask_head.predictor." in name:
        return torch.cat([torch.zeros_like(value[:1]), value])
    return value


def check_torchvision(python: str | None) -> None:
    """Check that a Python, by default this one, has torchvision.

    Raises:
        ValueError: it has not, or does not exist.
    """
    python = python or sys.executable
    try:
        done = subprocess.run([python, "-c", "import torchvision"], capture_output=True)
    except OSError as error:
        raise ValueError(f"{python!r} is no Python to run torchvision with: {error}.") from error
    if done.returncode != 0:
        raise ValueError(
            f"{python} cannot import torchvision, to compare with; install it there, or give the "
            "Python of an environment that has it: --compare-python PATH."
        )


def benchmark_torchvision(
    predictor: Any,
    images: Sequence[np.ndarray],
    *,
    repeats: int,
    warm_up: int = 1,
    python: str | None = None,
) -> Benchmark:
    """Time torchvision's model with the weights of a predictor on the CPU, in a process of its own.

    Args:
        predictor: a `DefaultPredictor` of a Faster or Mask R-CNN with a pyramid.
        images: (H, W, 3) uint8 BGR.
        repeats, warm_up: see `benchmark_predictor`.
        python: of another environment, if torchvision is not in this one.

    Raises:
        ValueError: torchvision has no model like that, or is not importable.
    """
    check_torchvision(python)
    sizes = [tuple(predictor.prepare(image)["image"].shape[-2:]) for image in images]
    request = {**_description(predictor.model), "sizes": sizes, "threads": torch.get_num_threads()}
    request.update(repeats=repeats, warm_up=warm_up)
    with tempfile.TemporaryDirectory(prefix="detectron2") as name:
        folder = Path(name)
        torch.save(torchvision_weights(predictor.model), folder / "weights.pt")
        (folder / "request.json").write_text(json.dumps(request))
        for index, image in enumerate(images):
            ordered = image[:, :, ::-1] if predictor.input_format == "RGB" else image
            np.save(folder / f"image{index}.npy", ordered)
        done = subprocess.run(
            [python or sys.executable, _PROGRAM, folder], capture_output=True, text=True
        )
    if done.returncode != 0:
        problem = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(f"torchvision has no model like this one: {problem}")
    return _benchmark_of(json.loads(done.stdout.strip().splitlines()[-1]), sizes)


def _description(model: Any) -> dict[str, Any]:
    """What torchvision's constructors need to know of a model."""
    heads: Any = getattr(model, "roi_heads", None)
    trunk: Any = getattr(model.backbone, "bottom_up", None)
    if not hasattr(trunk, "res3") or not hasattr(heads, "box_pooler"):
        raise ValueError(
            f"torchvision is compared with Faster and Mask R-CNN with a feature pyramid, which "
            f"this {type(model).__name__} is not."
        )
    proposals = model.proposal_generator
    block, last, pooler = trunk.res3[0], heads.box_predictor, heads.box_pooler
    width = block.conv2.out_channels // block.conv2.groups // 2
    options = {
        "num_classes": heads.num_classes + 1,
        "image_mean": model.pixel_mean.flatten().tolist(),
        "image_std": model.pixel_std.flatten().tolist(),
        "rpn_pre_nms_top_n_test": proposals.pre_nms_topk[False],
        "rpn_post_nms_top_n_test": proposals.post_nms_topk[False],
        "rpn_nms_thresh": proposals.nms_thresh,
        "box_score_thresh": last.test_score_thresh,
        "box_nms_thresh": last.test_nms_thresh,
        "box_detections_per_img": last.test_topk_per_image,
        "bbox_reg_weights": list(last.box2box_transform.weights),
    }
    return {
        "options": options,
        "masks": getattr(heads, "mask_head", None) is not None,
        "aligned": pooler.pooler_type == "ROIAlignV2",
        "sampling_ratio": pooler.level_poolers[0].sampling_ratio,
        "cell_anchors": [each.tolist() for each in proposals.anchor_generator.cell_anchors],
        "stride_in_1x1": block.conv1.stride == (2, 2),
        "groups": block.conv2.groups,
        # torchvision's width is that of the first stage, for 64 channels of a group of one.
        "width_per_group": width,
    }


def _benchmark_of(answer: dict[str, Any], sizes: Sequence[tuple[int, int]]) -> Benchmark:
    result = Benchmark("torchvision", seconds=answer["seconds"], input_sizes=list(sizes))
    for stages in answer["stages"]:
        for stage, seconds in stages.items():
            result.stages[stage].append(seconds)
    result.detections = answer["detections"]
    result.thresholds = {"score": answer["score"], "limit": answer["limit"]}
    result.peak_bytes = answer["peak_bytes"]
    result.version = f"torchvision {answer['version']}"
    return result
