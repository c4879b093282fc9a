"""What a model needs around it while a tracer watches, so that the modules need no tracer.

A tracer records the operations of one run. Whatever Python computed from the size of a tensor
becomes a constant: `len`, `min`, a comparison. Here the few functions of `detectron2.modeling`
that do so are replaced for the time of the trace.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from detectron2.export._aten_ops import ATEN_OPS
from detectron2.export._averages import view_of_averages
from detectron2.export._extremes import traceable_max, traceable_min
from detectron2.export._keypoints import heatmaps_to_keypoints_one_by_one
from detectron2.export._torchvision_ops import torchvision_ops
from detectron2.ops import dispatch
from detectron2.ops.loops import no_torchscript_warnings
from detectron2.structures import Boxes, Instances

__all__ = [
    "PADDED_SUBSTITUTES",
    "is_traced",
    "quiet_tracer",
    "replaced",
    "traceable_len",
    "traceable_model",
]

_HEADS = "detectron2.modeling.roi_heads"
_DENSE = "detectron2.modeling.meta_arch.dense_detector"
_RPN = "detectron2.modeling.proposal_generator.rpn"
_PROPOSALS = "detectron2.modeling.proposal_generator.proposal_utils"


def is_traced() -> bool:
    """Whether `torch.jit.trace` or `torch.export` is recording."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


@contextmanager
def quiet_tracer() -> Iterator[None]:
    """Silence what tracers say about themselves and about checks of shapes."""
    with warnings.catch_warnings(), no_torchscript_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield


@contextmanager
def replaced(names: dict[tuple[str, str], Any]) -> Iterator[None]:
    """Within this block the global names of modules stand for other objects.

    Args:
        names: (module, name) to the object.
    """
    with ExitStack() as stack:
        for (module_name, name), value in names.items():
            module = importlib.import_module(module_name)
            if name in vars(module):
                stack.callback(setattr, module, name, vars(module)[name])
            else:
                stack.callback(delattr, module, name)
            setattr(module, name, value)
        yield


def traceable_len(obj: Any) -> Any:
    """`len` that stays a variable of the graph for tensors, boxes and instances."""
    if isinstance(obj, Instances):
        for value in obj.get_fields().values():
            return traceable_len(value)
    if isinstance(obj, Tensor):
        return obj.shape[0]
    if isinstance(obj, Boxes):
        return obj.tensor.shape[0]
    return builtins.len(obj)


def keep_best_anchors(
    anchors: list[Boxes], logits: list[Tensor], deltas: list[Tensor], topk: int
) -> tuple[list[Any], list[Tensor], list[Tensor]]:
    """`proposal_utils.keep_best_anchors` that always chooses, however small the level is."""
    best_anchors, best_logits, best_deltas = [], [], []
    for boxes, level_logits, level_deltas in zip(anchors, logits, deltas, strict=True):
        count = traceable_min(topk, level_logits.shape[1])
        level_logits, index = level_logits.topk(count, dim=1)  # (N, k)
        rows = index.unsqueeze(-1).expand(-1, -1, level_deltas.shape[-1])
        best_anchors.append(boxes[index.flatten()])
        best_logits.append(level_logits)
        best_deltas.append(level_deltas.gather(1, rows))
    return best_anchors, best_logits, best_deltas


def clip_to_images(boxes: Tensor, image_sizes: Sequence[Sequence[Any]]) -> Tensor:
    """`proposal_utils._clip_to_images` of sizes that are variables of the graph."""
    sizes = torch.stack(
        [torch.stack([torch.as_tensor(side) for side in size]) for size in image_sizes]
    )
    limits = sizes.to(boxes).flip(1).repeat(1, 2)  # (N, 4): width, height, width, height
    return boxes.clamp(min=0).minimum(limits[:, None])


def split_by_image(keep: Tensor, images: Tensor, num_images: int, topk: int) -> list[Tensor]:
    """`proposal_utils._split_by_image` of unknown numbers of boxes."""
    return [keep[(images[keep] == index).nonzero()[:, 0]][:topk] for index in range(num_images)]


def split_deltas(deltas: Tensor, weights: Sequence[float]) -> tuple[Tensor, ...]:
    """`box_regression._split_deltas` without a dimension of -1, which no boxes leave open."""
    boxes = int(deltas.shape[-1]) // len(weights)
    deltas = deltas.to(torch.promote_types(deltas.dtype, torch.float32))
    columns = deltas.reshape(*deltas.shape[:-1], boxes, len(weights)).unbind(dim=-1)
    return tuple(column / weight for column, weight in zip(columns, weights, strict=True))


