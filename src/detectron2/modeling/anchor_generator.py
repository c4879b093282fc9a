"""Anchors: the boxes that a dense head regresses from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.config.mapping import read_arguments
from detectron2.config.mapping.proposal_generator import ANCHOR_GENERATOR, ROTATED_ANCHOR_GENERATOR
from detectron2.layers import ShapeSpec
from detectron2.layers import move_device_like as move_device_like  # part of this module's address
from detectron2.modeling._grid_cache import GridCache
from detectron2.structures import Boxes, RotatedBoxes
from detectron2.utils.registry import Registry, registered

__all__ = [
    "ANCHOR_GENERATOR_REGISTRY",
    "BufferList",
    "DefaultAnchorGenerator",
    "RotatedAnchorGenerator",
    "build_anchor_generator",
]

ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")
ANCHOR_GENERATOR_REGISTRY.__doc__ = """
Anchor generators by name. An entry is called as ``entry(cfg, input_shape)`` with one ShapeSpec per
feature map, and returns a module that maps those maps to a list of box objects.
"""


class BufferList(nn.Module):
    """Tensors that follow a module to its device and stay out of its state_dict."""

    def __init__(self, buffers: Iterable[Tensor]) -> None:
        super().__init__()
        for index, buffer in enumerate(buffers):
            self.register_buffer(str(index), buffer, persistent=False)

    def __len__(self) -> int:
        return len(self._buffers)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._buffers.values())  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Tensor:
        return list(self)[index]


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """Anchors of every size and aspect ratio at every cell of every feature map.

    Args:
        sizes: side in pixels of a square of the anchor's area. One list per feature map; a
            single list, nested or flat, serves them all.
        aspect_ratios: height divided by width, in the same form.
        strides: pixels per cell of each feature map.
        offset: where in its cell an anchor is centred, in strides: 0 the top left corner, 0.5
            the middle.

    Raises:
        AssertionError: `sizes` or `aspect_ratios` does not fit the number of feature maps.
    """

    box_dim: int = 4  # numbers per box

    @configurable
    def __init__(
        self,
        *,
        sizes: Sequence[Any],
        aspect_ratios: Sequence[Any],
        strides: Sequence[int],
        offset: float = 0.5,
    ) -> None:
        super().__init__()
        self.strides = list(strides)
        self.num_features = len(self.strides)
        self.offset = _checked_offset(offset)
        self.cell_anchors = BufferList(
            self.generate_cell_anchors(level_sizes, level_ratios).float()
            for level_sizes, level_ratios in zip(
                _per_level(sizes, self.num_features, "sizes"),
                _per_level(aspect_ratios, self.num_features, "aspect_ratios"),
                strict=True,
            )
        )
        self._grids = GridCache()

    @classmethod
    def from_config(cls, cfg: Any, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        arguments = read_arguments(cfg, ANCHOR_GENERATOR)
        return {**arguments, "strides": [shape.stride for shape in input_shape]}

    @property
    def num_anchors(self) -> list[int]:
        """Anchors per cell of each feature map: sizes times aspect ratios."""
        return [len(cell) for cell in self.cell_anchors]

    @property
    def num_cell_anchors(self) -> list[int]:
        """The older name of `num_anchors`."""
        return self.num_anchors

    def forward(self, features: list[Tensor]) -> list[Boxes]:
        """Anchors of each feature map.

        Args:
            features: per level, (N, C, H, W).

        Returns:
            per level, (H * W * A) xyxy boxes in pixels of the input image: row by row, cell by
            cell, and A anchors per cell in the order of `generate_cell_anchors`. They reach
            beyond the image. Repeated sizes may get the same tensor again.
        """
        return [Boxes(grid) for grid in self._grid_anchors([f.shape[-2:] for f in features])]

    def generate_cell_anchors(
        self,
        sizes: Sequence[float] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1, 2),
    ) -> Tensor:
        """(len(sizes) * len(aspect_ratios), 4) xyxy anchors centred on the origin."""
        sides = _side_lengths(sizes, aspect_ratios)
        return torch.tensor([(-w / 2, -h / 2, w / 2, h / 2) for w, h in sides])

    def _grid_anchors(self, grid_sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Per level of size (H, W), the anchors as an (H * W * A, 4) tensor."""

        def repeat_shift(shift: Tensor) -> Tensor:
            return shift.repeat(1, 2)  # both corners move

        return _grids(self, grid_sizes, repeat_shift)


