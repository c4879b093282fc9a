"""Indexing of what is no tensor with the indices that tensors take."""

from typing import Any

import torch

__all__ = ["selected_rows"]


def selected_rows(item: Any, count: int) -> list[int]:
    """Numbers of the rows, of `count`, that an index selects.

    Args:
        item: a list, array or tensor of indices (negative ones count from the end) or of
            `count` truth values.
        count: of the rows.

    Raises:
        IndexError: an index is out of range, or `item` is of another kind or shape.
    """
    index = torch.as_tensor(item, device="cpu")
    if index.numel() == 0 and index.dtype != torch.bool:
        return []
    rows = torch.arange(count)[index]
    if rows.dim() != 1:
        raise IndexError(f"{item!r} does not select rows: use one dimension.")
    return rows.tolist()
