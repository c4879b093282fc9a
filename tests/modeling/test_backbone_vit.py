import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectron2.modeling import SimpleFeaturePyramid, ViT, get_vit_lr_decay_rate
from detectron2.modeling.backbone._transformer import DropPath, drop_path_rates
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.utils import (
    PatchEmbed,
    add_decomposed_rel_pos,
    get_abs_pos,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from detectron2.modeling.backbone.vit import Attention, Block, ResBottleneckBlock


@pytest.mark.parametrize("height, width", [(6, 9), (5, 7), (3, 3), (1, 2)])
def test_windows_put_together_give_the_map(height, width):
    x = torch.randn(2, height, width, 4)
    windows, padded = window_partition(x, 3)
    assert padded == (-(-height // 3) * 3, -(-width // 3) * 3)
    assert windows.shape == (2 * padded[0] * padded[1] // 9, 3, 3, 4)
    assert_close(window_unpartition(windows, 3, padded, (height, width)), x)


def test_windows_run_row_by_row_and_are_filled_with_zeros():
    x = torch.arange(1.0, 13.0).view(1, 3, 4, 1)
    windows, _ = window_partition(x, 2)
    assert windows[1, :, :, 0].tolist() == [[3, 4], [7, 8]]
    assert windows[2, :, :, 0].tolist() == [[9, 10], [0, 0]]


def test_relative_positions_of_equal_sizes_are_indexed_by_offset():
    table = torch.arange(5.0)[:, None]  # offsets -2 .. 2
    assert get_rel_pos(3, 3, table)[..., 0].tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_relative_positions_spread_the_smaller_axis_over_the_larger():
    table = torch.arange(7.0)[:, None]  # offsets -3 .. 3
    # Keys lie at 0 and 2 of the query axis.
    assert get_rel_pos(4, 2, table)[..., 0].tolist() == [[2, 0], [3, 1], [4, 2], [5, 3]]


def test_relative_positions_of_another_size_are_interpolated():
    table = torch.arange(3.0)[:, None]  # 3 offsets, 5 are needed
    resized = get_rel_pos(3, 3, table)[..., 0]
    assert_close(resized[:, 0], torch.tensor([1.0, 1.6, 2.0]))


def test_decomposed_positions_add_a_row_and_a_column_term():
    q = torch.randn(2, 6, 4)  # a map of 2 x 3
    rows, columns = torch.randn(3, 4), torch.randn(5, 4)
    attention = add_decomposed_rel_pos(torch.zeros(2, 6, 6), q, rows, columns, (2, 3), (2, 3))
    query, key = (1, 2), (0, 1)
    expected = q[:, 1 * 3 + 2] @ (rows[1 - 0 + 1] + columns[2 - 1 + 2])
    assert_close(attention[:, query[0] * 3 + query[1], key[0] * 3 + key[1]], expected)


def test_absolute_positions_drop_the_class_token_and_are_resized():
    positions = torch.randn(1, 10, 4)
    same = get_abs_pos(positions, True, (3, 3))
    assert_close(same, positions[:, 1:].view(1, 3, 3, 4))
    assert get_abs_pos(positions[:, 1:], False, (5, 2)).shape == (1, 5, 2, 4)
    with pytest.raises(ValueError, match="10 absolute positions make no square"):
        get_abs_pos(positions, False, (3, 3))


@pytest.mark.parametrize("use_rel_pos", [True, False])
def test_attention_is_the_formula(use_rel_pos):
    torch.manual_seed(0)
    attention = Attention(8, 2, use_rel_pos=use_rel_pos, rel_pos_zero_init=False, input_size=(3, 2))
    x = torch.randn(2, 3, 2, 8)
    q, k, v = attention.qkv(x).view(2, 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
    logits = (q / 2) @ k.transpose(-1, -2)
    if use_rel_pos:
        logits = add_decomposed_rel_pos(
            logits.flatten(0, 1), q.flatten(0, 1), attention.rel_pos_h, attention.rel_pos_w,
            (3, 2), (3, 2),
        ).view_as(logits)  # fmt: skip
    out = (logits.softmax(-1) @ v).transpose(1, 2).reshape(2, 3, 2, 8)
    assert_close(attention(x), attention.proj(out))


def test_relative_positions_need_a_size():
    with pytest.raises(ValueError, match="need an input_size"):
        Attention(8, 2, use_rel_pos=True)


def test_windows_do_not_see_each_other():
    torch.manual_seed(0)
    block = Block(8, 2, window_size=2).eval()
    x = torch.randn(1, 4, 4, 8)
    changed = x.clone()
    changed[:, 2:, 2:] += torch.randn(2, 2, 8)
    same = (block(x) == block(changed)).all(dim=-1)[0]
    assert same[:2].all() and same[:, :2].all()
    assert not same[2:, 2:].any()


def test_a_new_residual_block_is_the_identity():
    block = ResBottleneckBlock(8, 8, 4)
    x = torch.randn(2, 8, 5, 5)
    assert_close(block(x), x)


def small_vit(**kwargs):
    arguments = {"img_size": 64, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2}
    return ViT(**{**arguments, **kwargs})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_abs_pos": False, "qkv_bias": False},
        {"use_rel_pos": True, "window_size": 3, "window_block_indexes": [0]},
        {"residual_block_indexes": [1], "drop_path_rate": 0.5},
    ],
)
def test_vit_returns_one_map_of_the_stride_of_a_patch(options):
    net = small_vit(**options)
    outputs = net(torch.rand(2, 3, 64, 40))
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {"last_feat": (2, 8, 8, 5)}
    assert net.output_shape()["last_feat"].stride == 8


def test_recomputed_activations_give_the_same_gradients():
    torch.manual_seed(0)
    plain, recomputing = small_vit(use_rel_pos=True), small_vit(use_rel_pos=True)
    recomputing.use_act_checkpoint = True
    recomputing.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 64, 64)
    for net in (plain, recomputing):
        net(x)["last_feat"].square().sum().backward()
    gradients = [
        dict(net.named_parameters())["blocks.0.attn.qkv.weight"].grad
        for net in (plain, recomputing)
    ]
    assert_close(*gradients)


def test_drop_path_keeps_the_expectation():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 2, 3))
    assert_close(out.unique(), torch.tensor([0.0, 4 / 3]))
    assert (out == out[:, :1, :1]).all()  # whole samples
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert (drop.eval()(torch.ones(5)) == 1).all()
    assert drop_path_rates(0.2, 3) == [0.0, 0.1, 0.2]
    assert drop_path_rates(0.2, 1) == [0.0]


