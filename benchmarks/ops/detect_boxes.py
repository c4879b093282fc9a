"""How long does the choice of final detections take, and of proposals?

Random outputs of a box head (1000 proposals, 80 classes, 100 detections) and of an RPN (4800
candidates on five levels, 1000 proposals). "plain" is what models outside of the fast form run.
"""

import math

import torch
from measure import Row, arguments, milliseconds, print_table, under

from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator.proposal_utils import Candidates, suppress
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.ops import batched_nms, detect_boxes, nms_topk
from detectron2.structures import Boxes

SIZE = (800, 1088)


def random_boxes(images: int, count: int, device: str) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(images, count, 2, generator=random) * 700
    side = torch.rand(images, count, 2, generator=random) * 150 + 5
    return torch.cat([corner, corner + side], dim=2).to(device)


def final_detections(images: int, sharpness: float, options) -> Row:
    random = torch.Generator().manual_seed(1)
    proposals = random_boxes(images, 1000, options.device)
    deltas = torch.randn(images, 1000, 320, generator=random).to(options.device)
    logits = torch.randn(images, 1000, 81, generator=random) * sharpness
    probabilities = logits.softmax(dim=2).to(options.device)
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    usable = torch.ones(images, 1000, dtype=torch.bool, device=options.device)
    sizes = torch.tensor([SIZE] * images, device=options.device)

    def kernel() -> object:
        return detect_boxes(
            deltas, proposals, probabilities[..., :-1], usable, sizes,
            scale_clamp=math.log(1000 / 16), score_threshold=0.05, iou_threshold=0.5, topk=100,
        )  # fmt: skip

    def plain() -> object:
        boxes = transform.apply_deltas(deltas.flatten(0, 1), proposals.flatten(0, 1))
        return fast_rcnn_inference(
            list(boxes.split(1000)), list(probabilities), [SIZE] * images, 0.05, 0.5, 100
        )

    candidates = {"kernel": kernel, "plain": plain}
    if images == 1:
        candidates["reference"] = under("reference", kernel)
    times = milliseconds(candidates, options)
    above = int((probabilities[..., :-1] > 0.05).sum())
    return f"{images} images, {above} scores above the threshold", times


def proposals(images: int, options) -> Row:
    random = torch.Generator().manual_seed(2)
    boxes = random_boxes(images, 4800, options.device)
    scores = torch.randn(images, 4800, generator=random).to(options.device)
    levels = torch.arange(4800, device=options.device) // 1000
    groups = levels + 5 * torch.arange(images, device=options.device)[:, None]
    usable = torch.ones(images, 4800, dtype=torch.bool, device=options.device)
    kernel = lambda: nms_topk(boxes, scores, groups, usable, 0.7, 1000)  # noqa: E731
    sizes, offered = [SIZE] * images, Candidates(boxes, scores, groups, usable)
    candidates = {
        "kernel": kernel,
        "plain": lambda: suppress(Boxes, batched_nms, offered, sizes, 0.7, 1000),
    }
    return f"{images} images, proposals", milliseconds(candidates, options)


def table(options) -> list[Row]:
    result = [final_detections(*case, options) for case in ((1, 2.0), (1, 4.0), (8, 4.0))]
    return [*result, proposals(1, options), proposals(8, options)]


if __name__ == "__main__":
    options = arguments(__doc__)
    print_table(table(options), options)
