"""Heatmaps to keypoints with a loop over boxes that an exported file can hold."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from detectron2.ops.loops import scripted

__all__ = ["heatmaps_to_keypoints_one_by_one"]


def _peaks(maps: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """(N, K, 3) column, row and value of the maximum of each map, enlarged to its own size.

    Args:
        maps: (N, K, S, S).
        columns, rows: (N,) int64 sizes to enlarge to.
    """
    peaks = torch.zeros([0, maps.shape[1], 3], device=maps.device)
    for index in range(maps.shape[0]):
        width = int(columns[index])
        height = int(rows[index])
        enlarged = F.interpolate(
            maps[index : index + 1], size=[height, width], mode="bicubic", align_corners=False
        )
        value, place = enlarged[0].flatten(1).max(dim=1)
        row = torch.div(place, width, rounding_mode="floor")
        peak = torch.stack([(place - row * width).float(), row.float(), value], dim=1)
        peaks = torch.cat([peaks, peak[None]], dim=0)
    return peaks


def heatmaps_to_keypoints_one_by_one(maps: Tensor, rois: Tensor) -> Tensor:
    """`detectron2.structures.heatmaps_to_keypoints`, traceable."""
    maps = maps.float()
    sizes = (rois[:, 2:] - rois[:, :2]).float().clamp(min=1)  # (N, 2) of (width, height)
    cells = sizes.ceil()
    columns, rows = cells.to(torch.int64).unbind(1)
    peaks = scripted(_peaks)(maps, columns, rows)
    position, logit = peaks[..., :2], peaks[..., 2]
    xy = (position + 0.5) * (sizes / cells)[:, None] + rois[:, None, :2]
    score = torch.exp(logit - maps.flatten(2).logsumexp(dim=2))
    return torch.cat((xy, logit[..., None], score[..., None]), dim=2)
