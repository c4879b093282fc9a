import pytest
import torch
from torch.testing import assert_close

from detectron2.modeling import MViT
from detectron2.modeling.backbone.mvit import MultiScaleAttention, MultiScaleBlock
from detectron2.modeling.backbone.utils import decomposed_rel_pos


def small(**kwargs):
    arguments = {
        "img_size": 64, "embed_dim": 8, "depth": 5, "last_block_indexes": (0, 1, 3, 4),
        "adaptive_window_size": 8,
    }  # fmt: skip
    return MViT(**{**arguments, **kwargs})


@pytest.mark.parametrize("height, width", [(64, 64), (64, 96), (96, 32)])
@pytest.mark.parametrize("options", [{}, {"use_abs_pos": True}, {"residual_pooling": False}])
def test_outputs_have_the_announced_shapes(height, width, options):
    net = small(**options).eval()
    outputs = net(torch.rand(1, 3, height, width))
    assert list(outputs) == ["scale2", "scale3", "scale4", "scale5"]
    for name, shape in net.output_shape().items():
        assert outputs[name].shape == (
            1,
            shape.channels,
            height // shape.stride,
            width // shape.stride,
        )
    assert [s.channels for s in net.output_shape().values()] == [8, 16, 32, 64]
    assert [s.stride for s in net.output_shape().values()] == [4, 8, 16, 32]


def test_only_the_outputs_asked_for_are_normalised():
    net = small(out_features=["scale3", "scale5"])
    assert list(net(torch.rand(1, 3, 64, 64))) == ["scale3", "scale5"]
    assert not hasattr(net, "scale2_norm")


def test_strides_windows_and_heads_of_the_blocks():
    with torch.device("meta"):
        net = MViT()  # stages end at blocks 0, 2, 11 and 15
    blocks = [net.blocks[index] for index in (0, 1, 2, 3, 11, 12, 15)]
    attentions = [block.attn for block in blocks]
    assert [a.pool_q.stride[0] for a in attentions] == [1, 2, 1, 2, 1, 2, 1]
    assert [a.pool_k.stride[0] for a in attentions] == [4, 2, 4, 1, 2, 1, 1]
    assert [a.num_heads for a in attentions] == [1, 2, 2, 4, 4, 8, 8]
    # The first block of a stage still cuts the windows of the stage before.
    assert [a.q_window_size for a in attentions] == [56, 28, 0, 14, 0, 7, 0]
    assert [a.kv_window_size for a in attentions] == [14, 28, 0, 28, 0, 14, 0]
    assert [len(a.rel_pos_h) for a in attentions] == [111, 55, 55, 55, 27, 27, 13]
    assert [block.proj is None for block in blocks] == [True, False, True, False, True, False, True]


def test_parameter_count_of_the_small_model():
    # The paper: 34.9 million, 0.8 of them a classifier.
    with torch.device("meta"):
        net = MViT(depth=16, last_block_indexes=(0, 2, 13, 15), out_features=("scale5",))
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(34.0e6, rel=0.02)


def test_attention_pools_before_it_attends():
    torch.manual_seed(0)
    attention = MultiScaleAttention(
        8, 8, num_heads=2, stride_q=2, stride_kv=1, use_rel_pos=True, rel_pos_zero_init=False,
        input_size=(4, 4),
    )  # fmt: skip
    x = torch.randn(1, 4, 4, 8)
    q, k, v = attention.qkv(x).view(1, 4, 4, 3, 2, 4).permute(3, 0, 4, 5, 1, 2).flatten(1, 2)
    pooled = [
        norm(pool(part).flatten(2).transpose(1, 2))
        for part, pool, norm in (
            (q, attention.pool_q, attention.norm_q),
            (k, attention.pool_k, attention.norm_k),
            (v, attention.pool_v, attention.norm_v),
        )
    ]
    q, k, v = pooled  # (heads, positions, channels)
    logits = q @ k.transpose(1, 2) / 2
    logits += decomposed_rel_pos(q, attention.rel_pos_h, attention.rel_pos_w, (2, 2), (4, 4))
    out = logits.softmax(-1) @ v + q
    assert_close(attention(x), attention.proj(out.transpose(0, 1).reshape(1, 2, 2, 8)))


def test_windows_of_pooled_maps_do_not_see_each_other():
    torch.manual_seed(0)
    attention = MultiScaleAttention(8, 8, num_heads=2, window_size=4, pool_kernel=(1, 1))
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[:, 4:, 4:] += 1
    same = torch.isclose(attention(x), attention(changed)).all(dim=-1)[0]
    assert same[:4].all() and same[:, :4].all()
    assert not same[4:, 4:].any()


def test_shortcut_is_projected_and_pooled():
    block = MultiScaleBlock(4, 8, num_heads=2, stride_q=2).eval()
    for module in (block.attn.proj, block.mlp.fc2):
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.zeros_(module.bias)
    x = torch.randn(1, 6, 6, 4)
    projected = block.proj(block.norm1(x)).permute(0, 3, 1, 2)
    pooled = torch.nn.functional.max_pool2d(projected, 3, stride=2, padding=1)
    assert_close(block(x), pooled.permute(0, 2, 3, 1))


def test_relative_positions_need_a_size():
    with pytest.raises(ValueError, match="need an input_size"):
        MultiScaleAttention(8, 8, 2, use_rel_pos=True)


def test_recomputed_activations_give_the_same_gradients():
    torch.manual_seed(0)
    plain, recomputing = small(), small(use_act_checkpoint=True)
    recomputing.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 64, 64)
    for net in (plain, recomputing):
        net(x)["scale5"].square().sum().backward()
    assert_close(plain.blocks[1].attn.qkv.weight.grad, recomputing.blocks[1].attn.qkv.weight.grad)