def test_patches_are_channels_last():
    assert PatchEmbed((4, 4), (4, 4), embed_dim=6)(torch.rand(2, 3, 8, 12)).shape == (2, 2, 3, 6)


def pyramid(**kwargs):
    arguments = {
        "net": small_vit(patch_size=16),
        "in_feature": "last_feat",
        "out_channels": 4,
        "scale_factors": (4.0, 2.0, 1.0, 0.5),
        "top_block": LastLevelMaxPool(),
        "square_pad": 64,
    }
    return SimpleFeaturePyramid(**{**arguments, **kwargs})


@pytest.mark.parametrize("norm", ["LN", ""])
def test_pyramid_of_one_map(norm):
    net = pyramid(norm=norm)
    outputs = net(torch.rand(1, 3, 64, 128))
    assert {name: tuple(x.shape[2:]) for name, x in outputs.items()} == {
        "p2": (16, 32), "p3": (8, 16), "p4": (4, 8), "p5": (2, 4), "p6": (1, 2),
    }  # fmt: skip
    assert [shape.stride for shape in net.output_shape().values()] == [4, 8, 16, 32, 64]
    assert (net.simfp_4[0].bias is None) == (norm == "LN")


def test_quirk_pyramid_demands_padding_only_through_its_constraints():
    net = pyramid()
    assert net.padding_constraints == {"size_divisiblity": 32, "square_size": 64}
    assert net.size_divisibility == 0


def test_pyramid_refuses_other_scales():
    with pytest.raises(ValueError, match="has 0.25"):
        pyramid(scale_factors=(0.5, 0.25))
    with pytest.raises(AssertionError, match="not twice"):
        pyramid(scale_factors=(4.0, 1.0))


def test_learning_rate_falls_towards_the_input():
    def rate(name):
        return get_vit_lr_decay_rate(name, lr_decay_rate=0.5, num_layers=4)

    assert rate("roi_heads.box_head.fc1.weight") == 1
    assert rate("backbone.simfp_2.0.weight") == 1
    assert rate("backbone.net.blocks.3.norm1.weight") == 0.5
    assert rate("backbone.net.blocks.0.attn.qkv.bias") == 0.5**4
    assert rate("backbone.net.blocks.0.residual.conv1.weight") == 1
    assert rate("backbone.net.pos_embed") == rate("backbone.net.patch_embed.proj.bias") == 0.5**5
    assert rate("head.blocks.0.weight") == 1


def test_norms_start_as_the_identity_and_linear_layers_small():
    net = small_vit(embed_dim=64)
    linear = net.blocks[0].mlp.fc1
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert (linear.bias == 0).all()
    assert isinstance(net.blocks[0].norm1, nn.LayerNorm)
