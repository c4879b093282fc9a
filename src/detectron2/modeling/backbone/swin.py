"""Swin transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detectron2.modeling.backbone._swin_blocks import (
    SwinTransformerBlock,
    WindowAttention,
    window_partition,
    window_reverse,
)
from detectron2.modeling.backbone._transformer import (
    Mlp,
    drop_path_rates,
    init_weights,
    learned_positions,
)
from detectron2.modeling.backbone.backbone import Backbone

__all__ = [
    "BasicLayer",
    "Mlp",
    "PatchEmbed",
    "PatchMerging",
    "SwinTransformer",
    "SwinTransformerBlock",
    "WindowAttention",
    "window_partition",
    "window_reverse",
]

Norm = Callable[[int], nn.Module]


class PatchMerging(nn.Module):
    """Halve the resolution and double the channels: 2x2 cells become one.

    Args:
        dim: channels C of the input.
        norm_layer: called with 4 * C.
    """

    def __init__(self, dim: int, norm_layer: Norm = nn.LayerNorm) -> None:
        super().__init__()
        self.dim = dim
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(4 * dim)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        """(N, H * W, C) to (N, ceil(H / 2) * ceil(W / 2), 2 * C); odd sides get a row of zeros."""
        x = x.unflatten(1, (H, W))
        x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
        # The order of the four cells in the weights: down the first column, then the second.
        cells = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(cells, dim=-1).flatten(1, 2)))


class BasicLayer(nn.Module):
    """One stage: blocks of which every other one is shifted, then an optional downsampling.

    Args:
        dim: channels C.
        depth: blocks.
        num_heads: heads.
        window_size: side of the windows.
        mlp_ratio: see `SwinTransformerBlock`.
        qkv_bias: see `SwinTransformerBlock`.
        qk_scale: see `SwinTransformerBlock`.
        drop: see `SwinTransformerBlock`.
        attn_drop: see `SwinTransformerBlock`.
        drop_path: one probability, or one per block.
        norm_layer: called with the number of channels.
        downsample: class like `PatchMerging`; None for none.
        use_checkpoint: recompute the blocks in the backward pass instead of storing them.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float | Sequence[float] = 0.0,
        norm_layer: Norm = nn.LayerNorm,
        downsample: Callable[..., nn.Module] | None = None,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift_size = window_size // 2
        self.depth = depth
        self.use_checkpoint = use_checkpoint
        drop_paths = drop_path if isinstance(drop_path, Sequence) else [drop_path] * depth
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(
                dim=dim,
                num_heads=num_heads,
                window_size=window_size,
                shift_size=self.shift_size if index % 2 else 0,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                drop=drop,
                attn_drop=attn_drop,
                drop_path=drop_paths[index],
                norm_layer=norm_layer,
            )
            for index in range(depth)
        )
        self.downsample = None if downsample is None else downsample(dim, norm_layer=norm_layer)

    def forward(self, x: Tensor, H: int, W: int) -> tuple[Tensor, int, int, Tensor, int, int]:
        """Run the stage.

        Args:
            x: (N, H * W, C).
            H: height of the map.
            W: width of the map.

        Returns:
            the stage's map, H and W; and the next stage's input, its height and its width.
        """
        mask = self._shift_mask(H, W, x)
        for block in self.blocks:
            block.H, block.W = H, W
            if self.use_checkpoint and self.training:
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        if self.downsample is None:
            return x, H, W, x, H, W
        return x, H, W, self.downsample(x, H, W), (H + 1) // 2, (W + 1) // 2

    def _shift_mask(self, height: int, width: int, like: Tensor) -> Tensor:
        """(windows, P, P): 0 for pairs of cells that were neighbours before the shift, else -100.

        The cyclic shift brings the top rows to the bottom and the left columns to the right; a
        window there holds up to four regions that must not see each other.
        """
        rows = self._comes_from_the_start(height, like.device)
        columns = self._comes_from_the_start(width, like.device)
        regions = rows[:, None] * 2 + columns[None, :]
        windows = window_partition(regions[None, :, :, None], self.window_size).flatten(1)
        differs = windows[:, None, :] != windows[:, :, None]
        return torch.zeros_like(differs, dtype=like.dtype).masked_fill_(differs, -100.0)

    def _comes_from_the_start(self, length: int, device: torch.device) -> Tensor:
        """1 for the cells of a padded axis that the shift brought from its start to its end."""
        padded = length + -length % self.window_size
        return (torch.arange(padded, device=device) >= padded - self.shift_size).long()


