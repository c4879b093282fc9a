"""Backbones that other programs trained, each file under the names that its program writes.

The networks are narrow, the names are all there: what is loaded is compared tensor by tensor.
"""

import pickle

import pytest
import torch

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import FPN, MViT, SimpleFeaturePyramid, SwinTransformer, ViT
from detectron2.modeling.backbone import BasicStem, BottleneckBlock, ResNet

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnet_fpn(depth, norm="FrozenBN", groups=1):
    """A ResNet of full depth below a pyramid; its width grows by as little as its groups allow."""
    width = 32
    stages, channels = [], width
    for i, blocks in enumerate(BLOCKS[depth]):
        out_channels = 2 * width + 32 * i
        stages.append(
            ResNet.make_stage(
                BottleneckBlock,
                blocks,
                in_channels=channels,
                out_channels=out_channels,
                bottleneck_channels=width,
                stride_per_block=[1 if i == 0 else 2] + [1] * (blocks - 1),
                num_groups=groups,
                norm=norm,
            )
        )
        channels = out_channels
    names = ["res2", "res3", "res4", "res5"]
    resnet = ResNet(BasicStem(3, width, norm), stages, out_features=names)
    return torch.nn.ModuleDict({"backbone": FPN(resnet, names, 8)})


def filled(model, prefix, names):
    """Random tensors of the shapes of `model`, by the names of the file.

    Args:
        prefix: of the backbone in the model.
        names: (name in the file, name behind the prefix).
    """
    state = model.state_dict()
    generator = torch.Generator().manual_seed(0)
    return {
        theirs: torch.randn(state[prefix + ours].shape, generator=generator).to(
            state[prefix + ours].dtype
        )
        for theirs, ours in names
    }


def assert_loaded(model, path, prefix, names, tensors):
    checkpointer = DetectionCheckpointer(model)
    checkpointer.load(path)
    state = model.state_dict()
    for theirs, ours in names:
        assert torch.equal(state[prefix + ours], tensors[theirs]), theirs
    return checkpointer.report


# --- ResNets --------------------------------------------------------------------------------

LAYERS = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}


def caffe2_names(depth, norm):
    """(blob, name) of every tensor of a ResNet of MSRA ("bn") or FAIR ("bn", "gn")."""
    yield "conv1_w", "stem.conv1.weight"
    stem_norm = "res_conv1_bn" if norm == "bn" else "conv1_gn"
    yield f"{stem_norm}_s", "stem.conv1.norm.weight"
    yield f"{stem_norm}_b", "stem.conv1.norm.bias"
    for stage, blocks in enumerate(BLOCKS[depth], start=2):
        for block in range(blocks):
            for layer, branch in LAYERS.items():
                if layer != "shortcut" or block == 0:
                    blob, ours = f"res{stage}_{block}_{branch}", f"res{stage}.{block}.{layer}"
                    yield f"{blob}_w", f"{ours}.weight"
                    yield f"{blob}_{norm}_s", f"{ours}.norm.weight"
                    yield f"{blob}_{norm}_b", f"{ours}.norm.bias"


@pytest.mark.parametrize(
    ("depth", "norm", "groups"),
    [(50, "bn", 1), (101, "bn", 1), (101, "bn", 8), (152, "bn", 8), (50, "gn", 1)],
    ids=["MSRA R-50", "MSRA R-101", "FAIR X-101", "FAIR X-152", "FAIR R-50-GN"],
)
def test_caffe2_backbones(tmp_path, depth, norm, groups):
    model = resnet_fpn(depth, {"bn": "FrozenBN", "gn": "GN"}[norm], groups)
    names = list(caffe2_names(depth, norm))
    tensors = filled(model, "backbone.bottom_up.", names)
    blobs = {name: tensor.numpy() for name, tensor in tensors.items()}
    blobs |= {f"{name}_momentum": blob for name, blob in blobs.items()}
    blobs |= {"fc1000_w": blobs["conv1_w"], "lr": blobs["conv1_w"]}
    path = tmp_path / "backbone.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    report = assert_loaded(model, str(path), "backbone.bottom_up.", names, tensors)
    # The scale of these files includes the statistics.
    assert all("fpn_" in name for name in report.missing if "running_" not in name)
    assert "fc1000.weight" in report.unused and not any("momentum" in n for n in report.unused)


def torchvision_names(depth):
    for kind in ("weight", "bias", "running_mean", "running_var"):
        yield f"bn1.{kind}", f"stem.conv1.norm.{kind}"
    yield "conv1.weight", "stem.conv1.weight"
    for stage, blocks in enumerate(BLOCKS[depth], start=1):
        for block in range(blocks):
            theirs, ours = f"layer{stage}.{block}", f"res{stage + 1}.{block}"
            layers = [(f"conv{i}", f"bn{i}", f"conv{i}") for i in (1, 2, 3)]
            if block == 0:
                layers.append(("downsample.0", "downsample.1", "shortcut"))
            for conv, bn, layer in layers:
                yield f"{theirs}.{conv}.weight", f"{ours}.{layer}.weight"
                for kind in ("weight", "bias", "running_mean", "running_var"):
                    yield f"{theirs}.{bn}.{kind}", f"{ours}.{layer}.norm.{kind}"


