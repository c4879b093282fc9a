from collections import OrderedDict

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from detectron2.layers import (
    CycleBatchNormList,
    FrozenBatchNorm2d,
    NaiveSyncBatchNorm,
    get_norm,
)
from detectron2.layers.batch_norm import LayerNorm


def randomise(module):
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + (0.5 if "var" in name else 0))
    return module


class TestFrozenBatchNorm:
    @pytest.mark.parametrize("needs_grad", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_it_is_batch_norm_in_evaluation(self, needs_grad, dtype, device):
        frozen = randomise(FrozenBatchNorm2d(6)).to(device).train()
        x = torch.randn(2, 6, 5, 5, device=device, dtype=dtype, requires_grad=needs_grad)
        y = frozen(x)
        mean, var = frozen.running_mean, frozen.running_var
        expected = F.batch_norm(x.float(), mean, var, frozen.weight, frozen.bias, eps=frozen.eps)
        assert y.dtype == dtype
        tolerance = {"rtol": 2e-2, "atol": 3e-2} if dtype == torch.bfloat16 else {}
        assert_close(y.float(), expected, **tolerance)

    def test_the_gradient_of_the_input_is_the_scale(self):
        frozen = randomise(FrozenBatchNorm2d(3))
        x = torch.randn(2, 3, 4, 4, requires_grad=True)
        frozen(x).sum().backward()
        scale = frozen.weight / (frozen.running_var + frozen.eps).sqrt()
        assert_close(x.grad, scale.view(1, 3, 1, 1).expand_as(x))

    def test_nothing_trains_and_nothing_is_updated(self):
        frozen = FrozenBatchNorm2d(3).train()
        before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
        frozen(torch.randn(4, 3, 2, 2) * 9)
        assert list(frozen.parameters()) == []
        assert sorted(before) == ["bias", "running_mean", "running_var", "weight"]
        for name, tensor in frozen.state_dict().items():
            assert torch.equal(tensor, before[name])

    def test_a_fresh_one_is_the_identity(self):
        x = torch.randn(1, 3, 2, 2)
        assert_close(FrozenBatchNorm2d(3)(x), x)

    @pytest.mark.parametrize("version", [None, 1])
    def test_checkpoints_before_version_2_have_no_statistics(self, version):
        frozen = randomise(FrozenBatchNorm2d(3))
        old = OrderedDict(weight=torch.full((3,), 2.0), bias=torch.ones(3))
        if version is not None:
            old._metadata = {"": {"version": version}}
        result = frozen.load_state_dict(old)
        assert not result.missing_keys
        x = torch.randn(1, 3, 2, 2)
        assert_close(frozen(x), 2 * x + 1, rtol=1e-4, atol=1e-4)

    def test_a_part_of_a_checkpoint_leaves_other_layers_alone(self):
        frozen = randomise(FrozenBatchNorm2d(3))
        before = frozen.running_mean.clone()
        frozen.load_state_dict({"elsewhere.weight": torch.ones(3)}, strict=False)
        assert torch.equal(frozen.running_mean, before)

    def test_it_shows_channels_and_eps(self):
        assert repr(FrozenBatchNorm2d(6)) == "FrozenBatchNorm2d(num_features=6, eps=1e-05)"

    def test_newer_checkpoints_must_have_statistics(self):
        state = FrozenBatchNorm2d(3).state_dict()
        del state["running_mean"]
        assert FrozenBatchNorm2d(3).load_state_dict(state, strict=False).missing_keys == [
            "running_mean"
        ]

    def test_convention_loading_can_be_replaced_on_the_class(self, monkeypatch):
        def load_nothing(self, *args):
            self.loaded = True

        monkeypatch.setattr(FrozenBatchNorm2d, "_load_from_state_dict", load_nothing)
        frozen = FrozenBatchNorm2d(3)
        frozen.load_state_dict({})
        assert frozen.loaded

    @pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm])
    def test_conversion_reaches_nested_modules_and_keeps_the_function(self, norm):
        net = nn.Sequential(nn.Conv2d(3, 4, 1), norm(4), nn.Sequential(norm(4, eps=0.1)))
        randomise(net).eval()
        x = torch.randn(2, 3, 4, 4)
        expected = F.batch_norm(net[0](x), *list(net[1].buffers())[:2], *net[1].parameters())
        inner = net[2][0]
        expected = F.batch_norm(
            expected, *list(inner.buffers())[:2], *inner.parameters(), eps=inner.eps
        )
        frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(net)
        assert frozen is net
        assert [type(m) for m in (net[1], net[2][0])] == [FrozenBatchNorm2d] * 2
        assert_close(frozen(x), expected)
        thawed = FrozenBatchNorm2d.convert_frozenbatchnorm2d_to_batchnorm2d(frozen)
        assert [type(m) for m in (thawed[1], thawed[2][0])] == [nn.BatchNorm2d] * 2
        assert thawed[1].weight.requires_grad
        assert_close(thawed.eval()(x), expected)

    def test_conversion_keeps_shared_norms_shared(self):
        norm = nn.BatchNorm2d(3)
        net = nn.ModuleDict({"a": norm, "b": norm, "c": nn.Sequential(norm)})
        FrozenBatchNorm2d.convert_frozen_batchnorm(net)
        assert isinstance(net["a"], FrozenBatchNorm2d)
        assert net["a"] is net["b"] is net["c"][0]

    def test_conversion_of_a_norm_itself_returns_another_module_with_its_dtype(self):
        norm = randomise(nn.BatchNorm2d(4, affine=False)).double().eval()
        frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
        assert isinstance(frozen, FrozenBatchNorm2d) and not frozen.training
        x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
        assert_close(frozen(x), norm(x))


