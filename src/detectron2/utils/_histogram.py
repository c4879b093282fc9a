"""Histograms as TensorBoard stores them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def raw_histogram(values: Tensor, bins: int) -> dict[str, Any]:
    """Arguments of ``SummaryWriter.add_histogram_raw`` for a tensor of any shape.

    Args:
        bins: number of equal bins between the minimum and the maximum.
    """
    values = values.detach().flatten().float().cpu()
    low, high = values.min().item(), values.max().item()
    return {
        "min": low,
        "max": high,
        "num": len(values),
        "sum": values.sum().item(),
        "sum_squares": values.square().sum().item(),
        "bucket_limits": torch.linspace(low, high, steps=bins + 1)[1:].tolist(),
        "bucket_counts": torch.histc(values, bins=bins, min=low, max=high).tolist(),
    }
