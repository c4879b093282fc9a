import math

import pytest
import torch
from ops_contract import KERNEL, assert_close, generator, random_boxes

from detectron2.ops import detect_boxes, dispatch

CLAMP = math.log(1000 / 16)
OPTIONS = {"scale_clamp": CLAMP, "score_threshold": 0.05, "iou_threshold": 0.5, "topk": 10}


def random_heads(images, rows, classes, shared=False, device="cpu", dtype=torch.float32):
    random = generator("heads", images, rows, classes)
    proposals = torch.stack([random_boxes(rows, 90, seed=seed) for seed in range(images)])
    deltas = torch.randn(images, rows, 4 if shared else classes * 4, generator=random)
    scores = torch.rand(images, rows, classes, generator=random) ** 3
    scores = (scores * 50).round() / 50  # many are equal
    sizes = torch.tensor([(80, 100), (60, 70), (90, 40)][:images]).view(images, 2)
    usable = torch.rand(images, rows, generator=random) > 0.1
    moved = (tensor.to(device, dtype) for tensor in (deltas, proposals, scores))
    return (*moved, usable.to(device), sizes.to(device))


def check(kernel, arguments, **options):
    with dispatch.use_implementation("reference"):
        expected = detect_boxes(*arguments, **{**OPTIONS, **options})
    with kernel.active():
        actual = detect_boxes(*arguments, **{**OPTIONS, **options})
    names = ("boxes", "scores", "classes", "rows", "counts")
    assert_close(actual[0], expected[0], "boxes")  # NumPy's exp, in the interpreter, is another
    for name, mine, theirs in zip(names[1:], actual[1:], expected[1:], strict=True):
        assert mine.dtype == theirs.dtype and torch.equal(mine, theirs), name
    return actual


@pytest.mark.parametrize("shared", [False, True], ids=["box_per_class", "one_box"])
@pytest.mark.parametrize("classes", [1, 5])
def test_matches_reference(kernel, count, classes, shared):
    arguments = random_heads(2, count, classes, shared, kernel.device)
    *_, counts = check(kernel, arguments, topk=50)
    assert count < 2 or counts.min() > 0


@pytest.mark.parametrize("topk", [0, 1, 3])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_matches_reference_at_every_threshold(kernel, threshold, topk):
    arguments = random_heads(1, 9, 3, device=kernel.device)
    check(kernel, arguments, iou_threshold=threshold, score_threshold=threshold / 2, topk=topk)


def test_matches_reference_in_every_dtype(kernel, dtype):
    check(kernel, random_heads(2, 12, 3, device=kernel.device, dtype=dtype))


def test_more_classes_than_a_block(kernel):
    rows, classes = (2, 130) if KERNEL.is_interpreted else (20, 300)
    check(kernel, random_heads(1, rows, classes, device=kernel.device), topk=8)


def test_nothing_is_found(kernel):
    arguments = random_heads(2, 7, 3, device=kernel.device)
    *found, counts = check(kernel, arguments, score_threshold=1.5)
    assert counts.tolist() == [0, 0] and not any(tensor.any() for tensor in found)
    check(kernel, [tensor[:0] for tensor in arguments])
    check(kernel, random_heads(2, 7, 0, device=kernel.device))


def test_convention_a_row_that_is_not_finite_is_left_out_in_all_classes(kernel):
    deltas, *others = random_heads(1, 9, 3, device=kernel.device)
    others[1][:], others[2][:] = 0.9, True
    deltas[0, 2, 1], deltas[0, 4, 11], deltas[0, 5, 4] = torch.nan, torch.nan, torch.inf
    *_, rows, counts = check(kernel, (deltas, *others), topk=27, iou_threshold=1.0)
    assert sorted(set(rows[0, : int(counts)].tolist())) == [0, 1, 3, 6, 7, 8]


def test_convention_boxes_are_inside_of_their_images(kernel):
    arguments = random_heads(2, 9, 3, device=kernel.device)
    boxes, *_ = check(kernel, arguments)
    limits = arguments[-1].flip(1).repeat(1, 2)[:, None]
    assert (boxes >= 0).all() and (boxes <= limits).all()


def test_misuse_is_named():
    deltas, proposals, scores, usable, sizes = random_heads(2, 5, 3)
    with pytest.raises(ValueError, match="deltas has shape"):
        detect_boxes(deltas[..., :8], proposals, scores, usable, sizes, **OPTIONS)
    with pytest.raises(TypeError, match=r"image_sizes torch.float32"):
        detect_boxes(deltas, proposals, scores, usable, sizes.float(), **OPTIONS)
    with pytest.raises(TypeError, match=r"scores has dtype torch.int64"):
        detect_boxes(deltas, proposals, scores.long(), usable, sizes, **OPTIONS)
    with pytest.raises(ValueError, match="topk is -1"):
        detect_boxes(deltas, proposals, scores, usable, sizes, **{**OPTIONS, "topk": -1})


def test_is_a_well_behaved_torch_op():
    options = ([10.0, 10.0, 5.0, 5.0], CLAMP, 0.05, 0.5, 4)
    operator = torch.ops.detectron2.detect_boxes.default
    torch.library.opcheck(operator, (*random_heads(2, 9, 3), *options))
