import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectron2.modeling import SwinTransformer
from detectron2.modeling.backbone.swin import (
    BasicLayer,
    PatchEmbed,
    PatchMerging,
    SwinTransformerBlock,
    WindowAttention,
    window_partition,
    window_reverse,
)


def small(**kwargs):
    arguments = {
        "embed_dim": 8, "depths": (1, 2, 1), "num_heads": (1, 2, 4), "window_size": 3,
        "out_indices": (0, 1, 2),
    }  # fmt: skip
    return SwinTransformer(**{**arguments, **kwargs})


@pytest.mark.parametrize("height, width", [(32, 48), (33, 50), (7, 5)])
@pytest.mark.parametrize(
    "options", [{}, {"ape": True, "patch_norm": False, "pretrain_img_size": 16}]
)
def test_outputs_have_the_announced_shapes(height, width, options):
    net = small(**options).eval()
    outputs = net(torch.rand(2, 3, height, width))
    assert list(outputs) == ["p0", "p1", "p2"]
    for name, shape in net.output_shape().items():
        size = (-(-height // shape.stride), -(-width // shape.stride))
        assert outputs[name].shape == (2, shape.channels, *size)
    assert [s.stride for s in net.output_shape().values()] == [4, 8, 16]
    assert net.size_divisibility == 16


def test_windows_put_together_give_the_map():
    x = torch.randn(2, 6, 9, 4)
    windows = window_partition(x, 3)
    assert windows.shape == (12, 3, 3, 4)
    assert_close(windows[1], x[0, :3, 3:6])
    assert_close(window_reverse(windows, 3, 6, 9), x)


def test_attention_is_the_formula():
    torch.manual_seed(0)
    attention = WindowAttention(8, (2, 3), num_heads=2)
    x = torch.randn(4, 6, 8)
    mask = torch.zeros(2, 6, 6)
    mask[1, :, 3:] = -100.0
    q, k, v = attention.qkv(x).view(4, 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
    bias = attention.relative_position_bias_table[attention.relative_position_index]
    logits = q @ k.transpose(-1, -2) / 2 + bias.permute(2, 0, 1)
    logits = logits + mask.repeat(2, 1, 1)[:, None]
    out = (logits.softmax(-1) @ v).transpose(1, 2).reshape(4, 6, 8)
    assert_close(attention(x, mask), attention.proj(out))


def test_relative_position_index_counts_offsets_row_by_row():
    index = WindowAttention(4, (2, 2), 1).relative_position_index
    assert index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_convention_the_index_is_in_the_state_dict():
    assert "layers.0.blocks.0.attn.relative_position_index" in small().state_dict()


def test_shifted_windows_do_not_see_across_the_border():
    torch.manual_seed(0)
    layer = BasicLayer(8, depth=2, num_heads=2, window_size=4).eval()
    layer.blocks[0] = Passing()
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[:, 0] += torch.randn(
        8, 8
    )  # the top row, which the cyclic shift puts below the last one
    outputs = [layer(y.flatten(1, 2), 8, 8)[0].view(8, 8, 8) for y in (x, changed)]
    same = torch.isclose(*outputs).all(dim=-1)
    assert same[2:].all()
    assert not same[:2].any()


def test_windows_that_are_not_shifted_are_not_masked():
    torch.manual_seed(0)
    layer = BasicLayer(8, depth=1, num_heads=2, window_size=4).eval()
    x = torch.randn(1, 64, 8)
    changed = x.clone()
    changed[:, -1] += torch.randn(8)  # the last cell of the last window
    outputs = [layer(y, 8, 8)[0].view(8, 8, 8) for y in (x, changed)]
    same = torch.isclose(*outputs).all(dim=-1)
    assert not same[4:, 4:].any()
    assert same[:4].all() and same[:, :4].all()


class Passing(nn.Module):
    def forward(self, x, mask):
        return x


def test_merging_takes_cells_column_by_column_and_pads_odd_sides():
    merging = PatchMerging(1, norm_layer=nn.Identity)
    merging.norm = nn.Identity()
    merging.reduction = nn.Identity()
    x = torch.arange(1.0, 7.0).view(1, 6, 1)  # a map of 2 x 3
    assert merging(x, 2, 3)[0].tolist() == [[1, 4, 2, 5], [3, 6, 0, 0]]


def test_stage_returns_its_own_map_and_the_input_of_the_next():
    layer = BasicLayer(4, 1, 1, window_size=2, downsample=PatchMerging)
    out, height, width, down, down_height, down_width = layer(torch.randn(1, 15, 4), 5, 3)
    assert (out.shape, height, width) == ((1, 15, 4), 5, 3)
    assert (down.shape, down_height, down_width) == ((1, 6, 8), 3, 2)


def test_patches_at_the_border_are_filled_with_zeros():
    embed = PatchEmbed(4, 3, 6)
    x = torch.rand(1, 3, 6, 5)
    padded = torch.zeros(1, 3, 8, 8)
    padded[:, :, :6, :5] = x
    assert_close(embed(x), embed.proj(padded))


@pytest.mark.parametrize(
    "frozen_stages, frozen",
    [(-1, []), (0, ["patch_embed"]), (2, ["patch_embed", "absolute_pos_embed", "layers.0"])],
)
def test_frozen_stages_stay_in_evaluation_mode(frozen_stages, frozen):
    net = small(frozen_stages=frozen_stages, ape=True, pretrain_img_size=32).train()
    for name, parameter in net.named_parameters():
        assert parameter.requires_grad != name.startswith(tuple(frozen)) if frozen else True
    assert net.layers[0].training == ("layers.0" not in frozen)
    assert net.layers[1].training


@pytest.mark.parametrize("recompute", [True, False])
def test_training_reaches_every_parameter(recompute):
    net = small(use_checkpoint=recompute, drop_path_rate=0.0)
    sum(x.square().sum() for x in net(torch.rand(1, 3, 32, 32)).values()).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_parameter_count_of_the_tiny_model():
    # 28.3 million with its classifier of 1000 classes; the norms of the outputs come on top.
    with torch.device("meta"):
        net = SwinTransformer()
    count = sum(p.numel() for p in net.parameters())
    assert count == 28_288_354 - (768 * 1000 + 1000) + 2 * (96 + 192 + 384)


def test_a_shift_as_large_as_the_window_is_refused():
    with pytest.raises(ValueError, match=r"shift_size 7 must lie in \[0, 7\)"):
        SwinTransformerBlock(8, 2, window_size=7, shift_size=7)


def test_a_wrong_size_is_named():
    block = SwinTransformerBlock(8, 2)
    block.H, block.W = 3, 3
    with pytest.raises(ValueError, match="has 8 cells, but H x W is set to 3 x 3"):
        block(torch.rand(1, 8, 8), None)
