"""What every backbone offers."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod

from torch import Tensor, nn

from detectron2.layers import ShapeSpec

__all__ = ["Backbone"]


class Backbone(nn.Module, metaclass=ABCMeta):
    """A network from images to named feature maps.

    A subclass implements `forward`, and either sets ``_out_features`` (names),
    ``_out_feature_channels`` and ``_out_feature_strides`` (by name) or overrides `output_shape`.
    """

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def forward(self) -> dict[str, Tensor]:
        """Feature maps, (N, C, H, W) each, by name. Subclasses take the images as arguments."""

    @property
    def size_divisibility(self) -> int:
        """Height and width of the input must be multiples of this many pixels; 0: no demand."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """What `ImageList.from_tensors` must pad to.

        Keys, all optional: ``size_divisiblity`` (spelt so: the key is read by that name), as
        `size_divisibility`; ``square_size``, the side of a square input, 0 for no demand.
        """
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature map, by name."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }
