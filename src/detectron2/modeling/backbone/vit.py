"""Plain vision transformer for detection, and its simple feature pyramid (ViTDet)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from detectron2.layers import Conv2d, get_norm
from detectron2.modeling.backbone._transformer import (
    drop_path_rates,
    init_weights,
    learned_positions,
    run_block,
)
from detectron2.modeling.backbone._vit_blocks import Attention, Block, ResBottleneckBlock
from detectron2.modeling.backbone.backbone import Backbone
from detectron2.modeling.backbone.fpn import _assert_strides_are_log2_contiguous
from detectron2.modeling.backbone.utils import (
    PatchEmbed,
    get_abs_pos,
    window_partition,
    window_unpartition,
)

# Attention and what follows it are parts that other projects import from here.
__all__ = [
    "SimpleFeaturePyramid",
    "ViT",
    "get_vit_lr_decay_rate",
    "Attention",
    "Block",
    "PatchEmbed",
    "ResBottleneckBlock",
    "get_abs_pos",
    "window_partition",
    "window_unpartition",
]


class ViT(Backbone):
    """ViTDet: "Exploring Plain Vision Transformer Backbones for Object Detection".

    Args:
        img_size: side of the images; sets the size of the relative positions.
        patch_size: side of a patch, the stride of the output.
        in_chans: channels of the images.
        embed_dim: channels C.
        depth: blocks.
        num_heads: heads of each block.
        mlp_ratio: hidden width of an MLP over C.
        qkv_bias: bias of queries, keys and values.
        drop_path_rate: that of the last block; it grows linearly from 0.
        norm_layer: called with C.
        act_layer: called without arguments.
        use_abs_pos: add learned absolute positions.
        use_rel_pos: add decomposed relative positions to the attention logits.
        rel_pos_zero_init: they start at zero.
        window_size: side, in patches, of the windows of `window_block_indexes`.
        window_block_indexes: blocks with attention in windows; the others see the whole map.
        residual_block_indexes: blocks with a convolutional block behind them.
        use_act_checkpoint: recompute the blocks in the backward pass instead of storing them.
        pretrain_img_size: side of the images that the absolute positions were trained on.
        pretrain_use_cls_token: whether they have a row for a class token.
        out_feature: name of the output.
    """

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        use_abs_pos: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        window_block_indexes: Sequence[int] = (),
        residual_block_indexes: Sequence[int] = (),
        use_act_checkpoint: bool = False,
        pretrain_img_size: int = 224,
        pretrain_use_cls_token: bool = True,
        out_feature: str = "last_feat",
    ) -> None:
        super().__init__()
        self.pretrain_use_cls_token = pretrain_use_cls_token
        self.use_act_checkpoint = use_act_checkpoint
        self.patch_embed = PatchEmbed(
            (patch_size, patch_size), (patch_size, patch_size), (0, 0), in_chans, embed_dim
        )
        self.pos_embed: nn.Parameter | None = None
        if use_abs_pos:
            num_positions = (pretrain_img_size // patch_size) ** 2 + int(pretrain_use_cls_token)
            self.pos_embed = learned_positions(1, num_positions, embed_dim)
        self.blocks = nn.ModuleList(
            Block(
                dim=embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop_path=drop_path,
                norm_layer=norm_layer,
                act_layer=act_layer,
                use_rel_pos=use_rel_pos,
                rel_pos_zero_init=rel_pos_zero_init,
                window_size=window_size if index in window_block_indexes else 0,
                use_residual_block=index in residual_block_indexes,
                input_size=(img_size // patch_size, img_size // patch_size),
            )
            for index, drop_path in enumerate(drop_path_rates(drop_path_rate, depth))
        )
        self._out_features = [out_feature]
        self._out_feature_channels = {out_feature: embed_dim}
        self._out_feature_strides = {out_feature: patch_size}
        self.apply(init_weights)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, in_chans, H, W) images to one (N, C, H / patch_size, W / patch_size) map."""
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            size = (x.shape[1], x.shape[2])
            x = x + get_abs_pos(self.pos_embed, self.pretrain_use_cls_token, size)
        for block in self.blocks:
            x = run_block(block, x, self.use_act_checkpoint and self.training)
        return {self._out_features[0]: x.permute(0, 3, 1, 2)}


