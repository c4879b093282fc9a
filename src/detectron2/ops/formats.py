"""Memory format of four-dimensional tensors."""

import torch
from torch import Tensor

__all__ = ["format_of", "is_channels_last"]


def is_channels_last(tensor: Tensor) -> bool:
    """True if (N, C, H, W) `tensor` is dense channels-last, and not also plainly contiguous."""
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def format_of(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format
