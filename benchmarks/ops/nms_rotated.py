"""How long do rotated IoU and rotated suppression take?

No other library has a CPU kernel to compare with that is not the original's own.
"""

import torch
from measure import Row, arguments, milliseconds, print_table, under

from detectron2 import ops


def random_boxes(count: int, extent: float, largest: float, device: str) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    center = torch.rand(count, 2, generator=random) * extent
    size = torch.rand(count, 2, generator=random) * largest + 1
    angle = torch.rand(count, 1, generator=random) * 360 - 180
    return torch.cat([center, size, angle], 1).to(device)


def table(options) -> list[Row]:
    rows = []
    for extent, what in ((800, "few overlaps"), (100, "many overlaps")):
        boxes = random_boxes(1000, extent, 100, options.device)
        scores = torch.rand(1000, generator=torch.Generator().manual_seed(1)).to(options.device)
        for name, run in (
            ("IoU 1000 x 1000", lambda b=boxes: ops.box_iou_rotated(b, b)),
            ("NMS of 1000", lambda b=boxes, s=scores: ops.nms_rotated(b, s, 0.5)),
        ):
            candidates = {"kernel": run, "reference": under("reference", run)}
            rows.append((f"rotated {name}, {what}", milliseconds(candidates, options)))
    return rows


if __name__ == "__main__":
    options = arguments(__doc__)
    print_table(table(options), options)
