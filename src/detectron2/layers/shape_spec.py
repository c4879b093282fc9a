"""What a module says about a feature map before any tensor exists."""

from dataclasses import dataclass

__all__ = ["ShapeSpec"]


@dataclass
class ShapeSpec:
    """Shape of a feature map, as far as it is known when modules are built.

    Backbones describe their outputs with it and heads size their weights from it.
    ``None`` stands for "unknown until run time".

    Args:
        channels: number of channels.
        height: rows of the map.
        width: columns of the map.
        stride: input pixels per cell of the map.
    """

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
