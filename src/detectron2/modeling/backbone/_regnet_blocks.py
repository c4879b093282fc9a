"""What the blocks of a RegNet are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from detectron2.layers import CNNBlockBase, get_norm

__all__ = ["Activation", "BasicTransform", "BottleneckTransform", "Norm", "ResBlock", "conv", "SE"]

Norm = str | Callable[[int], nn.Module]
Activation = Callable[[], nn.Module]


def conv(in_channels: int, out_channels: int, kernel_size: int, **kwargs: Any) -> nn.Conv2d:
    """A convolution that keeps the size up to its stride; without bias unless asked for."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        **{"bias": False, **kwargs},
    )


class SE(nn.Module):
    """Scale each channel by what the whole map says ("Squeeze-and-Excitation Networks").

    Args:
        w_in: channels.
        w_se: channels of the layer between.
        activation_class: called without arguments.
    """

    def __init__(self, w_in: int, w_se: int, activation_class: Activation) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d((1, 1))
        self.f_ex = nn.Sequential(
            conv(w_in, w_se, 1, bias=True),
            activation_class(),
            conv(w_se, w_in, 1, bias=True),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.f_ex(self.avg_pool(x))


class BasicTransform(nn.Module):
    """The two 3x3 convolutions of `ResBasicBlock`."""

    def __init__(
        self, w_in: int, w_out: int, stride: int, norm: Norm, activation_class: Activation
    ) -> None:
        super().__init__()
        self.a = conv(w_in, w_out, 3, stride=stride)
        self.a_bn = get_norm(norm, w_out)
        self.a_af = activation_class()
        self.b = conv(w_out, w_out, 3)
        self.b_bn = get_norm(norm, w_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a_af(self.a_bn(self.a(x)))
        return self.b_bn(self.b(x))


class BottleneckTransform(nn.Module):
    """1x1, grouped 3x3 (with SE on request) and 1x1 convolutions of `ResBottleneckBlock`."""

    def __init__(
        self,
        w_in: int,
        w_out: int,
        stride: int,
        norm: Norm,
        activation_class: Activation,
        params: dict[str, Any],
    ) -> None:
        super().__init__()
        width = round(w_out * params["bot_mul"])
        self.a = conv(w_in, width, 1)
        self.a_bn = get_norm(norm, width)
        self.a_af = activation_class()
        self.b = conv(width, width, 3, stride=stride, groups=width // params["group_w"])
        self.b_bn = get_norm(norm, width)
        self.b_af = activation_class()
        # The paper's ratio is of the block's input, not of the layer that SE sits on.
        w_se = round(w_in * params["se_r"]) if params["se_r"] else 0
        self.se = SE(width, w_se, activation_class) if w_se else None
        self.c = conv(width, w_out, 1)
        self.c_bn = get_norm(norm, w_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a_af(self.a_bn(self.a(x)))
        x = self.b_af(self.b_bn(self.b(x)))
        if self.se is not None:
            x = self.se(x)
        return self.c_bn(self.c(x))


class ResBlock(CNNBlockBase):
    """A transform beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(
        self,
        w_in: int,
        w_out: int,
        stride: int,
        norm: Norm,
        activation_class: Activation,
        transform: nn.Module,
    ) -> None:
        super().__init__(w_in, w_out, stride)
        self.proj: nn.Module | None = None
        self.bn: nn.Module | None = None
        if w_in != w_out or stride != 1:
            self.proj = conv(w_in, w_out, 1, stride=stride)
            self.bn = get_norm(norm, w_out)
        self.f = transform
        self.af = activation_class()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.proj is None else self.bn(self.proj(x))
        return self.af(shortcut + self.f(x))
