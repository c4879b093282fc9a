"""ROI max pooling on CPU; the loops are in `kernels`."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.compiled import as_array
from detectron2.ops.formats import is_channels_last
from detectron2.ops.pooling import (
    cells_of,
    channels_per_thread,
    empty_bins,
    gradient_of_bins,
    gradient_of_cells,
    image_indices,
    nearby_order,
    pooled_tensor,
)
from detectron2.ops.roi_pool.kernels import backward, forward
from detectron2.ops.roi_pool.reference import edges_of_bins
from detectron2.ops.threads import parallel_for

__all__ = ["roi_pool", "roi_pool_backward", "warm_up"]

ROIS_PER_CALL = 8


class Bins:
    """The boxes, cut into bins, and the cells that they read."""

    def __init__(self, input: Tensor, rois: Tensor, bins: tuple[int, int], scale: float) -> None:
        self.real = compute_dtype(input.dtype)
        self.size = (input.shape[2], input.shape[3])
        self.images = image_indices(rois, input.shape[0])
        rows, columns = edges_of_bins(rois, bins, scale, self.size)
        top, left = rows[0][:, 0], columns[0][:, 0]
        high, wide = rows[1][:, -1] - top, columns[1][:, -1] - left
        around = torch.stack([top, left, high, wide], dim=1).to(torch.float32)
        self.around = as_array(around)
        self.order = nearby_order(self.images, around)
        self.rows: NDArray[np.int64] = as_array(torch.stack(rows))
        self.columns: NDArray[np.int64] = as_array(torch.stack(columns))
        self.cells = cells_of(input.detach().to(self.real), self.images, self.around, self.order)


def roi_pool(input: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float) -> Tensor:
    """The Numba forward of :func:`detectron2.ops.roi_pool`."""
    last, bins = is_channels_last(input), (height, width)
    output = empty_bins(rois.shape[0], input.shape[1], bins, last, compute_dtype(input.dtype))
    if output.size and input.numel():
        boxes = Bins(input, rois, bins, spatial_scale)

        def work(start: int, stop: int) -> None:
            forward(
                boxes.cells, boxes.size[1], boxes.images, boxes.rows, boxes.columns, boxes.order,
                output, last, start, stop,
            )  # fmt: skip

        parallel_for(work, len(boxes.order), ROIS_PER_CALL)
    return pooled_tensor(output, bins, last).to(input.dtype)


def roi_pool_backward(grad: Tensor, input: Tensor, rois: Tensor, spatial_scale: float) -> Tensor:
    """The Numba backward of :func:`detectron2.ops.roi_pool`."""
    last = is_channels_last(input)
    if grad.numel() == 0 or input.numel() == 0:
        return torch.zeros_like(input)
    boxes = Bins(input, rois, (grad.shape[2], grad.shape[3]), spatial_scale)
    grads, grad_last = gradient_of_bins(grad, boxes.real)
    gradient = np.zeros_like(boxes.cells)

    def work(start: int, stop: int) -> None:
        backward(
            gradient, boxes.cells, boxes.size[1], boxes.images, boxes.rows, boxes.columns,
            boxes.order, grads, grad_last, start, stop,
        )  # fmt: skip

    parallel_for(work, input.shape[1], channels_per_thread(input.shape[1]))
    result = gradient_of_cells(gradient, boxes.size, last, boxes.images, boxes.around, boxes.order)
    return result.to(grad.dtype)


def warm_up() -> None:
    """Compile for float32, both memory formats, forward and backward."""
    rois = torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0]])
    for memory_format in (torch.contiguous_format, torch.channels_last):
        features = torch.zeros(1, 2, 4, 4).contiguous(memory_format=memory_format)
        roi_pool_backward(roi_pool(features, rois, 2, 2, 1.0), features, rois, 1.0)
