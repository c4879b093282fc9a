import copy
import pickle

import pytest
import torch
from torch.testing import assert_close

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import _grid_cache, build_anchor_generator
from detectron2.modeling.anchor_generator import (
    BufferList,
    DefaultAnchorGenerator,
    RotatedAnchorGenerator,
)
from detectron2.utils.env import TORCH_VERSION


def feature(height, width):
    return torch.zeros(1, 1, height, width)


def simple(**kwargs):
    arguments = {"sizes": [[32.0]], "aspect_ratios": [[1.0]], "strides": [4], "offset": 0.0}
    return DefaultAnchorGenerator(**{**arguments, **kwargs})


def test_anchors_run_over_ratios_then_sizes_then_cells_then_rows():
    generator = simple(sizes=[[32.0, 64.0]], aspect_ratios=[[0.25, 1, 4]])
    (anchors,) = generator([feature(1, 2)])
    expected = [
        [-32, -8, 32, 8],
        [-16, -16, 16, 16],
        [-8, -32, 8, 32],
        [-64, -16, 64, 16],
        [-32, -32, 32, 32],
        [-16, -64, 16, 64],
    ]
    expected = torch.tensor(expected, dtype=torch.float32)
    shift = torch.tensor([4.0, 0.0, 4.0, 0.0])
    assert_close(anchors.tensor, torch.cat([expected, expected + shift]))


def test_offset_is_in_strides():
    (anchors,) = simple(offset=0.5)([feature(2, 1)])
    assert_close(anchors.tensor, torch.tensor([[-14.0, -14, 18, 18], [-14, -10, 18, 22]]))


def test_rotated_anchors_run_over_angles_first():
    generator = RotatedAnchorGenerator(
        sizes=[[32.0]], aspect_ratios=[[0.25, 1]], strides=[4], angles=[[0, 45]], offset=0.5
    )
    (anchors,) = generator([feature(1, 1)])
    expected = [[2, 2, 64, 16, 0], [2, 2, 64, 16, 45], [2, 2, 32, 32, 0], [2, 2, 32, 32, 45]]
    assert_close(anchors.tensor, torch.tensor(expected, dtype=torch.float32))
    assert (generator.num_anchors, generator.box_dim) == ([4], 5)


@pytest.mark.parametrize(
    "sizes, counts",
    [([32.0, 64.0], [2, 2]), ([[32.0, 64.0]], [2, 2]), ([[32.0], [64.0, 128.0]], [1, 2])],
)
def test_sizes_are_for_all_levels_or_for_each(sizes, counts):
    generator = simple(sizes=sizes, strides=[4, 8])
    assert generator.num_anchors == generator.num_cell_anchors == counts
    assert [len(a) for a in generator([feature(3, 2), feature(2, 1)])] == [
        counts[0] * 6,
        counts[1] * 2,
    ]


def test_convention_anchors_are_not_in_the_state_dict():
    generator = simple()
    assert generator.state_dict() == {}
    assert len(generator.cell_anchors) == 1
    assert isinstance(generator.cell_anchors, BufferList)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"sizes": [[1.0]] * 3}, "3 lists for 1 feature maps"),
        ({"sizes": []}, "sizes is empty"),
        ({"offset": 1.0}, "offset is 1.0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(AssertionError, match=words):
        simple(**arguments)


@pytest.mark.parametrize("name, box_dim", [("Default", 4), ("Rotated", 5)])
def test_generators_are_built_from_a_config(name, box_dim):
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.NAME = f"{name}AnchorGenerator"
    generator = build_anchor_generator(cfg, [ShapeSpec(stride=8)])
    assert generator.strides == [8]
    assert generator.num_anchors == [15 if box_dim == 4 else 45]
    assert generator([feature(1, 1)])[0].tensor.shape[1] == box_dim


def test_a_repeated_size_gets_the_same_tensor():
    generator = simple()
    (first,), (again,) = generator([feature(5, 6)]), generator([feature(5, 6)])
    assert first.tensor is again.tensor
    assert generator([feature(6, 5)])[0].tensor is not first.tensor


def test_writing_into_anchors_does_not_reach_the_next_caller():
    generator = simple()
    (first,) = generator([feature(2, 2)])
    expected = first.tensor.clone()
    first.tensor.add_(100)
    assert_close(generator([feature(2, 2)])[0].tensor, expected)


def test_new_cell_anchors_are_used_at_once():
    generator = simple()
    generator([feature(2, 2)])
    generator.cell_anchors[0].mul_(2)
    assert generator([feature(2, 2)])[0].tensor[0].tolist() == [-32, -32, 32, 32]
    generator.cell_anchors = BufferList([torch.tensor([[-1.0, -1, 1, 1]])])
    assert generator([feature(2, 2)])[0].tensor[0].tolist() == [-1, -1, 1, 1]
    generator.strides = [16]
    assert generator([feature(2, 2)])[0].tensor[1].tolist() == [15, -1, 17, 1]


def test_anchors_made_in_inference_mode_can_be_trained_with():
    generator = simple()
    with torch.inference_mode():
        generator([feature(2, 2)])
    (anchors,) = generator([feature(2, 2)])
    scale = torch.ones((), requires_grad=True)
    (anchors.tensor * scale).sum().backward()
    assert scale.grad is not None


def test_only_the_sizes_seen_last_are_kept():
    generator = simple()
    for side in range(1, 60):
        generator([feature(side, 1)])
    assert len(generator._grids) == 40


def test_another_stream_of_a_gpu_lays_out_its_own(monkeypatch):
    generator, streams = simple(), iter([0, 1, 0, 1])
    monkeypatch.setattr(_grid_cache, "_stream_of", lambda cell: next(streams))
    first, other, again, other_again = (generator([feature(2, 2)])[0].tensor for _ in range(4))
    assert first is again and other is other_again and first is not other


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_start_with_nothing_kept(duplicate):
    generator = simple()
    (anchors,) = generator([feature(2, 2)])
    other = duplicate(generator)
    assert len(other._grids) == 0
    assert_close(other([feature(2, 2)])[0].tensor, anchors.tensor)


# The tracer warns that a tensor becomes a constant of the graph: the cell anchors, on purpose.
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_follows_other_sizes_even_after_its_own_size_was_kept():
    class Anchors(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = simple()

        def forward(self, x):
            return self.generator._grid_anchors([x.shape[-2:]])[0]

    module = Anchors()
    module(feature(3, 4))
    traced = torch.jit.trace(module, feature(3, 4))
    assert_close(traced(feature(5, 2)), module(feature(5, 2)))


class ConvolutionAndAnchors(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.generator = simple()

    def forward(self, x):
        return self.generator([self.conv(x)])[0].tensor


compiles_modules = pytest.mark.skipif(
    TORCH_VERSION < (2, 7), reason="torch.compile cannot iterate over a module before torch 2.7"
)


@pytest.mark.parametrize("strict", [pytest.param(True, marks=compiles_modules), False])
def test_exported_anchors_follow_other_sizes(strict):
    module = ConvolutionAndAnchors()
    module(feature(3, 4))
    dynamic = {"x": {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(module, (feature(3, 4),), dynamic_shapes=dynamic, strict=strict)
    assert_close(program.module()(feature(5, 2)), module(feature(5, 2)))


@compiles_modules
def test_anchors_compile_into_one_graph():
    module = ConvolutionAndAnchors()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert_close(compiled(feature(3, 4)), module(feature(3, 4)))
