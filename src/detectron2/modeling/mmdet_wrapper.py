"""Models of mmdetection 2.x behind our interfaces; only building them from dicts needs mmdet."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.meta_arch._inputs import InputDict, output_size, pixel_statistics
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage

__all__ = ["MMDetBackbone", "MMDetDetector"]

logger = logging.getLogger(__name__)


class MMDetBackbone(Backbone):
    """A backbone of mmdetection, with an optional neck, as a `Backbone`.

    Its weights are initialised here, by its own rule.

    Args:
        backbone: module from images to a sequence of maps, or the dict that mmdet builds it from.
        neck: module from that sequence to another, or a dict; None for none.
        output_shapes: of each map of the last sequence.
        output_names: of each map; by default "out0", "out1", ...

    Raises:
        ValueError: names and shapes differ in number.
    """

    def __init__(
        self,
        backbone: nn.Module | Mapping[str, Any],
        neck: nn.Module | Mapping[str, Any] | None = None,
        *,
        output_shapes: Sequence[ShapeSpec],
        output_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = _build("backbone", backbone)
        self.neck = None if neck is None else _build("neck", neck)
        if output_names is None:
            output_names = [f"out{index}" for index in range(len(output_shapes))]
        if len(output_names) != len(output_shapes):
            raise ValueError(
                f"There are {len(output_names)} output names {list(output_names)} for "
                f"{len(output_shapes)} output shapes."
            )
        self._output_names = list(output_names)
        self._output_shapes = list(output_shapes)
        for part in (self.backbone, self.neck):
            if part is None:
                continue
            for module in part if isinstance(part, nn.Sequential) else [part]:
                _init_weights(module)
            # mmdet freezes layers in train().
            part.train()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps of (N, C, H, W) images, by name.

        Raises:
            TypeError: the wrapped model returns no sequence.
        """
        outputs = self.backbone(x)
        if self.neck is not None:
            outputs = self.neck(outputs)
        if not isinstance(outputs, (list, tuple)):
            raise TypeError(f"An mmdet backbone returns a sequence, not {type(outputs).__name__}.")
        if len(outputs) != len(self._output_names):
            raise ValueError(
                f"The wrapped backbone returns {len(outputs)} maps; {len(self._output_names)} "
                f"output shapes were given."
            )
        return dict(zip(self._output_names, outputs, strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(zip(self._output_names, self._output_shapes, strict=True))


class MMDetDetector(nn.Module):
    """A detector of mmdetection 2.x as one of our models.

    Args:
        detector: module with `forward_train` and `simple_test`, or the dict that mmdet builds it
            from.
        size_divisibility: images are padded to multiples of this many pixels.
        pixel_mean: one number per channel; subtracted from the images.
        pixel_std: one number per channel; the images are divided by it.
    """

    def __init__(
        self,
        detector: nn.Module | Mapping[str, Any],
        *,
        size_divisibility: int = 32,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.detector = _build("detector", detector)
        _init_weights(self.detector)
        self.size_divisibility = size_divisibility
        mean, std = pixel_statistics(pixel_mean, pixel_std)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[InputDict]) -> Any:
        """Losses by name in training, else ``[{"instances": Instances}, ...]``.

        Args:
            batched_inputs: see `detectron2.modeling.DenseDetector.forward`.
        """
        images = [x["image"].to(self.device) for x in batched_inputs]
        normalized = [(image - self.pixel_mean) / self.pixel_std for image in images]
        batch = ImageList.from_tensors(normalized, size_divisibility=self.size_divisibility)
        metas = [
            _image_meta(x, size, batch.tensor.shape[-2:])
            for x, size in zip(batched_inputs, batch.image_sizes, strict=True)
        ]
        if self.training:
            instances = [x["instances"].to(self.device) for x in batched_inputs]
            targets = _targets(instances, batch.tensor.shape[-2:])
            return _parse_losses(self.detector.forward_train(batch.tensor, metas, **targets))
        # mmdet itself scales boxes and pastes masks into the size asked for.
        results = self.detector.simple_test(batch.tensor, metas, rescale=True)
        return [
            {"instances": _to_instances(result, meta["ori_shape"][:2])}
            for result, meta in zip(results, metas, strict=True)
        ]


def _build(kind: str, part: nn.Module | Mapping[str, Any]) -> nn.Module:
    """`part`, built by mmdet where it is a config dict."""
    if not isinstance(part, Mapping):
        return part
    try:
        from mmcv import ConfigDict
        from mmdet import models
    except ImportError as error:
        raise ImportError(
            f"The {kind} is given as a dict, which mmdetection 2.x builds: install mmdet<3 and "
            f"mmcv<2, or pass a module ({error})."
        ) from error
    plain = _plain(part)
    return getattr(models, f"build_{kind}")(ConfigDict(plain))


def _plain(value: Any) -> Any:
    """Nested mappings and sequences (such as omegaconf's) as dicts and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(item) for item in value]
    return value


def _image_meta(
    input_dict: InputDict, size: tuple[int, int], padded_size: Sequence[int]
) -> dict[str, Any]:
    """What mmdet wants to know about one image; its original is the size asked for."""
    height, width = output_size(input_dict, size)
    scale_x, scale_y = size[1] / width, size[0] / height
    return {
        "ori_shape": (height, width, 3),
        "img_shape": (*size, 3),
        "pad_shape": (*padded_size, 3),
        "scale_factor": np.array([scale_x, scale_y, scale_x, scale_y], dtype=np.float32),
        "flip": False,
        "filename": input_dict.get("file_name", ""),
    }


def _init_weights(module: nn.Module) -> None:
    """Initialise by mmdet's own rule, which may load pretrained weights."""
    if hasattr(module, "init_weights"):
        logger.info("Initialising the weights of %s.", type(module).__name__)
        module.init_weights()


def _targets(instances: list[Instances], padded_size: Sequence[int]) -> dict[str, Any]:
    """Arguments of `forward_train`; masks have the size of the padded batch."""
    targets: dict[str, Any] = {
        "gt_bboxes": [x.gt_boxes.tensor for x in instances],
        "gt_labels": [x.gt_classes for x in instances],
    }
    if all(x.has("gt_masks") for x in instances):
        targets["gt_masks"] = [_to_mmdet_masks(x.gt_masks, *padded_size) for x in instances]
    return targets


def _to_mmdet_masks(masks: Any, height: int, width: int) -> Any:
    """BitMasks or PolygonMasks as mmdet's class for an image of that size."""
    from mmdet.core import BitmapMasks, PolygonMasks

    if not isinstance(masks, BitMasks):
        return PolygonMasks(masks.polygons, height, width)
    missing = (0, width - masks.tensor.shape[2], 0, height - masks.tensor.shape[1])
    bits = F.pad(masks.tensor, missing).to("cpu", torch.uint8)
    return BitmapMasks(bits.numpy(), height, width)


def _parse_losses(values: Mapping[str, Tensor | list[Tensor]]) -> dict[str, Tensor]:
    """Mean of each loss; everything that is not called a loss goes to the event storage."""
    losses = {}
    for name, value in values.items():
        parts = [value] if isinstance(value, Tensor) else list(value)
        total = sum(part.mean() for part in parts)
        if "loss" in name:
            losses[name] = total
        else:
            get_event_storage().put_scalar(name, float(total))
    return losses


def _to_instances(result: Any, size: tuple[int, int]) -> Instances:
    """Detections of one image.

    Args:
        result: per class, (n, 5) arrays of (x0, y0, x1, y1, score); or a pair of those and, per
            class, n masks.
        size: (height, width).
    """
    boxes_by_class, masks_by_class = result if isinstance(result, tuple) else (result, None)
    if isinstance(masks_by_class, tuple):  # Mask Scoring R-CNN: (masks, mask scores)
        masks_by_class = masks_by_class[0]
    boxes = torch.from_numpy(np.concatenate(boxes_by_class)).float()
    counts = torch.tensor([len(boxes) for boxes in boxes_by_class])
    instances = Instances(size)
    instances.pred_boxes = Boxes(boxes[:, :4])
    instances.scores = boxes[:, 4]
    instances.pred_classes = torch.arange(len(counts)).repeat_interleave(counts)
    if masks_by_class is not None:
        masks = [np.asarray(mask, bool) for mask in itertools.chain.from_iterable(masks_by_class)]
        stacked = np.stack(masks) if masks else np.zeros((0, *size), bool)
        instances.pred_masks = torch.from_numpy(stacked)
    return instances
