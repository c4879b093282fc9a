import pytest
import torch
from ops_contract import KERNEL, generator, random_boxes

from detectron2.ops import batched_nms, dispatch, nms_topk

# Candidates in more than one chunk of the GPU kernel.
MANY = 9000 if KERNEL.device == "cuda" else 300


def random_batch(images, count, device="cpu", dtype=torch.float32, groups=3):
    random = generator("batch", images, count)
    boxes = torch.stack([random_boxes(count, 60, seed=seed) for seed in range(images)])
    scores = (torch.rand(images, count, generator=random) * 20).round() / 20  # many are equal
    names = torch.randint(groups, (images, count), generator=random)
    usable = torch.rand(images, count, generator=random) > 0.2
    return (
        boxes.to(device, dtype),
        scores.to(device, dtype),
        names.to(device),
        usable.to(device),
    )


def check(kernel, *arguments):
    with dispatch.use_implementation("reference"):
        expected = nms_topk(*arguments)
    with kernel.active():
        actual = nms_topk(*arguments)
    assert [x.dtype for x in actual] == [torch.int64, torch.int64]
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])
    return actual


@pytest.mark.parametrize("topk", [0, 1, 5, 2000])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_matches_reference(kernel, count, threshold, topk):
    check(kernel, *random_batch(2, count, kernel.device), threshold, topk)


def test_matches_reference_in_every_dtype(kernel, dtype):
    check(kernel, *random_batch(2, 40, kernel.device, dtype), 0.5, 20)


def test_convention_each_image_is_suppressed_by_itself(kernel):
    boxes, scores, groups, usable = random_batch(3, 60, kernel.device)
    with kernel.active():
        indices, counts = nms_topk(boxes, scores, groups, usable, 0.4, 60)
        for image, count in enumerate(counts.tolist()):
            rows = usable[image].nonzero()[:, 0]
            alone = batched_nms(boxes[image, rows], scores[image, rows], groups[image, rows], 0.4)
            assert indices[image, :count].tolist() == rows[alone].tolist()
            assert not indices[image, count:].any()


def test_finds_boxes_behind_the_first_chunk(kernel, monkeypatch):
    if KERNEL.is_interpreted:
        from detectron2.ops.nms_topk import gpu

        monkeypatch.setattr(gpu, "MAX_CHUNK", 128)
    boxes, scores, groups, usable = random_batch(1, MANY, kernel.device, groups=1)
    boxes[0, :, 2:] = boxes[0, :, :2] + 8  # small ones: most stay
    _, counts = check(kernel, boxes, scores, groups, usable, 0.3, 5000)
    assert int(counts) > 100


def test_nothing_usable_and_no_images(kernel):
    boxes, scores, groups, usable = random_batch(2, 7, kernel.device)
    _, counts = check(kernel, boxes, scores, groups, usable & False, 0.5, 3)
    assert counts.tolist() == [0, 0]
    check(kernel, boxes[:0], scores[:0], groups[:0], usable[:0], 0.5, 3)


def test_numbers_that_are_not_finite(kernel):
    boxes, scores, groups, usable = random_batch(1, 12, kernel.device)
    boxes[0, 2, 0], scores[0, 4], scores[0, 5] = torch.nan, -torch.inf, torch.nan
    usable[:] = True
    usable[0, 6] = False
    check(kernel, boxes, scores, groups, usable, 0.5, 12)


def test_misuse_is_named():
    boxes, scores, groups, usable = random_batch(2, 5)
    with pytest.raises(ValueError, match=r"boxes is torch.float32 of shape \(5, 4\)"):
        nms_topk(boxes[0], scores, groups, usable, 0.5, 3)
    with pytest.raises(ValueError, match="groups has shape"):
        nms_topk(boxes, scores, groups[:, :2], usable, 0.5, 3)
    with pytest.raises(TypeError, match="usable torch.int64"):
        nms_topk(boxes, scores, groups, groups, 0.5, 3)
    with pytest.raises(ValueError, match="topk is -1"):
        nms_topk(boxes, scores, groups, usable, 0.5, -1)


def test_is_a_well_behaved_torch_op():
    torch.library.opcheck(torch.ops.detectron2.nms_topk.default, (*random_batch(2, 9), 0.5, 4))
