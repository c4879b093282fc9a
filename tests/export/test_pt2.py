"""Files of `torch.export`, without the minutes that a detector takes."""

import pytest
import torch
from torch import nn

from detectron2.export import UnsupportedModelError, _pt2, load
from detectron2.export.batched import BatchedModel
from detectron2.export.formats import FORMATS, Settings, write
from detectron2.export.info import ExportInfo
from detectron2.layers import FrozenBatchNorm2d
from detectron2.ops.nms.reference import batched_nms_reference
from detectron2.utils.env import TORCH_VERSION

needs_torch = pytest.mark.skipif(
    TORCH_VERSION < (2, 7), reason="torch.export cannot keep sizes open before torch 2.7"
)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.pixel_mean = torch.zeros(3, 1, 1)
        self.conv = nn.Conv2d(3, 2, 3, stride=2, padding=1)


class TinyBatch(BatchedModel):
    output_names = ("sem_seg",)

    def forward(self, images, image_sizes):
        return (self.model.conv(images) * image_sizes[:, :1, None, None],)


class Branches(BatchedModel):
    output_names = ("sem_seg",)

    def forward(self, images, image_sizes):
        return (images if image_sizes.sum() > 3 else images + 1,)


class SomeImages(BatchedModel):
    """Computes on those images that are higher than 32 pixels, as heads do on what was detected."""

    output_names = ("sem_seg",)

    def forward(self, images, image_sizes):
        chosen = (image_sizes[:, 0] > 32).nonzero()[:, 0]
        return (self.model.norm(self.model.conv(images[chosen])),)


def written(folder, **described):
    torch.manual_seed(0)
    batched = TinyBatch(Tiny()).eval()
    info = ExportInfo("pt2", "Tiny", ["sem_seg"], side_multiple=32, **described)
    with torch.no_grad():
        _pt2.write_pt2(batched, info, folder / "m.pt2")
    return batched, load(folder / "m.pt2")


def check(batched, exported):
    for size in ((64, 96), (33, 30)):
        images, sizes = exported.batch([torch.rand(3, *size) * 255] * 2)
        (found,) = exported.runtime(images.numpy(), sizes.numpy())
        with torch.no_grad():
            (expected,) = batched(images, sizes)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-2)


@needs_torch
def test_without_a_compiler_the_file_holds_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(_pt2, "cpp_compiler", lambda: None)
    batched, exported = written(tmp_path, classes={"thing_classes": ["a"]})
    assert exported.info.contents == "ExportedProgram" and exported.info.side_multiple == 32
    assert exported.metadata.thing_classes == ["a"]
    check(batched, exported)


@needs_torch
def test_sides_that_are_fixed_need_no_multiples(tmp_path):
    batched = TinyBatch(Tiny()).eval()
    info = ExportInfo("pt2", "Tiny", ["sem_seg"], image_size=[64, 96])
    with torch.no_grad():
        _pt2.write_pt2(batched, info, tmp_path / "m.pt2", compile=False)
    check(batched, load(tmp_path / "m.pt2"))


@needs_torch
@pytest.mark.slow
@pytest.mark.skipif(_pt2.cpp_compiler() is None, reason="AOTInductor calls a C++ compiler")
def test_with_a_compiler_the_file_is_compiled(tmp_path):
    batched, exported = written(tmp_path)
    assert exported.info.contents == "AOTInductor package"
    check(batched, exported)


class First(nn.Module):
    """The numbers of one channel, which lie elsewhere in memory if channels come last."""

    def forward(self, x):
        return x[:, 1] * 2


@needs_torch
@pytest.mark.slow
@pytest.mark.skipif(_pt2.cpp_compiler() is None, reason="AOTInductor calls a C++ compiler")
def test_compiled_convolutions_of_an_unknown_number_of_boxes_are_right(tmp_path):
    torch.manual_seed(0)
    model = Tiny()
    model.norm = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(2, 4, 2, 2), nn.ReLU(), First())
    batched = SomeImages(model).eval()
    info = ExportInfo("pt2", "Tiny", ["sem_seg"], image_size=[64, 96])
    with torch.no_grad():
        _pt2.write_pt2(batched, info, tmp_path / "m.pt2")
    exported = load(tmp_path / "m.pt2")
    assert exported.info.contents == "AOTInductor package"
    images = torch.rand(5, 3, 64, 96) * 255
    for heights in ([64, 20, 40, 33, 32], [10, 64, 8, 9, 7], [8] * 5):
        sizes = torch.tensor([[height, 96] for height in heights])
        (found,) = exported.runtime(images.numpy(), sizes.numpy())
        with torch.no_grad():
            (expected,) = batched(images, sizes)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-2)


