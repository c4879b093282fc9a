"""Multiscale vision transformer, second version (MViTv2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.modeling.backbone._transformer import (
    DropPath,
    Mlp,
    drop_path_rates,
    init_weights,
    learned_positions,
    run_block,
)
from detectron2.modeling.backbone.backbone import Backbone
from detectron2.modeling.backbone.utils import (
    PatchEmbed,
    decomposed_rel_pos,
    get_abs_pos,
    window_partition,
    window_unpartition,
)

__all__ = ["MViT"]

Norm = Callable[[int], nn.Module]


def attention_pool(x: Tensor, pool: nn.Module, norm: nn.Module | None = None) -> Tensor:
    """Pool (B, H, W, C) maps with a module for channels first, then normalise the channels."""
    x = pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return x if norm is None else norm(x)


class MultiScaleAttention(nn.Module):
    """Pooling attention (MViTv2, section 4.1), in windows on request ("hybrid window", 4.2).

    Queries, keys and values are pooled by a depthwise convolution per head; the output has the
    resolution of the queries. Windows are cut from the pooled maps.

    Args:
        dim: channels of the input.
        dim_out: channels of the output.
        num_heads: heads.
        qkv_bias: bias of queries, keys and values.
        norm_layer: called with the channels of a head.
        pool_kernel: of the depthwise convolutions.
        stride_q: of the queries.
        stride_kv: of keys and values.
        residual_pooling: add the pooled queries to the output.
        window_size: side of a window of the map before pooling; 0 for none.
        use_rel_pos: add decomposed relative positions.
        rel_pos_zero_init: they start at zero.
        input_size: (H, W) of the input; needed with relative positions.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        qkv_bias: bool = True,
        norm_layer: Norm = nn.LayerNorm,
        pool_kernel: tuple[int, int] = (3, 3),
        stride_q: int = 1,
        stride_kv: int = 1,
        residual_pooling: bool = True,
        window_size: int = 0,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, dim_out * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim_out, dim_out)
        head_dim = dim_out // num_heads
        for name, stride in (("q", stride_q), ("k", stride_kv), ("v", stride_kv)):
            self.add_module(f"pool_{name}", _depthwise(head_dim, pool_kernel, stride))
            self.add_module(f"norm_{name}", norm_layer(head_dim))
        self.q_window_size = window_size // stride_q
        self.kv_window_size = window_size // stride_kv
        self.residual_pooling = residual_pooling
        self.use_rel_pos = use_rel_pos
        if use_rel_pos:
            if input_size is None:
                raise ValueError("Relative positions need an input_size, the (H, W) of the map.")
            self.rel_pos_h, self.rel_pos_w = (
                nn.Parameter(
                    torch.zeros(2 * max(size // stride_q, size // stride_kv) - 1, head_dim)
                )
                for size in input_size
            )
            if not rel_pos_zero_init:
                nn.init.trunc_normal_(self.rel_pos_h, std=0.02)
                nn.init.trunc_normal_(self.rel_pos_w, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, dim) to (N, H / stride_q, W / stride_q, dim_out)."""
        batch_size = len(x)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        # From here on heads are part of the batch: (N * heads, H, W, C).
        q, k, v = qkv.permute(3, 0, 4, 1, 2, 5).flatten(1, 2).unbind(0)
        q = attention_pool(q, self.pool_q, self.norm_q)
        k = attention_pool(k, self.pool_k, self.norm_k)
        v = attention_pool(v, self.pool_v, self.norm_v)
        out = self._attend_in_windows(q, k, v) if self.q_window_size else self._attend(q, k, v)
        if self.residual_pooling:
            out = out + q
        out = out.unflatten(0, (batch_size, self.num_heads))  # (N, heads, H, W, C)
        return self.proj(out.permute(0, 2, 3, 1, 4).flatten(3))

    def _attend_in_windows(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        size = (q.shape[1], q.shape[2])
        q, padded_size = window_partition(q, self.q_window_size)
        k, v = (window_partition(x, self.kv_window_size)[0] for x in (k, v))
        return window_unpartition(self._attend(q, k, v), self.q_window_size, padded_size, size)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of (B, Hq, Wq, C) queries over (B, Hk, Wk, C) keys and values."""
        q_size, k_size = (q.shape[1], q.shape[2]), (k.shape[1], k.shape[2])
        q, k, v = (x.flatten(1, 2) for x in (q, k, v))
        bias = None
        if self.use_rel_pos:
            bias = decomposed_rel_pos(q, self.rel_pos_h, self.rel_pos_w, q_size, k_size)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return out.unflatten(1, q_size)


class MultiScaleBlock(nn.Module):
    """Transformer block that may widen the channels and lower the resolution.

    Args:
        dim: channels of the input.
        dim_out: channels of the output.
        num_heads: heads.
        mlp_ratio: hidden width of the MLP over `dim_out`.
        qkv_bias: see `MultiScaleAttention`.
        drop_path: probability that a branch is left out in training.
        norm_layer: called with the number of channels.
        act_layer: called without arguments.
        qkv_pool_kernel: see `MultiScaleAttention`.
        stride_q: of the output.
        stride_kv: see `MultiScaleAttention`.
        residual_pooling: see `MultiScaleAttention`.
        window_size: see `MultiScaleAttention`.
        use_rel_pos: see `MultiScaleAttention`.
        rel_pos_zero_init: see `MultiScaleAttention`.
        input_size: see `MultiScaleAttention`.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        norm_layer: Norm = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        qkv_pool_kernel: tuple[int, int] = (3, 3),
        stride_q: int = 1,
        stride_kv: int = 1,
        residual_pooling: bool = True,
        window_size: int = 0,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = MultiScaleAttention(
            dim,
            dim_out,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            norm_layer=norm_layer,
            pool_kernel=qkv_pool_kernel,
            stride_q=stride_q,
            stride_kv=stride_kv,
            residual_pooling=residual_pooling,
            window_size=window_size,
            use_rel_pos=use_rel_pos,
            rel_pos_zero_init=rel_pos_zero_init,
            input_size=input_size,
        )
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = norm_layer(dim_out)
        self.mlp = Mlp(dim_out, hidden_features=int(dim_out * mlp_ratio), act_layer=act_layer)
        self.proj = nn.Linear(dim, dim_out) if dim != dim_out else None
        self.pool_skip = (
            nn.MaxPool2d(stride_q + 1, stride=stride_q, padding=(stride_q + 1) // 2)
            if stride_q > 1
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, dim) to (N, H / stride_q, W / stride_q, dim_out)."""
        normed = self.norm1(x)
        shortcut = x if self.proj is None else self.proj(normed)
        if self.pool_skip is not None:
            shortcut = attention_pool(shortcut, self.pool_skip)
        x = shortcut + self.drop_path(self.attn(normed))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class MViT(Backbone):
    """MViTv2: "Improved Multiscale Vision Transformers for Classification and Detection".

    Four stages; each new one halves the resolution in its first block and doubles channels and
    heads. Outputs are called "scale2", "scale3", ...

    Args:
        img_size: side of the images; sets the size of the relative positions.
        patch_kernel: of the convolution that makes patches.
        patch_stride: its stride, the stride of the first stage.
        patch_padding: its padding.
        in_chans: channels of the images.
        embed_dim: channels of the first stage.
        depth: blocks of all stages together.
        num_heads: heads of the first stage.
        last_block_indexes: the last block of each stage.
        qkv_pool_kernel: of the pooling convolutions.
        adaptive_kv_stride: stride of keys and values in the first stage; halved in each new one.
        adaptive_window_size: side of the windows in the first stage; halved in each new one. The
            last block of every stage but the first sees the whole map.
        residual_pooling: add the pooled queries to the output of the attention.
        mlp_ratio: hidden width of an MLP over its channels.
        qkv_bias: bias of queries, keys and values.
        drop_path_rate: that of the last block; it grows linearly from 0.
        norm_layer: called with the number of channels.
        act_layer: called without arguments.
        use_abs_pos: add learned absolute positions.
        use_rel_pos: add decomposed relative positions to the attention logits.
        rel_pos_zero_init: they start at zero.
        use_act_checkpoint: recompute the blocks in the backward pass instead of storing them.
        pretrain_img_size: side of the images that the absolute positions were trained on.
        pretrain_use_cls_token: whether they have a row for a class token.
        out_features: names of the outputs.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_kernel: tuple[int, int] = (7, 7),
        patch_stride: tuple[int, int] = (4, 4),
        patch_padding: tuple[int, int] = (3, 3),
        in_chans: int = 3,
        embed_dim: int = 96,
        depth: int = 16,
        num_heads: int = 1,
        last_block_indexes: Sequence[int] = (0, 2, 11, 15),
        qkv_pool_kernel: tuple[int, int] = (3, 3),
        adaptive_kv_stride: int = 4,
        adaptive_window_size: int = 56,
        residual_pooling: bool = True,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        norm_layer: Norm = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        use_abs_pos: bool = False,
        use_rel_pos: bool = True,
        rel_pos_zero_init: bool = True,
        use_act_checkpoint: bool = False,
        pretrain_img_size: int = 224,
        pretrain_use_cls_token: bool = True,
        out_features: Sequence[str] = ("scale2", "scale3", "scale4", "scale5"),
    ) -> None:
        super().__init__()
        self.pretrain_use_cls_token = pretrain_use_cls_token
        self.use_act_checkpoint = use_act_checkpoint
        self.patch_embed = PatchEmbed(
            patch_kernel, patch_stride, patch_padding, in_chans, embed_dim
        )
        self.pos_embed: nn.Parameter | None = None
        if use_abs_pos:
            rows, columns = (pretrain_img_size // stride for stride in patch_stride)
            num_positions = rows * columns + int(pretrain_use_cls_token)
            self.pos_embed = learned_positions(1, num_positions, embed_dim)

        self._last_block_indexes = last_blocks = list(last_block_indexes)
        patch_grid = tuple(img_size // stride for stride in patch_stride)
        self.blocks = nn.ModuleList()
        for index, drop_path in enumerate(drop_path_rates(drop_path_rate, depth)):
            stage = sum(last < index for last in last_blocks)  # from 0
            self.blocks.append(
                MultiScaleBlock(
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    drop_path=drop_path,
                    norm_layer=norm_layer,
                    act_layer=act_layer,
                    qkv_pool_kernel=qkv_pool_kernel,
                    residual_pooling=residual_pooling,
                    use_rel_pos=use_rel_pos,
                    rel_pos_zero_init=rel_pos_zero_init,
                    num_heads=num_heads * 2**stage,
                    **_block_scale(
                        index,
                        stage,
                        last_blocks,
                        embed_dim,
                        adaptive_kv_stride,
                        adaptive_window_size,
                        patch_grid,
                    ),
                )
            )
        self._add_outputs(out_features, embed_dim, patch_stride[0], norm_layer)
        self.apply(init_weights)

    def _add_outputs(
        self, out_features: Sequence[str], embed_dim: int, stride: int, norm_layer: Norm
    ) -> None:
        self._out_features = list(out_features)
        self._out_feature_channels, self._out_feature_strides = {}, {}
        for stage in range(len(self._last_block_indexes)):
            name = f"scale{stage + 2}"
            if name in out_features:
                self._out_feature_channels[name] = embed_dim * 2**stage
                self._out_feature_strides[name] = stride * 2**stage
                self.add_module(f"{name}_norm", norm_layer(embed_dim * 2**stage))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps (N, channels, H / stride, W / stride) of (N, in_chans, H, W) images, by name."""
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            size = (x.shape[1], x.shape[2])
            x = x + get_abs_pos(self.pos_embed, self.pretrain_use_cls_token, size)
        outputs = {}
        for index, block in enumerate(self.blocks):
            x = run_block(block, x, self.use_act_checkpoint and self.training)
            if index in self._last_block_indexes:
                name = f"scale{self._last_block_indexes.index(index) + 2}"
                if name in self._out_features:
                    normed = getattr(self, f"{name}_norm")(x)
                    outputs[name] = normed.permute(0, 3, 1, 2)
        return outputs


def _block_scale(
    index: int,
    stage: int,
    last_blocks: list[int],
    embed_dim: int,
    kv_stride: int,
    window_size: int,
    patch_grid: tuple[int, ...],
) -> dict[str, int | tuple[int, ...]]:
    """Channels, strides, window and input size of one block.

    The first block of a stage still works on the map of the stage before: its window and its
    input size are that one's, and its queries halve it.
    """
    is_first = stage > 0 and last_blocks[stage - 1] == index - 1
    input_stage = stage - 1 if is_first else stage
    # The last block of the two middle stages sees the whole map: coarser keys keep it cheap.
    is_middle_end = index in last_blocks[1:3]
    return {
        "dim": embed_dim * 2**input_stage,
        "dim_out": embed_dim * 2**stage,
        "stride_q": 2 if is_first else 1,
        "stride_kv": max(kv_stride // 2**stage, 1) * (2 if is_middle_end else 1),
        "window_size": 0 if index in last_blocks[1:] else window_size // 2**input_stage,
        "input_size": tuple(side // 2**input_stage for side in patch_grid),
    }


def _depthwise(channels: int, kernel_size: tuple[int, int], stride: int) -> nn.Conv2d:
    return nn.Conv2d(
        channels,
        channels,
        kernel_size,
        stride=stride,
        padding=tuple(side // 2 for side in kernel_size),
        groups=channels,
        bias=False,
    )
