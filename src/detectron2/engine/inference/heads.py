"""Heads on regions and their layers, for inference."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.engine.inference.prepared import Prepared, runs_prepared, state_of
from detectron2.layers import cat
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead, mask_rcnn_inference
from detectron2.structures import Instances

__all__ = [
    "FusedBoxHead",
    "FusedMaskHead",
    "PreparedConv1d",
    "PreparedConvTranspose2d",
    "PreparedLinear",
]

# Bytes of doubled map at a time: 2 MB stay in the cache of a core between the three steps. 100
# boxes of 256 channels take 107 ms of one thread instead of 134 with 25 MB, 64 channels 14 instead
# of 18. Elsewhere each chunk costs launches.
_CHUNK_BYTES = 2_000_000
_CHUNK_BYTES_ELSEWHERE = 200_000_000


class _PreparedLayer(Prepared):
    """Base of layers whose weight and bias are kept in the dtype of the computation."""

    weight: Tensor
    bias: Any  # a Tensor or None

    def weights_state(self) -> Any:
        return self.compute_dtype, state_of(self.weight, self.bias)

    def prepare(self) -> tuple[Tensor, Tensor | None]:
        dtype = self.compute_dtype
        return self.weight.detach().to(dtype), _converted(self.bias, dtype)


class PreparedLinear(_PreparedLayer, nn.Linear):
    """An `nn.Linear` whose weights are kept in the dtype of the computation."""

    def forward(self, x: Tensor) -> Tensor:
        if not runs_prepared(self):
            return super().forward(x)
        weight, bias = self.prepared()
        return F.linear(x.to(weight.dtype), weight, bias)


class PreparedConv1d(_PreparedLayer, nn.Conv1d):
    """An `nn.Conv1d` whose weights are kept in the dtype of the computation."""

    def forward(self, input: Tensor) -> Tensor:
        if not runs_prepared(self):
            return super().forward(input)
        weight, bias = self.prepared()
        return self._conv_forward(input.to(weight.dtype), weight, bias)


class PreparedConvTranspose2d(_PreparedLayer, nn.ConvTranspose2d):
    """An `nn.ConvTranspose2d` whose weights are kept in the dtype of the computation."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not runs_prepared(self) or output_size is not None:
            return super().forward(x, output_size)
        weight, bias = self.prepared()
        return F.conv_transpose2d(
            x.to(weight.dtype),
            weight,
            bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]  # only plain convolutions take names
            self.output_padding,
            self.groups,
            self.dilation,
        )


class FusedBoxHead(Prepared, FastRCNNConvFCHead):
    """A `FastRCNNConvFCHead` whose first linear layer reads channels-last features as they lie."""

    fc1: nn.Linear
    _cells: int = 1

    def forward(self, x: Tensor) -> Tensor:
        if not runs_prepared(self) or "fc1" not in self._modules:
            return super().forward(x)
        layers = iter(self)
        for layer in layers:
            is_flatten = isinstance(layer, nn.Flatten)
            if is_flatten and x.is_contiguous(memory_format=torch.channels_last):
                x = self._first_linear(x)
                next(layers)
            else:
                x = layer(x)
        return x

    def _first_linear(self, x: Tensor) -> Tensor:
        self._cells = x.shape[2] * x.shape[3]
        weight, bias = self.prepared()
        return F.linear(x.permute(0, 2, 3, 1).flatten(1).to(weight.dtype), weight, bias)

    def weights_state(self) -> Any:
        return self.compute_dtype, self._cells, state_of(self.fc1.weight, self.fc1.bias)

    def prepare(self) -> tuple[Tensor, Tensor | None]:
        """Weight of `fc1` for rows in the order (cell, channel), and its bias."""
        weight = self.fc1.weight.detach().unflatten(1, (-1, self._cells))  # (F, C, h * w)
        weight = weight.transpose(1, 2).flatten(1).to(self.compute_dtype)
        return weight, _converted(self.fc1.bias, self.compute_dtype)


class FusedMaskHead(Prepared, MaskRCNNConvUpsampleHead):
    """A `MaskRCNNConvUpsampleHead` that predicts the mask of each detection's class alone.

    The doubling deconvolution is a matrix product, since its windows do not overlap; the four
    cells that it makes of one are put in their places after the prediction, when one number is
    left of each.
    """

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:  # type: ignore[override]
        if not runs_prepared(self) or not self._is_standard():
            return super().forward(x, instances)
        x = x.contiguous(memory_format=torch.channels_last)
        for name, layer in self.named_children():
            if name == "deconv":
                break
            x = layer(x)
        classes = cat([detections.pred_classes for detections in instances])
        mask_rcnn_inference(self._logits(x, classes), instances)
        return instances

    def _is_standard(self) -> bool:
        deconv, predictor = self.deconv, self.predictor
        window = (deconv.kernel_size, deconv.stride, deconv.padding, deconv.output_padding)
        is_doubling = window == ((2, 2), (2, 2), (0, 0), (0, 0)) and deconv.groups == 1
        is_plain = predictor.norm is None and predictor.activation is None
        has_biases = deconv.bias is not None and predictor.bias is not None
        listened_to = any(
            module._forward_hooks or module._forward_pre_hooks for module in self.modules()
        )
        return is_doubling and is_plain and has_biases and not listened_to

    def _logits(self, x: Tensor, classes: Tensor) -> Tensor:
        """(K, 1, 2h, 2w) float32 logits of the given class of each box, from its (C, h, w) map."""
        boxes, _, height, width = x.shape
        weight, bias, class_weight, class_bias = self.prepared()
        if len(class_bias) == 1:
            classes = torch.zeros_like(classes)
        cells = x.permute(0, 2, 3, 1).to(weight.dtype)  # (K, h, w, C)
        logits = x.new_empty(boxes, height * width * 4, 1, dtype=torch.float32)
        bytes_per_box = height * width * weight.shape[0] * weight.element_size()
        limit = _CHUNK_BYTES if x.device.type == "cpu" else _CHUNK_BYTES_ELSEWHERE
        step = max(1, limit // bytes_per_box)
        for first in range(0, boxes, step):
            chunk = slice(first, first + step)
            doubled = F.relu_(F.linear(cells[chunk], weight, bias))
            doubled = doubled.reshape(len(doubled), height * width * 4, -1)
            logits[chunk] = (
                F.linear(doubled, class_weight)
                if len(class_weight) == 1
                else torch.bmm(doubled, class_weight[classes[chunk]][..., None])
            )
        logits += class_bias[classes][:, None, None]
        grid = logits.view(boxes, height, width, 2, 2).permute(0, 1, 3, 2, 4)
        return grid.reshape(boxes, 1, 2 * height, 2 * width)

    def weights_state(self) -> Any:
        layers = (self.deconv, self.predictor)
        tensors = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
        return self.compute_dtype, state_of(*tensors)

    @torch.no_grad()
    def prepare(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The deconvolution as a (4 * K, C) matrix with its bias, and one row for each class."""
        weight = self.deconv.weight.permute(2, 3, 1, 0).flatten(0, 2)
        assert self.deconv.bias is not None and self.predictor.bias is not None
        bias = self.deconv.bias.repeat(4)
        dtype = self.compute_dtype
        class_weight = self.predictor.weight.flatten(1)
        return (
            weight.to(dtype).contiguous(),
            bias.to(dtype),
            class_weight.to(dtype),
            self.predictor.bias.float(),
        )


def _converted(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.detach().to(dtype)
