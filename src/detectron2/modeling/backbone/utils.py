"""Patches, windows and relative positions of transformer backbones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "PatchEmbed",
    "add_decomposed_rel_pos",
    "get_abs_pos",
    "get_rel_pos",
    "window_partition",
    "window_unpartition",
]


def window_partition(x: Tensor, window_size: int) -> tuple[Tensor, tuple[int, int]]:
    """Cut maps into square windows; zeros at the bottom and right fill the last ones.

    Args:
        x: (N, H, W, C).
        window_size: side of a window.

    Returns:
        (N * windows, window_size, window_size, C), row by row; and (H, W) with the filling.
    """
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -width % window_size, 0, -height % window_size))
    padded_size = (x.shape[1], x.shape[2])
    x = x.unflatten(2, (-1, window_size)).unflatten(1, (-1, window_size))  # (N, R, s, Q, s, C)
    return x.transpose(2, 3).flatten(0, 2), padded_size


def window_unpartition(
    windows: Tensor, window_size: int, pad_hw: tuple[int, int], hw: tuple[int, int]
) -> Tensor:
    """Put windows together again.

    Args:
        windows: (N * windows, window_size, window_size, C).
        window_size: side of a window.
        pad_hw: (H, W) with the filling, as from `window_partition`.
        hw: (H, W) without.

    Returns:
        (N, H, W, C).
    """
    rows, columns = pad_hw[0] // window_size, pad_hw[1] // window_size
    x = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3)  # (N, R, s, Q, s, C)
    x = x.flatten(3, 4).flatten(1, 2)
    return x[:, : hw[0], : hw[1]].contiguous()


def get_rel_pos(q_size: int, k_size: int, rel_pos: Tensor) -> Tensor:
    """Embedding of the offset between each query and each key along one axis.

    Where query and key maps differ in size, the positions of the smaller are spread over the
    larger (MViTv2, section 4.1).

    Args:
        q_size: length of the query axis.
        k_size: length of the key axis.
        rel_pos: (L, C) by offset; resized linearly to the 2 * max(q_size, k_size) - 1 offsets
            that occur.

    Returns:
        (q_size, k_size, C).
    """
    num_offsets = 2 * max(q_size, k_size) - 1
    if len(rel_pos) != num_offsets:
        rel_pos = F.interpolate(rel_pos.t()[None], size=num_offsets, mode="linear")[0].t()
    q_step, k_step = max(k_size / q_size, 1.0), max(q_size / k_size, 1.0)
    q_position = torch.arange(q_size, device=rel_pos.device)[:, None] * q_step
    k_position = torch.arange(k_size, device=rel_pos.device)[None, :] * k_step
    offset = q_position - k_position + (k_size - 1) * k_step  # from 0
    return rel_pos[offset.long()]


def decomposed_rel_pos(
    q: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    q_size: tuple[int, int],
    k_size: tuple[int, int],
) -> Tensor:
    """What relative positions add to attention logits: a row term plus a column term.

    MViTv2, eq. (4): every embedding is multiplied with the query, which is not scaled here.

    Args:
        q: (..., Hq * Wq, C).
        rel_pos_h: (Lh, C), see `get_rel_pos`.
        rel_pos_w: (Lw, C).
        q_size: (Hq, Wq).
        k_size: (Hk, Wk).

    Returns:
        (..., Hq * Wq, Hk * Wk).
    """
    # The layers that compute q may run in bfloat16, the embeddings are parameters.
    rows = get_rel_pos(q_size[0], k_size[0], rel_pos_h).to(q.dtype)  # (Hq, Hk, C)
    columns = get_rel_pos(q_size[1], k_size[1], rel_pos_w).to(q.dtype)  # (Wq, Wk, C)
    q_map = q.unflatten(-2, q_size)  # (..., Hq, Wq, C)
    from_rows = torch.einsum("...hwc,hkc->...hwk", q_map, rows)
    from_columns = torch.einsum("...hwc,wkc->...hwk", q_map, columns)
    bias = from_rows[..., :, None] + from_columns[..., None, :]  # (..., Hq, Wq, Hk, Wk)
    return bias.flatten(-2).flatten(-3, -2)


def add_decomposed_rel_pos(
    attn: Tensor,
    q: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    q_size: tuple[int, int],
    k_size: tuple[int, int],
) -> Tensor:
    """Attention logits (B, Hq * Wq, Hk * Wk) with the terms of `decomposed_rel_pos` added."""
    return attn + decomposed_rel_pos(q, rel_pos_h, rel_pos_w, q_size, k_size)


def get_abs_pos(abs_pos: Tensor, has_cls_token: bool, hw: tuple[int, int]) -> Tensor:
    """Absolute positions at another size than they were trained at.

    Args:
        abs_pos: (1, S * S, C) of a square map, or one more row in front for a class token.
        has_cls_token: whether there is that row; it is dropped.
        hw: (H, W) wanted; reached by bicubic interpolation.

    Returns:
        (1, H, W, C).

    Raises:
        ValueError: the rows make no square map.
    """
    if has_cls_token:
        abs_pos = abs_pos[:, 1:]
    num_positions = abs_pos.shape[1]
    side = round(num_positions**0.5)
    if side * side != num_positions:
        raise ValueError(
            f"{num_positions} absolute positions make no square map; is has_cls_token="
            f"{has_cls_token} right?"
        )
    square = abs_pos.unflatten(1, (side, side))
    if (side, side) == tuple(hw):
        return square
    resized = F.interpolate(
        square.permute(0, 3, 1, 2), size=tuple(hw), mode="bicubic", align_corners=False
    )
    return resized.permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """Images to patch embeddings, by one convolution.

    Args:
        kernel_size: of the convolution.
        stride: of the convolution.
        padding: of the convolution.
        in_chans: channels of the images.
        embed_dim: channels of an embedding.
    """

    def __init__(
        self,
        kernel_size: tuple[int, int] = (16, 16),
        stride: tuple[int, int] = (16, 16),
        padding: tuple[int, int] = (0, 0),
        in_chans: int = 3,
        embed_dim: int = 768,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            in_chans, embed_dim, kernel_size=kernel_size, stride=stride, padding=padding
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) images to (N, H / stride, W / stride, embed_dim)."""
        return self.proj(x).permute(0, 2, 3, 1)
