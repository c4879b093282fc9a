"""Anchors of the feature maps seen last."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["GridCache"]


@dataclass(frozen=True)
class _Entry:
    cell: Tensor
    cell_version: int
    grid: Tensor
    grid_version: int

    def is_current(self, cell: Tensor) -> bool:
        return (
            self.cell is cell
            and self.cell_version == cell._version
            and self.grid_version == self.grid._version
        )


class GridCache:
    """Keeps grids of anchors while their cell anchors stay the same.

    A grid is made anew when its cell anchors were replaced (also by a move to another device) or
    written to, and when somebody wrote into the grid that was handed out. Tracers are left
    alone: a size that is no plain number, or a tensor that is no plain tensor, is not kept, so
    no traced or fake value outlives its trace and no grid becomes a constant of a graph.

    Args:
        capacity: grids to keep; 40 are eight input sizes of a five-level pyramid.
    """

    def __init__(self, capacity: int = 40) -> None:
        self._capacity = capacity
        self._entries: dict[tuple[float, ...], _Entry] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles of a model start empty.
        return (GridCache, (self._capacity,))

    def get(self, key: tuple[float, ...], cell: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """The grid that `make` lays out from `cell`, or the one it laid out before.

        Args:
            key: every other number that `make` depends on.
            cell: (A, B) anchors of one cell.
            make: called without arguments.
        """
        if not _is_plain(key, cell):
            return make()
        # What one stream of a GPU lays out is not there yet for another one.
        key = (*key, _stream_of(cell))
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry.is_current(cell):
                return entry.grid
        # A tensor made in inference mode could never take part in a training step.
        with torch.inference_mode(False):
            grid = make()
        if type(grid) is Tensor:
            with self._lock:
                self._entries.pop(key, None)
                self._entries[key] = _Entry(cell, cell._version, grid, grid._version)
                while len(self._entries) > self._capacity:
                    del self._entries[next(iter(self._entries))]
        return grid


def _stream_of(cell: Tensor) -> int:
    """Number of the GPU stream that works on `cell` now."""
    return torch.cuda.current_stream(cell.device).cuda_stream if cell.is_cuda else 0


def _is_plain(key: tuple[float, ...], cell: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False  # a compiler folds constants itself, and cannot see through a lock
    plain_key = all(type(part) in (int, float) for part in key)
    return plain_key and type(cell) is Tensor and not cell.is_inference()
