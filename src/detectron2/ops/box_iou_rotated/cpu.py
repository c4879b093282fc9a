"""Rotated IoU on CPU; the loops are in `kernels`.

Budget: 40 N + 40 M bytes read, 4 N M written. Measured on one core (Xeon, AVX-512): 1.4 ns for
a pair that is far apart, 60 for one that overlaps. On two cores 1000 x 1000 pairs, few of which
overlap, take 5.5 ms, the reference 1860 (benchmarks/ops/nms_rotated.py).
"""

import numpy as np
import torch
from torch import Tensor

from detectron2.ops.box_iou_rotated.kernels import describe, iou_rows
from detectron2.ops.compiled import as_array
from detectron2.ops.threads import parallel_for

__all__ = ["box_iou_rotated", "warm_up"]

PAIRS_PER_CALL = 1 << 13


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """The Numba version of :func:`detectron2.ops.box_iou_rotated`."""
    result_dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    first, second = (describe(as_array(boxes, torch.float64)) for boxes in (boxes1, boxes2))
    real = np.float64 if result_dtype == torch.float64 else np.float32
    output = np.empty((len(first), len(second)), real)
    if output.size:
        parallel_for(
            lambda start, stop: iou_rows(first, second, output, start, stop),
            len(first),
            max(1, PAIRS_PER_CALL // len(second)),
        )
    return torch.from_numpy(output).to(result_dtype)


def warm_up() -> None:
    """Compile for float32."""
    box_iou_rotated(torch.zeros(1, 5), torch.zeros(1, 5))