@ANCHOR_GENERATOR_REGISTRY.register()
class RotatedAnchorGenerator(nn.Module):
    """Rotated anchors, (x centre, y centre, width, height, angle), at every cell.

    "Arbitrary-Oriented Scene Text Detection via Rotation Proposals" (RRPN), section III-B.

    Args:
        sizes: see `DefaultAnchorGenerator`.
        aspect_ratios: see `DefaultAnchorGenerator`.
        strides: see `DefaultAnchorGenerator`.
        angles: degrees, counter-clockwise, in the form of `sizes`.
        offset: see `DefaultAnchorGenerator`.

    Raises:
        AssertionError: a list does not fit the number of feature maps.
    """

    box_dim: int = 5  # numbers per box

    @configurable
    def __init__(
        self,
        *,
        sizes: Sequence[Any],
        aspect_ratios: Sequence[Any],
        strides: Sequence[int],
        angles: Sequence[Any],
        offset: float = 0.5,
    ) -> None:
        super().__init__()
        self.strides = list(strides)
        self.num_features = len(self.strides)
        self.offset = _checked_offset(offset)
        self.cell_anchors = BufferList(
            self.generate_cell_anchors(*level).float()
            for level in zip(
                _per_level(sizes, self.num_features, "sizes"),
                _per_level(aspect_ratios, self.num_features, "aspect_ratios"),
                _per_level(angles, self.num_features, "angles"),
                strict=True,
            )
        )
        self._grids = GridCache()

    @classmethod
    def from_config(cls, cfg: Any, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        arguments = read_arguments(cfg, ROTATED_ANCHOR_GENERATOR)
        return {**arguments, "strides": [shape.stride for shape in input_shape]}

    @property
    def num_anchors(self) -> list[int]:
        """Anchors per cell of each feature map: sizes times aspect ratios times angles."""
        return [len(cell) for cell in self.cell_anchors]

    @property
    def num_cell_anchors(self) -> list[int]:
        """The older name of `num_anchors`."""
        return self.num_anchors

    def forward(self, features: list[Tensor]) -> list[RotatedBoxes]:
        """Anchors of each feature map, in the order of `DefaultAnchorGenerator.forward`.

        Args:
            features: per level, (N, C, H, W).

        Returns:
            per level, (H * W * A) rotated boxes in pixels and degrees.
        """
        return [RotatedBoxes(grid) for grid in self._grid_anchors([f.shape[-2:] for f in features])]

    def generate_cell_anchors(
        self,
        sizes: Sequence[float] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1, 2),
        angles: Sequence[float] = (-90, -60, -30, 0, 30, 60, 90),
    ) -> Tensor:
        """(sizes * ratios * angles, 5) anchors centred on the origin; the angle varies fastest."""
        sides = _side_lengths(sizes, aspect_ratios)
        return torch.tensor([(0.0, 0.0, w, h, float(angle)) for w, h in sides for angle in angles])

    def _grid_anchors(self, grid_sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Per level of size (H, W), the anchors as an (H * W * A, 5) tensor."""

        def centre_shift(shift: Tensor) -> Tensor:
            return F.pad(shift, (0, 3))  # sides and angle stay

        return _grids(self, grid_sizes, centre_shift)


def build_anchor_generator(cfg: Any, input_shape: list[ShapeSpec]) -> nn.Module:
    """The generator that `cfg.MODEL.ANCHOR_GENERATOR.NAME` names, for the given feature maps."""
    return registered(ANCHOR_GENERATOR_REGISTRY, cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, input_shape)


def _grids(generator: Any, grid_sizes: Sequence[Sequence[int]], to_box_shift: Any) -> list[Tensor]:
    """Cell anchors of each level repeated over its cells, from the generator's cache."""
    levels = zip(grid_sizes, generator.strides, generator.cell_anchors, strict=True)
    grids = []
    for level, ((height, width), stride, cell) in enumerate(levels):

        def make(
            height: int = height, width: int = width, stride: int = stride, cell: Tensor = cell
        ) -> Tensor:
            shift = to_box_shift(_cell_origins(height, width, stride, generator.offset, cell))
            return (shift[:, None] + cell).flatten(end_dim=1)  # (H * W, A, B) -> (H * W * A, B)

        key = (level, height, width, stride, generator.offset)
        grids.append(generator._grids.get(key, cell, make))
    return grids


def _cell_origins(height: int, width: int, stride: int, offset: float, like: Tensor) -> Tensor:
    """(H * W, 2) x and y, in pixels, of the point of each cell that its anchors are centred on."""
    x = torch.arange(width, dtype=like.dtype, device=like.device) * stride + offset * stride
    y = torch.arange(height, dtype=like.dtype, device=like.device) * stride + offset * stride
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((grid_x, grid_y), dim=-1).flatten(end_dim=1)


def _side_lengths(
    sizes: Sequence[float], aspect_ratios: Sequence[float]
) -> list[tuple[float, float]]:
    """Width and height of each anchor; its area is size squared, the ratio varies fastest."""
    widths = [(size / math.sqrt(ratio), ratio) for size in sizes for ratio in aspect_ratios]
    return [(width, width * ratio) for width, ratio in widths]


def _per_level(values: Sequence[Any], num_levels: int, name: str) -> list[Sequence[float]]:
    """One list of numbers per feature map."""
    if len(values) == 0:
        raise AssertionError(f"Anchor {name} is empty; give at least one number.")
    if not isinstance(values[0], Sequence):
        return [values] * num_levels
    if len(values) == 1:
        return [values[0]] * num_levels
    if len(values) != num_levels:
        raise AssertionError(
            f"Anchor {name} has {len(values)} lists for {num_levels} feature maps: "
            f"{[list(level) for level in values]}. Give one list, or one per feature map."
        )
    return list(values)


def _checked_offset(offset: float) -> float:
    if not 0.0 <= offset < 1.0:
        raise AssertionError(f"The anchor offset is {offset}, in strides; it lies in [0, 1).")
    return offset
