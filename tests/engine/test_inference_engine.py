"""Models made fast for inference compute what they computed before."""

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectron2.engine.inference import (
    convolutions,
    optimize_for_inference,
    prepared,
    undo_speed_up,
)
from detectron2.engine.inference.convolutions import FoldedConv, FusedConv2d
from detectron2.layers import Conv2d, FrozenBatchNorm2d, get_norm
from detectron2.layers.batch_norm import LayerNorm
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.ops import dispatch
from detectron2.structures import Boxes, Instances, RotatedBoxes
from detectron2.utils.events import EventStorage

sys.path.insert(0, str(Path(__file__).parents[1] / "modeling"))
from tiny_models import ARCHITECTURES, images

NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm)


@pytest.fixture(autouse=True)
def winograd_in_narrow_models_too(monkeypatch):
    monkeypatch.setattr(convolutions, "_WINOGRAD_CHANNELS", 8)
    monkeypatch.setattr(convolutions, "_WINOGRAD_CELLS", 16)


def build(name):
    """A model whose normalisations have statistics that matter."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name].build(0.0).eval()
    for module in model.modules():
        if isinstance(module, LayerNorm):
            module.eps = 0.1  # four channels are nearly alike at times: rounding would grow
        if isinstance(module, NORMS):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            with torch.no_grad():
                if module.weight is not None:
                    module.weight.uniform_(0.8, 1.2)
                    module.bias.uniform_(-0.1, 0.1)
    return model


def infer(model, batch):
    with torch.no_grad():
        return [tensors(result) for result in model(batch)]


def tensors(value):
    """The tensors inside of a result, by name."""
    if isinstance(value, Instances):
        value = value.get_fields()
    if isinstance(value, dict):
        return {k: tensors(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [tensors(v) for v in value]
    if isinstance(value, (Boxes, RotatedBoxes)):
        return value.tensor
    # Rounding turns single pixels of a mask over, so areas are compared.
    is_mask = isinstance(value, torch.Tensor) and value.dtype == torch.bool
    return value.float().mean((1, 2)) if is_mask else value


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_gives_the_same_output(name):
    model, batch = build(name), images(ARCHITECTURES[name])
    fast = optimize_for_inference(model)
    assert any(isinstance(module, FusedConv2d) for module in fast.modules())
    for actual, expected in zip(infer(fast, batch), infer(model, batch), strict=True):
        assert_close(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["FPN", "C4", "RetinaNet", "Panoptic FPN"])
def test_training_is_as_before(name):
    model, batch = build(name).train(), images(ARCHITECTURES[name])
    fast = optimize_for_inference(model).train()
    losses = []
    for candidate in (model, fast):
        torch.manual_seed(1)
        with EventStorage(0):
            loss = sum(candidate(batch).values())
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == losses[1]
    gradients = zip(model.named_parameters(), fast.named_parameters(), strict=True)
    assert all(torch.equal(p.grad, q.grad) for (_, p), (_, q) in gradients if p.grad is not None)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_runs_in_bfloat16(name):
    model, batch = build(name), images(ARCHITECTURES[name])
    fast = optimize_for_inference(model, precision="bf16")
    assert len(infer(fast, batch)) == len(batch)
    picture = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps, expected = fast.backbone(picture), model.backbone(picture)
    # Of the finest map: the coarsest, of six cells, magnify rounding in their normalisations.
    finest = max(expected, key=lambda key: expected[key].shape[-1])
    error = (maps[finest] - expected[finest]).norm() / expected[finest].norm()
    assert 0 < error < 0.05


@pytest.mark.parametrize("name", ["FPN", "keypoints"])
def test_bfloat16_is_close_and_boxes_stay_float32(name):
    model, batch = build(name), images(ARCHITECTURES[name])
    fast = optimize_for_inference(model, precision="bf16")
    with torch.no_grad():
        maps, expected = (m.backbone(m.preprocess_image(batch).tensor) for m in (fast, model))
    assert maps["p3"].dtype == torch.bfloat16
    error = (maps["p3"] - expected["p3"]).abs().max() / expected["p3"].abs().max()
    assert 0 < error < 0.05
    found = infer(fast, batch)[0]["instances"]
    assert found["pred_boxes"].dtype == found["scores"].dtype == torch.float32


# Channels in and out, kernel, stride; and (images, height, width) of the input. Winograd's
# algorithm is for maps and layers that are not small.
ALGORITHMS = [
    ((64, 64, 1, 1), (1, 24, 32), "fused"),
    ((64, 64, 1, 1), (1, 48, 64), "fused"),
    ((32, 32, 3, 1), (1, 24, 32), "fused"),
    ((64, 64, 3, 1), (100, 14, 14), "fused"),
    ((64, 128, 1, 2), (1, 48, 64), "fused"),
    ((256, 256, 3, 1), (1, 6, 8), "fused"),
    ((256, 256, 3, 1), (1, 12, 16), "winograd"),
    ((96, 96, 3, 1), (4, 6, 8), "winograd"),
    ((64, 256, 3, 1), (1, 12, 16), "fused"),
    ((256, 256, 3, 2), (1, 48, 64), "fused"),
]


@pytest.mark.parametrize(("layer", "shape", "expected"), ALGORITHMS)
def test_convention_the_algorithm_follows_from_shapes_alone(layer, shape, expected, monkeypatch):
    monkeypatch.undo()
    channels, outputs, kernel, stride = layer
    conv = nn.Conv2d(channels, outputs, kernel, stride, padding=kernel // 2)
    fast = optimize_for_inference(conv)
    x = torch.randn(shape[0], channels, *shape[1:])
    chosen, choose = [], FoldedConv.algorithm

    def recording(folded, cells):
        chosen.append(choose(folded, cells))
        return chosen[-1]

    monkeypatch.setattr(FoldedConv, "algorithm", recording)
    with torch.no_grad():
        assert_close(fast(x), conv(x), rtol=1e-3, atol=1e-3)
    assert chosen == [expected]


def test_unknown_precision_is_named():
    with pytest.raises(ValueError, match="'fp8'"):
        optimize_for_inference(build("FPN"), precision="fp8")


def test_convention_the_original_is_untouched_and_names_of_weights_stay():
    model = build("FPN")
    before = copy.deepcopy(model)
    fast = optimize_for_inference(model)
    infer(fast, images(ARCHITECTURES["FPN"]))
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    saved, expected = fast.state_dict(), before.state_dict()
    assert list(saved) == list(expected)
    assert all(torch.equal(saved[k], expected[k]) for k in expected)


def test_convention_new_weights_take_effect():
    batch = images(ARCHITECTURES["FPN"])
    fast = optimize_for_inference(build("FPN"))
    infer(fast, batch)
    torch.manual_seed(5)
    other = ARCHITECTURES["FPN"].build(0.0).eval()
    fast.load_state_dict(other.state_dict())
    assert_close(infer(fast, batch), infer(other, batch), rtol=1e-3, atol=1e-3)


def test_prepared_weights_are_handed_out_when_the_gpu_has_them(monkeypatch):
    waited = []
    monkeypatch.setattr(prepared, "_wait_for_stream", waited.append)
    layer = optimize_for_inference(Conv2d(2, 2, 3))
    with torch.no_grad():
        for _ in range(2):
            layer(torch.zeros(1, 2, 5, 5))
        layer.weight.mul_(2)
        layer(torch.zeros(1, 2, 5, 5))
    assert waited == [layer, layer]


def test_convention_attributes_stay_live():
    fast = optimize_for_inference(build("FPN"))
    fast.roi_heads.box_predictor.test_score_thresh = 1.1
    assert all(
        len(r["instances"]["scores"]) == 0 for r in infer(fast, images(ARCHITECTURES["FPN"]))
    )


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_work(again):
    batch = images(ARCHITECTURES["FPN"])
    fast = optimize_for_inference(build("FPN"))
    expected = infer(fast, batch)
    assert_close(infer(again(fast), batch), expected, rtol=0, atol=0)


def test_undo_gives_the_classes_back():
    model = build("FPN")
    fast = optimize_for_inference(model)
    infer(fast, images(ARCHITECTURES["FPN"]))
    assert [type(m) for m in undo_speed_up(fast).modules()] == [type(m) for m in model.modules()]
    assert not any("_prepared" in module.__dict__ for module in fast.modules())


def test_hooks_of_inner_layers_are_called():
    fast = optimize_for_inference(build("FPN"))
    seen = []
    conv = fast.backbone.bottom_up.res2[0].conv2
    handle = conv.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    expected = infer(fast, images(ARCHITECTURES["FPN"]))
    assert len(seen) == 1
    handle.remove()
    assert_close(infer(fast, images(ARCHITECTURES["FPN"])), expected, rtol=1e-3, atol=1e-3)


def stage_of_blocks(count=3):
    """A stage of a ResNet whose first block has no shortcut convolution, and its fast form."""
    torch.manual_seed(0)
    blocks = [BottleneckBlock(16, 16, bottleneck_channels=8) for _ in range(count)]
    stage = nn.Sequential(*blocks).eval()
    return stage, optimize_for_inference(stage)


def test_stages_write_over_what_only_they_read():
    stage, fast = stage_of_blocks()
    x = torch.randn(2, 16, 9, 11).contiguous(memory_format=torch.channels_last)
    kept = x.clone()
    places = []
    with torch.no_grad():
        assert_close(fast(x), stage(x), rtol=1e-4, atol=1e-5)
        assert torch.equal(x, kept)  # the caller's
        run = FusedConv2d.run
        with mock.patch.object(FusedConv2d, "run", autospec=True) as spy:
            spy.side_effect = lambda *args, **kwargs: (
                places.append((run(*args, **kwargs), kwargs.get("add"))) or places[-1][0]
            )
            fast(x)
    sums = [(out.data_ptr(), add.data_ptr()) for out, add in places if add is not None]
    assert [out == add for out, add in sums] == [False, True, True]


@pytest.mark.parametrize("listens", ["after", "before"])
def test_what_hooks_of_blocks_saw_is_not_written_over(listens):
    stage, fast = stage_of_blocks()
    seen = {stage: [], fast: []}
    for blocks, maps in seen.items():
        if listens == "after":
            blocks[0].register_forward_hook(lambda m, i, output, maps=maps: maps.append(output))
        else:
            blocks[1].register_forward_pre_hook(lambda m, inputs, maps=maps: maps.append(inputs[0]))
    x = torch.randn(2, 16, 9, 11)
    with torch.no_grad():
        assert_close(fast(x), stage(x), rtol=1e-4, atol=1e-5)
    assert_close(seen[fast], seen[stage], rtol=1e-4, atol=1e-5)


def test_blocks_on_their_own_leave_their_input_alone():
    _, fast = stage_of_blocks()
    x = torch.randn(2, 16, 9, 11).contiguous(memory_format=torch.channels_last)
    kept = x.clone()
    with torch.no_grad():
        for block in fast:
            block(x)
    assert torch.equal(x, kept)


needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN, which packs"
)


class TestFusedConv2d:
    def make(self, norm="BN", activation=None, **kwargs):
        torch.manual_seed(0)
        conv = Conv2d(
            6, 12, 3, bias=norm == "", norm=get_norm(norm, 12), activation=activation, **kwargs
        ).eval()
        if norm in ("BN", "FrozenBN"):
            conv.norm.running_mean.uniform_(-1, 1)
            conv.norm.running_var.uniform_(0.5, 2)
        return conv

    @pytest.mark.parametrize("norm", ["", "BN", "FrozenBN", "LN"])
    @pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.Tanh()], ids=str)
    @pytest.mark.parametrize(
        "window",
        [{}, {"padding": 1}, {"stride": 2}, {"dilation": 2}, {"groups": 3, "padding": (0, 2)}],
        ids=str,
    )
    def test_equals_its_parts(self, norm, activation, window):
        conv = self.make(norm, activation, **window)
        fast = optimize_for_inference(conv)
        x = torch.randn(2, 6, 9, 11)
        with torch.no_grad():
            assert type(fast) is FusedConv2d
            assert_close(fast(x), conv(x), rtol=1e-4, atol=1e-5)
            assert fast(x[:0]).shape == conv(x[:0]).shape

    @pytest.mark.parametrize("relu", [False, True])
    @pytest.mark.parametrize("window", [{}, {"padding": 1}], ids=str)
    def test_adds_before_it_clips(self, relu, window):
        conv = self.make(**window)
        x = torch.randn(2, 6, 9, 11)
        with torch.no_grad():
            expected = conv(x)
            other = torch.randn_like(expected)
            actual = optimize_for_inference(conv).run(x, relu=relu, add=other)
        expected += other
        assert_close(actual, expected.relu() if relu else expected, rtol=1e-4, atol=1e-5)

    @needs_onednn
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize("images", [1, 3])
    def test_weights_packed_for_a_small_map_give_the_same_bits(self, precision, images):
        fast = optimize_for_inference(self.make(stride=2), precision=precision)
        x = torch.randn(images, 6, 9, 11)
        with torch.no_grad():
            first = fast(x)
            folded = fast.prepared()
            if not folded.runs_in_onednn:
                pytest.skip("oneDNN has no bfloat16 on this processor")
            assert [weight for _, weight in folded.packed] == [None]  # it may be the only one
            assert torch.equal(fast(x), first)
            assert torch.equal(fast(x), first)
            ((_, packed),) = folded.packed
            assert packed.is_mkldnn
            fast.weight.mul_(2)
            assert not torch.equal(fast(x), first)

    @needs_onednn
    def test_large_weights_are_packed_for_two_shapes(self):
        fast = optimize_for_inference(Conv2d(1024, 2048, 1))
        with torch.no_grad():
            for size in [(1, 2), (2, 1), (2, 2)] * 2:
                fast(torch.randn(1, 1024, *size))
        assert [tuple(shape[2:]) for shape, _ in fast.prepared().packed] == [(2, 2), (2, 1)]

    @needs_onednn
    def test_weights_are_packed_for_the_shapes_seen_last(self):
        fast = optimize_for_inference(self.make(padding=1))
        sizes = [(8 + more, 9) for more in range(7)]
        with torch.no_grad():
            for size in [*sizes, *sizes[1:]]:
                fast(torch.randn(1, 6, *size))
        packed = fast.prepared().packed
        assert [tuple(shape[2:]) for shape, _ in packed] == sizes[:0:-1]
        assert all(weight is not None for _, weight in packed)
        with torch.no_grad():
            fast(torch.randn(1, 6, 40, 40))  # has enough cells
        assert fast.prepared().packed is packed

    @pytest.mark.parametrize("kind", ["reflect", "same"])
    def test_other_paddings_stay_as_they_are(self, kind):
        options = {"padding": "same"} if kind == "same" else {"padding": 1, "padding_mode": kind}
        assert type(optimize_for_inference(Conv2d(3, 4, 3, **options))) is Conv2d

    def test_written_weights_are_noticed(self):
        conv = optimize_for_inference(self.make())
        x = torch.randn(1, 6, 5, 5)
        with torch.no_grad():
            before = conv(x)
            conv.norm.bias += 1
            assert_close(conv(x), before + 1)

    def test_gradients_flow_outside_of_no_grad(self):
        conv = optimize_for_inference(self.make())
        conv(torch.randn(1, 6, 5, 5)).sum().backward()
        assert conv.weight.grad is not None

    def test_plain_operations_where_they_are_asked_for(self):
        conv = optimize_for_inference(self.make(padding=1))
        x = torch.randn(1, 6, 5, 5)
        with torch.no_grad(), dispatch.use_implementation("reference"):
            conv(x)
        assert conv._prepared is None


def test_weights_that_lie_where_others_did_before_take_effect():
    conv = optimize_for_inference(Conv2d(2, 2, 1))
    x = torch.ones(1, 2, 4, 4)
    with torch.no_grad():
        conv(x)
        known = conv._prepared[2]
        # As long as these are held, PyTorch gives the address to no other weight.
        assert {storage.data_ptr() for storage in known} == {
            parameter.data_ptr() for parameter in conv.parameters()
        }
        for number in range(60):
            for value in (number + 1.0, number + 2.0):
                state = {name: torch.full_like(v, value) for name, v in conv.state_dict().items()}
                conv.load_state_dict(state, assign=True)
            assert_close(conv(x), torch.full((1, 2, 4, 4), 3 * (number + 2.0)))


def test_blocks_whose_forward_is_replaced_run_what_replaced_it():
    _, fast = stage_of_blocks()
    seen = []
    for module in (fast[1], fast[2].conv1):
        run = module.forward
        module.forward = lambda x, run=run: seen.append(x.shape) or run(x)
    with torch.no_grad():
        fast(torch.randn(1, 16, 5, 5))
    assert len(seen) == 2


def test_slices_of_a_fast_stage_run_and_become_plain():
    stage, fast = stage_of_blocks()
    x = torch.randn(1, 16, 5, 5)
    first = copy.deepcopy(fast[:2])
    with torch.no_grad():
        assert_close(first(x), stage[:2](x), rtol=1e-4, atol=1e-5)
    assert type(undo_speed_up(first)) is nn.Sequential


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_scripts_as_the_plain_layer():
    conv = optimize_for_inference(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 2)))
    x = torch.randn(1, 3, 7, 7)
    scripted = torch.jit.script(conv)
    with torch.no_grad():
        assert_close(scripted(x), conv(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "times", [pytest.param(3, id="3"), pytest.param(200, id="200", marks=pytest.mark.slow)]
)
def test_convention_threads_may_share_a_fast_model(times):
    model = optimize_for_inference(build("FPN"))
    batches = [images(ARCHITECTURES["FPN"]) for _ in range(8)]
    for number, batch in enumerate(batches):
        for one in batch:
            one["image"] = one["image"].roll(number * 7, dims=2)
    expected = [infer(model, batch) for batch in batches]

    def work(number):
        return [infer(model, batches[number]) for _ in range(times)]

    with ThreadPoolExecutor(8) as threads:
        for alone, together in zip(expected, threads.map(work, range(8)), strict=True):
            for result in together:
                assert_close(result, alone, rtol=1e-5, atol=1e-5)
