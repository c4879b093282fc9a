"""Keypoints, and the heatmaps that networks learn and predict for them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Keypoints", "heatmaps_to_keypoints"]

# Values of enlarged heatmaps that exist at a time. On a CPU they stay in its cache (100 boxes
# with 17 keypoints: 340 ms, against 500 ms with 32 times as many); a GPU wants few launches.
ENLARGED_VALUES_CPU = 1 << 19
ENLARGED_VALUES_GPU = 1 << 24


class Keypoints:
    """K keypoints of each of N objects.

    Args:
        keypoints: (N, K, 3) of (x, y, visibility); x and y in pixels. The visibility is that of
            COCO: 0 not labelled (x and y mean nothing), 1 labelled but hidden, 2 visible.

    Attributes:
        tensor: (N, K, 3), float32.

    Raises:
        AssertionError: the shape is not (N, K, 3).
    """

    def __init__(self, keypoints: Tensor | np.ndarray | Sequence[Any]) -> None:
        tensor = torch.as_tensor(keypoints).to(torch.float32)
        if tensor.dim() != 3 or tensor.shape[2] != 3:
            raise AssertionError(
                f"Keypoints takes a tensor of shape (N, K, 3), not {tuple(tensor.shape)}."
            )
        self.tensor = tensor

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def to(self, *args: Any, **kwargs: Any) -> "Keypoints":
        """The keypoints moved or converted by `torch.Tensor.to`."""
        return type(self)(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def to_heatmap(self, boxes: Tensor, heatmap_size: int) -> tuple[Tensor, Tensor]:
        """Where the keypoints lie on a grid that is laid over the box of their object.

        Args:
            boxes: (N, 4) of (x0, y0, x1, y1), in the frame of the keypoints.
            heatmap_size: S, cells of the grid per side.

        Returns:
            (N, K) int64 indices ``row * S + column``, 0 where there is none; and (N, K) int64,
            1 where a keypoint is labelled and in its box (borders included), else 0.
        """
        x0, y0, x1, y1 = boxes.unbind(1)
        x, y, visibility = self.tensor.unbind(2)
        column, in_columns = _cell(x, x0, x1, heatmap_size)
        row, in_rows = _cell(y, y0, y1, heatmap_size)
        valid = (in_columns & in_rows & (visibility > 0)).long()
        return (row * heatmap_size + column) * valid, valid

    def __getitem__(self, item: int | slice | Tensor) -> "Keypoints":
        """Keypoints of some of the objects; a single index gives those of one object."""
        if isinstance(item, (int, np.integer)):
            return type(self)(self.tensor[item].unsqueeze(0))
        return type(self)(self.tensor[item])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    @staticmethod
    def cat(keypoints_list: Sequence["Keypoints"]) -> "Keypoints":
        """Keypoints of all objects of a list, in order.

        Raises:
            ValueError: the list is empty.
        """
        if len(keypoints_list) == 0:
            raise ValueError("Keypoints.cat needs at least one Keypoints.")
        tensors = [keypoints.tensor for keypoints in keypoints_list]
        return type(keypoints_list[0])(torch.cat(tensors))


def _cell(position: Tensor, begin: Tensor, end: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cells (N, K) of positions (N, K) on `size` cells from `begin` to `end`, both (N,).

    Also whether there is such a cell; the far border belongs to the last one.
    """
    begin, end = begin[:, None], end[:, None]
    cell = ((position - begin) * (size / (end - begin))).floor().long()
    cell = torch.where(position == end, size - 1, cell)
    return cell, (cell >= 0) & (cell < size)