class PatchEmbed(nn.Module):
    """Images to patch embeddings; sides are padded to multiples of the patch.

    Args:
        patch_size: side of a patch.
        in_chans: channels of the images.
        embed_dim: channels C of an embedding.
        norm_layer: called with C; None for none.
    """

    def __init__(
        self,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Norm | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = (patch_size, patch_size)
        self.in_chans = in_chans
        self.embed_dim = embed_dim
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.norm = None if norm_layer is None else norm_layer(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, C, ceil(H / patch_size), ceil(W / patch_size))."""
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.patch_size[1], 0, -height % self.patch_size[0]))
        x = self.proj(x)
        if self.norm is not None:
            x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x


class SwinTransformer(Backbone):
    """Swin: "Hierarchical Vision Transformer using Shifted Windows".

    Outputs are called "p0" to "p3", of stride 4 to 32.

    Args:
        pretrain_img_size: side of the images that the absolute positions were trained on.
        patch_size: side of a patch.
        in_chans: channels of the images.
        embed_dim: channels of the first stage; each stage doubles them.
        depths: per stage, blocks.
        num_heads: per stage, heads.
        window_size: side of the windows.
        mlp_ratio: hidden width of an MLP over its channels.
        qkv_bias: bias of queries, keys and values.
        qk_scale: factor of the logits; by default one over the root of a head's channels.
        drop_rate: dropout of embeddings, MLPs and attention outputs.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: that of the last block; it grows linearly from 0.
        norm_layer: called with the number of channels.
        ape: add learned absolute positions.
        patch_norm: normalise the embeddings.
        out_indices: stages to return.
        frozen_stages: -1 nothing; 0 the embedding is not trained; 1 also the absolute
            positions; from 2 on also the first ``frozen_stages - 1`` stages.
        use_checkpoint: recompute the blocks in the backward pass instead of storing them.
    """

    def __init__(
        self,
        pretrain_img_size: int = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        norm_layer: Norm = nn.LayerNorm,
        ape: bool = False,
        patch_norm: bool = True,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.num_layers = len(depths)
        self.ape = ape
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.patch_embed = PatchEmbed(
            patch_size, in_chans, embed_dim, norm_layer if patch_norm else None
        )
        if ape:
            side = pretrain_img_size // patch_size
            self.absolute_pos_embed = learned_positions(1, embed_dim, side, side)
        self.pos_drop = nn.Dropout(drop_rate)

        drop_paths = drop_path_rates(drop_path_rate, sum(depths))
        self.num_features = [embed_dim * 2**index for index in range(self.num_layers)]
        self.layers = nn.ModuleList()
        for index, depth in enumerate(depths):
            first = sum(depths[:index])
            self.layers.append(
                BasicLayer(
                    dim=self.num_features[index],
                    depth=depth,
                    num_heads=num_heads[index],
                    window_size=window_size,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    qk_scale=qk_scale,
                    drop=drop_rate,
                    attn_drop=attn_drop_rate,
                    drop_path=drop_paths[first : first + depth],
                    norm_layer=norm_layer,
                    downsample=PatchMerging if index < self.num_layers - 1 else None,
                    use_checkpoint=use_checkpoint,
                )
            )
        self._size_divisibility = patch_size * 2 ** (self.num_layers - 1)
        self._add_outputs(patch_size, norm_layer)
        self.apply(init_weights)
        self._freeze_stages()

    def _add_outputs(self, patch_size: int, norm_layer: Norm) -> None:
        self._out_features = [f"p{index}" for index in self.out_indices]
        self._out_feature_channels, self._out_feature_strides = {}, {}
        for index, name in zip(self.out_indices, self._out_features, strict=True):
            self._out_feature_channels[name] = self.num_features[index]
            self._out_feature_strides[name] = patch_size * 2**index
            self.add_module(f"norm{index}", norm_layer(self.num_features[index]))

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def _frozen_parts(self) -> list[nn.Module]:
        parts: list[nn.Module] = [self.patch_embed] if self.frozen_stages >= 0 else []
        if self.frozen_stages >= 2:
            parts += [self.pos_drop, *self.layers[: self.frozen_stages - 1]]
        return parts

    def _freeze_stages(self) -> None:
        for part in self._frozen_parts():
            part.eval().requires_grad_(False)
        if self.frozen_stages >= 1 and self.ape:
            self.absolute_pos_embed.requires_grad_(False)

    def train(self, mode: bool = True) -> SwinTransformer:
        """Set the mode of everything but the frozen stages, which stay in evaluation mode."""
        super().train(mode)
        self._freeze_stages()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps (N, channels, H / stride, W / stride) of (N, in_chans, H, W) images, by name."""
        x = self.patch_embed(x)
        height, width = x.shape[2:]
        if self.ape:
            x = x + F.interpolate(self.absolute_pos_embed, size=(height, width), mode="bicubic")
        x = self.pos_drop(x.flatten(2).transpose(1, 2))  # (N, H * W, C)
        outputs = {}
        for index, layer in enumerate(self.layers):
            out, out_height, out_width, x, height, width = layer(x, height, width)
            if index in self.out_indices:
                normed = getattr(self, f"norm{index}")(out)
                outputs[f"p{index}"] = normed.transpose(1, 2).unflatten(2, (out_height, out_width))
        return outputs