def test_torchvision_backbone(tmp_path):
    model = resnet_fpn(50)
    names = list(torchvision_names(50))
    tensors = filled(model, "backbone.bottom_up.", names)
    path = tmp_path / "resnet50.pth"
    torch.save({**tensors, "fc.weight": torch.ones(4, 32), "fc.bias": torch.ones(4)}, path)
    report = assert_loaded(model, str(path), "backbone.bottom_up.", names, tensors)
    assert all("fpn_" in name for name in report.missing)
    assert sorted(report.unused) == ["fc.bias", "fc.weight"]


# --- transformers ---------------------------------------------------------------------------


def leaves(*modules):
    return [f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")]


def same(names):
    return [(name, name) for name in names]


def test_mae_backbone(tmp_path):
    net = ViT(
        img_size=64, embed_dim=8, depth=3, num_heads=2, window_size=2,
        window_block_indexes=(0,), use_rel_pos=True,
    )  # fmt: skip
    model = torch.nn.ModuleDict(
        {"backbone": SimpleFeaturePyramid(net, "last_feat", 12, (2.0, 1.0), norm="LN")}
    )
    names = ["pos_embed", *leaves("patch_embed.proj")]
    for i in range(3):
        parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        names += leaves(*(f"blocks.{i}.{part}" for part in parts))
    tensors = filled(model, "backbone.net.", same(names))
    # The encoder of the pre-training has a class token and a last norm; the decoder too has blocks.
    more = {
        "cls_token": torch.ones(1, 1, 8),
        "norm.weight": torch.ones(8),
        "norm.bias": torch.ones(8),
        "mask_token": torch.ones(1, 1, 4),
        "decoder_blocks.0.norm1.weight": torch.ones(4),
    }
    torch.save({"model": {**tensors, **more}}, tmp_path / "mae.pth")
    path = f"{tmp_path}/mae.pth?matching_heuristics=True"
    report = assert_loaded(model, path, "backbone.net.", same(names), tensors)
    assert all("rel_pos" in name or "simfp" in name for name in report.missing)
    assert {"cls_token", "mask_token", "decoder_blocks.0.norm1.weight"} <= set(report.unused)


def test_swin_backbone(tmp_path):
    swin = SwinTransformer(embed_dim=8, depths=(1, 2), num_heads=(1, 2), out_indices=(0, 1))
    model = torch.nn.ModuleDict({"backbone": FPN(swin, ["p0", "p1"], 8)})
    names = leaves("patch_embed.proj", "patch_embed.norm")
    names += [*leaves("layers.0.downsample.norm"), "layers.0.downsample.reduction.weight"]
    for layer, depth in enumerate((1, 2)):
        for i in range(depth):
            block = f"layers.{layer}.blocks.{i}"
            parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
            names += leaves(*(f"{block}.{part}" for part in parts))
            names += [f"{block}.attn.relative_position_{end}" for end in ("bias_table", "index")]
    tensors = filled(model, "backbone.bottom_up.", same(names))
    more = {
        **{name: torch.ones(16) for name in leaves("norm")},
        **{name: torch.ones(16) for name in leaves("head")},
        "layers.1.blocks.1.attn_mask": torch.ones(4, 49, 49),
    }
    torch.save({"model": {**tensors, **more}}, tmp_path / "swin.pth")
    path = f"{tmp_path}/swin.pth?matching_heuristics=True"
    report = assert_loaded(model, path, "backbone.bottom_up.", same(names), tensors)
    # The norms of the outputs are new in a detector.
    assert all(".norm0." in n or ".norm1." in n or "fpn_" in n for n in report.missing)
    assert set(report.unused) == set(more)


def test_mvit_backbone(tmp_path):
    mvit = MViT(
        img_size=64, embed_dim=8, depth=3, last_block_indexes=(0, 1, 2), adaptive_window_size=16,
        out_features=("scale2", "scale3", "scale4"),
    )  # fmt: skip
    model = torch.nn.ModuleDict({"backbone": FPN(mvit, ["scale2", "scale3", "scale4"], 8)})
    names = leaves("patch_embed.proj", "blocks.1.proj", "blocks.2.proj")
    for i in range(3):
        parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        norms = ("attn.norm_q", "attn.norm_k", "attn.norm_v")
        names += leaves(*(f"blocks.{i}.{part}" for part in (*parts, *norms)))
        names += [f"blocks.{i}.attn.pool_{part}.weight" for part in "qkv"]
        names += [f"blocks.{i}.attn.rel_pos_{axis}" for axis in "hw"]
    tensors = filled(model, "backbone.bottom_up.", same(names))
    more = {name: torch.ones(32) for name in leaves("norm", "head.projection")}
    path = tmp_path / "mvit.pyth"
    torch.save({"model_state": {**tensors, **more}, "epoch": 300}, path)
    report = assert_loaded(model, str(path), "backbone.bottom_up.", same(names), tensors)
    assert all("scale" in name or "fpn_" in name for name in report.missing)
    assert set(report.unused) == set(more)