@torch.no_grad()
def heatmaps_to_keypoints(maps: Tensor, rois: Tensor) -> Tensor:
    """The place of the highest logit of every heatmap, found at the resolution of the image.

    A heatmap is enlarged to the size of its box, rounded up to whole pixels, by bicubic
    interpolation; the sides of a box count as one pixel at least.

    Args:
        maps: (N, K, S, S) logits of K keypoints inside of N boxes.
        rois: (N, 4) boxes of (x0, y0, x1, y1), in pixels.

    Returns:
        (N, K, 4) of (x, y, logit, score), float32: the centre of a cell of the enlarged
        heatmap in the frame of the boxes, its logit, and the exponential of that over the sum
        of the exponentials of the heatmap before enlarging.
    """
    maps = maps.float()
    sizes = (rois[:, 2:] - rois[:, :2]).float().clamp(min=1)  # (N, 2) of (width, height)
    cells = sizes.ceil()
    peaks = maps.new_empty(*maps.shape[:2], 3)
    budget = ENLARGED_VALUES_CPU if maps.device.type == "cpu" else ENLARGED_VALUES_GPU
    cells_per_map = budget // max(maps.shape[1], 1)
    chunks = list(_chunks_of_similar_size(cells.tolist(), cells_per_map))
    order = torch.tensor([index for chunk, _, _ in chunks for index in chunk], device=maps.device)
    indices = order.split([len(chunk) for chunk, _, _ in chunks])
    for index, (chunk, columns, rows) in zip(indices, chunks):
        maps_at_once = max(1, budget // (len(chunk) * columns * rows))
        peaks[index] = _highest(maps[index], cells[index], columns, rows, maps_at_once)
    position, logit = peaks[..., :2], peaks[..., 2]
    xy = (position + 0.5) * (sizes / cells)[:, None] + rois[:, None, :2]
    score = torch.exp(logit - maps.flatten(2).logsumexp(dim=2))
    return torch.cat((xy, logit[..., None], score[..., None]), dim=2)


def _chunks_of_similar_size(
    cells: list[list[float]], cells_at_once: int
) -> Iterator[tuple[list[int], int, int]]:
    """Split boxes into groups that are enlarged together, to the largest of the group.

    A group has at most twice the cells that its boxes need.

    Args:
        cells: (width, height) of each box.
        cells_at_once: limit of a group, unless it is one box.

    Yields:
        Indices of the boxes, and the (columns, rows) that hold each of them.
    """
    chunk: list[int] = []
    columns = rows = needed = 0
    for index in sorted(range(len(cells)), key=lambda i: cells[i][0] * cells[i][1]):
        width, height = (int(side) for side in cells[index])
        padded = max(columns, width) * max(rows, height) * (len(chunk) + 1)
        if chunk and padded > min(2 * (needed + width * height), cells_at_once):
            yield chunk, columns, rows
            chunk, columns, rows, needed = [], 0, 0, 0
        chunk.append(index)
        columns, rows = max(columns, width), max(rows, height)
        needed += width * height
    if chunk:
        yield chunk, columns, rows


def _highest(maps: Tensor, cells: Tensor, columns: int, rows: int, maps_at_once: int) -> Tensor:
    """Place and value of the maximum of enlarged heatmaps.

    Args:
        maps: (B, K, S, S).
        cells: (B, 2) of (width, height) that each is enlarged to.
        columns: at least the largest width.
        rows: at least the largest height.
        maps_at_once: of each box, that are enlarged together.

    Returns:
        (B, K, 3) of (column, row, value).
    """
    dtype = torch.float64 if _products_are_coarse(maps.device) else torch.float32
    across = _cubic_weights(cells[:, 0], columns, maps.shape[3]).to(dtype)  # (B, columns, S)
    down = _cubic_weights(cells[:, 1], rows, maps.shape[2]).to(dtype)  # (B, rows, S)
    peaks = []
    with torch.autocast(maps.device.type, enabled=False):
        for some in maps.to(dtype).split(maps_at_once, dim=1):
            enlarged = down[:, None] @ (some @ across[:, None].mT)  # (B, k, rows, columns)
            value, place = enlarged.flatten(2).max(dim=2)
            # Cells beyond the size of a box repeat its last row or column.
            column = torch.minimum(place % columns, cells[:, :1] - 1)
            row = torch.minimum(place // columns, cells[:, 1:] - 1)
            peaks.append(torch.stack((column, row, value), dim=2).float())
    return torch.cat(peaks, dim=1)


def _products_are_coarse(device: torch.device) -> bool:
    """Whether float32 matrix products there may be of tensor cores, which round to 11 bits: that
    moves the maximum of a flat peak by pixels."""
    if device.type != "cuda":
        return False
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # the program said so by PyTorch's newer settings, which this one refuses
        return True


def _cubic_weights(sizes: Tensor, length: int, source: int) -> Tensor:
    """Matrices that enlarge `source` samples to each of B sizes along one axis.

    Bicubic interpolation ("Cubic Convolution Interpolation for Digital Image Processing",
    Keys 1981) with a = -0.75 and repeated border samples, as PyTorch and OpenCV have it.

    Args:
        sizes: (B,), the sizes.
        length: rows of the matrices; those from a size on repeat the one before.
        source: columns of the matrices.

    Returns:
        (B, length, source).
    """
    target = torch.arange(length, device=sizes.device, dtype=sizes.dtype)
    target = torch.minimum(target, sizes[:, None] - 1)  # (B, length)
    center = (target + 0.5) * (source / sizes[:, None]) - 0.5
    first = center.floor() - 1  # of the four samples that take part
    samples = first[..., None] + torch.arange(4, device=sizes.device)  # (B, length, 4)
    x = (center[..., None] - samples).abs()
    a = -0.75
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * a * x - 4 * a
    # Up to two samples lie beyond each border; their weights go to the border.
    weights = torch.zeros(*center.shape, source + 4, device=sizes.device, dtype=sizes.dtype)
    weights.scatter_(2, samples.long() + 2, torch.where(x <= 1, near, far))
    inside = weights[..., 2:-2]
    inside[..., 0] += weights[..., :2].sum(dim=-1)
    inside[..., -1] += weights[..., -2:].sum(dim=-1)
    return inside