@needs_torch
def test_the_compiler_chooses_the_layout_unless_a_convolution_takes_an_unknown_number_of_boxes():
    model = Tiny()
    model.norm = nn.Identity()
    info = ExportInfo("pt2", "Tiny", ["sem_seg"], side_multiple=32)
    program = _pt2.exported_program(TinyBatch(model).eval(), info)
    assert not _pt2.counts_reach_convolutions(program)
    program = _pt2.exported_program(SomeImages(model).eval(), info)
    assert _pt2.counts_reach_convolutions(program)


@needs_torch
def test_a_model_that_torch_export_cannot_follow_is_refused():
    info = ExportInfo("pt2", "Branches", ["sem_seg"], side_multiple=32)
    with pytest.raises(UnsupportedModelError, match="torch.export cannot follow the model: "):
        _pt2.exported_program(Branches(Tiny()), info)


@needs_torch
@pytest.mark.parametrize("layer", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_batch_norm_of_an_unknown_number_of_boxes_can_be_followed(layer):
    torch.manual_seed(0)
    model = Tiny()
    model.norm = layer(2)
    for values in (model.norm.running_mean, model.norm.running_var, model.norm.weight):
        values.data.uniform_(0.5, 2)
    batched = SomeImages(model.eval()).eval()
    info = ExportInfo("pt2", "Tiny", ["sem_seg"], image_size=[64, 96])
    graph = _pt2.exported_program(batched, info).module()
    images = torch.rand(4, 3, 64, 96)
    for heights in ([64, 33, 32, 40], [20, 30, 10, 32]):
        sizes = torch.tensor([[height, 96] for height in heights])
        torch.testing.assert_close(graph(images, sizes), batched(images, sizes))


def test_a_torch_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(_pt2, "TORCH_VERSION", (2, 6))
    info = ExportInfo("pt2", "Tiny", ["sem_seg"], side_multiple=32)
    with pytest.raises(UnsupportedModelError, match="take torch 2.7 or later; this is "):
        _pt2.exported_program(TinyBatch(Tiny()), info)


@pytest.mark.parametrize(
    "format",
    [
        "torchscript",
        "onnx",
        "openvino",
        pytest.param("pt2", marks=needs_torch),
        pytest.param("executorch", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of what ExecuTorch imports
def test_a_truncated_file_is_refused_with_a_sentence(format, tmp_path):
    spec = FORMATS[format]
    for package in spec.packages:
        pytest.importorskip(package, reason=f"{format} files are written with it")
    info = ExportInfo(format, "Tiny", ["sem_seg"], image_size=[64, 96], batch=1)
    name = f"m{spec.suffixes[0]}"
    with torch.no_grad():
        write(format, TinyBatch(Tiny()).eval(), info, tmp_path, name, Settings(compile=False))
    assert load(tmp_path / name).info.architecture == "Tiny"
    whole = (tmp_path / name).read_bytes()
    for share in (0.0, 0.3, 0.9):
        # Loaded files may be mapped into memory.
        part = tmp_path / f"{share}_{name}"
        part.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=rf"is no complete {format} file \([^\n]+\)\. Export"):
            load(part)


class Suppression(nn.Module):
    def forward(self, boxes, scores, classes):
        return _pt2._batched_nms(boxes, scores, classes, 0.4)


@needs_torch
def test_suppression_in_a_graph_keeps_what_greedy_suppression_keeps():
    torch.manual_seed(0)
    corners = torch.rand(300, 2) * 40
    boxes = torch.cat([corners, corners + torch.rand(300, 2) * 30 + 1], dim=1)
    inputs = (boxes, torch.rand(300), torch.randint(0, 3, (300,)))
    with torch.no_grad():
        found = torch.export.export(Suppression(), inputs).module()(*inputs)
    expected = batched_nms_reference(*inputs, 0.4)
    assert 20 < len(expected) < 280
    assert torch.equal(found, expected)
