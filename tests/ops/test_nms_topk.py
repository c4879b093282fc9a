import pytest
import torch
from ops_contract import KERNEL, generator, random_boxes, random_rotated_boxes

from detectron2.ops import batched_nms, batched_nms_rotated, dispatch, nms_topk

# Candidates in more than one chunk of the GPU kernel.
MANY = 9000 if KERNEL.device == "cuda" else 300


def random_batch(images, count, device="cpu", dtype=torch.float32, groups=3, rotated=False):
    random = generator("batch", images, count)
    draw = random_rotated_boxes if rotated else random_boxes
    boxes = torch.stack([draw(count, 60, seed=seed) for seed in range(images)])
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


@pytest.mark.parametrize("topk", [3, 20])  # the GPU kernels: in rounds, and by bits
def test_matches_reference_in_every_dtype(kernel, dtype, topk):
    check(kernel, *random_batch(2, 97, kernel.device, dtype), 0.5, topk)


@pytest.mark.parametrize("topk", [0, 1, 5, 2000])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_rotated_boxes_match_reference(kernel, threshold, topk):
    for count in (0, 1, 40):
        check(kernel, *random_batch(2, count, kernel.device, rotated=True), threshold, topk)


def test_rotated_boxes_match_reference_in_every_dtype(kernel, dtype):
    check(kernel, *random_batch(2, 20, kernel.device, dtype, rotated=True), 0.5, 20)


@pytest.mark.skipif(KERNEL.implementation != "triton", reason="the GPU kernel alone has two ways")
def test_bits_are_taken_where_they_are_fewer_steps_than_rounds(kernel, monkeypatch):
    from detectron2.ops.nms_topk import gpu

    ways = []
    for name in ("pick", "pick_by_bits"):
        way = getattr(gpu, name)
        monkeypatch.setattr(gpu, name, lambda *args, way=way: ways.append(way) or way(*args))
    batch = random_batch(1, 97, kernel.device)
    _, counts = check(kernel, *batch, 0.3, 4)
    check(kernel, *batch, 0.3, 5)
    assert counts.tolist() == [4] and [way.__name__ for way in ways] == ["pick", "pick_by_bits"]
    proposals, detections = 4800, 80000
    assert gpu.steps_of_bits(proposals) < 1000 and gpu.steps_of_bits(detections) > 100


@pytest.mark.parametrize("rotated", [False, True])
def test_convention_each_image_is_suppressed_by_itself(kernel, rotated):
    boxes, scores, groups, usable = random_batch(3, 40, kernel.device, rotated=rotated)
    batched = batched_nms_rotated if rotated else batched_nms
    with kernel.active():
        indices, counts = nms_topk(boxes, scores, groups, usable, 0.4, 60)
        for image, count in enumerate(counts.tolist()):
            rows = usable[image].nonzero()[:, 0]
            alone = batched(boxes[image, rows], scores[image, rows], groups[image, rows], 0.4)
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


def test_groups_that_differ_in_their_upper_32_bits_are_different(kernel):
    boxes, scores, groups, usable = random_batch(1, 70, kernel.device, groups=1)
    boxes[:] = boxes[:, :1]
    groups[:, ::2] += 2**32
    # One of each group stays; more places would be filled by the matrix of all pairs.
    _, counts = check(kernel, boxes, scores, groups, usable, 0.5, 3)
    assert int(counts) == 2


def test_what_is_promised_to_a_compiler_holds_without_candidates(kernel):
    with kernel.active():
        indices, counts = nms_topk(*random_batch(2, 0, kernel.device), 0.5, 4)
    assert indices.is_contiguous() and counts.tolist() == [0, 0]