def stacked(tensors: list[Tensor], height: Any, width: Any, pad_value: float) -> Tensor:
    """`image_list._stacked` without writing into a part of a tensor."""
    return torch.stack(
        [
            F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), value=pad_value)
            for x in tensors
        ]
    )


def _openvino_traces() -> bool:
    """Whether the tracer was started by OpenVINO's converter."""
    if "openvino" not in sys.modules:
        return False
    frame = sys._getframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith("openvino."):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


class _Identity:
    """Stands for an autograd function that only changes gradients."""

    @staticmethod
    def apply(input: Tensor, *settings: Any) -> Tensor:
        return input


def no_keypoints(maps: Tensor, rois: Tensor) -> Tensor:
    """Stands for `heatmaps_to_keypoints` in graphs that return heatmaps alone."""
    return maps.new_zeros(*maps.shape[:2], 4)


_torch_batch_norm = F.batch_norm


def batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` by statistics, as a product and a sum for an unknown number of boxes.

    The operation itself asks whether there are any, which a graph that is recorded cannot know.
    """
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols  # takes a moment

    if training or not free_unbacked_symbols(x):
        return _torch_batch_norm(
            x, running_mean, running_var, weight, bias, training, momentum, eps
        )
    scale = torch.rsqrt(running_var + eps) * (1.0 if weight is None else weight)
    shift = -running_mean * scale + (0.0 if bias is None else bias)
    return x * scale[:, None, None] + shift[:, None, None]


_KEYPOINTS = (f"{_HEADS}.keypoint_head", "heatmaps_to_keypoints")

# For models whose tensors have fixed shapes.
PADDED_SUBSTITUTES: dict[tuple[str, str], Any] = {
    (f"{_HEADS}.cascade_rcnn", "_ScaleGradient"): _Identity,
    _KEYPOINTS: no_keypoints,
}

# For `torch.export`, which cannot follow a loop over boxes of different sizes.
_EXPORT_SUBSTITUTES: dict[tuple[str, str], Any] = {
    _KEYPOINTS: no_keypoints,
    ("torch.nn.functional", "batch_norm"): batch_norm,
    ("detectron2.structures.instances", "len"): traceable_len,
}

_SUBSTITUTES: dict[tuple[str, str], Any] = {
    (_DENSE, "len"): traceable_len,
    (_DENSE, "min"): traceable_min,
    (_RPN, "len"): traceable_len,
    (_RPN, "keep_best_anchors"): keep_best_anchors,
    ("detectron2.modeling.proposal_generator.rrpn", "keep_best_anchors"): keep_best_anchors,
    (_PROPOSALS, "len"): traceable_len,
    (_PROPOSALS, "_clip_to_images"): clip_to_images,
    (_PROPOSALS, "_split_by_image"): split_by_image,
    ("detectron2.modeling.box_regression", "_split_deltas"): split_deltas,
    (f"{_HEADS}.cascade_rcnn", "_ScaleGradient"): _Identity,
    _KEYPOINTS: heatmaps_to_keypoints_one_by_one,
    ("detectron2.structures.image_list", "max"): traceable_max,
    ("detectron2.layers.aspp", "view_of_averages"): view_of_averages,
    ("detectron2.structures.image_list", "_stacked"): stacked,
    # Sides of images are tensors in a trace, which the check of an op would refuse.
    ("detectron2.ops.paste_masks", "as_pair"): lambda size, *_, **__: size,
}


@contextmanager
def traceable_model(
    substitutes: Mapping[str, Callable[..., Any]] | None = None,
) -> Iterator[None]:
    """Within this block a tracer records a graph that holds for other sizes.

    Outside of a trace nothing changes. One trace at a time: names of modules are replaced.

    Args:
        substitutes: ops of `detectron2.ops` that are recorded as something else than their
            reference. By default everything is recorded as operations of PyTorch, but where
            OpenVINO is the one who traces, under the names of torchvision's ops, which it knows.
    """
    if not is_traced():
        yield
        return
    if substitutes is None:
        substitutes = torchvision_ops() if _openvino_traces() else ATEN_OPS
    exporting = _EXPORT_SUBSTITUTES if torch.compiler.is_compiling() else {}
    with (
        quiet_tracer(),
        replaced({**_SUBSTITUTES, **exporting}),
        dispatch.use_implementation("reference"),
        dispatch.substitute(**substitutes),
    ):
        yield
