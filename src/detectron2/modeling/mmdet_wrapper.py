"""Backbones and detectors of MMDetection 2.x as parts of a model here.

MMDetection is imported when a part is given as a config, or when ground truth has masks.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.meta_arch._inputs import InputDict, output_size, pixel_statistics
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage, has_event_storage

# Some of these are not used here; downstream code imports them from this address.
__all__ = [
    "Backbone",
    "BitMasks",
    "Boxes",
    "ImageList",
    "Instances",
    "MMDetBackbone",
    "MMDetDetector",
    "ShapeSpec",
    "get_event_storage",
]


def _built(part: nn.Module | Mapping[str, Any], kind: str) -> nn.Module:
    """A module as it is, or MMDetection's `kind` ("backbone", "neck", "detector") of a config."""
    if isinstance(part, nn.Module):
        return part
    from mmcv import ConfigDict
    from mmdet import models

    plain = OmegaConf.to_container(part, resolve=True) if isinstance(part, DictConfig) else part
    module: nn.Module = getattr(models, f"build_{kind}")(ConfigDict(plain))
    return module


class MMDetBackbone(Backbone):
    """A backbone of MMDetection, with or without its neck."""

    def __init__(
        self,
        backbone: nn.Module | Mapping[str, Any],
        neck: nn.Module | Mapping[str, Any] | None = None,
        *,
        output_shapes: list[ShapeSpec],
        output_names: list[str] | None = None,
    ) -> None:
        """
        Args:
            backbone, neck: modules, or configs that MMDetection builds them from. Their
                `init_weights`, if there is one, is called: it may load pretrained weights.
            output_shapes: of each feature map, in the order in which they come out.
            output_names: of the feature maps; "out0", "out1", ... by default.
        """
        super().__init__()
        self.backbone = _built(backbone, "backbone")
        self.neck = None if neck is None else _built(neck, "neck")
        for module in (self.backbone, self.neck):
            if hasattr(module, "init_weights"):
                module.init_weights()
        if output_names is None:
            output_names = [f"out{i}" for i in range(len(output_shapes))]
        self._output_shapes = dict(zip(output_names, output_shapes, strict=True))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps of (N, C, H, W) images by name."""
        outputs = self.backbone(x)
        if self.neck is not None:
            outputs = self.neck(outputs)
        if not isinstance(outputs, (list, tuple)) or len(outputs) != len(self._output_shapes):
            count = len(outputs) if isinstance(outputs, (list, tuple)) else type(outputs).__name__
            raise ValueError(
                f"The MMDetection backbone returned {count} feature maps, but output_shapes "
                f"describes {len(self._output_shapes)}."
            )
        return dict(zip(self._output_shapes, outputs))

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Shape of each feature map by name."""
        return dict(self._output_shapes)


class MMDetDetector(nn.Module):
    """A detector of MMDetection behind the inputs and outputs of models here."""

    def __init__(
        self,
        detector: nn.Module | Mapping[str, Any],
        *,
        size_divisibility: int = 32,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
    ) -> None:
        """
        Args:
            detector: module, or config that MMDetection builds it from.
            size_divisibility: images are padded to a multiple of it.
            pixel_mean, pixel_std: one number for each channel; images are normalised by them.
        """
        super().__init__()
        self.detector = _built(detector, "detector")
        self.size_divisibility = size_divisibility
        mean, std = pixel_statistics(pixel_mean, pixel_std)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[InputDict]) -> Any:
        """Losses by name when training; else ``[{"instances": Instances}, ...]``."""
        tensors = [x["image"].to(self.device) for x in batched_inputs]
        normalized = [(x - self.pixel_mean) / self.pixel_std for x in tensors]
        images = ImageList.from_tensors(normalized, self.size_divisibility)
        sizes = [output_size(x, size) for x, size in zip(batched_inputs, images.image_sizes)]
        metas = [
            _image_meta(size, wanted, images.tensor.shape[-2:])
            for size, wanted in zip(images.image_sizes, sizes)
        ]
        if self.training:
            ground_truth = [x["instances"].to(self.device) for x in batched_inputs]
            return self._losses(images, metas, ground_truth)
        results = self.detector.simple_test(images.tensor, metas, rescale=True)
        return [{"instances": _to_instances(result, size)} for result, size in zip(results, sizes)]

    def _losses(
        self, images: ImageList, metas: list[dict[str, Any]], ground_truth: list[Instances]
    ) -> dict[str, Tensor]:
        arguments: dict[str, Any] = {}
        if ground_truth[0].has("gt_masks"):
            height, width = images.tensor.shape[-2:]
            arguments["gt_masks"] = [
                _to_mmdet_masks(x.gt_masks, height, width) for x in ground_truth
            ]
        outputs = self.detector.forward_train(
            images.tensor,
            metas,
            [x.gt_boxes.tensor for x in ground_truth],
            [x.gt_classes for x in ground_truth],
            gt_bboxes_ignore=None,
            **arguments,
        )
        values = {name: _mean_sum(value) for name, value in outputs.items()}
        # MMDetection's convention: what is called a loss is minimised, the rest is shown.
        if has_event_storage():
            for name, value in values.items():
                if "loss" not in name:
                    get_event_storage().put_scalar(name, value.item())
        return {name: value for name, value in values.items() if "loss" in name}


def _mean_sum(value: Tensor | Sequence[Tensor]) -> Tensor:
    """Mean of a tensor, or the sum of the means of several (one for each level)."""
    tensors = [value] if isinstance(value, Tensor) else list(value)
    return torch.stack([tensor.mean() for tensor in tensors]).sum()


def _image_meta(
    size: tuple[int, int], wanted: tuple[int, int], padded: tuple[int, int]
) -> dict[str, Any]:
    """What MMDetection wants to know about one image; sizes are (height, width)."""
    height, width = size
    scale_y, scale_x = height / wanted[0], width / wanted[1]
    return {
        "ori_shape": (*wanted, 3),
        "img_shape": (*size, 3),
        "pad_shape": (*padded, 3),
        "scale_factor": np.array([scale_x, scale_y, scale_x, scale_y], dtype=np.float32),
        "flip": False,
        "flip_direction": None,
        "filename": "",
    }


def _to_mmdet_masks(masks: Any, height: int, width: int) -> Any:
    """BitMasks or PolygonMasks as the class of MMDetection for an image of that size."""
    from mmdet.core.mask import structures

    if isinstance(masks, BitMasks):
        bits = nn.functional.pad(
            masks.tensor, (0, width - masks.tensor.shape[2], 0, height - masks.tensor.shape[1])
        )
        return structures.BitmapMasks(bits.to(torch.uint8).cpu().numpy(), height, width)
    return structures.PolygonMasks(masks.polygons, height, width)


def _to_instances(result: Any, size: tuple[int, int]) -> Instances:
    """Detections of one image.

    Args:
        result: for each class an (n, 5) array of boxes and scores; with masks a pair of that
            and, for each class, a list of n (height, width) masks.
        size: (height, width) of the boxes and masks.
    """
    by_class, masks_by_class = result if isinstance(result, tuple) else (result, None)
    rows = torch.as_tensor(np.concatenate([np.reshape(x, (-1, 5)) for x in by_class]))
    counts = [len(x) for x in by_class]
    instances = Instances(
        size,
        pred_boxes=Boxes(rows[:, :4]),
        scores=rows[:, 4],
        pred_classes=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
    )
    if masks_by_class is not None:
        masks = [np.asarray(mask, dtype=bool) for mask in itertools.chain(*masks_by_class)]
        stacked = np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)
        instances.pred_masks = torch.from_numpy(stacked)
    return instances