class SimpleFeaturePyramid(Backbone):
    """A pyramid from the last map of a plain backbone alone (ViTDet, figure 2c).

    Args:
        net: backbone below.
        in_feature: its output to use.
        out_channels: of every output.
        scale_factors: out of 4.0, 2.0, 1.0 and 0.5: size of each output over that of the input.
        top_block: see `FPN`.
        norm: see `detectron2.layers.get_norm`.
        square_pad: side in pixels to which images must be padded; 0 for no demand.

    Raises:
        ValueError: a scale factor is none of those.
        AssertionError: the strides of the outputs do not double.
    """

    def __init__(
        self,
        net: Backbone,
        in_feature: str,
        out_channels: int,
        scale_factors: Sequence[float],
        top_block: nn.Module | None = None,
        norm: str | Callable[[int], nn.Module] = "LN",
        square_pad: int = 0,
    ) -> None:
        super().__init__()
        input_shape = net.output_shape()[in_feature]
        strides = [int(input_shape.stride / scale) for scale in scale_factors]
        _assert_strides_are_log2_contiguous(strides)
        levels = [int(math.log2(stride)) for stride in strides]
        self._stage_names = [f"simfp_{level}" for level in levels]
        for name, scale in zip(self._stage_names, scale_factors, strict=True):
            self.add_module(name, _pyramid_stage(input_shape.channels, out_channels, scale, norm))
        self.net = net
        self.in_feature = in_feature
        self.top_block = top_block
        self._size_divisibility = strides[-1]
        self._square_pad = square_pad

        num_outputs = len(levels) + (0 if top_block is None else top_block.num_levels)
        self._out_feature_strides = {
            f"p{level}": 2**level for level in range(levels[0], levels[0] + num_outputs)
        }
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisiblity": self._size_divisibility, "square_size": self._square_pad}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps "p2", "p3", ...: (N, out_channels, H / stride, W / stride) of (N, C, H, W)."""
        bottom_up_features = self.net(x)
        features = bottom_up_features[self.in_feature]
        results = [getattr(self, name)(features) for name in self._stage_names]
        if self.top_block is not None:
            source = self.top_block.in_feature
            top_input = bottom_up_features.get(source)
            if top_input is None:
                top_input = results[self._out_features.index(source)]
            results.extend(self.top_block(top_input))
        return dict(zip(self._out_features, results, strict=True))


def _pyramid_stage(
    in_channels: int, out_channels: int, scale: float, norm: str | Callable[[int], nn.Module]
) -> nn.Sequential:
    """Resize by `scale`, then 1x1 and 3x3 convolutions."""
    layers: list[nn.Module] = []
    channels = in_channels
    if scale == 4.0:
        channels = in_channels // 4
        half = in_channels // 2
        layers = [
            nn.ConvTranspose2d(in_channels, half, kernel_size=2, stride=2),
            get_norm(norm, half) or nn.Identity(),
            nn.GELU(),
            nn.ConvTranspose2d(half, channels, kernel_size=2, stride=2),
        ]
    elif scale == 2.0:
        channels = in_channels // 2
        layers = [nn.ConvTranspose2d(in_channels, channels, kernel_size=2, stride=2)]
    elif scale == 0.5:
        layers = [nn.MaxPool2d(kernel_size=2, stride=2)]
    elif scale != 1.0:
        raise ValueError(f"scale_factors has {scale}; use some of 4.0, 2.0, 1.0 and 0.5.")
    for kernel_size in (1, 3):
        conv = Conv2d(
            channels,
            out_channels,
            kernel_size=kernel_size,
            padding=kernel_size // 2,
            bias=norm == "",
            norm=get_norm(norm, out_channels),
        )
        layers.append(conv)
        channels = out_channels
    return nn.Sequential(*layers)


def get_vit_lr_decay_rate(name: str, lr_decay_rate: float = 1.0, num_layers: int = 12) -> float:
    """Factor of the learning rate of a parameter: smaller the deeper it sits (ViTDet, A.2).

    Args:
        name: of the parameter in a detector whose backbone is called "backbone".
        lr_decay_rate: factor from one layer to the layer before.
        num_layers: blocks of the ViT.

    Returns:
        ``lr_decay_rate ** n``: n is 0 behind the ViT (and for convolutional blocks in it), 1 for
        the last block, ``num_layers + 1`` for the embeddings.
    """
    layers_above = 0
    if name.startswith("backbone"):
        if ".pos_embed" in name or ".patch_embed" in name:
            layers_above = num_layers + 1
        elif ".blocks." in name and ".residual." not in name:
            block = int(name.split(".blocks.")[1].split(".")[0])
            layers_above = num_layers - block
    return lr_decay_rate**layers_above
