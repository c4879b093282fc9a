"""How long does matching take: the anchors of an RPN and its proposals against ground truth?

Without the IoUs themselves. Beside the matcher of torchvision's detectors.
"""

import torch
from measure import Row, arguments, milliseconds, peer, print_table, under

from detectron2 import ops


def random_boxes(count: int, seed: int, device: str) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * 800
    return torch.cat([corner, corner + torch.rand(count, 2, generator=random) * 200], 1).to(device)


def table(options) -> list[Row]:
    rows = []
    for what, objects, count, low in (("RPN", 20, 217_413, True), ("ROI heads", 20, 2020, False)):
        iou = ops.box_iou(
            random_boxes(objects, 0, options.device), random_boxes(count, 1, options.device)
        )
        bounds = ([0.3, 0.7], [0, -1, 1]) if low else ([0.5], [0, 1])
        run = lambda q=iou, b=bounds, low=low: ops.matcher(q, *b, low)  # noqa: E731
        candidates = {"kernel": run, "reference": under("reference", run)}
        if peer() is not None:
            from torchvision.models.detection._utils import Matcher

            matcher = Matcher(bounds[0][-1], bounds[0][0], allow_low_quality_matches=low)
            candidates["torchvision"] = lambda q=iou, matcher=matcher: matcher(q)
        rows.append((f"matcher, {what}, {objects} x {count}", milliseconds(candidates, options)))
    return rows


if __name__ == "__main__":
    options = arguments(__doc__)
    print_table(table(options), options)