class TestGetNorm:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("BN", nn.BatchNorm2d),
            ("SyncBN", nn.SyncBatchNorm),
            ("nnSyncBN", nn.SyncBatchNorm),
            ("FrozenBN", FrozenBatchNorm2d),
            ("GN", nn.GroupNorm),
            ("naiveSyncBN", NaiveSyncBatchNorm),
            ("naiveSyncBN_N", NaiveSyncBatchNorm),
            ("LN", LayerNorm),
        ],
    )
    def test_names_build_their_norm(self, name, kind):
        assert type(get_norm(name, 64)) is kind

    @pytest.mark.parametrize("nothing", ["", None])
    def test_no_name_is_no_norm(self, nothing):
        assert get_norm(nothing, 64) is None

    def test_a_callable_gets_the_channels(self):
        assert get_norm(nn.InstanceNorm2d, 7).num_features == 7

    def test_an_unknown_name_lists_the_known_ones(self):
        with pytest.raises(KeyError, match="'Batch'; use one of .*'FrozenBN'"):
            get_norm("Batch", 4)


def test_layer_norm_normalises_channels_of_each_position():
    norm = LayerNorm(8)
    x = torch.randn(2, 8, 3, 4, requires_grad=True)
    y = norm(x)
    assert y.shape == x.shape
    assert_close(y.mean(1), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    assert_close(y.var(1, unbiased=False), torch.ones(2, 3, 4), atol=1e-3, rtol=0)
    assert sorted(norm.state_dict()) == ["bias", "weight"]


class TestCycleBatchNormList:
    def test_calls_take_turns_and_share_the_affine(self):
        norms = CycleBatchNormList(2, num_features=3)
        with torch.no_grad():
            norms.weight.fill_(2)
            norms.bias.fill_(1)
        first, second = torch.randn(4, 3, 5, 5) + 10, torch.randn(4, 3, 5, 5) - 10
        for x in (first, second):
            assert_close(norms(x), F.batch_norm(x, None, None, training=True) * 2 + 1)
        assert norms[0].running_mean.mean() > 0.5 > -0.5 > norms[1].running_mean.mean()
        norms.eval()
        assert_close(norms(first), norms[0](first) * 2 + 1)

    def test_convention_names_of_the_state(self):
        names = set(CycleBatchNormList(2, num_features=3).state_dict())
        assert {"weight", "bias", "0.running_mean", "1.running_var"} <= names
        assert not any(name.endswith(".weight") for name in names)

    def test_without_affine_there_is_no_parameter(self):
        norms = CycleBatchNormList(2, num_features=3, affine=False)
        assert list(norms.parameters()) == []
        assert_close(norms(torch.ones(2, 3, 2, 2)), torch.zeros(2, 3, 2, 2))

    def test_the_number_of_channels_is_required(self):
        with pytest.raises(TypeError, match="num_features"):
            CycleBatchNormList(2)


class TestNaiveSyncBatchNorm:
    def test_in_one_process_it_is_batch_norm(self):
        naive, plain = NaiveSyncBatchNorm(3), nn.BatchNorm2d(3)
        x = torch.randn(4, 3, 5, 5)
        assert_close(naive(x), plain(x))
        assert_close(naive.running_var, plain.running_var)

    def test_an_unknown_mode_is_refused(self):
        with pytest.raises(ValueError, match="stats_mode is 'M'; use '' or 'N'"):
            NaiveSyncBatchNorm(3, stats_mode="M")

    def test_two_processes_agree_with_one_that_sees_everything(self, tmp_path):
        mp.spawn(check_in_two_processes, args=(str(tmp_path / "store"),), nprocs=2)


def check_in_two_processes(rank, store):
    """Runs in each of two processes; raises if anything is off."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    # Equal batches, weighted equally; unequal batches, weighted by size; an empty one.
    for mode, sizes in (("", (3, 3)), ("N", (3, 5)), ("N", (4, 0))):
        torch.manual_seed(0)
        everything = torch.randn(sum(sizes), 4, 6, 6, requires_grad=True)
        weight_of_loss = torch.randn(sum(sizes), 4, 6, 6)
        mine = slice(0, sizes[0]) if rank == 0 else slice(sizes[0], None)
        plain, naive = nn.BatchNorm2d(4), NaiveSyncBatchNorm(4, stats_mode=mode)
        expected = plain(everything)
        (expected * weight_of_loss).sum().backward()
        x = everything.detach()[mine].requires_grad_()
        y = naive(x)
        (y * weight_of_loss[mine]).sum().backward()
        assert_close(y, expected[mine], rtol=1e-4, atol=1e-4)
        assert_close(x.grad, everything.grad[mine], rtol=1e-4, atol=1e-4)
        assert_close(naive.running_mean, plain.running_mean, rtol=1e-4, atol=1e-4)
        dist.all_reduce(naive.weight.grad)
        assert_close(naive.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="empty batch"):
        NaiveSyncBatchNorm(4)(torch.zeros(0, 4, 2, 2))
    naive = NaiveSyncBatchNorm(4, stats_mode="N")
    naive(torch.zeros(0, 4, 2, 2))  # no image anywhere: statistics stay
    assert naive.running_mean.tolist() == [0.0] * 4 and naive.running_var.tolist() == [1.0] * 4
    dist.destroy_process_group()


def test_quirk_a_converted_norm_keeps_the_counter_of_the_one_it_replaces():
    # The peer's checkpoints of frozen stages that were built as BatchNorm contain the entry.
    norm = nn.BatchNorm2d(3)
    norm.num_batches_tracked.fill_(7)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
    assert frozen.state_dict()["num_batches_tracked"].item() == 7
    thawed = FrozenBatchNorm2d.convert_frozenbatchnorm2d_to_batchnorm2d(frozen)
    assert thawed.num_batches_tracked.item() == 7
    assert "num_batches_tracked" not in FrozenBatchNorm2d(3).state_dict()
