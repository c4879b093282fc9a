"""How long does the IoU matrix take: anchors against ground truth, proposals against themselves?"""

import torch
from measure import Row, arguments, milliseconds, peer, print_table, under

from detectron2 import ops


def random_boxes(count: int, device: str) -> torch.Tensor:
    random = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=random) * 800
    return torch.cat([corner, corner + torch.rand(count, 2, generator=random) * 300], 1).to(device)


def table(options) -> list[Row]:
    rows = []
    for count1, count2 in ((20, 217413), (1000, 1000), (1000, 20000)):
        boxes1, boxes2 = random_boxes(count1, options.device), random_boxes(count2, options.device)
        candidates = {"kernel": lambda a=boxes1, b=boxes2: ops.box_iou(a, b)}
        candidates["reference"] = under("reference", candidates["kernel"])
        if peer() is not None:
            candidates["torchvision"] = lambda a=boxes1, b=boxes2: peer().box_iou(a, b)
        rows.append((f"box_iou, {count1} x {count2}", milliseconds(candidates, options)))
    return rows


if __name__ == "__main__":
    options = arguments(__doc__)
    print_table(table(options), options)
