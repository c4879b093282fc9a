"""Windows, attention and blocks of the Swin transformer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.modeling.backbone._transformer import DropPath, Mlp

__all__ = [
    "SwinTransformerBlock",
    "WindowAttention",
    "window_partition",
    "window_reverse",
]

Norm = Callable[[int], nn.Module]


def window_partition(x: Tensor, window_size: int) -> Tensor:
    """Cut maps into square windows.

    Args:
        x: (N, H, W, C), sides divisible by `window_size`.
        window_size: side of a window.

    Returns:
        (N * windows, window_size, window_size, C), row by row.
    """
    x = x.unflatten(2, (-1, window_size)).unflatten(1, (-1, window_size))  # (N, R, s, Q, s, C)
    return x.transpose(2, 3).flatten(0, 2)


def window_reverse(windows: Tensor, window_size: int, H: int, W: int) -> Tensor:
    """(N, H, W, C) maps of the windows that `window_partition` cut."""
    grid = windows.unflatten(0, (-1, H // window_size, W // window_size))  # (N, R, Q, s, s, C)
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias by relative position.

    Args:
        dim: channels C.
        window_size: (height, width) of a window.
        num_heads: heads.
        qkv_bias: bias of queries, keys and values.
        qk_scale: factor of the logits; by default one over the root of a head's channels.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        window_size: tuple[int, int],
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.window_size = window_size
        self.num_heads = num_heads
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        height, width = window_size
        num_offsets = (2 * height - 1) * (2 * width - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(num_offsets, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_position_index(height, width))
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.attn_drop = attn_drop
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within each window.

        Args:
            x: (B, P, C): B windows of P positions.
            mask: (windows of one image, P, P), added to the logits; None for no mask.

        Returns:
            (B, P, C).
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, P, C / heads)
        bias = self._position_bias()  # (heads, P, P)
        if mask is not None:
            bias = bias + mask[:, None]  # (windows, heads, P, P)
            bias = bias.repeat(len(x) // len(mask), 1, 1, 1)
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=bias.to(q.dtype),
            dropout_p=self.attn_drop if self.training else 0.0,
            scale=self.scale,
        )
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))

    def _position_bias(self) -> Tensor:
        by_pair = self.relative_position_bias_table[self.relative_position_index]  # (P, P, heads)
        return by_pair.permute(2, 0, 1)


def _relative_position_index(height: int, width: int) -> Tensor:
    """(P, P) row of the bias table for each pair of positions of a window."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.flatten(), x.flatten()
    offset_y = y[:, None] - y[None, :] + height - 1
    offset_x = x[:, None] - x[None, :] + width - 1
    return offset_y * (2 * width - 1) + offset_x


class SwinTransformerBlock(nn.Module):
    """Attention within windows, shifted on request, then an MLP.

    The size of the map is given by the attributes ``H`` and ``W``, set before the call.

    Args:
        dim: channels C.
        num_heads: heads.
        window_size: side of the windows.
        shift_size: cells by which the windows are shifted; below `window_size`.
        mlp_ratio: hidden width of the MLP over C.
        qkv_bias: see `WindowAttention`.
        qk_scale: see `WindowAttention`.
        drop: dropout of the MLP and of the attention's output.
        attn_drop: dropout of the attention weights.
        drop_path: probability that a branch is left out in training.
        act_layer: called without arguments.
        norm_layer: called with C.

    Raises:
        ValueError: the shift is not below the window.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 7,
        shift_size: int = 0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        norm_layer: Norm = nn.LayerNorm,
    ) -> None:
        super().__init__()
        if not 0 <= shift_size < window_size:
            raise ValueError(f"shift_size {shift_size} must lie in [0, {window_size}).")
        self.dim = dim
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift_size = shift_size
        self.norm1 = norm_layer(dim)
        self.attn = WindowAttention(
            dim,
            window_size=(window_size, window_size),
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop,
            proj_drop=drop,
        )
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, hidden_features=int(dim * mlp_ratio), act_layer=act_layer, drop=drop)
        self.H: int | None = None
        self.W: int | None = None

    def forward(self, x: Tensor, mask_matrix: Tensor) -> Tensor:
        """(N, H * W, C) to the same shape.

        Args:
            x: map as rows.
            mask_matrix: (windows, P, P), see `WindowAttention`; used by shifted blocks.
        """
        x = x + self.drop_path(self._attend(self.norm1(x), mask_matrix))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, mask_matrix: Tensor) -> Tensor:
        size, shift = self.window_size, self.shift_size
        height, width = self.H, self.W
        if x.shape[1] != height * width:
            raise ValueError(
                f"The map has {x.shape[1]} cells, but H x W is set to {height} x {width}."
            )
        x = x.unflatten(1, (height, width))
        x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
        padded_height, padded_width = x.shape[1:3]
        if shift > 0:
            x = x.roll(shifts=(-shift, -shift), dims=(1, 2))
        windows = window_partition(x, size).flatten(1, 2)  # (B, P, C)
        windows = self.attn(windows, mask=mask_matrix if shift > 0 else None)
        windows = windows.unflatten(1, (size, size))
        x = window_reverse(windows, size, padded_height, padded_width)
        if shift > 0:
            x = x.roll(shifts=(shift, shift), dims=(1, 2))
        return x[:, :height, :width].flatten(1, 2)
